"""The learning rate of a start, chosen alike for all, and what is gained over another start."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class AtBestRate:
    """Scores of one start.

    Attributes:
        scores: of each draw, at the rate that is best for all other draws.
        rate: the best one for all draws.
        places: of each draw, which rate its score is of.
    """

    scores: tuple[float, ...]
    rate: float
    places: tuple[int, ...]


def at_best_rate(scores: Sequence[Sequence[float]], rates: Sequence[float]) -> AtBestRate:
    """The score of each draw at the rate of the highest mean score of all other draws.

    A rate that is picked on the draws that it is judged by is picked for its luck too; so a draw
    has no say in its own, unless it is the only one.

    Args:
        scores: one row for each draw, of one score for each rate; higher is better.
        rates: learning rates; of equals the first one counts.

    Returns:
        The scores.

    Raises:
        ArgumentError: if there are no draws, or a row has another length than the rates.

    >>> at_best_rate([[0.9, 0.1], [0.8, 0.2], [0.1, 1.0]], (1e-3, 1e-2))
    AtBestRate(scores=(0.1, 0.2, 0.1), rate=0.001, places=(1, 1, 0))
    """
    if not scores or any(len(row) != len(rates) for row in scores):
        raise ArgumentError(
            f"scores must have a row of {len(rates)} numbers for each draw, at least one, got "
            f"{[len(row) for row in scores]}. Pass a score for each rate."
        )
    table = np.array(scores, dtype=np.float64)
    total = table.sum(axis=0)
    if len(table) == 1:
        places = [int(total.argmax())]
    else:
        # What is left of a sum must not decide between equals by its last digit.
        places = [int(np.delete(table, i, axis=0).sum(axis=0).argmax()) for i in range(len(table))]
    picked = tuple(float(row[place]) for row, place in zip(table, places, strict=True))
    return AtBestRate(picked, float(rates[int(total.argmax())]), tuple(places))
