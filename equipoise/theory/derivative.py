"""The derivative of a function that is known by its values only."""

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from equipoise.theory.activation import Array
from equipoise.theory.callables import ArrayFunction
from equipoise.theory.evidence import Certainty, Evidence

# Far below any number of interest and far above underflow: the product of two is not needed.
_TINY = 1e-30
_NODES = np.arange(-3.0, 4.0)
# Rows: coefficients, in powers of s, of the slope at s of each node's Lagrange polynomial.
_SLOPES = np.array(
    [
        np.poly1d(np.poly(np.delete(_NODES, j)) / np.prod(t - np.delete(_NODES, j))).deriv().c
        for j, t in enumerate(_NODES)
    ]
)
_STEPS = 2.0 ** -np.arange(3.0, 12.0)


def difference_slope(
    f: Callable[[Array], Array], breaks: tuple[float, ...] = (), step: float = 2.0**-6
) -> Callable[[Array], Array]:
    """f'(x) by the slope of the degree-6 polynomial through 7 points, step apart.

    The points are centred on x, or shifted aside so that they do not straddle a break. The error is
    about step^6 f'''''''/140 plus rounding of about 2 eps |f| / step.

    Args:
        f: function of float64 arrays.
        breaks: abscissae, in order, that no stencil may straddle.
        step: distance of the points, positive; shorter between breaks that are near each other.

    Returns:
        The derivative.

    >>> import numpy as np
    >>> float(difference_slope(np.sin)(np.array([1.0]))[0].round(12) == np.cos(1.0).round(12))
    1.0
    """
    edges = np.array([-np.inf, *breaks, np.inf])

    def df(x: Array) -> Array:
        flat = np.ravel(np.asarray(x, dtype=np.float64))
        i = np.searchsorted(edges, flat)
        left, right = edges[np.maximum(i - 1, 0)], edges[i]
        # A break is known to about 1e-9: a point on it may belong to either side.
        left, right = left + 2e-9 * _size(left), right - 2e-9 * _size(right)
        h = np.minimum(step * np.maximum(1.0, np.abs(flat) / 1e3), (right - left) / 6)
        centre = np.clip(flat, left + 3 * h, right - 3 * h)
        values = f(centre[:, None] + h[:, None] * _NODES)
        s = (flat - centre) / h
        weights = np.vander(s, _SLOPES.shape[1]) @ _SLOPES.T
        return np.asarray((weights * values).sum(axis=1) / h).reshape(np.shape(x))

    return df


def _size(x: Array) -> Array:
    return np.where(np.isfinite(x), np.maximum(1.0, np.abs(x)), 0.0)


def best_step(
    f: Callable[[Array], Array], breaks: tuple[float, ...], points: Array
) -> tuple[float, float]:
    """The step of ``difference_slope`` with the least error, and that error.

    The error of a step is its gap to half the step, relative to the slope or its mean size.

    Args:
        f: function of float64 arrays.
        breaks: abscissae that no stencil may straddle.
        points: where the steps are tried.

    Returns:
        The step and its greatest relative gap.

    >>> import numpy as np
    >>> step, error = best_step(np.tanh, (), np.linspace(-3, 3, 50))
    >>> error < 1e-11
    True
    """
    slopes = np.array([difference_slope(f, breaks, h)(points) for h in _STEPS])
    gaps = [float(relative_gap(fine, coarse).max()) for coarse, fine in pairwise(slopes)]
    best = int(np.argmin(gaps))
    return float(_STEPS[best]), gaps[best]


def relative_gap(slope: Array, other: Array) -> Array:
    """|slope - other| relative to the slope, or to its mean size where it is smaller.

    >>> import numpy as np
    >>> relative_gap(np.array([1.0, 3.0]), np.array([1.0, 3.3])).round(12).tolist()
    [0.0, 0.1]
    """
    size = np.maximum(np.abs(slope), float(np.abs(slope).mean()))
    return np.abs(slope - other) / np.where(size > 0, size, 1.0)


