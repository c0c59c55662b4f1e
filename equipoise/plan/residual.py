"""Residual branches: sums of a value and of something made from it, found in any trace."""

import math
from collections import Counter
from dataclasses import dataclass

from equipoise.plan.nodes import (
    Affine,
    Dropout,
    Flatten,
    Gain,
    Merge,
    Node,
    Norm,
    Permute,
    Pool,
    Reshape,
    Shift,
    Spread,
    Take,
    makes,
    reads,
)
from equipoise.plan.trace import Trace

# What may stand between the last weight of a branch and the sum: it keeps or scales a signal.
_PASSED = (Dropout, Reshape, Permute, Flatten, Take, Spread, Shift)


@dataclass(frozen=True)
class BranchEnd:
    """The last weight of a residual branch.

    Attributes:
        skip: value that goes around the branch.
        branches: L, how many branches the stream has.
        parts: how many weights end the branch side by side, such as attention and MLP in parallel.
    """

    skip: int
    branches: int
    parts: int

    @property
    def share(self) -> float:
        """RMS of the branch over that of the stream: 1 / sqrt(L), shared out among its parts."""
        return 1.0 / math.sqrt(self.branches * self.parts)


def branch_ends(trace: Trace) -> dict[int, BranchEnd]:
    """Ends of all residual branches of a trace, by the value that their last weight makes.

    A sum is residual if one of its terms is made from the other, the skip. Sums whose terms are
    units of one space (``plan.trace``) form a stream; its L branches are given the share 1/sqrt(L)
    each, so that the stream's second moment grows by (1 + 1/L)^L < e through all of them, and its
    gradient by as much.

    Source: Zhang et al. 2019, arXiv 1901.09321; De and Smith 2020, arXiv 2002.10444.
    """
    producer: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}
    origins = _origins(trace)
    sums: list[tuple[Merge, int, int]] = []
    skips: dict[int, int] = {}
    for node in trace.nodes:
        if isinstance(node, Merge) and (found := _skip(node, origins, producer, skips)) is not None:
            sums.append((node, *found))
            skips[node.output] = found[0]
    count = Counter(node.space for node, _, _ in sums)
    ends: dict[int, BranchEnd] = {}
    for node, skip, branch in sums:
        affines = _ends(branch, producer, skip)
        for value in affines:
            ends.setdefault(value, BranchEnd(skip, count[node.space], len(affines)))
    return ends


def _origins(trace: Trace) -> dict[int, int]:
    """All values that a value is made from, itself included, as the bits of a number."""
    found: dict[int, int] = {}
    for node in trace.nodes:
        bits = 0
        for value in reads(node):
            bits |= found.setdefault(value, 1 << value)
        for value in makes(node):
            found[value] = bits | 1 << value
    return found


def _skip(
    node: Merge, origins: dict[int, int], producer: dict[int, Node], skips: dict[int, int]
) -> tuple[int, int] | None:
    """The skip and the branch among the terms of a sum."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    for branch, other in ((second, first), (first, second)):
        skip: int | None = _unpassed(other, producer)
        while skip is not None and skip != branch:
            if origins.get(branch, 0) >> skip & 1:
                return skip, branch
            # Of x + f(x) + g(x) the sum before this one has the same skip.
            skip = skips.get(skip)
    return None


def _unpassed(value: int, producer: dict[int, Node]) -> int:
    """The value before operations that move entries without changing them."""
    while isinstance(node := producer.get(value), Dropout | Reshape | Permute):
        value = node.input
    return value


def _ends(value: int, producer: dict[int, Node], skip: int) -> tuple[int, ...]:
    """Values made by the last weights of a branch, () where something else ends it."""
    waiting, found = [value], list[int]()
    while waiting:
        now = waiting.pop()
        if now == skip:
            continue
        match producer.get(now):
            case Affine(output=output):
                found.append(output)
            case Merge(inputs=sources):
                waiting += sources
            case Gain(parameter="", input=source):
                waiting.append(source)
            case Norm() | Pool():
                # It sets its own scale.
                continue
            case node if isinstance(node, _PASSED):
                waiting.append(node.input)
            case _:
                continue
    return tuple(dict.fromkeys(found))
