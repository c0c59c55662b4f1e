"""Whether one start is better than the best of several others: the rule of every comparison."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from equipoise.errors import ArgumentError

# Below this nobody would notice; a difference must exceed it and two standard errors.
NOTABLE = 0.01
SETTLED = 0.01
# The standard error of four pairs is itself uncertain: a difference of nothing passes two of them
# in one case in seven. Wins and losses want this many.
DECISIVE = 8


@dataclass(frozen=True)
class Comparison:
    """One start against the best of its rivals, on paired draws.

    Attributes:
        rival: the best of the others, picked on the other half of the draws.
        difference: mean of ours less theirs.
        standard_error: of that mean.
        draws: pairs that it is the mean of.
    """

    rival: str
    difference: float
    standard_error: float
    draws: int

    @property
    def verdict(self) -> Literal["win", "tie", "loss"]:
        """A difference counts if it is at least .01 and at least two standard errors."""
        margin = max(NOTABLE, 2 * self.standard_error)
        if abs(self.difference) < margin:
            return "tie"
        return "win" if self.difference > 0 else "loss"

    @property
    def is_settled(self) -> bool:
        """Whether the standard error is at most .01."""
        return self.standard_error <= SETTLED

    @property
    def is_open(self) -> bool:
        """Whether more draws could change the verdict.

        A tie is open while its standard error is above .01, unless the difference is clear of all
        margins; a win or loss of fewer than eight pairs always is.
        """
        if self.verdict != "tie" and self.draws < DECISIVE:
            return True
        return not self.is_settled and abs(self.difference) < NOTABLE + 4 * self.standard_error


def compare(ours: Sequence[float], rivals: Mapping[str, Sequence[float]]) -> Comparison:
    """Ours against the best rival: picked on the even draws, compared with on the odd ones.

    Picking and comparing on the same draws would flatter the rivals: the best of many means is
    above its own expectation.

    Args:
        ours: one score for each draw, at least 4; draw i shares its seeds with draw i of a rival.
        rivals: scores by name, at least as many draws each; draws past the shorter are left out.

    Returns:
        The comparison; its verdict is ``tie`` where the difference is within its margin.

    Raises:
        ArgumentError: without rivals or with too few draws.

    >>> compare([0.9, 0.92, 0.91, 0.9], {"he": [0.1] * 4, "default": [0.2] * 4}).verdict
    'win'
    """
    if not rivals:
        raise ArgumentError("rivals must hold at least one, got none. Add a method.")
    for name, scores in (("ours", ours), *rivals.items()):
        if len(scores) < 4:
            raise ArgumentError(f"{name} must have at least 4 draws, got {len(scores)}. Add some.")
    best = max(rivals, key=lambda name: statistics.mean(rivals[name][: len(ours)][::2]))
    pairs = list(zip(ours, rivals[best], strict=False))[1::2]
    gaps = [a - b for a, b in pairs]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    return Comparison(best, statistics.mean(gaps), error, len(gaps))
