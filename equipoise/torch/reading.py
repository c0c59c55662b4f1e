"""What each node of an exported graph stands for while a trace is made of it."""

import math
from collections.abc import Iterable

import torch
from torch import fx, nn

from equipoise.errors import ArgumentError
from equipoise.plan.nodes import (
    Concat,
    Constant,
    Lookup,
    Node,
    Nonlinearity,
    Opaque,
    Spread,
    Take,
)
from equipoise.torch.constants import Constants, mean_square
from equipoise.torch.derived import Derived
from equipoise.torch.geometry import Pad, works_on_sites
from equipoise.torch.graph import (
    Memory,
    layer_of,
    op_name,
    shape_of,
    shapes_of,
)
from equipoise.torch.pointwise import (
    ActivationReader,
    Expression,
    Operand,
    Step,
    grown,
    is_pointwise,
)
from equipoise.torch.slopes import computed, is_slope, one_number
from equipoise.torch.values import Held, Values

_LINEAR = frozenset(
    {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum", "bilinear", "mv",
     "tensordot", "grouped_mm", "_grouped_mm", "grouped_mm_fallback", "conv1d", "conv2d", "conv3d",
     "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
)  # fmt: skip
# Of a constant tensor they make what they make of a number.
_BOUNDS = frozenset({"maximum", "minimum", "where"})


class Reading:
    """The state of a reading, and the values that pointwise operations make.

    A graph node stands for one of: a parameter, a value, a chain of pointwise operations on a
    value, a padding that waits for its convolution, or several values.

    Args:
        model: its one-entry parameters may stand inside activations.
        nodes: all graph nodes in the order of computation.
    """

    def __init__(self, model: nn.Module, nodes: Iterable[fx.Node]) -> None:
        self.tensors = dict(model.named_parameters(remove_duplicate=False))
        self.parameter_of: dict[fx.Node, str] = {}
        self.derived: dict[fx.Node, Derived] = {}
        # Numbers that operations on parameters of one number make, with the parameters' names.
        self.numbers: dict[fx.Node, tuple[float, tuple[str, ...]]] = {}
        self.constants = Constants({})
        self.is_constant_node: set[fx.Node] = set()
        self.held: dict[fx.Node, Held] = {}
        self.expressions: dict[fx.Node, Expression] = {}
        self.pads: dict[fx.Node, Pad] = {}
        self.several: dict[fx.Node, dict[int, Held]] = {}
        # States of all steps: the axis of steps, and the value of the last of them.
        self.last_steps: dict[int, tuple[int, Held]] = {}
        self.values = Values()
        # Where a value is finished after it was made, and values that no node alone holds.
        self.finished: dict[int, fx.Node] = {}
        self.unplaced: set[int] = set()
        self.nodes: list[Node] = []
        self.memory = Memory(nodes)
        self.activations = ActivationReader()

    def results(self, node: fx.Node, made: dict[int, Held]) -> None:
        """Take note of what an operation makes: one value, or several by their places."""
        if isinstance(node.meta["val"], torch.Tensor):
            self.held[node] = made[0]
        else:
            self.several[node] = made

    def pointwise(self, node: fx.Node) -> bool:
        """Grow an expression by one operation, if all it reads is one value and constants."""
        parts: list[Expression] = []
        operands: list[tuple[fx.Node, Operand]] = []
        constants: dict[fx.Node, float] = {}
        parameters: list[str] = []
        # What is made of parameters alone is no gain yet, and may become a slope.
        is_apart = all(
            n in self.derived or n in self.numbers
            for n in map(self.memory.now, node.all_input_nodes)
        )
        for raw in node.all_input_nodes:
            operand = self.memory.now(raw)
            if operand in self.parameter_of or self._is_inner(operand, is_apart):
                derived = self.derived[operand]
                tensor = self.tensors[derived.parameter]
                made = tensor if tensor.is_meta else derived.numbers(tensor)
                number, is_one = one_number(made), tensor.numel() == 1 or is_apart
                if not is_one and not tensor.is_meta and is_slope(node, raw) and number is None:
                    self.opaque(node, "its slopes differ from unit to unit")
                    return True
                if number is None or not (is_one or is_slope(node, raw)):
                    return False
                constants[operand] = number
                parameters.append(derived.parameter)
                operands.append((raw, operand))
            elif operand in self.numbers:
                constants[operand], names = self.numbers[operand]
                parameters += names
                operands.append((raw, operand))
            elif operand in self.expressions:
                parts.append(self.expressions[operand])
                operands.append((raw, operand))
            elif self.is_read(operand):
                parts.append(Expression(self.value(operand).number))
                operands.append((raw, parts[-1].base))
            elif op_name(node) in _BOUNDS and self.constants.same_everywhere(operand) is not None:
                constants[operand] = float(self.constants.same_everywhere(operand) or 0.0)
                operands.append((raw, operand))
            else:
                return False
        if not parts:
            return self._number(node, dict(operands), constants, parameters)
        if len({part.base for part in parts}) != 1:
            return False
        if shape_of(node) != self.values.held[parts[0].base].shape:
            return False
        step = Step(node, self.memory.place(node), tuple(operands))
        self.expressions[node] = grown(parts, step, constants, parameters, layer_of(node))
        return True

    def _is_inner(self, node: fx.Node, is_apart: bool) -> bool:
        """Whether a parameter that was moved, or offset, may be a number inside an activation."""
        derived = self.derived.get(node)
        return derived is not None and not self.is_held(node) and (not derived.offset or is_apart)

    def _number(
        self,
        node: fx.Node,
        operands: dict[fx.Node, Operand],
        constants: dict[fx.Node, float],
        parameters: list[str],
    ) -> bool:
        """Take note of a number that is computed from parameters alone: exp(s), 1 / alpha."""
        if not constants:
            return False
        given = {raw: constants[n] for raw, n in operands.items() if isinstance(n, fx.Node)}
        made = computed(node, given)
        if made is None or not math.isfinite(made):
            return False
        self.numbers[node] = made, tuple(dict.fromkeys(parameters))
        return True

    def opaque(self, node: fx.Node, reason: str, uses: bool = True) -> None:
        """What was not read; constants that it makes of nothing are no part of the trace.

        Args:
            node: the operation.
            reason: why it was not read.
            uses: whether the parameters that it reads are then out of the plan's reach.
        """
        operands = [self.memory.now(n) for n in node.all_input_nodes]
        named = [self.derived[n].parameter for n in operands if n in self.derived]
        named += [name for n in operands if n in self.numbers for name in self.numbers[n][1]]
        used = tuple(dict.fromkeys(named)) if uses else ()
        read = [self.value(n) for n in operands if self.is_read(n)]
        shapes = shapes_of(node)
        if not shapes or not (used or read):
            return
        if is_pointwise(node):
            made = {0: self.values.joined(shapes[0], read)}
        else:
            source = read[0] if read else None
            keeps = source is not None and works_on_sites(node, -1 - source.axis)
            made = {i: self.values.unread(shape, source, keeps) for i, shape in shapes.items()}
        self.results(node, made)
        self.nodes.append(
            Opaque(
                layer_of(node),
                reason,
                used,
                tuple(value.number for value in read),
                tuple(value.number for value in made.values()),
                op_name(node) in _LINEAR,
                _fan_in(node),
            )
        )

    def places(self) -> dict[int, fx.Node]:
        """The graph node that makes each value, by the value's number."""
        found: dict[int, fx.Node] = {}
        for node, held in self.held.items():
            if held.number not in self.unplaced:
                found.setdefault(held.number, node)
        return found | self.finished

    def is_parameter(self, node: fx.Node, name: str) -> None:
        """Say that a graph node is a parameter."""
        self.derive(node, Derived(name))

    def derive(self, node: fx.Node, derived: Derived) -> None:
        """Say what a graph node makes of a parameter."""
        self.derived[node] = derived
        if derived.is_whole and not derived.is_turned and derived.is_plain:
            self.parameter_of[node] = derived.parameter

    def is_held(self, node: fx.Node) -> bool:
        """Whether a parameter has been read as a value of its own."""
        return node in self.held

    def parameter_named(self, node: object) -> str | None:
        """Name of the parameter that an optional argument is, '' for none, None for another."""
        if node is None:
            return ""
        found = self.derived.get(self.memory.now(node)) if isinstance(node, fx.Node) else None
        return found.parameter if found and found.is_plain else None

    def mean_square_of(self, derived: Derived, is_divisor: bool = False) -> float:
        """Second moment of a parameter as it stands, or of 1 over it; nan without values."""
        tensor = self.tensors[derived.parameter]
        if tensor.is_meta or not tensor.numel():
            return math.nan
        return mean_square(derived.numbers(tensor), is_divisor)

    def is_constant(self, node: fx.Node) -> bool:
        """Whether a graph node depends on no parameter and no floating-point input."""
        return self.memory.now(node) in self.is_constant_node

    def has_value(self, node: fx.Node) -> bool:
        """Whether a graph node stands for a value, or for a parameter or constant that is one."""
        node = self.memory.now(node)
        if self.is_read(node) or node in self.derived:
            return True
        value = node.meta.get("val")
        return node in self.is_constant_node and isinstance(value, torch.Tensor)

    def is_read(self, node: fx.Node) -> bool:
        """Whether a graph node stands for a value that the trace has, or can have."""
        node = self.memory.now(node)
        return node in self.held or node in self.expressions or node in self.pads

    def value(self, node: fx.Node) -> Held:
        """The value of a graph node; an expression becomes a node of the trace when first read."""
        node = self.memory.now(node)
        if node in self.held:
            return self.held[node]
        if node in self.derived:
            return self._table(node, self.derived[node])
        if node in self.is_constant_node:
            made = self.values.new(shape_of(node) or (), {})
            self.held[node] = made
            self.nodes.append(Constant(made.number, self.constants.mean_square(node)))
            return made
        if node in self.pads:
            self._pad(node, self.pads[node])
        else:
            self.held[node] = self._evaluated(self.expressions[node])
        return self.held[node]

    def _pad(self, node: fx.Node, pad: Pad) -> None:
        """A padding that something else than a convolution reads: entries around a value."""
        source, shape = pad.source, shape_of(node) or ()
        spaces = {
            i: space
            for i, (space, size) in enumerate(zip(source.spaces, source.shape, strict=False))
            if size == shape[i]
        }
        made = self.values.new(shape, spaces, None if source.is_presumed else source.axis)
        self.held[node] = made
        inside, whole = math.prod(source.shape), math.prod(shape)
        if pad.mode != "zeros" or whole < inside:
            kind = Spread if whole >= inside else Take
            self.nodes.append(kind(source.number, made.number, made.space))
            return
        zeros = self.values.new((), {})
        self.nodes.append(Constant(zeros.number, 0.0))
        parts, sizes, axis = (source.number, zeros.number), (inside, whole - inside), -1
        if (
            source.shape
            and shape[: source.place] == source.shape[: source.place]
            and (shape[source.place + 1 :] == source.shape[source.place + 1 :])
        ):
            # Features of 0 beside its own, as a skip has.
            axis, own = source.axis, source.shape[source.place]
            sizes = own, shape[source.place] - own
        self.nodes.append(Concat(parts, made.number, made.space, axis, sizes))

    def _table(self, node: fx.Node, derived: Derived) -> Held:
        """The value that a parameter itself is."""
        shape = shape_of(node) or ()
        made = self.values.new(shape, {})
        if not derived.is_plain:
            reason = "a function of the parameter is used as a value"
            layer, names = layer_of(node), (derived.parameter,)
            self.held[node] = made
            self.nodes.append(Opaque(layer, reason, names, (), (made.number,)))
            return made
        layer = layer_of(node) or derived.parameter.rpartition(".")[0] or derived.parameter
        self.held[node] = made
        size = shape[-1] if shape else 1
        self.nodes.append(Lookup(layer, derived.parameter, made.number, made.space, 0, size))
        return made

    def _evaluated(self, expression: Expression) -> Held:
        source = self.values.held[expression.base]
        if expression.is_cast:
            return source
        layer = expression.layer
        made = self.values.same(source)
        try:
            activation = self.activations.read(expression)
        except ArgumentError as error:
            self.nodes.append(
                Opaque(layer, str(error), expression.parameters, (source.number,), (made.number,))
            )
            return made
        self.nodes.append(
            Nonlinearity(
                layer,
                activation,
                source.number,
                made.number,
                source.space,
                expression.parameters,
            )
        )
        return made


def _fan_in(node: fx.Node) -> int:
    """Products that one output of a linear operation adds up, 0 where its weight alone tells."""
    if op_name(node) != "bilinear":
        return 0
    sizes = [shape_of(n) for n in node.all_input_nodes[:2]]
    return math.prod(size[-1] for size in sizes if size)
