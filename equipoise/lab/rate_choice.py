"""The learning rate of a start, chosen alike for all, and what is gained over another start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.lab.replay_data import Estimate


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


def at_best_rate(
    scores: Sequence[Sequence[float]],
    rates: Sequence[float],
    held: Sequence[Sequence[float]] = (),
) -> AtBestRate:
    """The score of each draw at the rate of the highest mean score of all other draws.

    A rate that is picked on the draws that it is judged by is picked for its luck too; so a draw
    has no say in its own, unless it is the only one. Where rows were held back, they pick the rate,
    and no row of the test part has a say either.

    Args:
        scores: one row for each draw, of one score for each rate; higher is better.
        rates: learning rates; of equals the first one counts.
        held: the same on rows held back; () where there are none.

    Returns:
        The scores.

    Raises:
        ArgumentError: if there are no draws, a row has another length than the rates, or other
            draws were held back than scored.

    >>> at_best_rate([[0.9, 0.1], [0.8, 0.2], [0.1, 1.0]], (1e-3, 1e-2))
    AtBestRate(scores=(0.1, 0.2, 0.1), rate=0.001, places=(1, 1, 0))
    >>> at_best_rate([[0.9, 0.1]], (1e-3, 1e-2), held=[[0.2, 0.3]])
    AtBestRate(scores=(0.1,), rate=0.01, places=(1,))
    """
    for name, given in (("scores", scores), ("held", held or scores)):
        if not given or any(len(row) != len(rates) for row in given):
            raise ArgumentError(
                f"{name} must have a row of {len(rates)} numbers for each draw, at least one, got "
                f"{[len(row) for row in given]}. Pass a score for each rate."
            )
    table, judged = (np.array(rows, dtype=np.float64) for rows in (scores, held or scores))
    if len(judged) != len(table):
        raise ArgumentError(
            f"held must have a row for each of the {len(table)} draws of scores, got {len(judged)}."
            " Pass both of the same draws."
        )
    total = judged.sum(axis=0)
    if len(table) == 1:
        places = [int(total.argmax())]
    else:
        # What is left of a sum must not decide between equals by its last digit.
        places = [int(np.delete(judged, i, axis=0).sum(axis=0).argmax()) for i in range(len(table))]
    picked = tuple(float(row[place]) for row, place in zip(table, places, strict=True))
    return AtBestRate(picked, float(rates[int(total.argmax())]), tuple(places))


def ahead(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Mean and error of what ours is ahead, draw by draw: both saw the same rows and batches.

    >>> ahead([0.75, 1.0], [0.5, 0.5]).mean
    0.375
    """
    return Estimate.of([a - b for a, b in zip(ours, theirs, strict=True)])


def errors_ahead(gain: Estimate) -> float:
    """How many standard errors a gain is above 0; nan where it has none.

    >>> errors_ahead(Estimate(0.5, 0.25, 10))
    2.0
    """
    return gain.mean / gain.standard_error if gain.standard_error > 0 else math.nan
