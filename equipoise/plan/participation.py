"""How many of its entries a softmax of normal scores spreads its weight over."""

import math
from functools import lru_cache

import numpy as np

# Scores of this variance leave nearly all to one of them.
_MOST_SPREAD = 100.0


def participation(spread: float, size: float) -> float:
    """Sum of squared weights of a softmax over ``size`` normal scores of variance ``spread``."""
    spread = min(spread, _MOST_SPREAD) if spread >= 0 else 0.0
    return _softmax_energy(float(f"{spread:.4g}"), size)


@lru_cache(maxsize=4096)
def _softmax_energy(spread: float, size: float) -> float:
    """E sum p^2 over draws, exact at any size.

    With 1 / S^2 = int t e^(-t S) dt it is n int t E[e^(2 s) e^(-t e^s)] E[e^(-t e^s)]^(n - 1) dt, a
    trapezoid sum over log t of two means over one score s.
    """
    if size <= 1.0:
        return 1.0
    std = math.sqrt(spread)
    z = np.linspace(-8.0, 8.0, 81)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    far = 8.0 * std
    log_t = np.arange(-far - math.log(size) - 12.0, far + 4.0, 0.1)
    powers = np.exp(np.minimum(log_t[:, None] + std * z, 700.0))
    alone = np.exp(-powers) @ weights
    squared = (powers**2 * np.exp(-powers)) @ weights
    total = float(np.sum(squared * alone ** (size - 1.0)) * 0.1)
    return min(1.0, max(1.0 / size, size * total))
