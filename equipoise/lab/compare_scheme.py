"""One scheme in a comparison: its rate is chosen on rows held back, then it is trained anew."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from equipoise.lab.compare_program import Program, Starts
from equipoise.lab.compare_rows import Rows
from equipoise.lab.compare_scores import Scale, counted, have_trained, worst_of
from equipoise.lab.compare_training import Course, Trained, train_in_parts


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows, and the losses of the best constant output on those tested.

    Attributes:
        choosing: to train on and to test on where the rate is chosen.
        final: all training rows, and the test part.
        constants: loss of the best constant output for each of the two, nan where there is none.
    """

    choosing: tuple[Rows, Rows]
    final: tuple[Rows, Rows]
    constants: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Finished:
    """A scheme that was trained at its best rate.

    Attributes:
        scheme: its name.
        rate: the best.
        window: lowest and highest rate around it at which half of the draws trained; nan if none.
        by_rate: rate, mean loss and share of draws that trained, on the rows held back.
        trained: the draws at that rate.
    """

    scheme: str
    rate: float
    window: tuple[float, float]
    by_rate: tuple[tuple[float, float, float], ...]
    trained: Trained


def finish(
    program: Program,
    scheme: str,
    starts: Starts,
    parts: Parts,
    rates: Sequence[float],
    seeds: Sequence[int],
    course: Course,
    margin: float,
    progress: Callable[[int], None] = lambda steps: None,
) -> Finished:
    """Choose the rate of a scheme, and train its draws anew with it.

    Args:
        program: of the model.
        scheme: its name.
        starts: its draws.
        parts: the rows.
        rates: in rising order.
        seeds: of the batches of each draw, the same at every rate.
        course: how to train.
        margin: by how much a draw must improve to have trained.
        progress: called with the steps of single replicas done since the last call.

    Returns:
        What came of it.
    """
    count, all_seeds = len(starts), list(seeds) * len(rates)
    which = list(range(count)) * len(rates)
    each = [rate for rate in rates for _ in range(count)]
    tried = train_in_parts(
        program, starts, which, parts.choosing, each, all_seeds, course, progress
    )
    worst = worst_of(tried.at_birth, tried.at_end)
    ends, births = counted(tried.at_end, tried.at_birth, tried.has_diverged, worst)
    scale = Scale.of(ends.tolist(), births.tolist())
    trained = have_trained(
        tried.at_end, tried.at_birth, tried.has_diverged, parts.constants[0], margin
    )
    means = [scale.mean(row)[0] for row in ends.view(len(rates), count).tolist()]
    shares = trained.view(len(rates), count).float().mean(1).tolist()
    best = min(range(len(rates)), key=lambda i: means[i])
    again = train_in_parts(
        program, starts, range(count), parts.final, [rates[best]] * count, seeds, course, progress
    )
    by_rate = tuple(zip(rates, means, shares, strict=True))
    return Finished(scheme, rates[best], window_around(rates, shares, best), by_rate, again)


def window_around(
    rates: Sequence[float], shares: Sequence[float], best: int
) -> tuple[float, float]:
    """Ends of the unbroken run of rates around the best one at which half of the draws trained.

    >>> window_around([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.5, 1.0], 3)
    (3.0, 4.0)
    """
    if shares[best] < 0.5:
        return math.nan, math.nan
    low = high = best
    while low and shares[low - 1] >= 0.5:
        low -= 1
    while high + 1 < len(rates) and shares[high + 1] >= 0.5:
        high += 1
    return rates[low], rates[high]
