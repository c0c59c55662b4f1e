"""How sharp a bend is against its inputs: softplus is a line for quiet ones, a kink for loud ones.

Pairs of gates pass a line at any level, and training can only bend what has two slopes. At
preactivations of standard deviation s the two units of a pair differ in slope by
E |f'(v) - f'(-v)|; far out that is the difference of the slopes of the kink.
"""

import math
from functools import lru_cache

import numpy as np
from scipy import optimize

from equipoise import _checks
from equipoise.theory.activation import Activation
from equipoise.theory.gaussian import Array, expectation

# As good as infinitely far out, for every function with a bend of some units.
_FAR = 1e4
_LOUDEST = 64.0


@lru_cache(maxsize=256)
def sharpness(activation: Activation, std: float) -> float:
    """E |f'(v) - f'(-v)| for v ~ N(0, std^2), over what it is far out.

    Args:
        activation: f.
        std: of the preactivations, positive.

    Returns:
        0 for a line at this level, 1 for a kink at 0; nan where slopes are the same far out.

    >>> from equipoise.theory import activations
    >>> sharpness(activations.relu(), 1.0)
    1.0
    >>> round(sharpness(activations.softplus(), 1.0), 2)
    0.35
    """
    _checks.positive("std", std)

    def gap(x: Array) -> Array:
        return np.asarray(np.abs(activation.df(x) - activation.df(-x)))

    def mean(level: float) -> float:
        both = (*activation.breaks, *(-x for x in activation.breaks), 0.0)
        return expectation(gap, level * level, tuple(sorted(set(both)))).value

    far = mean(_FAR)
    return mean(std) / far if far > 0 else math.nan


@lru_cache(maxsize=256)
def sharp_level(activation: Activation, wanted: float, least: float = 1.0) -> float:
    """The lowest standard deviation from ``least`` on at which a bend is as sharp as is wanted.

    Args:
        activation: f.
        wanted: sharpness, in (0, 1).
        least: level to begin with, positive.

    Returns:
        The level, at most 64 times the first; the first for functions that bend to no side.

    >>> from equipoise.theory import activations
    >>> sharp_level(activations.relu(), 0.7), round(sharp_level(activations.softplus(), 0.7), 2)
    (1.0, 3.35)
    """
    _checks.in_unit_interval("wanted", wanted)
    _checks.positive("least", least)
    if not sharpness(activation, least) < wanted:
        return least
    most = _LOUDEST * least
    if sharpness(activation, most) < wanted:
        return most
    low, high = math.log(least), math.log(most)
    root = optimize.brentq(lambda log: sharpness(activation, math.exp(log)) - wanted, low, high)
    return math.exp(root)
