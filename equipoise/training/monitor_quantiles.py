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
        if math.isfinite(number):
            self.add_bucket(int(buckets(np.array(number))))

    def add_bucket(self, bucket: int) -> None:
        """Take a number in by its bucket."""
        self.count += 1
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

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


def buckets(numbers: np.ndarray) -> np.ndarray:
    """The bucket of each number, negative for those below 0; finite numbers only.

    >>> buckets(np.array([0.0, 1e-12, -1e-12])).tolist()
    [0, 1, -1]
    """
    sizes = np.clip(np.abs(numbers), _LEAST, _MOST)
    places = np.ceil(np.log(sizes / _LEAST) / _LOG_GROWTH).astype(np.int64) + 1
    found: np.ndarray = np.where(np.abs(numbers) < _LEAST, 0, np.copysign(places, numbers))
    return found.astype(np.int64)


def _middle(key: int) -> float:
    """The number within a bucket that is off by the same share from both of its ends."""
    if key == 0:
        return 0.0
    low = _LEAST * math.exp((abs(key) - 2) * _LOG_GROWTH)
    middle = low * (1 + ERROR)
    return middle if key > 0 else -middle
