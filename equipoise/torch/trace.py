"""nn.Module -> Trace, by torch.export; the only place where the axes of weights are read."""

from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from equipoise.plan.nodes import Opaque, Permute
from equipoise.plan.trace import Trace
from equipoise.schemes.convolution import DENSE
from equipoise.torch.attention import read_attention
from equipoise.torch.axes import axis_order, is_reshape
from equipoise.torch.constants import OF_SHAPE_ALONE, Constants
from equipoise.torch.derived import derive
from equipoise.torch.elementwise import is_branch_gain, read_elementwise
from equipoise.torch.experts import read_experts
from equipoise.torch.export import export
from equipoise.torch.geometry import (
    is_convolution,
    is_pad,
    pooled_axes,
    read_convolution,
    read_pad,
    read_windows,
)
from equipoise.torch.graph import (
    arguments,
    in_order,
    layer_of,
    op_name,
    region_body,
    shape_of,
    shapes_of,
    why_not_read,
    written_operand,
)
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.joins import read_join
from equipoise.torch.layers import affine, dropout, is_reduction, pool, reduction
from equipoise.torch.matmul import read_matmul
from equipoise.torch.mixtures import read_mixture
from equipoise.torch.norms import read_norm
from equipoise.torch.parameters import parameters_of
from equipoise.torch.parametrized import effective
from equipoise.torch.pointwise import is_pointwise
from equipoise.torch.program import Program, Read
from equipoise.torch.reading import Reading
from equipoise.torch.recording import is_derivative
from equipoise.torch.recurrent import read_recurrent
from equipoise.torch.scores import score_rows
from equipoise.torch.tables import read_lookup
from equipoise.torch.unfit import refuse_other_dtype
from equipoise.torch.values import Held, renumbered, without_dead_ends

_READERS = (read_recurrent, read_matmul, read_lookup, read_norm, read_attention, read_join)
# Alpha dropout sets entries to another value and shifts all: it is not read.
_DROPOUTS = frozenset({"dropout", "feature_dropout"})


def trace(model: nn.Module, inputs: ModelInputs) -> Trace:
    """Read a model's computation on the inputs given; nothing of the model changes.

    Args:
        model: any module whose forward torch.export can follow.
        inputs: its arguments.

    Returns:
        The trace.

    Raises:
        TraceError: if forward raises on these inputs, or cannot be followed.
    """
    return read(model, inputs).trace


def read(model: nn.Module, inputs: ModelInputs) -> Read:
    """As ``trace``, with the graph."""
    with effective(model):
        reader = _Reader(model, export(model, inputs))
        found = Read(reader.read(), reader.program, reader.state.places())
    return replace(found, trace=replace(found.trace, score_rows=score_rows(found)))


