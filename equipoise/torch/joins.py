"""Operations that move whole entries: join values, take some of them, repeat them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn.functional import interpolate

from equipoise.plan.nodes import Concat, Spread, Take
from equipoise.torch.graph import arguments, op_name, shape_of, shapes_of
from equipoise.torch.reading import Reading
from equipoise.torch.values import Held

_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
_TAKES = frozenset(
    {"slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind", "index_select",
     "index", "gather", "unfold", "im2col", "masked_select", "diagonal", "roll", "flip",
     "unsafe_split", "detach",
     "as_strided", "tensor_split", "take_along_dim", "take"}
)  # fmt: skip
# They move entries of all axes.
_SHUFFLES = frozenset({"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "rot90"})
# Each new site is a weighted mean of its neighbours.
_BLENDS = {"upsample_linear1d": "linear", "upsample_bilinear2d": "linear",
           "upsample_trilinear3d": "linear", "upsample_bicubic2d": "bicubic"}  # fmt: skip
_SPREADS = frozenset(
    {*_BLENDS, "expand", "expand_as", "repeat", "repeat_interleave", "broadcast_to", "tile",
     "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"}
)  # fmt: skip
# They may put the entries of an axis in another order: by place, the argument that names it.
_REORDERS = {"flip": 1, "roll": 2, "index_select": 1, "gather": 1, "take_along_dim": 2}
# They keep the order, along the axis that this argument names.
_ALONG = {
    "slice": 1, "narrow": 1, "select": 1, "unbind": 1, "split": 2, "split_with_sizes": 2,
    "chunk": 2, "unsafe_split": 2, "tensor_split": 2,
}  # fmt: skip


def read_join(state: Reading, node: fx.Node) -> bool:
    """Read a concatenation, a selection or a repetition; whether it was one."""
    name = op_name(node)
    if name in _JOINS:
        return _concat(state, node)
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return False
    source = state.memory.now(first)
    if not state.is_read(source) or name not in _TAKES | _SPREADS | _SHUFFLES:
        return False
    held = state.value(source)
    made = {i: _moved(state, node, held, shape) for i, shape in shapes_of(node).items()}
    if not made:
        return False
    if name in _SPREADS:
        kept = _kept(node, held.shape) if name in _BLENDS else 1.0
        state.nodes += [Spread(held.number, m.number, m.space, kept) for m in made.values()]
    else:
        axis = _taken_axis(node, len(held.shape))
        state.nodes += [Take(held.number, m.number, m.space, axis) for m in made.values()]
    state.results(node, made)
    return True


def _moved(state: Reading, node: fx.Node, source: Held, shape: tuple[int, ...]) -> Held:
    """A value with the axes of its source, as far as they can be told apart."""
    rank, before = len(shape), source.shape
    places: dict[int, int] = {}
    if op_name(node) == "select" and len(before) == rank + 1:
        axis = int(_argument(node, 1, "dim")) % len(before)
        places = {i: i + (i >= axis) for i in range(rank)}
    elif op_name(node) == "unbind" and len(before) == rank + 1:
        axis = int(_argument(node, 1, "dim", 0)) % len(before)
        places = {i: i + (i >= axis) for i in range(rank)}
    elif rank >= len(before):
        extra = rank - len(before)
        places = {i + extra: i for i in range(len(before))}
    moved = _reordered(node, len(before))
    spaces = {
        new: source.spaces[old]
        for new, old in places.items()
        if shape[new] == before[old] and old not in moved
    }
    kept = next((new - rank for new, old in places.items() if old == source.place), None)
    return state.values.new(shape, spaces, None if source.is_presumed else kept)


def _kept(node: fx.Node, before: tuple[int, ...]) -> float:
    """Sum of the squared weights of the neighbours that a new site is made of, on average."""
    mode, after = _BLENDS[op_name(node)], shape_of(node) or ()
    corners = bool(arguments(node)["align_corners"])
    kept = 1.0
    for old, new in zip(before[2:], after[2:], strict=True):
        points = torch.eye(old, dtype=torch.float64)[None]
        if mode == "linear":
            found = interpolate(points, size=new, mode="linear", align_corners=corners)
        else:
            found = interpolate(
                points[..., None], size=(new, 1), mode="bicubic", align_corners=corners
            )
        kept *= float(found.square().sum(dim=1).mean())
    return kept


def _taken_axis(node: fx.Node, rank: int) -> int:
    """The axis along which entries are taken, counted from the end; 0 where it is not known."""
    name = op_name(node)
    if name in _REORDERS:
        moved = _reordered(node, rank)
        return next(iter(moved)) - rank if len(moved) == 1 else 0
    if name not in _ALONG or not rank:
        return 0
    dim = _argument(node, _ALONG[name], "dim", 0)
    return int(dim) % rank - rank if isinstance(dim, int) else 0


def _reordered(node: fx.Node, rank: int) -> set[int]:
    """Axes whose units may stand in another order afterwards, from the front."""
    if op_name(node) not in _REORDERS:
        is_any = op_name(node) in ("index", "take", *_SHUFFLES)
        return set(range(rank)) if is_any else set()
    given = _argument(node, _REORDERS[op_name(node)], "dims", None)
    dims = given if isinstance(given, list | tuple) else [given]
    return {d % rank for d in dims if isinstance(d, int)} or set(range(rank))


def _concat(state: Reading, node: fx.Node) -> bool:
    given = node.args[0]
    parts = [a for a in given if isinstance(a, fx.Node)] if isinstance(given, Sequence) else []
    shape = shape_of(node)
    now = [state.memory.now(n) for n in parts]
    if not now or shape is None or not any(state.is_read(n) for n in now):
        return False
    if not all(state.has_value(n) for n in now):
        return False
    held = [state.value(n) for n in now]
    dim = int(_argument(node, 1, "dim", 0))
    axis = dim % len(shape) - len(shape)
    if op_name(node) == "stack":
        return _stacked(state, node, held, shape, axis)
    spaces: dict[int, int] = {}
    whole = [h for h in held if len(h.shape) == len(shape)]
    for h in whole:
        for place, space in enumerate(h.spaces[: len(shape)]):
            if place - len(shape) != axis and h.shape[place] == shape[place]:
                state.values.spaces.join(spaces.setdefault(place, space), space)
    settled = next((h for h in whole if not h.is_presumed), None)
    made = state.values.new(shape, spaces, settled.axis if settled else None)
    sizes = tuple(h.shape[axis] if len(h.shape) == len(shape) else 0 for h in held)
    state.held[node] = made
    state.nodes.append(Concat(tuple(h.number for h in held), made.number, made.space, axis, sizes))
    return True


def _stacked(
    state: Reading, node: fx.Node, held: list[Held], shape: tuple[int, ...], axis: int
) -> bool:
    made = state.values.new(shape, {})
    state.held[node] = made
    sizes = (1,) * len(held)
    state.nodes.append(Concat(tuple(h.number for h in held), made.number, made.space, axis, sizes))
    return True


def _argument(node: fx.Node, place: int, name: str, default: Any = 0) -> Any:
    if len(node.args) > place:
        return node.args[place]
    return node.kwargs.get(name, default)
