"""Where a unit of an activation should rest: at the place where the function is steepest.

There f'' = 0 and f''' < 0, so that f(c + v) - f(c) is odd to third order and bends like tanh: units
that rest there keep as many directions as there are of them, while a pair (v, -v) keeps one. For
odd sigmoids the place is 0, for GELU sqrt(2). A function that is a line above 0 is as steep
anywhere there, and may rest as far from its kink as is wanted (``theory.shift``). One that only
ever gets steeper, such as softplus, rests where its bend is small.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import optimize

from equipoise.theory.activation import Activation

RestKind = Literal["steepest", "line", "hardly bent", "none"]

_FAR = 12.0
_STEP = 1.0 / 64
# A bend |f''| of this part of the slope moves means by a few percent in a layer.
_LEAST_BEND = 0.05
# Slopes this close to the largest are as steep.
_AS_STEEP = 1e-9


@dataclass(frozen=True)
class Rest:
    """Where units of an activation rest.

    Attributes:
        kind: ``steepest`` where f' has one largest value, ``line`` for a function that is a line
            above 0, ``hardly bent`` for one that gets ever steeper, ``none`` where there is none.
        place: c; 0 for a line, which has no place of its own; nan for none.
        slope: f'(c).
    """

    kind: RestKind
    place: float
    slope: float


_NONE = Rest("none", math.nan, math.nan)


@lru_cache(maxsize=256)
def rest(activation: Activation) -> Rest:
    """The place where units of an activation should rest.

    Args:
        activation: f.

    Returns:
        The place, found to about 1e-8 on [-12, 12].

    >>> from equipoise.theory import activations
    >>> round(rest(activations.gelu()).place ** 2, 6), rest(activations.tanh()).place
    (2.0, 0.0)
    >>> rest(activations.elu()).kind, rest(activations.softplus()).kind
    ('line', 'hardly bent')
    """
    if activation.jumps:
        return _NONE
    x = np.arange(-_FAR, _FAR + _STEP / 2, _STEP)
    slopes = np.asarray(activation.df(x), dtype=np.float64)
    if not np.isfinite(slopes).all():
        return _NONE
    above = slopes[x > 0]
    slope = float(above[0])
    if slope > 0 and np.ptp(above) <= _AS_STEEP * slope:
        return Rest("line", 0.0, slope)
    if not activation.is_smooth:
        return _NONE
    largest = float(slopes.max())
    steep = np.flatnonzero(slopes >= largest * (1.0 - _AS_STEEP))
    if not largest > 0:
        return _NONE
    if 0 < steep[0] and steep[-1] < len(x) - 1:
        if steep[-1] - steep[0] > 1:
            return _NONE
        place = _highest(activation, float(x[steep[0] - 1]), float(x[steep[-1] + 1]))
        return Rest("steepest", place, float(activation.df(np.full(1, place))[0]))
    if steep[-1] == len(x) - 1 and (np.diff(slopes) >= -_AS_STEEP * largest).all():
        bend = np.gradient(slopes, _STEP) / slopes.clip(min=1e-300)
        straight = np.flatnonzero((x > 0) & (bend <= _LEAST_BEND))
        if len(straight):
            place = float(x[straight[0]])
            return Rest("hardly bent", place, float(slopes[straight[0]]))
    return _NONE


def _highest(activation: Activation, low: float, high: float) -> float:
    """The place of the largest slope between two others."""

    def fallen(x: float) -> float:
        return -float(activation.df(np.full(1, x))[0])

    found = float(optimize.minimize_scalar(fallen, bounds=(low, high), method="bounded",
                                           options={"xatol": 1e-10}).x)  # fmt: skip
    # Where slopes on both sides are the same, which is sharper than the minimum of rounded ones.
    apart = 2e-4 * np.array([-1.0, 1.0])

    def tilt(x: float) -> float:
        return float(np.diff(activation.df(x + apart))[0])

    near = found - 1e-4, found + 1e-4
    if tilt(near[0]) > 0 > tilt(near[1]):
        found = float(optimize.brentq(tilt, *near, xtol=1e-12))
    return 0.0 if abs(found) < 1e-6 else found
