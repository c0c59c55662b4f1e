"""Attention: called as such, or written as products of values with a softmax between."""

import math
from typing import Any

from torch import fx

from equipoise.plan.nodes import Attention, Contract, Softmax
from equipoise.torch.graph import arguments, layer_of, op_name, shape_of
from equipoise.torch.reading import Reading

_PRODUCTS = frozenset({"matmul", "bmm", "mm"})


def read_attention(state: Reading, node: fx.Node) -> bool:
    """Read attention, a softmax, or a product of two values; whether it was one."""
    match op_name(node):
        case "scaled_dot_product_attention":
            return _attention(state, node)
        case "softmax" | "_softmax":
            return _softmax(state, node)
        case "matmul" | "bmm" | "mm":
            return _contract(state, node)
        case "einsum":
            return _einsum(state, node)
        case _:
            return False


def _attention(state: Reading, node: fx.Node) -> bool:
    given = arguments(node)
    parts = [state.memory.now(given[key]) for key in ("query", "key", "value")]
    shape = shape_of(node)
    if shape is None or not all(state.has_value(n) for n in parts):
        return False
    query, key, value = (state.value(n) for n in parts)
    size = query.shape[-1]
    scale = given.get("scale")
    spaces = dict(enumerate(query.spaces[: len(shape) - 1])) | {len(shape) - 1: value.spaces[-1]}
    made = state.values.new(shape, spaces, -1)
    state.held[node] = made
    state.nodes.append(
        Attention(
            layer_of(node), (query.number, key.number, value.number), made.number, made.space,
            size, key.shape[-2], float(scale) if scale is not None else size**-0.5,
            _visible(state, given, shape[-2], key.shape[-2]),
        )
    )  # fmt: skip
    return True


def _visible(state: Reading, given: dict[str, Any], queries: int, keys: int) -> float:
    """Mean over queries of 1 / (number of keys that a query sees)."""
    if given.get("is_causal", False):
        return sum(1.0 / min(t, keys) for t in range(1, queries + 1)) / queries
    mask = given.get("attn_mask")
    if isinstance(mask, fx.Node) and state.is_constant(mask):
        return state.constants.visible(state.memory.now(mask)) or 1.0 / keys
    return 1.0 / keys


def _softmax(state: Reading, node: fx.Node) -> bool:
    source = state.memory.now(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    shape = shape_of(node)
    if source is None or shape is None or not state.is_read(source):
        return False
    held = state.value(source)
    made = state.values.same(held)
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    state.held[node] = made
    axis = int(dim) % len(shape) - len(shape) if isinstance(dim, int) and shape else -1
    size = shape[axis] if shape else 1
    state.nodes.append(Softmax(layer_of(node), held.number, made.number, made.space, size, axis))
    return True


def _contract(state: Reading, node: fx.Node) -> bool:
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    shape = shape_of(node)
    now = [state.memory.now(n) for n in operands]
    if len(now) != 2 or shape is None or not all(state.has_value(n) for n in now):
        return False
    if not any(state.is_read(n) for n in now):
        return False
    left, right = (state.value(n) for n in now)
    if len(left.shape) < 2 or len(right.shape) < 2 or len(shape) < 2:
        return False
    rank = len(shape)
    spaces = {rank - 1: right.spaces[-1], rank - 2: left.spaces[-2]}
    made = state.values.new(shape, spaces, -1)
    state.held[node] = made
    state.nodes.append(
        Contract((left.number, right.number), made.number, made.space, left.shape[-1])
    )
    return True


def _einsum(state: Reading, node: fx.Node) -> bool:
    equation, parts = node.args[0], node.args[1]
    if not isinstance(equation, str) or not isinstance(parts, list | tuple) or len(parts) != 2:
        return False
    now = [state.memory.now(n) for n in parts if isinstance(n, fx.Node)]
    shape = shape_of(node)
    if len(now) != 2 or shape is None or not all(state.has_value(n) for n in now):
        return False
    if not any(state.is_read(n) for n in now) or "." in equation:
        return False
    inputs, _, output = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")
    sizes: dict[str, int] = {}
    for word, part in zip(letters, now, strict=True):
        sizes |= dict(zip(word, shape_of(part) or (), strict=False))
    summed = set(letters[0]) & set(letters[1]) - set(output)
    left, right = (state.value(n) for n in now)
    made = state.values.new(shape, {}, None)
    state.held[node] = made
    size = math.prod(sizes[letter] for letter in summed)
    state.nodes.append(Contract((left.number, right.number), made.number, made.space, size))
    return True
