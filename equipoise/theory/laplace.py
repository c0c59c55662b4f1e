"""The Laplace transform of |f(g)|^2 for an f that is a line on each side of 0.

For one unit M(t) = E exp(-t f(g)^2) = [(1 + 2 a+^2 t)^(-1/2) + (1 + 2 a-^2 t)^(-1/2)] / 2, for d of
them M(t)^d; d may be any positive number. With an independent unit exponential E, the ratio
T = E / |f(g)|^2 has the survival function M(t)^d: all laws of the norm are sums over y = log t.
"""

import math

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation

Array = NDArray[np.float64]

# Integrands fall as exp(-rate |y|): this much over the rate reaches 6e-20 of the peak.
DECAY = 44.0


def slopes(activation: Activation) -> tuple[float, float]:
    """(a+, a-) of an activation that is a line on each side of 0.

    Raises:
        ArgumentError: for any other activation, and for the function 0.

    >>> from equipoise.theory import activations
    >>> slopes(activations.leaky_relu(0.2))
    (1.0, 0.2)
    """
    if activation.homogeneity != 1.0:
        raise ArgumentError(
            "activation must be a line on each side of 0 (relu, leaky_relu, identity and their "
            f"kin), got {activation}. Use mean_field for its wide limit, signal_fluctuation for "
            "what finite width adds."
        )
    if activation.slope_right == 0.0 and activation.slope_left == 0.0:
        raise ArgumentError(
            f"activation must not vanish everywhere, got {activation}. Pass another."
        )
    return activation.slope_right, activation.slope_left


def steepness(activation: Activation) -> tuple[float, float]:
    """The larger of |a+| and |a-|, and the smaller over it: signs and sides do not matter.

    Raises:
        ArgumentError: as ``slopes``.

    >>> from equipoise.theory import activations
    >>> steepness(activations.leaky_relu(-4.0))
    (4.0, 0.25)
    """
    steep, flat = sorted(map(abs, slopes(activation)), reverse=True)
    return steep, flat / steep


def survival(width: float, ratio: float) -> float:
    """Probability that the squared norm is not 0: 1 - 2^-width for ReLU (ratio 0), else 1.

    >>> survival(3.0, 0.0)
    0.875
    """
    return -math.expm1(-width * math.log(2.0)) if ratio == 0 else 1.0


def centre(width: float, ratio: float) -> float:
    """y0 = -log E|f(g)|^2, near the mode of the density in y, for slopes 1 and ratio.

    >>> centre(2.0, 0.0)
    0.0
    """
    return -math.log(width) - math.log((1.0 + ratio * ratio) / 2)


def reach(width: float, ratio: float) -> float:
    """How far above its centre the density in y matters.

    It falls as exp(-width y / 2) once the flatter side joins in; given survival as exp(-y / 2).

    >>> reach(1.0, 1.0)
    96.0
    """
    if ratio == 0:
        return 2 * DECAY + 4
    return 2 * DECAY / width + 8 - 2 * math.log(ratio)


def log_m_and_rate(y: Array, ratio: float) -> tuple[Array, Array]:
    """Log M(t) and -d log M / d log t at t = exp(y), for a+ = 1, a- = ratio, without loss.

    Args:
        y: log t, increasing, shape (n,).
        ratio: a- from 0 to 1.

    Returns:
        Two arrays of shape (n,); the rate lies between 0 and 1/2. Relative error 1e-15 at any y.

    >>> log_m, rate = log_m_and_rate(np.array([-40.0, 40.0]), 1.0)
    >>> bool(np.allclose(log_m, [-np.exp(-40.0), -20 - np.log(2) / 2], rtol=1e-14))
    True
    """
    b = ratio * ratio
    split = int(np.searchsorted(y, 0.0))
    log_m, rate = np.empty_like(y), np.empty_like(y)
    t = np.exp(y[:split])
    # Below t = 1 through 1 - M, which keeps the digits that 1 would swallow.
    v = 1.0 + 2.0 * t
    s = np.sqrt(v)
    below, fall = t / (s + v), t / (v * s)
    if b > 0:
        v = 1.0 + (2.0 * b) * t
        s = np.sqrt(v)
        below += b * t / (s + v)
        fall += b * t / (v * s)
    log_m[:split] = np.log1p(-below)
    rate[:split] = 0.5 * fall / (1.0 - below)
    # Above it by logarithms, which do not overflow however far the tail of a small width reaches.
    high = y[split:]
    root = 0.5 * np.logaddexp(0.0, high + math.log(2.0))
    if ratio > 0:
        # The square of a very flat slope underflows; its logarithm does not.
        log_b = 2 * math.log(ratio)
        other = 0.5 * np.logaddexp(0.0, high + log_b + math.log(2.0))
        log_m[split:] = np.logaddexp(-root, -other) - math.log(2.0)
        fall = np.exp(high - 3 * root - log_m[split:])
        fall += np.exp(high + log_b - 3 * other - log_m[split:])
    else:
        log_m[split:] = np.logaddexp(-root, 0.0) - math.log(2.0)
        fall = np.exp(high - 3 * root - log_m[split:])
    rate[split:] = 0.5 * fall
    return log_m, rate
