"""The odd part of an activation, and the class that decides how a deep stack of it can be started.

Units in pairs with preactivations (v, -v) and outgoing weights (w, -w) compute f(v) - f(-v), twice
the odd part of f. For every gate x * g(x) with g(x) + g(-x) = 1 that is exactly linear in v.
"""

import math
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from equipoise import _checks
from equipoise.theory.activations import Activation
from equipoise.theory.gaussian import expectation

# Preactivation standard deviation at which affineness is judged: small enough that the shape near
# the operating point decides, large enough that a smooth kink is not mistaken for a line.
_PROBE_STD = 0.5
# A clipped line passes for one there: a function is called a line only if it is one further out.
_FAR_STDS = (5.0, 50.0)
_MIRROR_PAYS = 50.0
_LEAST_SLOPE = 0.05
_ZERO = 1e-20


class ActivationClass(Enum):
    """How a deep stack of an activation can be balanced at birth."""

    LINEAR = "linear"
    """The function is a line: plain orthogonal weights are exact."""
    MIRROR = "mirror"
    """Its odd part is far more linear than itself: pair the units."""
    CENTRE = "centre"
    """Nearly affine around 0: centre it and spend a fixed budget of gradient growth."""
    NEITHER = "neither"
    """No scale is stable in depth: matched moments, and a warning."""


@dataclass(frozen=True)
class Classification:
    """The class of an activation with the numbers that decided it.

    Attributes:
        kind: the class.
        nonlinearity: share of the energy of f0 outside the best affine fit at std 0.5.
        odd_nonlinearity: the same for the odd part (0 where the odd part is exactly linear).
        slope: symmetric slope at 0.
        reason: one sentence.
    """

    kind: ActivationClass
    nonlinearity: float
    odd_nonlinearity: float
    slope: float
    reason: str


@lru_cache
def mirrored_pair(activation: Activation) -> Activation:
    """h(v) = f(v) - f(-v), what a mirrored pair of units computes: twice the odd part of f.

    Args:
        activation: the function f.

    Returns:
        The pair as an odd Activation, whose bounds are left unknown.

    >>> import numpy as np
    >>> from equipoise.theory import activations
    >>> mirrored_pair(activations.gelu()).f(np.array([3.0])).round(12).tolist()
    [3.0]
    """
    f, df = activation.f, activation.df
    slope = activation.slope_left + activation.slope_right
    corners = {s * k for k in activation.corners for s in (-1.0, 1.0)}
    kinks = sorted({s * k for k in activation.kinks for s in (-1.0, 1.0)})
    return Activation(
        f"odd({activation})",
        lambda x: f(x) - f(-x),
        # At a kink both one-sided slopes count, one from each unit of the pair.
        lambda x: np.where(x == 0.0, slope, df(x) + df(-x)),
        kinks=tuple(kinks),
        jumps=tuple(sorted({s * k for k in activation.jumps for s in (-1.0, 1.0)})),
        parity="odd",
        slope_left=slope,
        slope_right=slope,
        parameters=activation.parameters,
        # The slope of an odd function is even: it has no jump at 0.
        bends=tuple(k for k in kinks if k == 0.0 or k not in corners),
        homogeneity=activation.homogeneity,
    )


@lru_cache(maxsize=4096)
def affine_departure(activation: Activation, std: float = _PROBE_STD) -> float:
    """nu: share of Var f(z), z ~ N(0, std^2), that the best affine fit of f leaves, 0 to 1.

    Args:
        activation: the function.
        std: standard deviation of z, positive.

    Returns:
        The share, to a relative error of about 1e-9 down to 1e-14; below 1e-20 it is rounding and
        counts as 0, exactly affine. nan where f is constant.

    Raises:
        ArgumentError: if std is not positive and finite.

    >>> from equipoise.theory import activations
    >>> affine_departure(activations.identity())
    0.0
    """
    q = _checks.positive("std", std, "Pass a standard deviation.") ** 2
    breaks = activation.kinks + activation.jumps
    f = activation.f
    mean = expectation(f, q, breaks).value
    slope = expectation(lambda z: z * f(z), q, breaks).value / q
    variance = expectation(lambda z: (f(z) - mean) ** 2, q, breaks).value
    if variance <= _ZERO * mean**2:
        return math.nan
    rest = expectation(
        lambda z: (f(z) - mean - slope * z) ** 2, q, breaks, floor=1e-14 * variance
    ).value
    share = rest / variance
    return 0.0 if share <= _ZERO else share


@lru_cache
def classify(activation: Activation) -> Classification:
    """Which start a deep stack of this activation can be given, with the evidence.

    Mirror where the affine departure of f is over 50 times that of its odd part; centre where the
    symmetric slope at 0 exceeds 0.05 times the chord RMS f0 / std at std 0.5; else neither. Linear
    only where no level of the preactivation shows a departure. Scaling f changes nothing.

    Args:
        activation: the function f.

    Returns:
        The class, with its reason and the numbers behind it.

    >>> from equipoise.theory import activations
    >>> classify(activations.gelu()).kind.value, classify(activations.sigmoid()).kind.value
    ('mirror', 'centre')
    """
    own = affine_departure(activation)
    slope = activation.slope
    if own == 0.0 and slope != 0.0 and _is_affine_far_out(activation):
        return Classification(ActivationClass.LINEAR, own, own, slope, f"{activation} is affine")
    zero, breaks = activation.value_at_zero, activation.kinks + activation.jumps
    energy = expectation(lambda z: (activation.f(z) - zero) ** 2, _PROBE_STD**2, breaks).value
    chord = math.sqrt(energy) / _PROBE_STD
    has_slope = abs(slope) > _LEAST_SLOPE * chord
    pair = mirrored_pair(activation)
    scale = expectation(lambda z: pair.f(z) ** 2, _PROBE_STD**2, pair.kinks + pair.jumps).value
    odd = math.nan if scale <= _ZERO * energy else affine_departure(pair)
    has_odd_part = not math.isnan(odd) and has_slope
    if activation.jumps:
        kind, reason = (
            ActivationClass.NEITHER,
            (
                f"{activation} jumps at {_points(activation.jumps)}: its gradient statistics are "
                "infinite and no scale is stable in depth"
            ),
        )
    elif has_odd_part and own > _MIRROR_PAYS * odd:
        ratio = "exactly linear" if odd == 0.0 else f"{own / odd:.0f} times nearer to a line"
        kind, reason = ActivationClass.MIRROR, f"the odd part of {activation} is {ratio}"
    elif has_slope:
        kind, reason = (
            ActivationClass.CENTRE,
            (
                f"{activation} is nearly affine around 0 (slope {slope:.3g}) and its odd part is "
                "hardly more linear than itself"
            ),
        )
    else:
        kind, reason = (
            ActivationClass.NEITHER,
            (
                f"{activation} has slope {slope:.3g} at 0: no linear path leads through it, so no "
                "scale is stable in depth"
            ),
        )
    return Classification(kind, own, odd, slope, reason)


def _is_affine_far_out(activation: Activation) -> bool:
    """Whether no best affine fit leaves energy at wider levels, and at that of each break."""
    breaks = activation.kinks + activation.jumps
    levels = {*_FAR_STDS, *(abs(k) for k in breaks if k != 0.0)}
    return all(affine_departure(activation, std) == 0.0 for std in levels)


def _points(points: tuple[float, ...]) -> str:
    return ", ".join(f"{p:g}" for p in points)
