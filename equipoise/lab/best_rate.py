"""The share of draws that succeed at a start's best learning rate, and its error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.lab.rate_choice import at_best_rate
from equipoise.lab.replay_data import Estimate


@dataclass(frozen=True)
class BestRate:
    """What comes of draws at the best of several learning rates.

    Attributes:
        share: of the draws that succeed; its error is that of a share, sqrt(s (1 - s) / n).
        rate: the best one over all draws.
    """

    share: Estimate
    rate: float


def best_rate(
    scores: Sequence[Sequence[float]],
    rates: Sequence[float],
    success: float,
    reference: float = math.nan,
    is_apart: bool = False,
) -> BestRate:
    """Share of the draws whose score is above ``success`` at the best rate.

    A rate that is picked on the draws that it is judged by is picked for its luck too. Apart, the
    rate of each draw is the best one of all other draws.

    Args:
        scores: one row for each draw, of one score for each rate; -inf for what failed.
        rates: learning rates.
        success: score that must be passed.
        reference: number to hold the share against.
        is_apart: whether a draw has no say in its rate.

    Returns:
        The share, and the best rate over all draws: the lower one of equals.

    Raises:
        ArgumentError: if there are no draws, or a row has another length than the rates.

    >>> best_rate([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], (1e-3, 1e-2), 0.5).share.mean
    0.6666666666666666
    >>> best_rate([[1.0, 0.0], [0.0, 1.0]], (1e-3, 1e-2), 0.5, is_apart=True).share.mean
    0.0
    """
    # The lower rate of equals comes first, and a draw alone has no others to be picked by.
    solved = [[float(value > success) for value in row] for row in scores]
    found = at_best_rate(solved, rates)
    best = list(rates).index(found.rate)
    picked = list(found.scores) if is_apart else [row[best] for row in solved]
    share = math.fsum(picked) / len(picked)
    error = math.sqrt(share * (1 - share) / len(picked))
    return BestRate(Estimate(share, error, len(picked), reference), found.rate)
