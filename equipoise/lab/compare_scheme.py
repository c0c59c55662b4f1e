"""The schemes of a comparison: the rate of each is chosen on rows held back, then it trains anew.

What is to be trained is units of work; what came of them goes in, and further units come out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from equipoise.lab.compare_scores import Scale, counted, have_trained, worst_of
from equipoise.lab.compare_training import Trained
from equipoise.lab.compare_units import trained_from

Units = dict[str, dict[str, Any]]


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


class Scheme:
    """One scheme on its way: its units, what came of them, and what follows.

    Attributes:
        name: of the scheme.
        left_out: why it cannot serve the model; '' where it can, or is not known.
        finished: what came of it; None before its end.
        units: all so far, arguments by key.
    """

    def __init__(
        self,
        name: str,
        rates: Sequence[float],
        seeds: Sequence[int],
        at_once: int,
        given: Mapping[str, Any],
        constant: float,
        margin: float,
    ) -> None:
        """Plan the trainings.

        Args:
            name: of the scheme.
            rates: in rising order.
            seeds: of the draws and their batches, the same at every rate.
            at_once: replicas of a unit, at most.
            given: arguments that all units have.
            constant: loss of the best constant output on the rows held back, nan if there is none.
            margin: by how much a draw must improve to have trained.
        """
        self.name, self.left_out = name, ""
        self.finished: Finished | None = None
        self.units: Units = {}
        self._rates, self._seeds, self._at_once = rates, seeds, at_once
        self._given, self._constant, self._margin = given, constant, margin
        self._choice: tuple[float, tuple[float, float], tuple[tuple[float, float, float], ...]]
        self._results: dict[str, Mapping[str, Any] | None] = {}

    def choosing(self) -> Units:
        """Units that choose the rate: every draw at every rate."""
        return self._units([[rate, seed] for rate in self._rates for seed in self._seeds], False)

    def take(self, key: str, result: Mapping[str, Any]) -> Units:
        """Take a unit's result in.

        Args:
            key: of a unit of this scheme.
            result: what it gave.

        Returns:
            Units that follow: the draws at the best rate, once that is known.
        """
        self._results[key] = result
        self.left_out = self.left_out or result["left_out"]
        parts = [part for part in self._results.values() if part is not None]
        if self.left_out or len(parts) < len(self._results):
            return {}
        trained = trained_from(parts)
        if len(trained.curve):
            self.finished = Finished(self.name, *self._choice, trained)
            return {}
        self._choice = choose(trained, self._rates, self._constant, self._margin)
        return self._units([[self._choice[0], seed] for seed in self._seeds], True)

    def _units(self, runs: Sequence[list[float]], is_final: bool) -> Units:
        units: Units = {}
        for first in range(0, len(runs), self._at_once):
            part = list(runs[first : first + self._at_once])
            arguments = {
                **self._given, "scheme": self.name, "is_final": is_final, "runs": part,
            }  # fmt: skip
            # Another model, other rows or rates are other units, not a clash in the store.
            digest = sha256(str(sorted(arguments.items())).encode()).hexdigest()[:8]
            units[f"{self.name}, {'draws' if is_final else 'rates'}, {digest}"] = arguments
        self._results = dict.fromkeys(units)
        self.units |= units
        return units


def choose(
    tried: Trained, rates: Sequence[float], constant: float, margin: float
) -> tuple[float, tuple[float, float], tuple[tuple[float, float, float], ...]]:
    """The best rate of those tried.

    Args:
        tried: all draws at the first rate, then at the second, and so on.
        rates: in rising order.
        constant: loss of the best constant output, nan if there is none.
        margin: by how much a draw must improve to have trained.

    Returns:
        The rate, the window around it, and ``by_rate``, as ``Finished`` has them.
    """
    worst = worst_of(tried.at_birth, tried.at_end)
    ends, births = counted(tried.at_end, tried.at_birth, tried.has_diverged, worst)
    scale = Scale.of(ends.tolist(), births.tolist())
    passed = have_trained(tried.at_end, tried.at_birth, tried.has_diverged, constant, margin)
    means = [scale.mean(row)[0] for row in ends.view(len(rates), -1).tolist()]
    shares = passed.view(len(rates), -1).float().mean(1).tolist()
    best = min(range(len(rates)), key=lambda i: means[i])
    by_rate = tuple(zip(rates, means, shares, strict=True))
    return rates[best], window_around(rates, shares, best), by_rate


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
