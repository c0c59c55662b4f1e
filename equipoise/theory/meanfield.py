"""The phase of a deep wide network: where signals and correlations go, and over how many layers.

The correlation map has a power series in c without negative coefficients, so it is convex on
[0, 1] and 1 - c' over 1 - c rises with c, up to chi_1 at c = 1. Hence c = 1 attracts where
chi_1 <= 1, and where chi_1 > 1 there is exactly one other fixed point in [0, 1), which attracts.

Source: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2016, arXiv 1611.01232.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scipy import optimize

from equipoise.theory.activations import Activation
from equipoise.theory.bivariate import correlated_second_moment, expectation2
from equipoise.theory.layermaps import (
    check_map,
    chi_1,
    correlation_map,
    correlation_map_slope,
    energy,
    length_map,
    length_map_slope,
    refuse_jumps,
    slope_energy,
)
from equipoise.theory.lengthpoints import (
    LengthFixedPoint,
    length_fixed_points,
    log_growth,
    search_range,
)

__all__ = [
    "LengthFixedPoint",
    "MeanField",
    "chi_1",
    "correlation_fixed_point",
    "correlation_map",
    "correlation_map_slope",
    "depth_scale",
    "length_fixed_points",
    "length_map",
    "length_map_slope",
    "mean_field",
]

Phase = Literal["ordered", "chaotic", "critical", "vanishing", "exploding"]

# |chi_1 - 1| that counts as criticality, and |log(q'/q)| that counts as rounding.
_CRITICAL, _SAME = 1e-8, 4e-13
# Distance 1 - c above which a difference of moments keeps its digits, and log of the smallest.
_FAR, _CLOSEST = 0.03, -34.0
# Schoenholz et al. find networks trainable to about this many correlation depths.
_TRAINABLE = 6.0


@dataclass(frozen=True)
class MeanField:
    """Where deep wide networks take their signals, and how fast.

    Attributes:
        q_star: second moment of the preactivation reached from q = 1; infinite if it explodes.
        c_star: correlation that two inputs reach; nan where the signal explodes.
        chi_1: growth per layer of the mean-square gradient, weight_var E f'^2 at q_star; where the
            signal explodes, at the largest level searched.
        correlation_slope: slope of the correlation map at c_star.
        xi_q: depth scale of the signal's length, -1 / log|dq'/dq|, in layers.
        xi_c: depth scale of the correlation, -1 / log of its slope, in layers; infinite at
            criticality.
        phase: ``ordered`` (chi_1 < 1), ``chaotic`` (> 1), ``critical``, ``vanishing`` (q_star = 0)
            or ``exploding``.
        trainable_depth: 6 xi_c, in layers, an empirical rule.
        fixed_points: all fixed points of the length map.
        reason: the phase in words, with the number of fixed points where it matters.
    """

    q_star: float
    c_star: float
    chi_1: float
    correlation_slope: float
    xi_q: float
    xi_c: float
    phase: Phase
    trainable_depth: float
    fixed_points: tuple[LengthFixedPoint, ...]
    reason: str


def mean_field(activation: Activation, weight_var: float, bias_var: float = 0.0) -> MeanField:
    """Phase, fixed points and depth scales of a deep wide network with independent weights.

    Of several levels q* the one that is reached from q = 1 is taken: the next fixed point above 1
    if the signal grows there, the next one below if it shrinks. That is exact for a length map that
    rises. Every other one still has d log q' / d log q >= -1/2, since the density of N(0, q) falls
    no faster than q^(-1/2) anywhere: it overshoots by half the distance at most and has no cycles.

    Where q* = 0 the network is linear to leading order: c* = 1 is the limit of a small bias, and
    chi_1 is the slope of the length map too.

    Args:
        activation: the function f, without jumps.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        The phase and its numbers, exact for infinite width; q* to about 1e-11 / |1 - slope|,
        chi_1 and slopes to about 1e-8 or that. |chi_1 - 1| up to 1e-8 counts as critical.

    Raises:
        ArgumentError: for arguments out of these ranges, or an activation that jumps.

    Source: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2016, arXiv 1611.01232.

    >>> from equipoise.theory import activations
    >>> wide = mean_field(activations.relu(), 2.0)
    >>> wide.phase, wide.xi_c, wide.chi_1
    ('critical', inf, 1.0)
    >>> wide.reason
    'chi_1 = 1: gradients keep their size. Every q from 0 to inf is a fixed point.'
    """
    refuse_jumps(activation)
    _, weight_var, bias_var = check_map(1.0, weight_var, bias_var)
    points = length_fixed_points(activation, weight_var, bias_var)
    q, slope = _reached(activation, weight_var, bias_var, points)
    if q == math.inf:
        high = math.exp(search_range(activation, weight_var, bias_var)[1])
        growth = weight_var * slope_energy(activation, high)
        nan, why = math.nan, _in_words("exploding", q, math.nan, growth, points)
        return MeanField(q, nan, growth, nan, nan, nan, "exploding", nan, points, why)
    growth = weight_var * slope_energy(activation, q)
    if q == 0.0 or growth <= 1.0 + _CRITICAL:
        c, c_slope = 1.0, growth
    else:
        c = correlation_fixed_point(activation, q, weight_var, bias_var)
        c_slope = correlation_map_slope(activation, c, q, weight_var)
    phase: Phase = "ordered" if growth < 1.0 else "chaotic"
    if abs(growth - 1.0) <= _CRITICAL:
        phase = "critical"
        c_slope = 1.0
    elif q == 0.0:
        phase = "vanishing"
    xi_c = depth_scale(c_slope)
    return MeanField(
        q_star=q,
        c_star=c,
        chi_1=growth,
        correlation_slope=c_slope,
        xi_q=depth_scale(slope),
        xi_c=xi_c,
        phase=phase,
        trainable_depth=_TRAINABLE * xi_c,
        fixed_points=points,
        reason=_in_words(phase, q, c, growth, points),
    )


def correlation_fixed_point(
    activation: Activation, q: float, weight_var: float, bias_var: float = 0.0
) -> float:
    """Correlation c* that any two inputs reach, at a fixed point q of the length map.

    1 where chi_1 <= 1; else the root in [0, 1) of (1 - c')/(1 - c) = 1, where
    1 - c' = weight_var E (f(z1) - f(z2))^2 / (2 q') loses no digits near c = 1.

    Args:
        activation: the function f, without jumps.
        q: fixed point of the length map, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        c*, from 0 to 1, with 1 - c* to a relative error of about 1e-8 / (chi_1 - 1).

    Raises:
        ArgumentError: for arguments out of these ranges, or an activation that jumps.

    >>> from equipoise.theory import activations
    >>> correlation_fixed_point(activations.tanh(), 1.0, 0.9)
    1.0
    """
    q, weight_var, bias_var = check_map(q, weight_var, bias_var)
    growth = chi_1(activation, q, weight_var)
    after = length_map(activation, q, weight_var, bias_var)
    if growth <= 1.0:
        return 1.0
    if activation.parity == "odd" and bias_var == 0.0:
        return 0.0
    f, kinks, half = activation.f, activation.kinks, weight_var / (2 * after)

    def excess(log_distance: float) -> float:
        c = 1.0 - math.exp(log_distance)
        # Near 1 the distance is that of the float c, not the one asked for.
        distance = 1.0 - c
        if distance > _FAR:
            apart = 2 * (energy(activation, q) - correlated_second_moment(activation, q, c).value)
        else:
            # Rounding of the difference of f sets what can be reached.
            apart = expectation2(
                lambda a, b: (f(a) - f(b)) ** 2, q, q, c, kinks, kinks,
                max(1e-10, 1e-13 / math.sqrt(distance)),
            ).value  # fmt: skip
        return half * apart / distance - 1.0

    # At distance 1 the excess is -c'(0): the correlation of independent signals one layer on.
    far = near = 0.0
    if excess(far) >= 0.0:
        return 0.0
    while excess(near) < 0.0:
        far, near = near, 2 * near - 1.0
        if near < _CLOSEST:
            return 1.0
    return 1.0 - math.exp(optimize.brentq(excess, near, far, xtol=1e-10))


def depth_scale(slope: float) -> float:
    """Depth scale xi = -1 / log|slope| of a quantity that a layer multiplies by a slope.

    Args:
        slope: factor for each layer, |slope| at most 1.

    Returns:
        Layers for a fall by e; 0 at slope 0, infinite where |slope| is 1 to within 1e-8.

    >>> round(depth_scale(math.exp(-0.1)), 9), depth_scale(1.0), depth_scale(0.0)
    (10.0, inf, 0.0)
    """
    if abs(slope) >= 1.0 - _CRITICAL:
        return math.inf
    return 0.0 if slope == 0.0 else -1.0 / math.log(abs(slope))


def _reached(
    activation: Activation,
    weight_var: float,
    bias_var: float,
    points: tuple[LengthFixedPoint, ...],
) -> tuple[float, float]:
    """The level reached from q = 1 and the slope of the length map there."""
    growth = log_growth(activation, weight_var, bias_var, 0.0)
    if abs(growth) <= _SAME:
        return 1.0, length_map_slope(activation, 1.0, weight_var)
    if growth > 0:
        above = [p for p in points if p.q > 1.0]
        return (above[0].q, above[0].slope) if above else (math.inf, math.nan)
    below = [p for p in points if p.q_high < 1.0]
    return below[-1].q_high, below[-1].slope


def _in_words(
    phase: Phase, q: float, c: float, growth: float, points: tuple[LengthFixedPoint, ...]
) -> str:
    first = {
        "ordered": f"chi_1 = {growth:.4g} at q* = {q:.4g}: inputs become alike, gradients vanish.",
        "chaotic": f"chi_1 = {growth:.4g} at q* = {q:.4g}: inputs part to correlation {c:.4g}, "
        "gradients explode.",
        "critical": "chi_1 = 1: gradients keep their size.",
        "vanishing": f"The signal falls to 0, in the end by the factor {growth:.4g} each layer.",
        "exploding": "The signal grows without limit: it meets no fixed point above q = 1.",
    }[phase]
    wide = [p for p in points if p.q_high > p.q]
    if wide:
        low, high = wide[0].q, wide[0].q_high
        to_rounding = "" if (low, high) == (0.0, math.inf) else ", to rounding"
        return f"{first} Every q from {low:.4g} to {high:.4g} is a fixed point{to_rounding}."
    if not points:
        return f"{first} There is no fixed point at all."
    if len(points) > 1:
        listed = ", ".join(f"{p.q:.4g} ({p.stable})" for p in points)
        return f"{first} The length map has {len(points)} fixed points: {listed}."
    return first
