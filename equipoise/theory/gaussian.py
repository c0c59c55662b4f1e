"""Expectations under a centred Gaussian, for functions with kinks.

Gauss-Hermite rules lose their digits at a kink, and at large variance they step over the origin,
where activations have their structure. Here the line is cut into panels at the kinks and
geometrically around them; each panel is integrated by Gauss-Legendre rules and halved until two
orders agree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from equipoise import _checks

Array = NDArray[np.float64]

# The density at 12 standard deviations is 2e-32: below float64 relative to any moment used here.
_REACH = 12.0
_LOW_NODES, _LOW_WEIGHTS = leggauss(10)
_HIGH_NODES, _HIGH_WEIGHTS = leggauss(20)
_MAX_ROUNDS = 14


@dataclass(frozen=True)
class Expectation:
    """The value of an expectation and an estimate of its absolute quadrature error."""

    value: float
    error: float


def expectation(
    g: Callable[[Array], Array],
    q: float,
    kinks: tuple[float, ...] = (),
    tolerance: float = 1e-11,
    floor: float = 0.0,
) -> Expectation:
    """E g(z) for z ~ N(0, q).

    Args:
        g: function of a 1-D float64 array, finite on the real line; it may grow polynomially.
        q: variance of z, dimensionless, positive.
        kinks: abscissae (in the units of z) where g or its derivative jumps.
        tolerance: target error relative to E |g|.
        floor: absolute error below which no panel is refined, for a g that may be rounding noise.

    Returns:
        The value with an estimate of its quadrature error, the gap between two orders; infinite or
        nan where g leaves the range of floats.

    Raises:
        ArgumentError: if q is not positive and finite.

    >>> round(expectation(lambda z: z**4, 2.0).value, 9)
    12.0
    """
    std = math.sqrt(_checks.positive("q", q, "Pass a variance, not its logarithm."))
    # A g that leaves the range of floats has an expectation that does: no warning is needed.
    with np.errstate(over="ignore", invalid="ignore"):
        return _integrate(g, std, kinks, tolerance, floor)


def _integrate(
    g: Callable[[Array], Array],
    std: float,
    kinks: tuple[float, ...],
    tolerance: float,
    floor: float,
) -> Expectation:
    """Halve panels until two orders agree on each."""
    edges = _edges(std, kinks)
    left, right = edges[:-1], edges[1:]
    total, total_abs, error = 0.0, 0.0, 0.0
    for round_ in range(_MAX_ROUNDS):
        high, high_abs = _panels(g, std, left, right, _HIGH_NODES, _HIGH_WEIGHTS)
        low, _ = _panels(g, std, left, right, _LOW_NODES, _LOW_WEIGHTS)
        gap = np.abs(high - low)
        scale = total_abs + float(high_abs.sum())
        # Half the tolerance is shared out evenly over the panels of the first round.
        done = gap <= max(tolerance * scale, floor) / (2 * len(edges))
        if round_ == _MAX_ROUNDS - 1:
            done = np.ones_like(done)
        total += float(high[done].sum())
        total_abs += float(high_abs[done].sum())
        error += float(gap[done].sum())
        if done.all():
            break
        middle = (left[~done] + right[~done]) / 2
        left, right = (
            np.concatenate([left[~done], middle]),
            np.concatenate([middle, right[~done]]),
        )
    return Expectation(total, error + 4e-16 * total_abs)


def _edges(std: float, kinks: tuple[float, ...]) -> Array:
    """Panel edges in units of z: kinks, and powers of two away from 0 and from each kink."""
    reach = _REACH * std
    anchors = {0.0, *(k for k in kinks if abs(k) < reach)}
    smallest = min(std, 1.0) / 4
    steps = smallest * 2.0 ** np.arange(math.ceil(math.log2(2 * reach / smallest)) + 1)
    points = [np.array([-reach, reach, *anchors])]
    for anchor in anchors:
        points += [anchor + steps, anchor - steps]
    edges = np.unique(np.concatenate(points))
    return edges[(edges >= -reach) & (edges <= reach)]


def _panels(
    g: Callable[[Array], Array], std: float, left: Array, right: Array, nodes: Array, weights: Array
) -> tuple[Array, Array]:
    half = (right - left) / 2
    z = ((right + left) / 2)[:, None] + half[:, None] * nodes
    density = np.exp(-0.5 * (z / std) ** 2) / (std * math.sqrt(2 * math.pi))
    values = g(z.ravel()).reshape(z.shape) * density
    return (values @ weights) * half, (np.abs(values) @ weights) * half
