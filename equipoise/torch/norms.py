"""Normalizations, called as such or written out."""

import math
from typing import Any

from torch import fx

from equipoise.plan.nodes import Gain, Norm
from equipoise.torch.derived import Derived
from equipoise.torch.graph import arguments, layer_of, op_name, shape_of
from equipoise.torch.pointwise import is_cast
from equipoise.torch.reading import Reading

_KINDS = {
    "layer_norm": "layer", "native_layer_norm": "layer", "rms_norm": "rms", "batch_norm": "batch",
    "group_norm": "group", "native_group_norm": "group", "instance_norm": "instance",
}  # fmt: skip


def read_norm(state: Reading, node: fx.Node) -> bool:
    """Read a normalization; whether it was one."""
    name = op_name(node)
    if name in _KINDS:
        return _called(state, node, _KINDS[name])
    if name in ("mul", "div"):
        return _written(state, node)
    return False


def _called(state: Reading, node: fx.Node, kind: str) -> bool:
    given = arguments(node)
    source = given.get("input")
    if not isinstance(source, fx.Node) or not state.is_read(source):
        return False
    names = [state.parameter_named(given.get(key)) for key in ("weight", "bias")]
    if any(name is None for name in names):
        return False
    training = given.get("training", given.get("use_input_stats", True))
    epsilon = given.get("eps")
    held = state.value(source)
    if kind in ("batch", "group", "instance") and len(held.shape) > 1:
        held.settle(1 - len(held.shape))
    made = state.values.same(held)
    state.results(node, {0: made})
    weight, bias = (name or "" for name in names)
    is_tracked = kind in ("batch", "instance") and not training
    scale, centre = _running(state, given) if is_tracked else (1.0, 0.0)
    state.nodes.append(
        Norm(
            layer_of(node), kind, weight, bias, held.number, made.number, made.space,
            float(epsilon or 0.0), is_tracked, 0.0, _together(kind, given, held.shape),
            scale, centre, _mean_square(state, weight, 1.0), _mean_square(state, bias, 0.0),
        )
    )  # fmt: skip
    return True


def _together(kind: str, given: dict[str, Any], shape: tuple[int, ...]) -> int:
    """How many entries are brought to one second moment or variance."""
    sites = math.prod(shape[2:])
    match kind:
        case "layer" | "rms":
            return math.prod(int(n) for n in given["normalized_shape"])
        case "group":
            groups = given.get("num_groups", given.get("group", 1))
            return math.prod(shape[1:]) // max(1, int(groups))
        case "batch":
            return math.prod(shape[:1]) * sites
        case _:
            return sites


def _running(state: Reading, given: dict[str, Any]) -> tuple[float, float]:
    """Means of 1 / variance and of the squared mean over the variance of running statistics."""
    mean, variance = (state.constants.numbers(given.get(f"running_{k}")) for k in ("mean", "var"))
    if mean is None or variance is None:
        return math.nan, math.nan
    variance = variance + float(given.get("eps") or 0.0)
    return float((1.0 / variance).mean()), float((mean.square() / variance).mean())


def _mean_square(state: Reading, parameter: str, absent: float) -> float:
    return state.mean_square_of(Derived(parameter)) if parameter else absent


def _written(state: Reading, node: fx.Node) -> bool:
    """X * rsqrt(mean(x^2) + eps), x / sqrt(...), and the same of x less its mean."""
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    if len(operands) != 2:
        return False
    pairs = [operands] if op_name(node) == "div" else [operands, operands[::-1]]
    for value, scale in pairs:
        if _is_length(scale, value):
            return _unit_length(state, node, value)
        root = _root(scale, "sqrt" if op_name(node) == "div" else "rsqrt")
        if root is None:
            continue
        inner, epsilon = root
        source = _uncast(value)
        found = _squared(inner, source)
        if found is None or not state.is_read(found[0]):
            continue
        held = state.value(found[0])
        if shape_of(node) != held.shape:
            continue
        made = state.values.same(held)
        state.held[node] = made
        state.nodes.append(
            Norm(
                layer_of(node), found[1], "", "", held.number, made.number, made.space, epsilon,
                size=held.shape[-1],
            )
        )  # fmt: skip
        return True
    return False


