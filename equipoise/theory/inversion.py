"""From the transform of a sum of log gains to probabilities: Fourier inversion and expansion."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import loggamma, ndtr, polygamma

from equipoise.theory.laplace import DECAY, Array, centre, log_m_and_rate, reach, survival
from equipoise.theory.lyapunov import WeightLaw

Complex = NDArray[np.complex128]

# The inversion stops where the transform has fallen this far.
NEGLIGIBLE = 1e-13
_BLOCK = 64
_CHUNK = 500_000
# exp(12) times rounding is what the sums may lose before they leave the real axis.
_TILT = 24.0


def invert(
    transform: Callable[[Array], tuple[Complex, bool]],
    low: float,
    high: float,
    far: float,
    mass: float,
) -> float:
    """Probability of [low, high] for a law of given mass within +-far, from its transform.

    The transform is asked block by block, and also says when it cannot go on.

    >>> def unit_normal(w):
    ...     return np.exp(-w * w / 2) + 0j, False
    >>> round(invert(unit_normal, -1.0, 1.0, 12.0, 1.0), 12)
    0.682689492137
    """
    # The sum over a grid of step dw adds up the law at distances 2 pi / dw: keep them empty.
    step = 2 * math.pi / (2 * far + max(-low, high))
    total, w = mass * step * (high - low) / 2, step * np.arange(1.0, _BLOCK + 1)
    while True:
        power, is_last = transform(w)
        window = (np.exp(-1j * w * low) - np.exp(-1j * w * high)) / (1j * w)
        total += step * float((power * window).real.sum())
        if is_last or not np.abs(power).max() >= NEGLIGIBLE:
            return min(max(total / math.pi, 0.0), 1.0)
        w = w + step * _BLOCK


def gaussian_transform(w: Array, mean: float, width: float, ratio: float) -> Complex:
    """E exp(i w (X - mean)), X = log|f(g)|, at frequencies w > 0.

    E |f(g)|^(iw) = (1 / Gamma(1 - iw/2)) times the integral of t^(-iw/2) against the density of T.
    Both factors shrink or grow as exp(-+ pi w / 4), which loses digits at high frequency; on the
    ray t = exp(y - i alpha) the integral itself loses only exp(-(pi / 2 - alpha) w / 2).

    Args:
        w: frequencies, positive and increasing, shape (m,).
        mean: what is taken off X.
        width: d.
        ratio: a- for a+ = 1, from 0 to 1; at 0 the law is that given survival.

    Returns:
        Shape (m,); absolute error about ``rounding``.

    >>> phi = gaussian_transform(np.array([2.0]), 0.0, 1.0, 1.0)
    >>> round(abs(phi[0]) ** 2, 9)  # sech(pi)
    np.float64(0.086266738)
    """
    top = float(w[-1])
    alpha = max(0.0, math.pi / 2 - _TILT / top)
    middle = centre(width, ratio)
    h = min(0.15, 1.0 / (0.5 * top + 1.0)) if alpha == 0.0 else 0.3 / top
    y = middle - DECAY + h * np.arange(math.ceil((DECAY + reach(width, ratio)) / h) + 1.0)
    log_m: Array | Complex
    rate: Array | Complex
    if alpha == 0.0:
        log_m, rate = log_m_and_rate(y, ratio)
    else:
        log_m, rate = _log_m_and_rate_off_axis(np.asarray(y - 1j * alpha, np.complex128), ratio)
    mass = h * width * rate * np.exp(width * log_m)
    rows = max(1, int(_CHUNK / len(y)))
    blocks = [w[i : i + rows] for i in range(0, len(w), rows)]
    powers = np.concatenate(
        [np.exp(np.multiply.outer(-0.5j * block, y - middle)) @ mass for block in blocks]
    )
    log_rest = -loggamma(1 - 0.5j * w) - alpha * w / 2 - 1j * w * (middle / 2 + mean)
    return np.asarray(powers * np.exp(log_rest) / survival(width, ratio))


def _log_m_and_rate_off_axis(log_t: Complex, ratio: float) -> tuple[Complex, Complex]:
    """``log_m_and_rate`` at complex t of positive real part, given by increasing logarithms."""
    log_m, rate = np.empty_like(log_t), np.empty_like(log_t)
    split = int(np.searchsorted(log_t.real, 0.0))
    t = np.exp(log_t[:split])
    below, slope = np.zeros_like(t), np.zeros_like(t)
    for b in (1.0, ratio * ratio):
        v = 1.0 + 2.0 * b * t
        s = np.sqrt(v)
        below += b * t / (s + v)
        slope += 0.5 * b * t / (v * s)
    log_m[:split], rate[:split] = np.log1p(-below), slope / (1.0 - below)
    # By logarithms, as on the axis: the tail of a small width or slope reaches far.
    high = log_t[split:]
    steep = -0.5 * _log_one_plus(high + math.log(2.0))
    flat, fall = np.zeros_like(high), np.zeros_like(high)
    if ratio > 0:
        log_b = 2 * math.log(ratio)
        flat = -0.5 * _log_one_plus(high + log_b + math.log(2.0))
        fall = np.exp(high + log_b + 2 * flat)
    fall += np.exp(high + 3 * steep - flat)
    share = np.exp(steep - flat)
    log_m[split:] = flat + np.log1p(share) - math.log(2.0)
    rate[split:] = fall / (1.0 + share)
    return log_m, rate


def _log_one_plus(z: Complex) -> Complex:
    """log(1 + exp(z)), whatever the size of z."""
    is_large = z.real > 0
    return np.where(is_large, z, 0.0) + np.log1p(np.exp(np.where(is_large, -z, z)))


def rounding(w: float) -> float:
    """Absolute error that rounding leaves in ``gaussian_transform`` at frequency w.

    >>> rounding(0.0)
    1e-16
    """
    return 1e-16 * math.exp(min(math.pi * w / 4, _TILT / 2))


def third_cumulant(width: float, ratio: float, law: WeightLaw) -> float:
    """Third cumulant of one log gain: that of log T less that of log E, over -8.

    >>> round(third_cumulant(2.0, 1.0, "gaussian"), 9)  # psi''(1) / 8 = -zeta(3) / 4
    -0.300514226
    """
    y = np.arange(centre(width, ratio) - DECAY, centre(width, ratio) + reach(width, ratio), 0.2)
    log_m, rate = log_m_and_rate(y, ratio)
    mass = rate * np.exp(width * log_m)
    mass /= mass.sum()
    offset = y - float(mass @ y)
    third = -(float(mass @ offset**3) - float(polygamma(2, 1.0))) / 8
    return third - float(polygamma(2, width / 2)) / 8 if law == "haar" else third


def edgeworth(low: float, high: float, std: float, third: float) -> float:
    """The normal probability of [low, high] and its first correction for skewness.

    >>> round(edgeworth(-1.0, 1.0, 1.0, 0.0), 9)
    0.682689492
    """

    def cdf(x: float) -> float:
        z = x / std
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return float(ndtr(z)) - third / std**3 / 6 * (z * z - 1) * density

    return min(max(cdf(high) - cdf(low), 0.0), 1.0)
