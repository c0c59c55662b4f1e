"""Operations on two things entry by entry: sums, products, gains and shifts, broadcast or not."""

import math
from dataclasses import replace

from torch import fx

from equipoise.plan.nodes import Affine, Gain, Merge, Product, Shift
from equipoise.torch.derived import Derived
from equipoise.torch.graph import layer_of, op_name, shape_of
from equipoise.torch.reading import Reading
from equipoise.torch.values import Held

_SUMS, _PRODUCTS = frozenset({"add", "sub", "rsub"}), frozenset({"mul", "div"})


def is_branch_gain(state: Reading, node: fx.Node) -> bool:
    """Whether a node multiplies a value by a one-entry parameter and is then added to another.

    That is a gain of a residual branch (arXiv 2003.04887, 2002.10444) and no part of an activation,
    whose operations all read one value.
    """
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    if op_name(node) != "mul" or len(operands) != 2:
        return False
    scalars = [n for n in operands if state.memory.now(n) in state.parameter_of]
    if len(scalars) != 1:
        return False
    tensor = state.tensors[state.parameter_of[state.memory.now(scalars[0])]]
    value = operands[1] if scalars[0] is operands[0] else operands[0]
    if tensor.numel() != 1 or shape_of(node) != shape_of(value):
        return False
    users = list(node.users)
    if len(users) != 1 or op_name(users[0]) not in _SUMS:
        return False
    others = [n for n in users[0].all_input_nodes if n is not node]
    return len(others) == 1 and _base(state, others[0]) != _base(state, value)


def _base(state: Reading, node: fx.Node) -> object:
    """What an expression starts from: two of one base are parts of one function of it."""
    now = state.memory.now(node)
    if now in state.expressions:
        return state.expressions[now].base
    return state.held[now].number if now in state.held else now


def read_elementwise(state: Reading, node: fx.Node) -> bool:
    """Read a sum or product of values, parameters and constants; whether it was one.

    A quotient of a value by a parameter or constant is a product with its inverse; of two values it
    is not read, since nothing is known of the inverse of a signal.
    """
    name = op_name(node)
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    factor = node.kwargs.get("alpha", 1)
    if name not in _SUMS | _PRODUCTS or len(operands) != 2 or not isinstance(factor, int | float):
        return False
    if set(node.kwargs) - {"alpha"}:
        return False
    now = [state.memory.now(n) for n in operands]
    read = [n for n in now if state.is_read(n)]
    shape = shape_of(node)
    if not read or shape is None or not all(_is_floating(state, n) for n in read):
        return False
    if len(read) == 2:
        return name != "div" and _of_values(state, node, shape, [state.value(n) for n in now])
    source = state.value(read[0])
    other = now[1] if now[0] is read[0] else now[0]
    if source.shape != shape or (name == "div" and other is now[0]):
        return False
    return _of_one(state, node, source, read[0], other)


def _of_values(state: Reading, node: fx.Node, shape: tuple[int, ...], parts: list[Held]) -> bool:
    held = state.values.joined(shape, parts)
    numbers = tuple(p.number for p in parts)
    if op_name(node) in _SUMS:
        state.nodes.append(Merge(numbers, held.number, held.space))
    else:
        state.nodes.append(Product(numbers, held.number, held.space))
    state.held[node] = held
    return True


def _of_one(state: Reading, node: fx.Node, source: Held, read: fx.Node, other: fx.Node) -> bool:
    derived = state.derived.get(other)
    parameter = derived.parameter if derived else ""
    if derived:
        mean_square = state.mean_square_of(derived)
    elif state.is_constant(other):
        mean_square = state.constants.mean_square(other)
    else:
        return False
    name = op_name(node)
    if derived and name == "add" and _is_bias(state, source, derived, read):
        last = state.nodes[-1]
        assert isinstance(last, Affine)
        state.nodes[-1] = replace(last, bias=parameter)
        state.held[node] = source
        state.finished[source.number] = node
        return True
    layer = layer_of(node) or parameter
    made = state.values.same(source)
    state.held[node] = made
    if name in _SUMS:
        alpha = node.kwargs.get("alpha", 1)
        assert isinstance(alpha, int | float)
        state.nodes.append(
            Shift(layer, parameter, source.number, made.number, made.space, mean_square * alpha**2)
        )
        return True
    if name == "div":
        mean_square = 1.0 / mean_square if mean_square > 0 else math.nan
    offset = derived.offset if derived else 0.0
    state.nodes.append(
        Gain(layer, parameter, source.number, made.number, made.space, mean_square, offset)
    )
    return True


def _is_bias(state: Reading, source: Held, derived: Derived, read: fx.Node) -> bool:
    """Whether a parameter is added to what the last layer made as its bias, and nowhere else."""
    last = state.nodes[-1] if state.nodes else None
    return (
        isinstance(last, Affine)
        and last.output == source.number
        and not last.bias
        and last.axis == -1
        and len(read.users) == 1
        and tuple(state.tensors[derived.parameter].shape) == (last.out_size,)
        and not derived.offset
    )


def _is_floating(state: Reading, node: fx.Node) -> bool:
    value = node.meta.get("val")
    return bool(getattr(value, "is_floating_point", lambda: True)())