def complex_step(raw: Callable[[Any], Any], sample: Array) -> Callable[[Array], Array] | None:
    """f'(x) = Im f(x + i h) / h, exact to rounding where f is analytic; None where f refuses.

    A function that passes may still be wrong: one that takes a modulus or a real part on its way.
    Compare with a difference.

    Args:
        raw: callable of complex arrays.
        sample: 1-D array on which it is tried.

    Returns:
        The derivative, or None where complex numbers are refused or dropped.

    Source: Squire and Trapp 1998, SIAM Review 40 (1).

    >>> import numpy as np
    >>> float(complex_step(np.exp, np.zeros(2))(np.zeros(1))[0])
    1.0
    >>> complex_step(np.cbrt, np.zeros(2)) is None
    True
    """

    def df(x: Array) -> Array:
        # Complex functions overflow where their real parts do not; the caller sees the nan.
        with np.errstate(all="ignore"):
            return np.asarray(np.imag(raw(x + 1j * _TINY)) / _TINY)

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # numpy only warns when a cast drops the imaginary part.
            warnings.simplefilter("error")
            values = raw(sample + 1j * _TINY)
    except (TypeError, ValueError, AttributeError, RuntimeError, Warning):
        return None
    if not np.iscomplexobj(values) or np.shape(values) != sample.shape:
        return None
    return df


def choose_derivative(
    made: ArrayFunction, df: Callable[[Array], Array] | None, breaks: tuple[float, ...]
) -> tuple[Callable[[Array], Array], Evidence, float]:
    """The derivative to use, its evidence, and its relative error.

    A given one is taken as it is; torch's and that of a complex step where they agree with a
    7-point difference to 1e-9; else the difference.

    Args:
        made: the function.
        df: its derivative, if the caller has one.
        breaks: abscissae, in order, where it breaks.

    Returns:
        The derivative, evidence for it, and its error relative to the slope or its mean size.

    >>> from equipoise.theory.callables import array_function
    >>> made = array_function(np.arctan, "arctan", np.zeros(2))
    >>> choose_derivative(made, None, ())[1].value
    'complex step'
    """
    points = np.random.default_rng(9).uniform(-8.0, 8.0, 100)
    # One-sided stencils have larger errors: points beside the breaks have their say.
    beside = np.array([b + d for b in breaks for d in (-0.02, -0.002, 0.002, 0.02)])
    points = np.concatenate([points, beside])
    # On a break, exact and difference slopes may stand on different sides.
    gaps = np.abs(points[:, None] - np.array([math.inf, *breaks]))
    points = points[gaps.min(axis=1) > 1e-6]
    step, error = best_step(made.f, breaks, points)
    difference = difference_slope(made.f, breaks, step)
    ours = difference(points)

    def gap(other: Callable[[Array], Array]) -> float:
        found = other(points)
        return float(relative_gap(ours, np.where(np.isfinite(found), found, math.inf)).max())

    agree = f"a 7-point difference at {len(points)} points, 100 of them random in [-8, 8]"
    if df is not None:
        off = gap(df)
        sure: Certainty = "firm" if off <= max(1e-7, 100 * error) else "weak"
        return df, Evidence("derivative", "given", sure, f"within {off:.0e} of {agree}"), off
    kinds = {
        "autograd": made.autograd,
        "complex step": complex_step(made.raw, points) if made.kind == "numpy" else None,
    }
    for kind, other in kinds.items():
        if other is None:
            continue
        off = gap(other)
        if off <= max(1e-9, 10 * error):
            how = f"within {off:.0e} of {agree}"
            exact = _filled(other, difference)
            return exact, Evidence("derivative", kind, "firm", how), 4e-16
    how = f"7 points, {step:.1e} apart, never across a break: half the step agrees to {error:.0e}"
    sure = "firm" if error <= 1e-8 else "weak"
    return difference, Evidence("derivative", "difference", sure, how), error


def _filled(
    df: Callable[[Array], Array], spare: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """A derivative with another in place of what is not finite, as where exp overflows."""

    def both(x: Array) -> Array:
        slope = df(x)
        bad = ~np.isfinite(slope)
        if bad.any():
            slope = slope.copy()
            slope[bad] = spare(x[bad])
        return slope

    return both