def _is_signal(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


class _Reader:
    """One pass over an exported graph."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.program = program
        self.parameters = parameters_of(model)
        self.state = Reading(model, in_order(program.graph))
        self.weight_spaces: dict[str, tuple[int, int]] = {}
        self.constant_items: dict[Any, fx.Node] = {}
        self.casts = False
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def read(self) -> Trace:
        first = {alias: p.name for p in self.parameters for alias in (p.name, *p.aliases)}
        parameters = self.program.parameters
        self.state.constants = Constants(self.program.known)
        for node in self.program.graph.nodes:
            if node in parameters:
                self.state.is_parameter(node, first[parameters[node]])
            elif node in self.program.inputs and _is_signal(node):
                self._input(node)
            elif node.op in ("placeholder", "get_attr"):
                self.state.is_constant_node.add(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                results = (n for n in self.program.outputs if self.state.is_read(n))
                self.outputs += [self.state.value(n).number for n in results]
        number, sizes, values = self.state.values.compact()
        return Trace(
            tuple(
                renumbered(node, number, self.state.values.held)
                for node in without_dead_ends(self.state.nodes, self.outputs)
            ),
            tuple(self.inputs),
            tuple(self.outputs),
            sizes,
            self.parameters,
            values,
            self.program.why_recorded,
        )

    def _input(self, node: fx.Node) -> None:
        self.state.held[node] = self.state.values.new(shape_of(node) or (), {})
        self.inputs.append(self.state.held[node].number)

    def _call(self, node: fx.Node) -> None:
        if is_derivative(node):
            # It reads weights a second time, in ways that no layer does.
            self.state.opaque(node, "a derivative is taken inside forward", uses=False)
            return
        body = region_body(node)
        if body is not None:
            self._inline(node, *body)
            return
        written = written_operand(node)
        sharing = self.state.memory.sharing(node, written) if written is not None else []
        if sharing:
            self._write_through_views(node, sharing)
            return
        self._read_call(node)
        self.state.memory.follow(node)

    def _inline(self, region: fx.Node, body: fx.Graph, given: tuple[fx.Node, ...]) -> None:
        """Read what a region computes as if it stood in the graph itself."""
        operands, before = iter(given), self.casts
        if op_name(region) == "wrap_with_autocast":
            self.casts = region.args[2] is not False
        for node in body.nodes:
            if node.op == "placeholder":
                outer = self.state.memory.now(next(operands))
                if outer in self.state.derived:
                    self.state.derive(node, self.state.derived[outer])
                elif outer in self.state.is_constant_node:
                    self._is_same_constant(node, outer)
                elif self.state.is_read(outer):
                    self.state.held[node] = self.state.value(outer)
                    self.state.memory.is_view_of(node, outer)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                results = list(enumerate(node.all_input_nodes))
                self.state.several[region] = {
                    i: self.state.value(n) for i, n in results if self.state.is_read(n)
                }
                for i, n in results:
                    if self.state.is_constant(n):
                        self.constant_items[region, i] = self.state.memory.now(n)
        self.casts = before

    def _is_same_constant(self, node: fx.Node, other: fx.Node) -> None:
        self.state.is_constant_node.add(node)
        self.state.constants.is_same(node, other)

    def _read_call(self, node: fx.Node) -> None:
        """The first reading that fits makes the node; one that fails leaves nothing behind."""
        state = self.state
        if op_name(node) == "getitem":
            self._item(node)
            return
        operands = [state.memory.now(n) for n in node.all_input_nodes]
        if op_name(node) in OF_SHAPE_ALONE or all(n in state.is_constant_node for n in operands):
            state.is_constant_node.add(node)
            return
        if self._derived(node, operands):
            return
        first = node.args[0] if node.args else None
        source = state.memory.now(first) if isinstance(first, fx.Node) else None
        if read_experts(state, node):
            return
        if op_name(node) == "linear" or is_convolution(node):
            self._affine(node)
        elif source is not None and state.is_read(source) and self._read_of(node, source):
            return
        elif not any(read(state, node) for read in _READERS):
            is_function = is_pointwise(node) and not is_branch_gain(state, node)
            is_read = (is_function and state.pointwise(node)) or read_elementwise(state, node)
            if not (is_read or read_mixture(state, node)):
                state.opaque(node, why_not_read(node))

    def _derived(self, node: fx.Node, operands: list[fx.Node]) -> bool:
        """Follow what is done to a parameter alone."""
        state = self.state
        parameters = [n for n in operands if n in state.derived and not state.is_held(n)]
        others = [n for n in operands if n not in parameters]
        if len(parameters) != 1 or not all(n in state.is_constant_node for n in others):
            return False
        made = derive(node, state.derived[parameters[0]])
        if made is None:
            return False
        state.derive(node, made)
        return True

    def _read_of(self, node: fx.Node, source: fx.Node) -> bool:
        """Read an operation on a value that moves or gathers its entries; whether it was one."""
        if op_name(node) == "type_as":
            self.state.held[node] = self.state.value(source)
        elif is_pad(node):
            pad = read_pad(node, self.state.value(source))
            if pad is None:
                return False
            self.state.pads[node] = pad
        elif op_name(node) in _DROPOUTS:
            given = arguments(node)
            self.state.held[node], dropping = dropout(
                self.state.values, self.state.value(source), layer_of(node), float(given["p"]),
                bool(given["train"]),
            )  # fmt: skip
            self.state.nodes.append(dropping)
        elif is_reshape(node):
            self._reshape(node, self.state.value(source))
        elif (order := axis_order(node)) is not None:
            before = self.state.value(source)
            self.state.held[node] = after = self.state.values.permuted(before, order)
            self.state.nodes.append(Permute(before.number, after.number, before.space, order))
        elif pooled_axes(node):
            self._pool(node, self.state.value(source))
        elif is_reduction(node):
            made = reduction(node, self.state.values, self.state.value(source), layer_of(node))
            if made is None:
                return False
            self.state.nodes += made
            self.state.results(node, {0: self.state.values.held[-1]})
        else:
            return False
        return True

    def _is_plain_item(self, node: fx.Node, whole: fx.Node, place: object) -> bool:
        """Whether it is one of several constants, or of the parts of a parameter."""
        if (whole, place) in self.constant_items:
            self._is_same_constant(node, self.constant_items[whole, place])
        elif whole in self.state.is_constant_node:
            self.state.is_constant_node.add(node)
        elif whole in self.state.derived:
            self.state.derive(node, self.state.derived[whole])
        else:
            return False
        return True

    def _item(self, node: fx.Node) -> None:
        """One of several results."""
        whole, place = node.args
        if not isinstance(whole, fx.Node) or self._is_plain_item(node, whole, place):
            return
        made = self.state.several.get(whole, {})
        if not made or not isinstance(place, int):
            return
        if place not in made:
            # Of a maximum, values were read; places were not.
            made[place] = places = self.state.values.new(shape_of(node) or (), {})
            reason = "places of maxima are not modelled"
            self.state.nodes.append(
                Opaque(layer_of(node), reason, (), (made[0].number,), (places.number,))
            )
        self.state.held[node] = made[place]

    def _write_through_views(self, node: fx.Node, sharing: list[fx.Node]) -> None:
        """After a write to shared memory, none of the values that share it is what was read."""
        sharing = [n for n in sharing if self.state.is_read(n)]
        read = tuple(self.state.value(n) for n in sharing)
        reason = f"in-place operation {op_name(node)!r} changes values that share memory"
        made = []
        for n in (*(self.state.memory.now(n) for n in sharing), node):
            shape = shape_of(n)
            if shape is not None:
                self.state.expressions.pop(n, None)
                self.state.pads.pop(n, None)
                self.state.held[n] = self.state.values.new(shape, {})
                made.append(self.state.held[n].number)
                # A node runs before the write that changes what it made.
                self.state.unplaced.update(made[-1:] if n is not node else ())
        self.state.nodes.append(
            Opaque(layer_of(node), reason, (), tuple(v.number for v in read), tuple(made))
        )

    def _affine(self, node: fx.Node) -> None:
        given, state = arguments(node), self.state
        source, weight = state.memory.now(given["input"]), state.memory.now(given["weight"])
        bias = None if given["bias"] is None else state.memory.now(given["bias"])
        for part, used in (("weight", weight), ("bias", bias)):
            if used is not None and used not in state.parameter_of:
                reason = f"its {part} is not a parameter itself"
                state.opaque(node, f"{why_not_read(node)}: {reason}")
                return
        if not state.is_read(source) or len(shape_of(weight) or ()) < 2:
            state.opaque(node, why_not_read(node))
            return
        refuse_other_dtype(node, source, weight, self.casts)
        convolution, pad, is_absorbed = DENSE, state.pads.get(source), False
        if is_convolution(node):
            convolution, is_absorbed = read_convolution(node, pad)
        entered = pad.source if pad is not None and is_absorbed else state.value(source)
        name = state.parameter_of[weight]
        layer = layer_of(node) or name.rpartition(".")[0] or name
        names = (layer, name, state.parameter_of[bias] if bias is not None else "")
        shape = shape_of(node) or ()
        made, layer_node = affine(state.values, entered, shape, convolution, names)
        self.state.held[node] = made
        spaces = (layer_node.in_space, layer_node.out_space)
        for mine, other in zip(spaces, self.weight_spaces.setdefault(name, spaces), strict=True):
            self.state.values.spaces.join(mine, other)
        self.state.nodes.append(layer_node)

    def _pool(self, node: fx.Node, source: Held) -> None:
        windows = read_windows(node, source.shape[-pooled_axes(node) :])
        if isinstance(windows, str):
            self.state.opaque(node, windows)
            return
        made, pooled = pool(self.state.values, source, shapes_of(node)[0], windows, layer_of(node))
        self.state.nodes.append(pooled)
        self.state.results(node, {0: made})

    def _reshape(self, node: fx.Node, source: Held) -> None:
        shape = shape_of(node) or ()
        if shape == source.shape:
            self.state.held[node] = source
            return
        self.state.held[node], reshape = self.state.values.reshaped(source, shape)
        self.state.nodes.append(reshape)
