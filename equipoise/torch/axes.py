"""Axes of tensors: where each goes when a tensor is reshaped or permuted."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from equipoise.torch.graph import first_operand, op_name, shape_of

_RESHAPES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "_unsafe_view", "ravel",
     "contiguous", "clone", "alias", "view_as", "reshape_as"}
)  # fmt: skip
# These are reshapes where they keep all entries.
_SELECTIONS = frozenset({"select", "slice", "narrow", "expand", "expand_as"})
_PERMUTATIONS = frozenset(
    {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT",
     "matrix_H", "mH", "adjoint"}
)  # fmt: skip


def is_reshape(node: fx.Node) -> bool:
    """Whether a graph node gives the entries of its first operand in the same order."""
    name = op_name(node)
    if name not in _RESHAPES and name not in _SELECTIONS:
        return False
    before, after = first_operand(node).meta["val"], node.meta["val"]
    return bool(before.numel() == after.numel() and before.dtype == after.dtype)


def kept_axes(before: Sequence[int], after: Sequence[int]) -> dict[int, int]:
    """Which axes a reshape keeps: for each such axis of the result, the one that it was.

    Both shapes are cut, from the front, into the shortest runs of axes with equal products; where
    a run has one axis on both sides, that axis is kept. Axes of size 1 are kept where as many
    stand between the same two runs.

    >>> kept_axes((4, 8, 3, 3), (4, 8, 9))
    {0: 0, 1: 1}
    >>> kept_axes((4, 8, 1, 1), (4, 8))
    {0: 0, 1: 1}
    """
    if 0 in before or 0 in after or math.prod(before) != math.prod(after):
        return {}
    kept: dict[int, int] = {}
    i = j = 0
    while True:
        ones_before, ones_after = _ones(before, i), _ones(after, j)
        if ones_before == ones_after:
            kept |= {j + n: i + n for n in range(ones_before)}
        i, j = i + ones_before, j + ones_after
        if i == len(before):
            return kept
        first, second = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        if i - first == 1 and j - second == 1:
            kept[second] = first


def joined_axis(before: Sequence[int], after: Sequence[int], axis: int) -> tuple[int, int] | None:
    """The axis of a reshape's result in which an axis and those right behind it are joined.

    Args:
        before: shape of what is reshaped.
        after: shape of the result.
        axis: which axis is followed, from the front.

    Returns:
        The axis of the result, and how many entries of other axes each of its units is joined
        with, 1 where it stays alone; None where there is no such axis.

    >>> joined_axis((4, 8, 3, 3), (4, 72), 1)
    (1, 9)
    >>> joined_axis((4, 3, 3, 8), (4, 72), 3) is None
    True
    """
    outer = math.prod(before[:axis])
    ends = [math.prod(before[axis:end]) for end in range(axis + 1, len(before) + 1)]
    for place, size in enumerate(after):
        if math.prod(after[:place]) == outer and size in ends and size * before[axis] > 0:
            return place, size // before[axis]
    return None


def axis_order(node: fx.Node) -> tuple[int, ...] | None:
    """For each axis of a permutation's result, the axis that it was; None if it is none.

    The operation is run on a tensor without memory whose sizes all differ.
    """
    if op_name(node) not in _PERMUTATIONS or not isinstance(node.target, torch._ops.OpOverload):
        return None
    shape = shape_of(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    if shape is None:
        return None
    marked: Any = node.target(
        torch.empty(tuple(range(len(shape))), device="meta"), *node.args[1:], **node.kwargs
    )
    return tuple(marked.shape)


def _ones(shape: Sequence[int], start: int) -> int:
    """How many axes of size 1 stand in a row."""
    end = start
    while end < len(shape) and shape[end] == 1:
        end += 1
    return end - start
