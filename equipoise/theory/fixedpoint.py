"""Fixed points and 2-cycles of x -> f(gain x), the signal of one unit that sees itself only.

For f odd and strictly concave on positives with f(x)/x -> 0 and slope kappa at 0: if
gain kappa <= 1 there is only 0, and it attracts (algebraically at equality); if gain kappa > 1
zero repels and +-xi attract; if gain kappa < -1 the pair (xi, -xi) is an attracting 2-cycle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.oddsigmoid import expansion_at_zero

Array = NDArray[np.float64]
Kind = Literal["attracting", "repelling", "neutral"]

_EPSILON = float(np.finfo(np.float64).eps)
# Distance of a slope from +-1 that rounding of the root makes: small where f(gain x) - x changes
# sign, the root of rounding where it only touches 0.
_CROSSING, _TOUCHING = 1e-12, 1e-6
# Grid points that rounding may toss to and fro at the end of a run of zeros.
_RAGGED = 20


@dataclass(frozen=True)
class FixedPoint:
    """A point with x = f(gain x).

    Attributes:
        x: the point.
        slope: gain f'(gain x); at a kink the one-sided value that is larger in size.
        kind: ``attracting`` where |slope| < 1, ``repelling`` where > 1, else ``neutral``; at a
            kink by the slopes that points on either side meet, ``repelling`` if some leave.
        attracts_below: whether points just below are carried to x. It follows from the slope, or
            from higher orders where the slope is +-1; attraction is then algebraic (tanh at gain
            1: x_l ~ sqrt(3 / 2l)).
        attracts_above: the same for points just above.
    """

    x: float
    slope: float
    kind: Kind
    attracts_below: bool
    attracts_above: bool


@dataclass(frozen=True)
class TwoCycle:
    """Two points that f(gain x) exchanges.

    Attributes:
        low: the smaller point.
        high: the larger one.
        multiplier: slope of the second iterate, gain^2 f'(gain low) f'(gain high).
        kind: ``attracting`` where |multiplier| < 1, ``repelling`` where > 1, else ``neutral``.
    """

    low: float
    high: float
    multiplier: float
    kind: Kind


@dataclass(frozen=True)
class FixedPoints:
    """Fixed points and 2-cycles of x -> f(gain x) within reach, in increasing order.

    Attributes:
        points: the fixed points.
        cycles: the 2-cycles, by their smaller point.
    """

    points: tuple[FixedPoint, ...]
    cycles: tuple[TwoCycle, ...]

    @property
    def attracting(self) -> tuple[float, ...]:
        """Points that draw both sides to them, algebraically or at an exponential rate.

        >>> from equipoise.theory import activations
        >>> fixed_points(activations.tanh(), 0.8).attracting
        (0.0,)
        """
        return tuple(p.x for p in self.points if p.attracts_below and p.attracts_above)


def fixed_points(activation: Activation, gain: float = 1.0, reach: float = 10.0) -> FixedPoints:
    """All x with x = f(gain x), and all 2-cycles, for |x| <= reach.

    Signs of f(gain x) - x change on 8,000 points, half of them spaced evenly and half
    geometrically around 0, down to 1e-9 of the reach; pairs of roots closer than these points are
    missed unless they touch.

    Args:
        activation: f, continuous.
        gain: factor a before f, not 0.
        reach: half-width of the interval searched, positive; for a bounded f the largest |f|
            holds every one of them.

    Returns:
        Points (error about 1e-13 of x, or 1e-8 where the slope is +-1) and 2-cycles.

    Raises:
        ArgumentError: if gain is 0, f jumps, or a whole interval stays where it is.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242 (there for odd sigmoids).

    >>> from equipoise.theory import activations
    >>> [(round(p.x, 6), p.kind) for p in fixed_points(activations.tanh(), 1.2).points]
    [(-0.65857, 'attracting'), (0.0, 'repelling'), (0.65857, 'attracting')]
    >>> [(round(c.high, 6), c.kind) for c in fixed_points(activations.tanh(), -1.2).cycles]
    [(0.65857, 'attracting')]
    """
    a = _checks.finite("gain", gain)
    if a == 0.0:
        raise ArgumentError("gain must not be 0, got 0.0. A unit that sees nothing stays at f(0).")
    reach = _checks.positive("reach", reach)
    if activation.jumps:
        raise ArgumentError(
            f"activation must be continuous, got {activation}, which jumps. "
            "Fixed points are found where f(gain x) - x changes sign."
        )

    def once(x: Array) -> Array:
        # A point whose image leaves the range of floats has moved.
        with np.errstate(over="ignore", invalid="ignore"):
            return activation.f(a * x)

    def twice(x: Array) -> Array:
        return once(once(x))

    grid = _grid(activation, a, reach)
    points = tuple(
        _point(activation, a, once, x, near, reach) for x, near in _roots(once, grid, activation, a)
    )
    cycles: list[TwoCycle] = []
    for x, near in _roots(twice, grid, activation, a):
        partner = float(once(np.array([x]))[0])
        # Fixed points are roots of the second iterate too: they sit near their own image.
        if x < partner and partner - x > 1e-6 * max(abs(x), abs(partner)):
            multiplier = _slope(activation, a, x) * _slope(activation, a, partner)
            cycles.append(TwoCycle(x, partner, multiplier, _kind(multiplier, near)))
    return FixedPoints(points, tuple(cycles))


def near_zero_fixed_point(activation: Activation, gain: float) -> float:
    """Leading order of the positive fixed point xi of f(gain x) that leaves 0 at gain kappa = 1.

    xi ~ sqrt((gain kappa - 1) / (c gain^3)) for f = kappa z - c z^3 + ...; for
    f = kappa z - e z|z| + ... it is (gain kappa - 1) / (e gain^2).

    Args:
        activation: f, with a cubic or quadratic coefficient that bends it towards the axis.
        gain: a, with a kappa > 1.

    Returns:
        xi, too small by a share proportional to a kappa - 1, measured as 0.45 (erf), 0.6 (tanh),
        0.75 (x / sqrt(1 + x^2)) and 0.9 (arctan) times it; for softsign by exactly 1 - 1 / a.

    Raises:
        ArgumentError: if gain kappa <= 1, or f does not bend towards the axis at 0.

    >>> from equipoise.theory import activations
    >>> round(near_zero_fixed_point(activations.tanh(), 1.01), 4)
    0.1706
    """
    expansion = expansion_at_zero(activation)
    a = _checks.finite("gain", gain)
    excess = a * expansion.slope - 1.0
    if excess <= 0:
        raise ArgumentError(
            f"gain must exceed 1 / f'(0) = {_inverse(expansion.slope):.6g}, got {gain}. "
            "At or below it 0 is the only fixed point near 0."
        )
    if not expansion.bends_towards_axis:
        raise ArgumentError(
            f"activation must bend towards the axis at 0, got {activation}. "
            "Search with fixed_points instead."
        )
    p = expansion.order
    # Sizes, since a kappa > 1 allows all signs to be negative.
    return float((excess / (abs(expansion.coefficient) * abs(a) ** p)) ** (1 / (p - 1)))


def _inverse(slope: float) -> float:
    return 1 / slope if slope else math.inf


def _grid(activation: Activation, gain: float, reach: float) -> Array:
    near = np.geomspace(1e-9 * reach, reach, 2000)
    kinks = [k / gain for k in activation.kinks if abs(k / gain) <= reach]
    even = reach * np.linspace(-1.0, 1.0, 4000)
    return np.unique(np.concatenate([even, -near, near, kinks, [0.0]]))


def _roots(
    image: Callable[[Array], Array], grid: Array, activation: Activation, gain: float
) -> list[tuple[float, float]]:
    """Roots of image(x) - x, each with the distance from slope 1 that cannot be told there.

    They are runs of zeros, changes of sign, and minima of its size that touch 0.
    """
    moved = image(grid) - grid
    # Rounding of f may not count as motion: at slope 1 it hides the sign around a root.
    size = np.maximum(np.abs(grid), np.abs(activation.value_at_zero))
    sign = np.where(np.abs(moved) <= 32 * _EPSILON * size, 0.0, np.sign(moved))

    def difference(x: float) -> float:
        return float(image(np.array([x]))[0]) - x

    def crossing(left: float, right: float) -> tuple[float, float]:
        return float(optimize.brentq(difference, left, right, xtol=1e-300, rtol=1e-15)), _CROSSING

    found: list[tuple[float, float]] = []
    zero = np.flatnonzero(sign == 0)
    for run in np.split(zero, np.flatnonzero(np.diff(zero) > _RAGGED) + 1) if zero.size else []:
        first, last = int(run[0]), int(run[-1])
        left, right = float(grid[first]), float(grid[last])
        if right - left > 1e-3 * float(grid[-1]):
            raise ArgumentError(
                f"gain must move the signal, got {gain} for {activation}: every x from {left:.3g} "
                f"to {right:.3g} returns to itself. Pass another gain."
            )
        sign[first : last + 1] = 0.0
        if left <= 0 <= right:
            found.append((0.0, _CROSSING))
        elif first == last and 0 < first < len(grid) - 1 and sign[first - 1] != sign[first + 1]:
            found.append(crossing(grid[first - 1], grid[first + 1]))
        else:
            found.append(((left + right) / 2, _TOUCHING))
    for i in np.flatnonzero(sign[:-1] * sign[1:] < 0):
        found.append(crossing(grid[i], grid[i + 1]))
    depth = np.abs(moved)
    touch = (depth[1:-1] < depth[:-2]) & (depth[1:-1] < depth[2:]) & (sign[1:-1] != 0)
    touch &= (sign[:-2] == sign[1:-1]) & (sign[1:-1] == sign[2:])
    for i in np.flatnonzero(touch):
        low = optimize.minimize_scalar(
            lambda x: abs(difference(x)), bounds=(grid[i], grid[i + 2]), method="bounded",
            options={"xatol": 1e-12},
        )  # fmt: skip
        if low.fun <= 16 * _EPSILON * max(abs(low.x), abs(activation.value_at_zero)):
            found.append((float(low.x), _TOUCHING))
    return sorted(found)


def _slope(activation: Activation, gain: float, x: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(gain * activation.df(np.array([gain * x]))[0])


def _kind(slope: float, near: float) -> Kind:
    if abs(abs(slope) - 1.0) <= near:
        return "neutral"
    return "attracting" if abs(slope) < 1 else "repelling"


def _sides(activation: Activation, gain: float, x: float) -> tuple[float, float]:
    """Slopes of f(gain x) just below and just above x."""
    if not any(abs(k - gain * x) <= 1e-9 * max(abs(k), 1e-3) for k in activation.kinks):
        slope = _slope(activation, gain, x)
        return slope, slope
    if x == 0.0:
        pair = gain * activation.slope_left, gain * activation.slope_right
        return pair if gain > 0 else (pair[1], pair[0])
    nudge = 1e-7 * abs(x)
    return _slope(activation, gain, x - nudge), _slope(activation, gain, x + nudge)


def _point(
    activation: Activation,
    gain: float,
    once: Callable[[Array], Array],
    x: float,
    near: float,
    reach: float,
) -> FixedPoint:
    """Attraction by the slopes a nearby point meets; by two steps of the map where they are 1."""
    below, above = _sides(activation, gain, x)
    # A negative slope sends a point across, where it meets the other slope.
    met = [own if own >= 0 else other if other >= 0 else own * other
           for own, other in ((below, above), (above, below))]  # fmt: skip
    steepest = max(below, above, key=abs)
    if any(abs(abs(m) - 1.0) <= near for m in met):
        left, right = (_is_drawn(once, x, side, reach) for side in (-1.0, 1.0))
        return FixedPoint(x, steepest, "neutral", left, right)
    attracts = [abs(m) < 1 for m in met]
    return FixedPoint(x, steepest, "attracting" if all(attracts) else "repelling", *attracts)


def _is_drawn(once: Callable[[Array], Array], x: float, side: float, reach: float) -> bool:
    """Whether two steps bring a point closer to x, by the nearest point whose motion is resolved.

    Two steps, so that a slope of -1 returns to its own side.
    """
    away = side * (1e-3 * abs(x) or 1e-9 * reach)
    ratio = 1.0
    while abs(ratio - 1.0) <= 1e-9 and abs(away) < reach:
        ratio = (float(once(once(np.array([x + away])))[0]) - x) / away
        away *= 2
    return 0.0 <= ratio < 1.0
