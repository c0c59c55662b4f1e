"""Operations that put entries of one value in places of another: masks and scatters."""

import math
from typing import Any

import torch
from torch import fx

from equipoise.plan.nodes import Concat, Constant, Take
from equipoise.torch.constants import MASKS
from equipoise.torch.graph import op_name, shape_of
from equipoise.torch.reading import Reading
from equipoise.torch.values import Held


def read_mixture(state: Reading, node: fx.Node) -> bool:
    """Read a choice between entries of two values; whether it was one."""
    shape, args = shape_of(node), node.args
    if shape is None or not node.meta["val"].is_floating_point():
        return False
    match op_name(node):
        case "where" if len(args) == 3:
            return _mixed(state, node, args[1], args[2], _share(state, args[0]))
        case "masked_fill":
            return _mixed(state, node, args[2], args[0], _share(state, args[1]))
        case "masked_scatter":
            return _mixed(state, node, args[2], args[0], _share(state, args[1]))
        case "index_put" if len(args) == 3 or not args[3]:
            return _mixed(state, node, args[2], args[0], _written_share(args[0], args[2]))
        case "scatter" | "index_copy" | "slice_scatter" | "select_scatter" if "reduce" not in (
            node.kwargs
        ):
            place = {"scatter": 3, "index_copy": 3}.get(op_name(node), 1)
            source = args[place] if len(args) > place else node.kwargs.get("src")
            return _mixed(state, node, source, args[0], _written_share(args[0], source))
        case "pad" | "constant_pad_nd":
            return _cropped(state, node, args[0], args[1])
        case "copy":
            return _mixed(state, node, args[1], args[0], 1.0)
        case _:
            return False


def _cropped(state: Reading, node: fx.Node, source: Any, amounts: Any) -> bool:
    """A padding by negative amounts: some entries of a value."""
    if not isinstance(source, fx.Node) or not all(type(n) is int and n <= 0 for n in amounts):
        return False
    held, shape = state.value(source), shape_of(node) or ()
    spaces = {i: s for i, s in enumerate(held.spaces) if shape[i] == held.shape[i]}
    made = state.values.new(shape, spaces, None if held.is_presumed else held.axis)
    state.held[node] = made
    state.nodes.append(Take(held.number, made.number, made.space))
    return True


def _mixed(state: Reading, node: fx.Node, over: Any, under: Any, share: float) -> bool:
    """``share`` of the entries come from ``over``, the others from ``under``."""
    read = [a for a in (over, under) if isinstance(a, fx.Node)]
    if not any(state.is_read(n) for n in read) or not all(_is_known(state, a) for a in read):
        return False
    shape = shape_of(node) or ()
    number = _level(state, over)
    held = state.value(under) if isinstance(under, fx.Node) else _number(state, float(under))
    if number is not None and number <= MASKS:
        # What is masked is left out of what comes after.
        if held.shape != shape:
            return False
        state.held[node] = held
        return True
    top = state.value(over) if isinstance(over, fx.Node) else _number(state, float(over))
    whole = next((h for h in (held, top) if h.shape == shape), None)
    if whole is None:
        return False
    made = state.values.same(whole)
    state.held[node] = made
    total = max(math.prod(shape), 2)
    first = min(total, max(0, round(share * total)))
    state.nodes.append(
        Concat((top.number, held.number), made.number, made.space, -1, (first, total - first))
    )
    return True


def _is_known(state: Reading, node: fx.Node) -> bool:
    value = node.meta.get("val")
    return state.has_value(node) and isinstance(value, torch.Tensor) and value.is_floating_point()


def _level(state: Reading, value: Any) -> float | None:
    """A number that stands for all entries; None for anything else."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, fx.Node) and state.is_constant(value):
        found = state.constants.least(state.memory.now(value))
        return found if found <= MASKS else None
    return None


def _number(state: Reading, value: float) -> Held:
    """The same number everywhere."""
    made = state.values.new((), {})
    state.nodes.append(Constant(made.number, value**2))
    return made


def _share(state: Reading, mask: Any) -> float:
    """Share of the entries that a mask names; a half where its values are not known."""
    if not isinstance(mask, fx.Node) or not state.is_constant(mask):
        return 0.5
    share = state.constants.mean(state.memory.now(mask))
    return share if math.isfinite(share) else 0.5


def _written_share(target: Any, source: Any) -> float:
    """Share of the entries that are written, by sizes; one number may be written anywhere."""
    whole = shape_of(target) if isinstance(target, fx.Node) else None
    part = shape_of(source) if isinstance(source, fx.Node) else None
    if not whole or not part or not math.prod(whole):
        return 0.5
    return min(1.0, math.prod(part) / math.prod(whole))