def _is_length(scale: fx.Node, value: fx.Node) -> bool:
    """Whether a divisor is the Euclidean length of a value over its last axis."""
    while op_name(scale) in ("expand", "expand_as", "clamp_min", "clamp", "maximum"):
        scale = _first(scale)
    if op_name(scale) not in ("linalg_vector_norm", "norm") or _first(scale) is not value:
        return False
    given = arguments(scale)
    order = given.get("ord", given.get("p"))
    dims, rank = given.get("dim"), len(shape_of(value) or ())
    is_last = isinstance(dims, list | tuple) and [d % rank for d in dims] == [rank - 1]
    return order in (2, 2.0, None) and is_last and bool(given.get("keepdim"))


def _unit_length(state: Reading, node: fx.Node, value: fx.Node) -> bool:
    """X / |x|: a norm, and the number that makes its second moment 1 / n."""
    value = state.memory.now(value)
    if op_name(node) != "div" or not state.is_read(value):
        return False
    held = state.value(value)
    size = held.shape[-1]
    if shape_of(node) != held.shape:
        return False
    normed = state.values.same(held)
    state.held[node] = made = state.values.same(normed)
    layer = layer_of(node)
    state.nodes += [
        Norm(layer, "rms", "", "", held.number, normed.number, normed.space, size=size),
        Gain(layer, "", normed.number, made.number, made.space, 1.0 / size),
    ]
    return True


def _root(node: fx.Node, name: str) -> tuple[fx.Node, float] | None:
    """The mean under a (reciprocal) square root, and what is added to it."""
    node = _uncast(node)
    if op_name(node) == "pow" and node.args[1:] == (-0.5 if name == "rsqrt" else 0.5,):
        name = "pow"
    if op_name(node) != name:
        return None
    inner = _uncast(_first(node))
    epsilon = 0.0
    if op_name(inner) == "add":
        numbers = [a for a in inner.args if isinstance(a, int | float)]
        epsilon = float(numbers[0]) if numbers else 0.0
        inner = _uncast(_first(inner))
    if op_name(inner) == "clamp":
        inner = _uncast(_first(inner))
    return inner, epsilon


def _squared(node: fx.Node, source: fx.Node) -> tuple[fx.Node, str] | None:
    """What a mean of squares, or a variance, of ``source`` over its last axis normalizes."""
    rank = len(shape_of(source) or ())
    if op_name(node) == "var" and _is_last(node, rank):
        base = _uncast(_first(node))
        return (base, "layer") if _less_mean(source) is base else None
    if op_name(node) != "mean" or not _is_last(node, rank):
        return None
    square = _uncast(_first(node))
    is_power = op_name(square) == "pow" and square.args[1:] == (2,)
    is_square = op_name(square) == "square"
    twice = op_name(square) == "mul" and len(square.all_input_nodes) == 1
    if not (is_power or is_square or twice) or not _same(_uncast(_first(square)), source):
        return None
    centred = _less_mean(source)
    return (centred, "layer") if centred is not None else (source, "rms")


def _same(one: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes are one, or the same difference written twice."""
    if one is other:
        return True
    if op_name(one) != "sub" or op_name(other) != "sub" or one.kwargs or other.kwargs:
        return False
    pairs = zip(one.args, other.args, strict=False)
    operands = [(_uncast(a), _uncast(b)) for a, b in pairs
                if isinstance(a, fx.Node) and isinstance(b, fx.Node)]  # fmt: skip
    return len(operands) == 2 and all(a is b for a, b in operands)


def _less_mean(node: fx.Node) -> fx.Node | None:
    """x, where a node is x less its mean over the last axis."""
    if op_name(node) != "sub" or len(node.all_input_nodes) != 2:
        return None
    base, mean = (_uncast(n) for n in node.args[:2] if isinstance(n, fx.Node))
    rank = len(shape_of(base) or ())
    is_mean = op_name(mean) == "mean" and _is_last(mean, rank) and _uncast(_first(mean)) is base
    return base if is_mean else None


def _is_last(node: fx.Node, rank: int) -> bool:
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    return isinstance(dims, list | tuple) and [d % rank for d in dims if rank] == [rank - 1]


def _first(node: fx.Node) -> fx.Node:
    return next(iter(node.all_input_nodes), node)


def _uncast(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and is_cast(node) and node.all_input_nodes:
        node = _first(node)
    return node
