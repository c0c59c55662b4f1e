"""Gains of diagonal + noise networks: what each unit multiplies its own signal by.

With W = omega D + Z and Z_ij ~ N(0, alpha^2 / n), unit i sees x_i' = f(a_i x_i) where
a_i = omega + Z_ii + sum_{j != i} Z_ij x_j / x_i. Given x it is Gaussian with standard deviation
(alpha / sqrt(n)) |x| / |x_i|; over units and inputs it is a scale mixture of Gaussians, with tails
like those of the Cauchy law, since some unit is always near 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy import optimize, special

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.noiselaw import NoiseLaw
from equipoise.theory.oddsigmoid import odd_sigmoid

Array = NDArray[np.float64]

_NODES, _WEIGHTS = legendre.leggauss(20)
_PANELS = 45
# Odd sigmoids as slow as softsign are within 1e-15 of their bound here.
_FAR = 1e15


@dataclass(frozen=True, eq=False)
class GainDistribution:
    """Law of omega + s g, g standard normal and s independent of it: a mixture over s.

    Attributes:
        omega: centre, also the median.
        stds: values of s, shape (k,).
        weights: their probabilities, shape (k,).
    """

    omega: float
    stds: Array
    weights: Array

    def cdf(self, gain: float) -> float:
        """P(a <= gain), to 1e-12.

        >>> gaussian_signal_gains(1, 0.085).cdf(1.0)
        0.5
        """
        return float(self.weights @ special.ndtr((gain - self.omega) / self.stds))

    def share_in_band(self, low: float, high: float) -> float:
        """P(low < a < high), to 1e-12.

        Args:
            low: lower edge, may be -inf.
            high: upper edge, above low, may be inf.

        Returns:
            A probability.

        Raises:
            ArgumentError: if high is not above low.

        >>> round(gaussian_signal_gains(64, 0.085).share_in_band(0.78, 1.27), 3)
        0.788
        """
        if not low < high:
            raise ArgumentError(f"high must exceed low = {low}, got {high}. Swap them.")
        return self.cdf(high) - self.cdf(low)

    def share_negative(self) -> float:
        """P(a < 0): the unit turns its sign.

        >>> round(gaussian_signal_gains(64, 0.085).share_negative(), 4)
        0.0267
        """
        return self.cdf(0.0)


@dataclass(frozen=True, eq=False)
class UnitGains:
    """Gains of the units of one layer for a given input x.

    Attributes:
        mean: omega for every unit, or omega + Z_ii where the diagonal of Z is given; shape (n,).
        std: standard deviation over the rest of Z; shape (n,).
        excess_kurtosis: of a_i where all of Z is random, E z^4 - 3 of an entry times
            sum x_j^4 / |x|^4: the same for all units.
    """

    mean: Array
    std: Array
    excess_kurtosis: float


@dataclass(frozen=True)
class GainShares:
    """Where gains fall at one noise scale; the four shares add up to 1.

    Attributes:
        alpha: noise scale.
        negative: P(a < 0).
        low: P(0 <= a <= low), gains under which the signal fades.
        in_band: P(low < a < high).
        high: P(a >= high), gains under which it saturates.
    """

    alpha: float
    negative: float
    low: float
    in_band: float
    high: float


def unit_gains(
    x: Array,
    alpha: float,
    omega: float = 1.0,
    diagonal: Array | None = None,
    law: NoiseLaw | None = None,
) -> UnitGains:
    """Mean and standard deviation of each unit's gain for a given x.

    N(omega, (alpha^2 / n) |x|^2 / x_i^2); given Z_ii, as published,
    N(omega + Z_ii, (alpha^2 / n) sum_{j != i} x_j^2 / x_i^2). Only normality needs a Gaussian Z.

    Args:
        x: input of a square layer, shape (n,), without zeros.
        alpha: noise scale, positive.
        omega: diagonal entry of D.
        diagonal: Z_ii, shape (n,), where they are known.
        law: of the entries of Z, for the kurtosis; N(0, 1) where left out.

    Returns:
        The moments, exact.

    Raises:
        ArgumentError: if x has zeros or diagonal another shape, or a number is out of range.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242.

    >>> unit_gains(np.array([3.0, 4.0]), 0.3 * 2**0.5).std.round(3).tolist()
    [0.5, 0.375]
    """
    signal = np.asarray(x, dtype=np.float64)
    if signal.ndim != 1 or not signal.size or not np.all(np.isfinite(signal) & (signal != 0)):
        raise ArgumentError(f"x must be a vector of non-zero numbers, got {x}. A 0 has no gain.")
    std = _checks.positive("alpha", alpha) / math.sqrt(len(signal))
    centre = _checks.finite("omega", omega)
    # In units of the largest entry no sum of squares leaves the range of floats.
    signal = signal / np.abs(signal).max()
    square = signal**2
    if diagonal is None:
        mean, others = np.full_like(signal, centre), np.full_like(signal, square.sum())
    else:
        own = np.asarray(diagonal, dtype=np.float64)
        if own.shape != signal.shape or not np.isfinite(own).all():
            raise ArgumentError(
                f"diagonal must hold {len(signal)} finite numbers, got {diagonal}. Pass Z_ii."
            )
        # Summed from both ends up to x_i: a difference would cancel where one unit holds it all.
        below, above = np.cumsum(square), np.cumsum(square[::-1])[::-1]
        mean, others = centre + own, np.append(0.0, below[:-1]) + np.append(above[1:], 0.0)
    excess = law.excess_kurtosis * float((square**2).sum() / square.sum() ** 2) if law else 0.0
    return UnitGains(mean, std * np.sqrt(others) / np.abs(signal), excess)


def given_signal_gains(x: Array, alpha: float, omega: float = 1.0) -> GainDistribution:
    """Law of the gain of a unit picked at random, for a given x and Gaussian Z.

    Args:
        x: input of a square layer, shape (n,), without zeros.
        alpha: noise scale, positive.
        omega: diagonal entry of D.

    Returns:
        The mixture of the n Gaussians of ``unit_gains``.

    Raises:
        ArgumentError: as ``unit_gains``.

    >>> round(given_signal_gains(np.array([1.0, -1.0]), 0.5).cdf(0.5), 4)
    0.1587
    """
    std = unit_gains(x, alpha, omega).std
    return GainDistribution(float(omega), std, np.full_like(std, 1 / len(std)))


def gaussian_signal_gains(width: int, alpha: float, omega: float = 1.0) -> GainDistribution:
    """Law of the gain for a Gaussian x, or any x of no special direction, in width n.

    a = omega + (alpha / sqrt(n)) g / sqrt(B), B = x_i^2 / |x|^2 ~ Beta(1/2, (n-1)/2). Normal at
    width 1; from width 2 on tails like 1/a^2 and no mean; the Cauchy law of centre omega and scale
    alpha as n grows, its cdf within 0.1/n of that one at alpha = 0.085.

    Args:
        width: n.
        alpha: noise scale, positive.
        omega: diagonal entry of D.

    Returns:
        The mixture, whose cdf has an error of 1e-12.

    Raises:
        ArgumentError: if width is below 1, alpha is not positive or omega is not finite.

    >>> round(gaussian_signal_gains(10**6, 0.085).cdf(1.27) - math.atan(0.27 / 0.085) / math.pi, 6)
    0.5
    """
    n = _checks.at_least("width", width, 1)
    std = _checks.positive("alpha", alpha) / math.sqrt(n)
    centre = _checks.finite("omega", omega)
    if n == 1:
        return GainDistribution(centre, np.array([std]), np.ones(1))
    # B = sin^2(angle), density ~ cos^(n-2): finer and finer panels resolve any ratio a / std, and
    # past 12 / sqrt(n) lies less than exp(-72). A cosine near 1 has no digits in its logarithm.
    angle, weight = _toward_zero(min(math.pi / 2, 12 / math.sqrt(n)))
    sine = np.sin(angle)
    weight = weight * np.exp((n - 2) / 2 * np.log1p(-(sine**2)))
    return GainDistribution(centre, std / sine, weight / weight.sum())


def stationary_gains(alpha: float, omega: float = 1.0, order: int = 3) -> GainDistribution:
    """Law of the gain deep in a wide network with little noise.

    There x has a density ~ exp(-lambda |x|^(p+1)), and a = omega + alpha g sqrt(E y^2) / |y| with
    p = 3 for smooth f and 2 for softsign.

    Args:
        alpha: noise scale, positive.
        omega: diagonal entry of D.
        order: p.

    Returns:
        The mixture, its cdf to 1e-12 for this density (order 10: 1e-10, 20: 2e-8); the density
        itself is the leading order in the noise.

    Raises:
        ArgumentError: if alpha is not positive, omega not finite or order below 2.

    >>> round(stationary_gains(0.085).share_in_band(0.78, 1.27), 3)
    0.821
    """
    noise, centre = _checks.positive("alpha", alpha), _checks.finite("omega", omega)
    p = _checks.at_least("order", order, 2)
    y, weight = _toward_zero((80.0 * (p + 1)) ** (1 / (p + 1)))
    weight = weight * np.exp(-(y ** (p + 1)) / (p + 1))
    weight = weight / weight.sum()
    return GainDistribution(centre, noise * math.sqrt(float(weight @ y**2)) / y, weight)


def gain_band(activation: Activation, depth: int, kept: float, level: float) -> tuple[float, float]:
    """Constant gains at which an odd sigmoid neither fades nor saturates over a depth.

    Lower edge kept^(1/L) / kappa: there a small signal keeps the share ``kept`` after L layers.
    Upper edge f^-1(s) / s with s = level * sup f: there the fixed point of f(a x) is s. The
    published band of about 0.78 to 1.27 follows from no one criterion: it is this band of tanh for
    level 0.728 and, at L = 10, kept 0.083, but other pairs serve as well. Gains are drawn afresh
    in each layer, so that a constant gain is the worst case, not the typical one.

    Args:
        activation: an odd sigmoid f.
        depth: L.
        kept: share of a small signal left after L layers, in (0, 1).
        level: share of sup f that the signal may fill, in (0, 0.999].

    Returns:
        The two edges, to 1e-10.

    Raises:
        ArgumentError: if kept or level is out of range, or f is not an odd sigmoid.

    >>> from equipoise.theory import activations
    >>> [round(edge, 2) for edge in gain_band(activations.tanh(), 10, 0.083, 0.728)]
    [0.78, 1.27]
    """
    layers = _checks.at_least("depth", depth, 1)
    if not 0 < kept < 1:
        raise ArgumentError(f"kept must be strictly between 0 and 1, got {kept}. Pass a share.")
    if not 0 < level <= 0.999:
        raise ArgumentError(f"level must be in (0, 0.999], got {level}. Pass a share of sup f.")
    membership = odd_sigmoid(activation)
    if not membership.is_wide_member:
        raise ArgumentError(
            f"activation must be an odd sigmoid, but {membership.reason}. "
            "Only these have one positive fixed point for each gain."
        )
    kappa = membership.slope

    def f(z: float) -> float:
        return float(activation.f(np.array([z]))[0])

    signal = level * f(_FAR / kappa)
    right = signal / kappa
    while f(right) < signal:
        right *= 2
    preactivation = optimize.brentq(lambda z: f(z) - signal, 0.0, right, xtol=1e-300, rtol=1e-14)
    return kept ** (1 / layers) / kappa, float(preactivation) / signal


def gain_sweep(
    alphas: Sequence[float], width: int, low: float, high: float, omega: float = 1.0
) -> tuple[GainShares, ...]:
    """Shares of gains below, in and above a band for a Gaussian signal, over noise scales.

    Args:
        alphas: noise scales, positive.
        width: n.
        low: lower edge of the band, positive.
        high: upper edge.
        omega: diagonal entry of D.

    Returns:
        One row for each alpha.

    Raises:
        ArgumentError: if high is not above low, or an argument is not positive.

    >>> [round(s.in_band, 2) for s in gain_sweep([0.01, 0.085, 0.5], 64, 0.78, 1.27)]
    [0.97, 0.79, 0.29]
    """
    _checks.positive("low", low)

    def shares(alpha: float) -> GainShares:
        law = gaussian_signal_gains(width, alpha, omega)
        inside, negative, below = law.share_in_band(low, high), law.share_negative(), law.cdf(low)
        return GainShares(float(alpha), negative, below - negative, inside, 1.0 - below - inside)

    return tuple(shares(alpha) for alpha in alphas)


def _toward_zero(end: float) -> tuple[Array, Array]:
    """Nodes and weights on (0, end]: Gauss-Legendre on panels that halve towards 0."""
    edges = end * 2.0 ** -np.arange(_PANELS + 1)
    half, middle = (edges[:-1] - edges[1:]) / 2, (edges[:-1] + edges[1:]) / 2
    nodes = middle[:, None] + half[:, None] * _NODES
    return nodes.ravel(), (half[:, None] * _WEIGHTS).ravel()
