"""The typical draw of many: middles and spreads of logs, and what few rows lack against many."""

import math

import numpy as np

from equipoise.schemes.laws import Array

# Standard error of a median of normal numbers over that of their mean.
_MEDIAN = 1.2533
# Share of draws that must live for the law of survivors to be that of the middle.
_MOST_ALIVE = 0.95
# Standard deviations of a log that are rounding.
_NO_SPREAD = 1e-6


def lack(unlike: Array, rows: int) -> Array:
    """How far the log RMS of a few rows lies below that of very many, nats, layer by layer.

    Squared norms whose logs are normal of variance v over the rows have a mean over K rows of
    relative variance (exp(v) - 1) / K, and half of that over 2 is missing in its log.

    Args:
        unlike: v of each draw, shape (draws, layers).
        rows: K.

    Returns:
        Shape (layers,), for the median draw.
    """
    return np.asarray(np.expm1(np.minimum(np.median(unlike, axis=0), 100.0)) / (4 * rows))


def typical(rms: Array, norms: Array, single: Array, exact: Array | None) -> tuple[Array, Array]:
    """Middle of the log RMS of batches and its standard error, layer by layer.

    The middle is Tukey's trimean: the median where the law is symmetric, and steadier. Its control
    variate, where that helps, is the mean log norm of one vector, which is known exactly or from
    many more draws.
    """
    found, error = np.median(rms, axis=0), np.zeros(rms.shape[1])
    for layer in range(rms.shape[1]):
        x, y = rms[:, layer], norms[:, layer]
        alive = np.isfinite(x) & np.isfinite(y)
        if alive.mean() < _MOST_ALIVE:
            continue
        x, y = x[alive], y[alive]
        alone = single[:, layer][np.isfinite(single[:, layer])]
        # Where no single vector lives, the batches are all that is known.
        alone = alone if alone.size else y
        shifts = y - y.mean()
        energy = float(shifts @ shifts)
        share = float(shifts @ x) / energy if energy > _NO_SPREAD**2 * len(y) else 0.0
        mean = float(alone.mean()) if exact is None else float(exact[layer])
        rest = float(np.std(x - share * y))
        chance = share * float(alone.std()) / math.sqrt(len(alone)) if exact is None else 0.0
        with_control = math.hypot(_MEDIAN * rest / math.sqrt(len(x)), chance)
        without = _MEDIAN * float(np.std(x)) / math.sqrt(len(x))
        if with_control > without:
            # Few single vectors know their mean worse than the batches know theirs.
            share = 0.0
        found[layer] = np.quantile(x, [0.25, 0.5, 0.5, 0.75]).mean() + share * (mean - y.mean())
        error[layer] = min(with_control, without)
    return found, error


def spread(logs: Array) -> Array:
    """Standard deviation over the draws that live, 0 where it is rounding."""
    alive = np.isfinite(logs)
    count = np.maximum(alive.sum(axis=0), 1)
    values = np.where(alive, logs, 0.0)
    mean = values.sum(axis=0) / count
    variance = (np.where(alive, values - mean, 0.0) ** 2).sum(axis=0) / np.maximum(count - 1, 1)
    std = np.sqrt(variance)
    return np.where(std < _NO_SPREAD, 0.0, std)
