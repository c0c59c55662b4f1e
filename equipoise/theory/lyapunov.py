"""Growth of |x| through one layer of real width, exactly: exponent, spread and moments.

For f(z) = a+ z (z > 0), a- z (z <= 0) and z = W x with Gaussian W, the ratio |f(W x)| / |x| has the
law of sigma |f(g)|, g standard normal of dimension d = fan_out, whatever the direction of x: over
layers the log ratios are independent. With
an independent unit exponential E, the ratio T = E / |f(g)|^2 has the survival function M(t)^d
(``laplace``). So every moment of log |f(g)| is one of log T less one of log E, and one sum over
y = log t, whose integrand is analytic and decays at both ends, gives it to the last digits.
For ReLU the law is that of the inputs which survive (``survival`` says how many do).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import polygamma, psi

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.laplace import (
    DECAY,
    Array,
    centre,
    log_m_and_rate,
    reach,
    steepness,
    survival,
)

WeightLaw = Literal["gaussian", "haar"]

_STEP = 0.2
# Chunks of the vectorised sum hold this many numbers: they stay in the cache of a core.
_CHUNK = 200_000
SMALLEST_WIDTH = 1e-3


@dataclass(frozen=True)
class LogGain:
    """Law of log(|x'| / |x|) over one layer x' = f(W x), in nats.

    Attributes:
        mean: the Lyapunov exponent of a net of such layers, nats per layer.
        variance: of the log ratio, nats^2 per layer; over L layers they add up.
        survival: probability that the layer does not map a given input to 0; below 1 for ReLU
            only, whose mean and variance are those of the inputs that survive.
    """

    mean: float
    variance: float
    survival: float


@dataclass(frozen=True)
class LogGains:
    """``LogGain`` for many widths: arrays of the shape of the widths."""

    mean: Array
    variance: Array
    survival: Array


def log_gain(
    activation: Activation,
    fan_out: float,
    fan_in: float | None = None,
    scale: float = 1.0,
    law: WeightLaw = "gaussian",
) -> LogGain:
    """Mean and variance of log(|f(W x)| / |x|): the Lyapunov exponent and the spread of one layer.

    Gaussian W, entries N(0, scale^2): mean = log scale + I(d), d = fan_out, with
    I(d) = E log|f(g)| = (-gammaE - E log T) / 2 and variance (Var log T - pi^2 / 6) / 4.
    W = scale times a Haar (semi-)orthogonal matrix, N = max(fan_in, fan_out): the mean less
    (psi(N / 2) + log 2) / 2, the variance less psi'(N / 2) / 4.

    Args:
        activation: a line on each side of 0.
        fan_out: number d of units, any real number from 0.001 on.
        fan_in: number of inputs, fan_out where left out; it matters for Haar weights only.
        scale: standard deviation of the entries, or factor of the orthogonal matrix; positive.
        law: ``gaussian`` or ``haar``.

    Returns:
        The law, given survival; the errors of mean and variance are below 4e-15 times the larger
        of 1 and the number itself from width 0.1 on, below it 1.5e-13 times.

    Raises:
        ArgumentError: for a width, scale or law out of range or an activation of another kind.

    Source: Gaussian and Haar exponents: arXiv 2602.10949.

    >>> from equipoise.theory import activations
    >>> one = log_gain(activations.leaky_relu(0.1), 16)
    >>> round(one.mean, 11), round(one.variance, 11)
    (0.96002772578, 0.09820364153)
    """
    steep, ratio = steepness(activation)
    d, n, log_scale = checked_layer(fan_out, fan_in, scale, law)
    log_scale += math.log(steep)
    if law == "haar" and ratio == 1.0 and n == d:
        # An isometry: what the sums below would leave is rounding, which depth would add up.
        return LogGain(log_scale, 0.0, 1.0)
    middle = centre(d, ratio)
    y, log_m, rate = _grid(d, d, ratio)
    mass = rate * np.exp(d * log_m)
    offset = y - middle
    total = float(mass.sum())
    first = float(mass @ offset) / total
    offset -= first
    spread = float(mass @ (offset * offset)) / total
    mean = log_scale - 0.5 * (np.euler_gamma + middle + first)
    variance = 0.25 * (spread - math.pi**2 / 6)
    if law == "haar":
        mean -= 0.5 * (float(psi(n / 2)) + math.log(2.0))
        variance -= 0.25 * float(polygamma(1, n / 2))
    return LogGain(mean, max(variance, 0.0), survival(d, ratio))


def log_gains(
    activation: Activation,
    fan_out: ArrayLike,
    fan_in: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    law: WeightLaw = "gaussian",
) -> LogGains:
    """``log_gain`` for arrays of widths and scales, which are broadcast against each other.

    Widths are sorted and summed in groups that share one grid: one exponential a point and width.

    Args:
        activation: a line on each side of 0.
        fan_out: numbers of units, real, from 0.001 on.
        fan_in: numbers of inputs, fan_out where left out.
        scale: of the weights, positive.
        law: ``gaussian`` or ``haar``.

    Returns:
        Arrays of the broadcast shape; errors up to three times those of ``log_gain``.

    Raises:
        ArgumentError: as for ``log_gain``, naming the first value out of range, and for shapes
            that do not broadcast.

    >>> from equipoise.theory import activations
    >>> log_gains(activations.relu(), [2, 8, 64]).mean.round(9).tolist()
    [-0.404132363, 0.493758546, 1.712813652]
    """
    steep, ratio = steepness(activation)
    given = [
        np.asarray(v, dtype=np.float64)
        for v in (fan_out, fan_out if fan_in is None else fan_in, scale)
    ]
    try:
        widths, inputs, scales = np.broadcast_arrays(*given)
    except ValueError as error:
        shapes = ", ".join(str(v.shape) for v in given)
        raise ArgumentError(
            f"fan_out, fan_in and scale must broadcast, got shapes {shapes}. Give equal shapes."
        ) from error
    for name, values in (("fan_out", widths), ("fan_in", inputs)):
        outside = values[~(np.isfinite(values) & (values >= SMALLEST_WIDTH))]
        if outside.size:
            _width(name, float(outside[0]))
    outside = scales[~(np.isfinite(scales) & (scales > 0))]
    if outside.size:
        _checks.positive("scale", float(outside[0]))
    _checks.one_of("law", law, ("gaussian", "haar"))
    unique, back = np.unique(widths.ravel(), return_inverse=True)
    mean, variance = np.empty_like(unique), np.empty_like(unique)
    for start, stop in _groups(unique, ratio):
        mean[start:stop], variance[start:stop] = _sums(unique[start:stop], ratio)
    means = mean[back].reshape(widths.shape) + (np.log(scales) + math.log(steep))
    variances = variance[back].reshape(widths.shape)
    if law == "haar":
        n = np.maximum(widths, inputs)
        means = means - 0.5 * (psi(n / 2) + math.log(2.0))
        variances = variances - 0.25 * polygamma(1, n / 2)
        if ratio == 1.0:
            # Isometries, as in ``log_gain``.
            kept = n == widths
            means = np.where(kept, np.log(scales) + math.log(steep), means)
            variances = np.where(kept, 0.0, variances)
    alive = -np.expm1(-widths * math.log(2.0)) if ratio == 0 else np.ones(widths.shape)
    return LogGains(np.asarray(means), np.asarray(np.maximum(variances, 0.0)), np.asarray(alive))


def wide_log_gain(activation: Activation, width: float, law: WeightLaw = "gaussian") -> LogGain:
    """Mean and variance of ``log_gain`` at scale 1 to second order in 1 / width, without a sum.

    I(d) = log(d m) / 2 - c / d + e / d^2 + O(1 / d^3), variance c / d + O(1 / d^2), with
    m = (a+^2 + a-^2) / 2, c = k2 / 4 = (6 r - 1) / 4, r = (a+^4 + a-^4) / (a+^2 + a-^2)^2,
    e = k3 / 6 - 3 k2^2 / 8 and k2, k3 the cumulants of f(g)^2 / m for one unit. For square Haar
    matrices m stands without d, c - 1/2 for c, and e - 1/6 for e.

    Args:
        activation: a line on each side of 0.
        width: number of units, and of inputs for Haar weights.
        law: ``gaussian`` or ``haar``.

    Returns:
        The law; the error of its mean is about 6 / width^3, of its variance about 10 / width^2
        (measured for ReLU, the worst; a line has less).

    Raises:
        ArgumentError: as for ``log_gain``.

    >>> from equipoise.theory import activations
    >>> wide, exact = (g(activations.relu(), 64.0).mean for g in (wide_log_gain, log_gain))
    >>> abs(wide - exact) < 7 / 64**3
    True
    """
    _checks.one_of("law", law, ("gaussian", "haar"))
    steep, ratio = steepness(activation)
    d, b = _width("width", width), ratio * ratio
    m = (1.0 + b) / 2
    second, third = 3 * (1 + b**2) / 2 / m**2, 15 * (1 + b**3) / 2 / m**3
    k2, k3 = second - 1, third - 3 * second + 2
    c, e = k2 / 4, k3 / 6 - 3 * k2**2 / 8
    log_norm = math.log(steep) + 0.5 * math.log(m)
    if law == "haar":
        # log chi_n = log(n) / 2 - 1 / (2 n) - 1 / (6 n^2) + ... is taken off.
        return LogGain(
            log_norm - (c - 0.5) / d + (e + 1 / 6) / d / d, (c - 0.5) / d, survival(d, ratio)
        )
    return LogGain(log_norm + 0.5 * math.log(d) - c / d + e / d / d, c / d, survival(d, ratio))


def stack_log_gain(
    activation: Activation,
    widths: ArrayLike,
    scales: ArrayLike,
    law: WeightLaw = "gaussian",
    backward: bool = False,
) -> LogGain:
    """Law of the log norm over a whole stack of widths n_0, ..., n_L.

    Forward: log(|x_L| / |x_0|) for a given input is a sum of independent ``log_gain`` increments.
    Backward (Gaussian weights): log|J^T v| for a standard normal cotangent v has the law of the
    same increments plus log chi of dimension n_0; so one critical scale serves both directions.

    Args:
        activation: of every layer, a line on each side of 0.
        widths: n_0, ..., n_L, at least two.
        scales: of the L weights, or one for all.
        law: ``gaussian`` or ``haar``; backward is exact for ``gaussian`` and offered for it only.
        backward: for the cotangent instead of the signal.

    Returns:
        Mean, variance and survival of the whole stack; errors of ``log_gain`` added up.

    Raises:
        ArgumentError: for fewer than two widths, another number of scales, or backward with Haar.

    Source: forward exponents as ``log_gain``; the law of the cotangent follows since W^T u given
    |u| is a Gaussian vector whose norm does not depend on the signs of W x.

    >>> from equipoise.theory import activations
    >>> round(stack_log_gain(activations.identity(), [4, 4, 4], 0.5).mean, 9)  # 2 (I(4) + log 0.5)
    -0.270362845
    """
    n = np.atleast_1d(np.asarray(widths, dtype=np.float64))
    if n.ndim != 1 or n.size < 2:
        raise ArgumentError(f"widths must be n_0, ..., n_L, got {n.tolist()}. Give two or more.")
    factors = np.asarray(scales, dtype=np.float64)
    if factors.ndim and factors.shape != (n.size - 1,):
        raise ArgumentError(
            f"scales must be one number or {n.size - 1}, got shape {factors.shape}. "
            "Give one for each weight."
        )
    if backward and law != "gaussian":
        raise ArgumentError(
            f"law must be gaussian for the backward direction, got {law!r}. "
            "Use gradient_fluctuation for orthogonal weights."
        )
    layers = log_gains(activation, n[1:], n[:-1], factors, law)
    mean, variance = float(layers.mean.sum()), float(layers.variance.sum())
    if backward:
        mean += 0.5 * (float(psi(n[0] / 2)) + math.log(2.0))
        variance += 0.25 * float(polygamma(1, n[0] / 2))
    return LogGain(mean, variance, float(layers.survival.prod()))


def _width(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= SMALLEST_WIDTH):
        raise ArgumentError(
            f"{name} must be finite and at least {SMALLEST_WIDTH:g}, got {value}. "
            "Pass a number of units."
        )
    return float(value)


def checked_layer(
    fan_out: float, fan_in: float | None, scale: float, law: str
) -> tuple[float, float, float]:
    """fan_out, max(fan_in, fan_out) and log scale of a layer, all of them checked.

    >>> checked_layer(4, 9, 1.0, "haar")
    (4.0, 9.0, 0.0)
    """
    d = _width("fan_out", fan_out)
    _checks.one_of("law", law, ("gaussian", "haar"))
    n = d if fan_in is None else max(d, _width("fan_in", fan_in))
    return d, n, math.log(_checks.positive("scale", scale))


def _grid(least: float, most: float, ratio: float) -> tuple[Array, Array, Array]:
    """For widths from least to most: y, log M and the rate at which it falls."""
    start = centre(most, ratio) - DECAY
    stop = centre(least, ratio) + reach(least, ratio)
    y = start + _STEP * np.arange(math.ceil((stop - start) / _STEP) + 1.0)
    return y, *log_m_and_rate(y, ratio)


def _groups(widths: Array, ratio: float) -> Iterator[tuple[int, int]]:
    """Slices of sorted widths, each within a factor 1.5 and small enough for one block."""
    start = 0
    while start < len(widths):
        same = int(np.searchsorted(widths, 1.5 * widths[start], side="right"))
        points = (DECAY + reach(float(widths[start]), ratio) + 1) / _STEP
        stop = min(same, start + max(1, int(_CHUNK / points)))
        yield start, stop
        start = stop


def _sums(widths: Array, ratio: float) -> tuple[Array, Array]:
    """I(d) and its variance for widths that share a grid."""
    y, log_m, rate = _grid(float(widths[0]), float(widths[-1]), ratio)
    middle = centre(float(widths[len(widths) // 2]), ratio)
    offset = y - middle
    mass = np.exp(np.multiply.outer(widths, log_m))
    sums = mass @ np.stack([rate, rate * offset, rate * offset**2], axis=1)
    first = sums[:, 1] / sums[:, 0]
    spread = sums[:, 2] / sums[:, 0] - first**2
    return -0.5 * (np.euler_gamma + middle + first), 0.25 * (spread - math.pi**2 / 6)
