"""nn.Module -> Trace, by torch.export; the only place where the axes of weights are read."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from equipoise.errors import ArgumentError, TraceError
from equipoise.plan.trace import (
    Affine,
    Dropout,
    Flatten,
    Merge,
    Node,
    Nonlinearity,
    Opaque,
    Pool,
    Reshape,
    Spaces,
    Trace,
)
from equipoise.torch.export import export
from equipoise.torch.graph import (
    Memory,
    first_operand,
    layer_of,
    op_name,
    shape_of,
    why_not_read,
    written_operand,
)
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.parameters import parameters_of
from equipoise.torch.pointwise import (
    ActivationReader,
    Expression,
    is_pointwise,
)

_RESHAPES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "_unsafe_view",
     "contiguous", "clone", "alias", "view_as", "reshape_as"}
)  # fmt: skip
# Alpha dropout sets entries to another value and shifts all: it is not read.
_DROPOUTS = frozenset({"dropout", "feature_dropout"})
_MERGES = frozenset({"add"})


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
    return _Reader(model, export(model, inputs)).read()


class _Value:
    """A value of the graph: its number, the space of its last axis and its shape."""

    def __init__(self, number: int, space: int, shape: tuple[int, ...]) -> None:
        self.number, self.space, self.shape = number, space, shape


class _Reader:
    """One pass over an exported graph."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.parameters = parameters_of(model)
        first = {alias: p.name for p in self.parameters for alias in (p.name, *p.aliases)}
        signature = program.graph_signature
        self.parameter_of = {
            placeholder: first[name] for placeholder, name in signature.inputs_to_parameters.items()
        }
        self.tensors = dict(model.named_parameters(remove_duplicate=False))
        self.user_inputs = {n for n in signature.user_inputs if isinstance(n, str)}
        self.spaces = Spaces()
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, _Value] = {}
        self.expressions: dict[fx.Node, Expression] = {}
        self.memory = Memory()
        self.activations = ActivationReader()
        self.weight_spaces: dict[str, tuple[int, int]] = {}
        self.count = 0
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def read(self) -> Trace:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
        number, sizes = self.spaces.compact()
        return Trace(
            tuple(_renumber(node, number) for node in self.nodes),
            tuple(self.inputs),
            tuple(self.outputs),
            sizes,
            self.parameters,
        )

    def _placeholder(self, node: fx.Node) -> None:
        shape = shape_of(node)
        if node.name in self.user_inputs and shape is not None:
            value = self._new(node, shape)
            if node.meta["val"].is_floating_point():
                self.inputs.append(value.number)

    def _output(self, node: fx.Node) -> None:
        names = {n for n in self.program.graph_signature.user_outputs if isinstance(n, str)}
        for result in node.all_input_nodes:
            if result.name in names and self._is_read(result):
                self.outputs.append(self._value(result).number)

    def _call(self, node: fx.Node) -> None:
        written = written_operand(node)
        sharing = self.memory.sharing(written) if written is not None else []
        if sharing:
            self._write_through_views(node, sharing)
            return
        self._read_call(node)
        self.memory.follow(node)

    def _read_call(self, node: fx.Node) -> None:
        name = op_name(node)
        if name == "linear" and self._affine(node):
            return
        if name in _DROPOUTS and self._is_read(first_operand(node)):
            self._dropout(node)
            return
        if name in _RESHAPES and self._reshape(node):
            return
        if is_pointwise(node) and self._pointwise(node):
            return
        if name in _MERGES and self._merge(node):
            return
        self._opaque(node, why_not_read(node))

    def _write_through_views(self, node: fx.Node, sharing: list[fx.Node]) -> None:
        """After a write to shared memory, none of the values that share it is what was read."""
        sharing = [n for n in sharing if self._is_read(n)]
        read = tuple(self._value(n).number for n in sharing)
        reason = f"in-place operation {op_name(node)!r} changes values that share memory"
        made = []
        for n in (*(self.memory.now(n) for n in sharing), node):
            shape = shape_of(n)
            if shape is not None:
                self.expressions.pop(n, None)
                made.append(self._new(n, shape).number)
        self.nodes.append(Opaque(layer_of(node), reason, (), read, tuple(made)))

    def _dropout(self, node: fx.Node) -> None:
        source = self._value(first_operand(node))
        value = self._new(node, source.shape, source.space)
        probability: Any = node.args[1]
        self.nodes.append(
            Dropout(
                layer_of(node),
                float(probability),
                bool(node.args[2]),
                source.number,
                value.number,
                source.space,
            )
        )

    def _affine(self, node: fx.Node) -> bool:
        source, weight, *rest = node.args
        bias = rest[0] if rest else None
        if not isinstance(weight, fx.Node) or weight.name not in self.parameter_of:
            return False
        if len(shape_of(weight) or ()) != 2:
            return False
        if isinstance(bias, fx.Node) and bias.name not in self.parameter_of:
            return False
        if not isinstance(source, fx.Node) or not self._is_read(source):
            return False
        entered = self._value(source)
        self._same_dtype(node, source, weight)
        # torch stores a linear weight as (out_features, in_features).
        fan_out, fan_in = shape_of(weight) or (0, 0)
        name = self.parameter_of[weight.name]
        value = self._new(node, shape_of(node) or ())
        if name in self.weight_spaces:
            self.spaces.join(self.weight_spaces[name][0], entered.space)
            self.spaces.join(self.weight_spaces[name][1], value.space)
        self.weight_spaces[name] = (entered.space, value.space)
        self.nodes.append(
            Affine(
                layer_of(node) or name.rpartition(".")[0] or name,
                name,
                self.parameter_of[bias.name] if isinstance(bias, fx.Node) else "",
                entered.number,
                value.number,
                entered.space,
                value.space,
                fan_in,
                fan_out,
            )
        )
        return True

    def _same_dtype(self, node: fx.Node, source: fx.Node, weight: fx.Node) -> None:
        """Export lets differing dtypes pass that a real forward refuses, unless it casts."""
        device = source.meta["val"].device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            return
        given, needed = source.meta["val"].dtype, weight.meta["val"].dtype
        if given != needed:
            raise TraceError(
                f"input of layer {layer_of(node)!r} must be {needed}, as its weight is, got "
                f"{given}. Convert the inputs with .to({needed})."
            )

    def _reshape(self, node: fx.Node) -> bool:
        source_node, shape = first_operand(node), shape_of(node)
        if not self._is_read(source_node) or shape is None:
            return False
        source = self._value(source_node)
        if shape == source.shape:
            self.values[node] = source
            return True
        size, before = (shape or (1,))[-1], (source.shape or (1,))[-1]
        value = self._new(node, shape, source.space if size == before else None)
        self.nodes.append(Reshape(source.number, value.number, source.space, value.space, size))
        return True

    def _pointwise(self, node: fx.Node) -> bool:
        """Grow an expression by one operation, if all it reads is one value and constants."""
        parts: list[Expression] = []
        constants: dict[fx.Node, float] = {}
        parameters: list[str] = []
        for raw in node.all_input_nodes:
            operand = self.memory.now(raw)
            if operand.name in self.parameter_of:
                name = self.parameter_of[operand.name]
                tensor = self.tensors[name]
                if tensor.numel() != 1 or tensor.is_meta:
                    return False
                constants[raw] = float(tensor.detach())
                parameters.append(name)
            elif operand in self.expressions:
                parts.append(self.expressions[operand])
            elif operand in self.values:
                value = self.values[operand]
                parts.append(Expression(value.number, operand, (), (), (), ""))
            else:
                return False
        if not parts or len({part.base for part in parts}) != 1 or shape_of(node) is None:
            return False
        if shape_of(node) != shape_of(parts[0].source):
            return False
        nodes = dict.fromkeys(n for part in parts for n in part.nodes)
        for part in parts:
            constants |= dict(part.constants)
            parameters += part.parameters
        self.expressions[node] = Expression(
            parts[0].base,
            parts[0].source,
            (*nodes, node),
            tuple(constants.items()),
            tuple(dict.fromkeys(parameters)),
            layer_of(node),
        )
        return True

    def _merge(self, node: fx.Node) -> bool:
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        if len(operands) != 2 or node.kwargs or not all(self._is_read(a) for a in operands):
            return False
        first, second = (self._value(a) for a in operands)
        if first.shape != second.shape:
            return False
        self.spaces.join(first.space, second.space)
        value = self._new(node, first.shape, first.space)
        self.nodes.append(Merge((first.number, second.number), value.number, first.space))
        return True

    def _opaque(self, node: fx.Node, reason: str) -> None:
        operands = [self.memory.now(n) for n in node.all_input_nodes]
        used = [self.parameter_of[n.name] for n in operands if n.name in self.parameter_of]
        read = [self._value(n).number for n in operands if self._is_read(n)]
        shape = shape_of(node)
        made = [self._new(node, shape).number] if shape is not None else []
        if made or used or read:
            self.nodes.append(Opaque(layer_of(node), reason, tuple(used), tuple(read), tuple(made)))

    def _is_read(self, node: fx.Node) -> bool:
        node = self.memory.now(node)
        return node in self.values or node in self.expressions

    def _value(self, node: fx.Node) -> _Value:
        """The value of a graph node; an expression becomes a node of the trace when first read."""
        node = self.memory.now(node)
        if node in self.values:
            return self.values[node]
        expression = self.expressions[node]
        source = self.values[expression.source]
        layer = expression.layer
        value = self._new(node, source.shape, source.space)
        try:
            activation = self.activations.read(expression)
        except ArgumentError as error:
            self.nodes.append(
                Opaque(layer, str(error), expression.parameters, (source.number,), (value.number,))
            )
            return value
        self.nodes.append(
            Nonlinearity(
                layer, activation, source.number, value.number, source.space, expression.parameters
            )
        )
        return value

    def _new(self, node: fx.Node, shape: tuple[int, ...], space: int | None = None) -> _Value:
        if space is None:
            space = self.spaces.new(shape[-1] if shape else 1)
        value = _Value(self.count, space, shape)
        self.count += 1
        self.values[node] = value
        return value


def _renumber(node: Node, number: Mapping[int, int]) -> Node:
    """Replace spaces by their compact numbers."""
    match node:
        case Affine() | Reshape() | Flatten():
            return replace(node, in_space=number[node.in_space], out_space=number[node.out_space])
        case Nonlinearity() | Dropout() | Merge() | Pool():
            return replace(node, space=number[node.space])
        case Opaque():
            return node
