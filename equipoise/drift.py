"""The drift of a quantity over depth: a line through its logarithms, with an honest error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Shares of the variance that are steps and readings, from a pure walk to nearly pure flicker.
_RATIOS = np.concatenate([[0.0], 10.0 ** np.arange(-1.5, 4.1, 0.25)])
_STEPS, _READS = 1 / (1 + _RATIOS), _RATIOS / (1 + _RATIOS)


@dataclass(frozen=True)
class Drift:
    """A slope over depth.

    Attributes:
        per_layer: nats per layer; nan for fewer than two layers.
        error: its standard error, nats per layer; nan for fewer than four layers.
        layers: number of layers in the fit.
    """

    per_layer: float
    error: float
    layers: int


def slope_weights(positions: Array) -> Array:
    """Weights w with sum w_i y_i = the slope of the least-squares line through (position, y).

    >>> slope_weights(np.arange(3.0)).tolist()
    [-0.5, 0.0, 0.5]
    """
    centred = positions - positions.mean()
    weights: Array = centred / (centred @ centred)
    return weights


def tails(weights: Array) -> Array:
    """For each position, the sum of the weights behind it: how a step there moves the slope.

    >>> tails(np.array([-0.5, 0.0, 0.5])).tolist()
    [0.5, 0.5, 0.0]
    """
    found: Array = weights[::-1].cumsum()[::-1] - weights
    return found


def fit_drift(logs: Sequence[float]) -> Drift:
    """Slope of the least-squares line through values layer by layer, and its standard error.

    Logs of norms do two things: they walk (each layer multiplies by a random factor that stays) and
    they flicker (each layer is read with a factor of its own). With increments
    d_i = mean + step_i + read_(i+1) - read_i the error of the slope is
    sum_i tail_i^2 Var(step) + sum_i w_i^2 Var(read), both variances as the increments have them.
    Residuals about a line would understate the error of a walk, whose residuals are no noise.

    Args:
        logs: one value for each layer, nats; values that are not finite are left out, with their
            place kept for the others.

    Returns:
        The drift. Few layers cannot tell a walk from flicker: over drawn walks the root mean square
        of the error is 0.61 times the spread of the slope for 6 layers, 0.73 for 10, 0.81 for 20,
        0.89 for 50 and 0.94 for 100; where flicker hides a small walk it is larger than the spread.

    >>> fit_drift([0.0, -0.5, -1.0, -1.5])
    Drift(per_layer=-0.5, error=0.0, layers=4)
    >>> fit_drift([1.0])
    Drift(per_layer=nan, error=nan, layers=1)
    """
    values = np.asarray(logs, dtype=np.float64)
    positions = np.flatnonzero(np.isfinite(values)).astype(np.float64)
    values = values[np.isfinite(values)]
    count = len(values)
    if count < 2:
        return Drift(math.nan, math.nan, count)
    weights = slope_weights(positions)
    slope = float(weights @ values)
    if count < 4:
        return Drift(slope, math.nan, count)
    return Drift(slope, math.sqrt(_slope_variance(values, weights)), count)


def _slope_variance(values: Array, weights: Array) -> float:
    """Variance of the slope, averaged over what the increments say of walk and flicker.

    For a ratio r = Var(read) / Var(step) the increments have covariance proportional to
    1 + r T, T tridiagonal with 2 and -1, which sines diagonalise. Each r of a grid, evenly spaced
    in its log, is weighed by its restricted likelihood: one best value would be too sure where
    few layers cannot tell the two apart.
    """
    increments = np.diff(values)
    steps = len(increments)
    k = np.arange(1, steps + 1)
    sines = math.sqrt(2 / (steps + 1)) * np.sin(np.outer(k, k) * math.pi / (steps + 1))
    seen, ones = sines @ increments, sines.sum(axis=1)
    power = _STEPS[:, None] + _READS[:, None] * (2 - 2 * np.cos(k * math.pi / (steps + 1)))
    sharp = (ones**2 / power).sum(axis=1)
    mean = (ones * seen / power).sum(axis=1) / sharp
    scale = (np.square(seen - mean[:, None] * ones) / power).sum(axis=1) / (steps - 1)
    # Where one factor fits all layers, what is left is rounding.
    if float(scale.min()) <= 1e-24:
        return 0.0
    log_likelihood = -0.5 * (
        (steps - 1) * np.log(scale) + np.log(power).sum(axis=1) + np.log(sharp)
    )
    share = np.exp(log_likelihood - log_likelihood.max())
    one = _STEPS * np.square(tails(weights)).sum() + _READS * np.square(weights).sum()
    return float((share / share.sum()) @ (scale * one))
