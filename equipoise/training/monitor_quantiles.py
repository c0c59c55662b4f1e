"""Quantiles of a stream in bounded memory, with a bounded relative error."""

import math
from collections.abc import Sequence

import numpy as np

from equipoise import _checks

# Relative error of a quantile; buckets grow by (1 + e) / (1 - e).
ERROR = 0.02
_LOG_GROWTH = math.log((1 + ERROR) / (1 - ERROR))
# Magnitudes that are told apart; beyond, the nearest of them stands for all.
_LEAST, _MOST = 1e-12, 1e12


class Quantiles:
    """Counts numbers in buckets whose bounds grow by a fixed factor (DDSketch, arXiv 1908.10693).

    A quantile is known to 2 % of its value between 1e-12 and 1e12 in magnitude, whatever the
    distribution and the length of the stream. At most 2,800 buckets are held, as a rule a few
    dozen. nan and infinity are left out.

    >>> sketch = Quantiles()
    >>> for i in range(1, 1001):
    ...     sketch.add(float(i))
    >>> bool(abs(sketch.at([0.5])[0] / 500 - 1) < 0.02)
    True
    """

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, number: float) -> None:
        """Take a number in."""
        if not math.isfinite(number):
            return
        self.count += 1
        key = 0
        size = abs(number)
        if size >= _LEAST:
            place = math.ceil(math.log(min(size, _MOST) / _LEAST) / _LOG_GROWTH) + 1
            key = place if number > 0 else -place
        self._buckets[key] = self._buckets.get(key, 0) + 1

    def at(self, shares: Sequence[float]) -> np.ndarray:
        """Quantiles.

        Args:
            shares: from 0 (the least) to 1 (the largest).

        Returns:
            Shape (shares,), nan where no number has been taken in.

        Raises:
            ArgumentError: If a share is not from 0 to 1.
        """
        wanted = [_checks.in_unit_interval("share", share) for share in shares]
        if not self.count:
            return np.full(len(wanted), math.nan)
        keys = sorted(self._buckets)
        behind = np.cumsum([self._buckets[key] for key in keys])
        ranks = np.array(wanted) * (self.count - 1)
        places = np.searchsorted(behind, ranks, side="right")
        return np.array([_middle(keys[place]) for place in places])


def _middle(key: int) -> float:
    """The number within a bucket that is off by the same share from both of its ends."""
    if key == 0:
        return 0.0
    low = _LEAST * math.exp((abs(key) - 2) * _LOG_GROWTH)
    middle = low * (1 + ERROR)
    return middle if key > 0 else -middle
