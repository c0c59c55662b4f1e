"""Fixed points of the length map: the levels at which a deep wide network keeps its signal.

Roots of log(q'/q) over log q are bracketed on a grid and refined; a local minimum of |log(q'/q)|
between two nodes is refined too, so that a tangency, or a pair of roots closer than the grid, is
found unless the function turns twice within one spacing of the grid (a factor e^(1/3) in q) or much
more sharply than the parabola through its three nodes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from equipoise.theory.activations import Activation
from equipoise.theory.layermaps import check_map, energy, length_map_slope, slope_energy

Array = NDArray[np.float64]
Stability = Literal["stable", "unstable", "neutral"]

# Levels searched, and nodes for each factor e of q.
LARGEST, _SMALLEST, _PER_E_FOLD = 1e12, 1e-12, 3
# |log(q'/q)| that counts as rounding, |slope - 1| that counts as none, and the relative distance
# at which a local minimum counts as a tangency.
_SAME, _NEUTRAL, _TOUCH = 4e-13, 1e-8, 1e-11


@dataclass(frozen=True)
class LengthFixedPoint:
    """A level q with length_map(q) = q, or an interval of them.

    Attributes:
        q: second moment of the preactivation; lower end of an interval.
        q_high: upper end of an interval of fixed points, infinite if it has none; equal to q for
            an isolated one.
        slope: dq'/dq there.
        stable: ``stable`` where |slope| < 1, ``unstable`` above, ``neutral`` at 1.
    """

    q: float
    q_high: float
    slope: float
    stable: Stability


def length_fixed_points(
    activation: Activation, weight_var: float, bias_var: float = 0.0
) -> tuple[LengthFixedPoint, ...]:
    """All q with weight_var E f(z)^2 + bias_var = q, z ~ N(0, q), in rising order.

    q = 0 is one where f(0) = 0 and bias_var = 0. A homogeneous f at its critical weight_var keeps
    every q: the result is then one neutral interval from 0 to infinity. A function linear near 0
    keeps small signals to rounding: the interval is then the part where log(q'/q) is below 4e-13.
    An empty result says that every signal explodes.

    Args:
        activation: the function f.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        The fixed points, each to a relative error of about 1e-11 divided by |1 - slope|. Levels up
        to 1e12 are searched (twice weight_var sup f^2 + bias_var for a bounded f), and down to
        1e-12 or half the smallest level that bias_var and f(0) allow.

    Raises:
        ArgumentError: for weight_var not positive and finite, or bias_var negative.

    Source: Poole et al. 2016, arXiv 1606.05340.

    >>> from equipoise.theory import activations
    >>> [(p.q, p.stable) for p in length_fixed_points(activations.tanh(), 0.5)]
    [(0.0, 'stable')]
    >>> [(round(p.q, 9), p.stable) for p in length_fixed_points(activations.relu(), 1.0, 0.5)]
    [(1.0, 'stable')]
    """
    _, weight_var, bias_var = check_map(1.0, weight_var, bias_var)
    gap = partial(log_growth, activation, weight_var, bias_var)
    low, high = search_range(activation, weight_var, bias_var)
    x = np.linspace(low, high, math.ceil((high - low) * _PER_E_FOLD) + 1)
    r = np.array([gap(v) for v in x])
    # A formula such as (e^z - e^-z) / (e^z + e^-z) is nan far out: levels that see it are left out.
    x, r = x[~np.isnan(r)], r[~np.isnan(r)]
    sign = np.where(np.abs(r) <= _SAME, 0, np.sign(r)).astype(int)

    points: list[LengthFixedPoint] = []
    zero = bias_var == 0.0 and activation.value_at_zero == 0.0
    if zero and sign[0] != 0:
        points.append(_zero(activation, weight_var))

    def isolated(at: float) -> None:
        q = math.exp(at)
        slope = length_map_slope(activation, q, weight_var)
        points.append(LengthFixedPoint(q, q, slope, _stability(slope)))

    start = 0
    for value, group in groupby(sign):
        end = start + len(list(group))
        if value == 0 and end - start >= 3:
            bottom = 0.0 if start == 0 and zero else math.exp(x[start])
            top = math.inf if end == len(x) else math.exp(x[end - 1])
            points.append(LengthFixedPoint(bottom, top, 1.0, "neutral"))
        elif value == 0:
            # The grid fell on a root.
            isolated(float(x[(start + end - 1) // 2]))
        else:
            for i in range(start + 1, end - 1):
                near = np.abs(r[i - 1 : i + 2])
                if near[1] < near[0] and near[1] <= near[2] and _may_touch(near):
                    for at in _around_minimum(gap, value, x[i - 1 : i + 2]):
                        isolated(at)
            if end < len(x) and sign[end] == -value:
                isolated(optimize.brentq(gap, x[end - 1], x[end], xtol=1e-14, rtol=1e-14))
        start = end
    return tuple(sorted(points, key=lambda p: p.q))


def log_growth(activation: Activation, weight_var: float, bias_var: float, log_q: float) -> float:
    """log(q'/q) of the length map at log q: above 0 the signal grows over a layer.

    Args:
        activation: the function f.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.
        log_q: natural logarithm of the second moment of the preactivation.

    Returns:
        The growth in nats; minus infinity where q' is 0, infinity where it leaves floats, nan where
        the values of f that it sees hold a nan.

    >>> from equipoise.theory import activations
    >>> round(log_growth(activations.relu(), 2.0, 0.0, 0.7), 12) + 0.0
    0.0
    """
    after = weight_var * energy(activation, math.exp(log_q)) + bias_var
    if after == 0.0:
        return -math.inf
    return math.log(after) - log_q if math.isfinite(after) else after


def search_range(activation: Activation, weight_var: float, bias_var: float) -> tuple[float, float]:
    """Bounds of log q between which every fixed point of the length map lies.

    From 1e-12, or half the smallest q' where that is smaller, to twice the largest q' of an f that
    is bounded by 1e6 up to 4e7; to 1e12, or 1,000 times bias_var, of one that grows beyond, for
    which there is no bound.

    Args:
        activation: the function f.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        Lower and upper bound of log q.

    >>> from equipoise.theory import activations
    >>> low, high = search_range(activations.tanh(), 2.0, 0.0)
    >>> round(math.exp(low), 15), round(math.exp(high), 6)
    (1e-12, 4.0)
    """
    least = bias_var + weight_var * activation.value_at_zero**2
    low = min(_SMALLEST, least / 2) if least > 0 else _SMALLEST
    z = np.geomspace(1e-6, 40 * math.sqrt(LARGEST), 4000)
    # An f that leaves the range of floats is unbounded.
    with np.errstate(over="ignore", invalid="ignore"):
        largest = float(np.max(activation.f(np.concatenate([-z, z])) ** 2))
    bounded = largest < LARGEST
    high = 2 * (weight_var * largest + bias_var) if bounded else max(LARGEST, 1e3 * bias_var)
    return math.log(low), math.log(max(high, 2 * low))


def _zero(activation: Activation, weight_var: float) -> LengthFixedPoint:
    slope = weight_var * slope_energy(activation, 0.0)
    return LengthFixedPoint(0.0, 0.0, slope, _stability(slope))


def _stability(slope: float) -> Stability:
    # A slope of -1 does not occur: d log q' / d log q is at least -1/2.
    if abs(slope - 1) <= _NEUTRAL:
        return "neutral"
    return "stable" if abs(slope) < 1 else "unstable"


def _may_touch(near: Array) -> bool:
    """Whether |gap| at three nodes around a minimum comes near 0: by a parabola, with a margin."""
    left, middle, right = near
    bend = left - 2 * middle + right
    return bool(not math.isfinite(bend) or (left - right) ** 2 > 4 * bend * middle)


def _around_minimum(gap: Callable[[float], float], sign: int, x: Array) -> list[float]:
    """Roots near a local minimum of |gap| at the middle of three nodes, where gap has this sign."""
    found = optimize.minimize_scalar(
        lambda at: sign * gap(at), bounds=(x[0], x[2]), method="bounded", options={"xatol": 1e-9}
    )
    if found.fun > _TOUCH:
        return []
    if found.fun >= -_TOUCH:
        return [float(found.x)]
    return [
        optimize.brentq(gap, x[0], found.x, xtol=1e-14, rtol=1e-14),
        optimize.brentq(gap, found.x, x[2], xtol=1e-14, rtol=1e-14),
    ]
