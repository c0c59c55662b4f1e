"""Linear maps written as products of a value with a parameter."""

from string import ascii_letters

from torch import fx

from equipoise.plan.nodes import Permute
from equipoise.schemes.convolution import DENSE
from equipoise.torch.derived import Derived
from equipoise.torch.graph import layer_of, op_name, shape_of
from equipoise.torch.layers import affine
from equipoise.torch.reading import Reading
from equipoise.torch.values import Held


def read_matmul(state: Reading, node: fx.Node) -> bool:
    """Read products of a value with a parameter of two axes; whether it was one.

    They are x @ W, x @ W.T and b + x @ W, W @ x over the axis before the last, and an einsum or
    tensordot that sums over one axis that the two have in common and nothing else.
    """
    name = op_name(node)
    bias: object = None
    if name in ("matmul", "mm", "bmm"):
        left, right = node.args[0], node.args[1]
    elif name == "addmm" and not node.kwargs:
        bias, left, right = node.args[:3]
    elif name == "einsum":
        return _einsum(state, node)
    elif name == "tensordot":
        return _tensordot(state, node)
    else:
        return False
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    offset = state.parameter_named(bias)
    if offset is None:
        return False
    if (derived := _matrix(state, right)) is not None and state.is_read(left):
        # A parameter that stands as it is has its inputs on the first axis.
        return _applied(state, node, left, derived, not derived.is_turned, -1, offset)
    rank = len(shape_of(right) or ())
    if (derived := _matrix(state, left)) is not None and state.is_read(right) and rank > 1:
        return not offset and _applied(state, node, right, derived, derived.is_turned, -2)
    return False


def _einsum(state: Reading, node: fx.Node) -> bool:
    equation, parts = node.args[0], node.args[1]
    if not isinstance(equation, str) or not isinstance(parts, list | tuple) or len(parts) != 2:
        return False
    for place, other in ((0, 1), (1, 0)):
        weight, value = parts[place], parts[other]
        if not isinstance(weight, fx.Node) or not isinstance(value, fx.Node):
            return False
        derived = _matrix(state, weight)
        rank = len(shape_of(value) or ())
        if derived is None or not state.is_read(value):
            continue
        words = _letters(equation, (2, rank) if place == 0 else (rank, 2))
        if words is None:
            return False
        (first, second), made = words
        matrix, given = (first, second) if place == 0 else (second, first)
        return _by_letters(state, node, value, derived, matrix, given, made)
    return False


def _letters(equation: str, ranks: tuple[int, int]) -> tuple[list[str], str] | None:
    """One letter for each axis of the operands and the result, ellipses spelt out."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    words = inputs.split(",")
    if not arrow or len(words) != 2:
        return None
    free = [c for c in ascii_letters if c not in equation]
    dots = ""
    for i, (word, rank) in enumerate(zip(words, ranks, strict=True)):
        if "..." in word:
            dots = "".join(free[: rank - len(word) + 3])
            words[i] = word.replace("...", dots)
    return words, output.replace("...", dots)


def _by_letters(
    state: Reading, node: fx.Node, value: fx.Node, derived: Derived,
    matrix: str, given: str, made: str,
) -> bool:  # fmt: skip
    """A linear map over the axis whose letter both operands have and the result has not."""
    summed = [c for c in matrix if c in given and c not in made]
    kept = [c for c in matrix if c not in summed]
    if len(summed) != 1 or len(kept) != 1 or kept[0] in given or len(set(given)) != len(given):
        return False
    wanted = given.replace(summed[0], kept[0])
    if sorted(wanted) != sorted(made):
        return False
    axis = given.index(summed[0]) - len(given)
    # As it stands, a weight has the letter of its outputs first.
    is_turned = (matrix[0] == summed[0]) != derived.is_turned
    order = tuple(wanted.index(c) for c in made)
    return _applied(state, node, value, derived, is_turned, axis, order=order)


def _tensordot(state: Reading, node: fx.Node) -> bool:
    value, weight, *axes = node.args
    if not isinstance(value, fx.Node) or not isinstance(weight, fx.Node):
        return False
    derived, rank = _matrix(state, weight), len(shape_of(value) or ())
    if derived is None or not state.is_read(value) or not rank:
        return False
    mine, its = (tuple(a) if isinstance(a, list | tuple) else () for a in (*axes, (), ())[:2])
    if len(mine) != 1 or len(its) != 1:
        return False
    axis, its_axis = int(str(mine[0])) % rank, int(str(its[0])) % 2
    # What is left of the value stands before what is left of the weight.
    order = (*(i for i in range(rank) if i != axis), axis)
    is_turned = (its_axis == 0) != derived.is_turned
    return _applied(state, node, value, derived, is_turned, axis - rank, order=order)


def _applied(
    state: Reading,
    node: fx.Node,
    value: fx.Node,
    derived: Derived,
    is_turned: bool,
    axis: int,
    bias: str = "",
    order: tuple[int, ...] = (),
) -> bool:
    """A linear layer over any axis of a value, in between permutations that bring it last.

    Args:
        state: the reading.
        node: the operation.
        value: what the layer reads.
        derived: its weight.
        is_turned: whether the parameter itself has its inputs on the first axis.
        axis: that the layer runs over, counted from the end.
        bias: name of its bias, or ''.
        order: for each axis of the result, which one it is of the value with units in place.
    """
    layer = layer_of(node) or derived.parameter.rpartition(".")[0] or derived.parameter
    names = (layer, derived.parameter, bias)
    source = state.value(value)
    rank = len(source.shape)
    place = rank + axis
    last = (*(i for i in range(rank) if i != place), place)
    if axis != -1:
        source.settle(axis)
        source = _permuted(state, source, last)
    out_size = state.tensors[derived.parameter].shape[1 if is_turned else 0]
    made, affine_node = affine(
        state.values, source, (*source.shape[:-1], out_size), DENSE, names, is_turned=is_turned
    )
    state.nodes.append(affine_node)
    # Where each axis of the result stands behind the layer.
    back = tuple(last.index(i) for i in order or range(rank))
    if back != tuple(range(rank)):
        made = _permuted(state, made, back)
    state.held[node] = made
    return True


def _permuted(state: Reading, source: Held, order: tuple[int, ...]) -> Held:
    made = state.values.permuted(source, order)
    state.nodes.append(Permute(source.number, made.number, source.space, order))
    return made


def _matrix(state: Reading, node: fx.Node) -> Derived | None:
    """The parameter of two axes that a graph node is, as it stands or turned."""
    derived = state.derived.get(state.memory.now(node))
    return derived if derived is not None and _is_matrix(state, derived) else None


def _is_matrix(state: Reading, derived: Derived) -> bool:
    is_whole = derived.is_whole and not derived.offset and not derived.steps
    return is_whole and state.tensors[derived.parameter].dim() == 2
