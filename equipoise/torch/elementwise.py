"""Operations on two things entry by entry: sums, products, gains and shifts, broadcast or not."""

import math
from dataclasses import replace

from torch import fx

from equipoise.plan.nodes import Affine, Gain, Merge, Nonlinearity, Product, Shift, Take
from equipoise.theory.activations import sigmoid
from equipoise.torch.derived import Derived
from equipoise.torch.graph import arguments, layer_of, op_name, shape_of
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
    if name in ("sum", "mean"):
        return _of_stacked(state, node)
    if name == "glu":
        return _gated(state, node)
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
    if op_name(node) not in _SUMS:
        held = state.values.joined(shape, parts)
        numbers = tuple(p.number for p in parts)
        state.nodes.append(Product(numbers, held.number, held.space))
        state.held[node] = held
        return True
    alpha = node.kwargs.get("alpha", 1)
    assert isinstance(alpha, int | float)
    if parts[0].number == parts[1].number and op_name(node) == "add":
        state.held[node] = _scaled(state, node, parts[0], 1.0 + alpha)
        return True
    # A reversed difference scales its first operand.
    place = 0 if op_name(node) == "rsub" else 1
    if abs(alpha) != 1:
        parts[place] = _scaled(state, node, parts[place], alpha)
    held = state.values.joined(shape, parts)
    minus = (op_name(node) != "add") != (alpha < 0)
    state.nodes.append(
        Merge(tuple(p.number for p in parts), held.number, held.space, (place,) if minus else ())
    )
    state.held[node] = held
    return True


def _scaled(state: Reading, node: fx.Node, source: Held, factor: float) -> Held:
    """A value times a number."""
    made = state.values.same(source)
    state.nodes.append(
        Gain(layer_of(node), "", source.number, made.number, made.space, float(factor) ** 2)
    )
    return made


def _of_stacked(state: Reading, node: fx.Node) -> bool:
    """The sum or mean of values over the axis along which they were stacked."""
    stack, given = node.args[0], arguments(node)
    if not isinstance(stack, fx.Node) or op_name(stack) != "stack" or given.get("keepdim"):
        return False
    dims, rank, parts = given.get("dim"), len(shape_of(stack) or ()), stack.args[0]
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or len(dims) != 1 or given.get("dtype") is not None:
        return False
    if (
        int(dims[0]) % rank != int(arguments(stack)["dim"]) % rank
        or state.memory.now(stack) is not stack
    ):
        return False
    assert isinstance(parts, list | tuple)
    now = [state.memory.now(n) for n in parts if isinstance(n, fx.Node)]
    if not all(state.has_value(n) for n in now) or not all(_is_floating(state, n) for n in now):
        return False
    held = [state.value(n) for n in now]
    made = state.values.joined(held[0].shape, held)
    state.nodes.append(Merge(tuple(h.number for h in held), made.number, made.space))
    if op_name(node) == "mean":
        made = _scaled(state, node, made, 1.0 / len(held))
    state.held[node] = made
    return True


def _gated(state: Reading, node: fx.Node) -> bool:
    """Half of the entries times the sigmoid of the other half."""
    source = state.memory.now(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    shape = shape_of(node)
    if source is None or shape is None or not state.is_read(source):
        return False
    held = state.value(source)
    axis = int(arguments(node)["dim"]) % len(shape)
    spaces = {i: s for i, s in enumerate(held.spaces) if i != axis}
    kept = None if held.is_presumed else held.axis
    halves = [state.values.new(shape, spaces, kept) for _ in range(2)]
    state.nodes += [Take(held.number, h.number, h.space, axis - len(shape)) for h in halves]
    gate = state.values.same(halves[1])
    made = state.values.joined(shape, [halves[0], gate])
    layer = layer_of(node)
    state.nodes += [
        Nonlinearity(layer, sigmoid(), halves[1].number, gate.number, gate.space),
        Product((halves[0].number, gate.number), made.number, made.space),
    ]
    state.held[node] = made
    return True


def _of_one(state: Reading, node: fx.Node, source: Held, read: fx.Node, other: fx.Node) -> bool:
    derived = state.derived.get(other)
    parameter = derived.parameter if derived else ""
    name = op_name(node)
    if derived:
        mean_square = state.mean_square_of(derived, name == "div")
    elif state.is_constant(other):
        mean_square = state.constants.mean_square(other, name == "div")
    else:
        return False
    is_kept = derived is not None and bool(derived.steps)
    if derived and name == "add" and _is_bias(state, source, derived, read):
        last = state.nodes[-1]
        assert isinstance(last, Affine)
        state.nodes[-1] = replace(last, bias=parameter)
        state.held[node] = source
        state.finished[source.number] = node
        return True
    layer = layer_of(node) or parameter
    if name in _SUMS:
        alpha = node.kwargs.get("alpha", 1)
        assert isinstance(alpha, int | float)
        offset = derived.offset if derived else 0.0
        if (state.memory.now(node.all_input_nodes[0]) is other) == (name == "rsub"):
            mean_square *= alpha**2
            offset *= alpha
        elif abs(alpha) != 1:
            source = _scaled(state, node, source, alpha)
        state.held[node] = made = state.values.same(source)
        state.nodes.append(
            Shift(
                layer, parameter, source.number, made.number, made.space, mean_square, offset,
                is_kept,
            )
        )  # fmt: skip
        return True
    offset = derived.offset if derived else 0.0
    mean = _mean(state, derived, name == "div") if derived else math.nan
    state.held[node] = made = state.values.same(source)
    state.nodes.append(
        Gain(layer, parameter, source.number, made.number, made.space, mean_square, offset,
             is_kept or name == "div", mean)
    )  # fmt: skip
    return True


def _mean(state: Reading, derived: Derived, is_divisor: bool) -> float:
    """Mean of a parameter as it stands, or of 1 over it; nan without values."""
    tensor = state.tensors[derived.parameter]
    if tensor.is_meta or not tensor.numel():
        return math.nan
    numbers = derived.numbers(tensor)
    return float((1.0 / numbers if is_divisor else numbers).mean())


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
        and derived.is_plain
    )


def _is_floating(state: Reading, node: fx.Node) -> bool:
    value = node.meta.get("val")
    return bool(getattr(value, "is_floating_point", lambda: True)())
