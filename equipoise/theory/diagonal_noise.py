"""Diagonal + noise networks with little noise: a Langevin law in a well, and noise scales from it.

W = omega D + Z with omega = 1 / kappa, Z_ij of standard deviation sigma / sqrt(n_in). In the wide
limit each unit follows x' = f(omega x + sigma sqrt(q) g), q = E x^2. Units do not mix, so x is not
Gaussian. With f = kappa z - c z|z|^(p-1) + ... and little noise a layer is one step of
dx = -(c / kappa^p) x |x|^(p-1) dl + kappa sigma sqrt(q) dB,
whose stationary density is ~ exp(-|y|^(p+1) / (p+1)) in units y = x / A. The rate of the well is
kappa^2 sigma^2 E y^2 / 2 per layer whatever p; its eigenvalues give all memories.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy import linalg, optimize, special

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.oddsigmoid import Expansion, expansion_at_zero

Array = NDArray[np.float64]

_BASIS, _MODES = 60, 24
# sqrt(density) at the edge of the interval is exp(-40).
_EDGE = 80.0
_MOST_MEMORY, _LEAST_MEMORY = 0.88, 1e-12


@dataclass(frozen=True)
class Well:
    """Constants of the law dy = -y|y|^(p-1) dt + sqrt(2) dB, whose noise follows E y^2.

    Rates are in units of kappa^2 sigma^2 per layer.

    Attributes:
        order: p of f = kappa z - c z|z|^(p-1) + ...: 3 for smooth f, 2 for softsign.
        second_moment: E y^2 = (p+1)^(2/(p+1)) Gamma(3/(p+1)) / Gamma(1/(p+1)).
        kurtosis: E y^4 / (E y^2)^2.
        sign_rates: decay rates of the odd modes, increasing.
        sign_amplitudes: their shares in the correlation of sgn y over time; those of all modes
            add up to 1, these to 0.98.
        relaxation: slowest rate at which E x^2 returns to its fixed point, noise and all.
        correlation_decay: rate at which a small correlation of two inputs decays.
        gradient_growth: (chi - 1), growth of the mean-square gradient.
    """

    order: int
    second_moment: float
    kurtosis: float
    sign_rates: tuple[float, ...]
    sign_amplitudes: tuple[float, ...]
    relaxation: float
    correlation_decay: float
    gradient_growth: float

    def sign_memory(self, time: float) -> float:
        """E sgn y_0 sgn y_t at stationarity, t = kappa^2 sigma^2 L.

        Args:
            time: t, 0.05 or more for an error below 1e-6 (at 0.01 it is 6e-4).

        Returns:
            A number in (0, 1), near amplitude * exp(-rate t) of the first mode.

        >>> round(well().sign_memory(1.0), 4)
        0.4941
        """
        rates, shares = np.array(self.sign_rates), np.array(self.sign_amplitudes)
        return float((shares * np.exp(-rates * time)).sum())


@lru_cache
def well(order: int = 3) -> Well:
    """Constants of diagonal + noise networks with little noise, in the wide limit.

    The spectrum is that of -d^2/dy^2 + y^(2p)/4 - p|y|^(p-1)/2 on even and on odd functions, by a
    Galerkin method. E x^2 feeds back on its own noise, which adds a rank-one term to the even
    modes; a pair of inputs is driven through E x x' alike; the gradient's generator is
    -L - 2p|y|^(p-1) + (2 / E y^2) E[.], from v(x) = omega^2 E[f'^2 v' | x] + sigma^2 E[f'^2 v'].

    Args:
        order: p, an integer from 2 to 20; steeper walls are too steep for the basis.

    Returns:
        The constants, to 1e-8.

    Raises:
        ArgumentError: if order is out of range.

    >>> w = well()
    >>> round(w.sign_rates[0], 4), round(w.sign_amplitudes[0], 4), round(w.gradient_growth, 4)
    (0.4626, 0.7761, 0.1273)
    >>> round(w.relaxation, 4), round(w.correlation_decay, 4), round(w.kurtosis, 3)
    (0.8043, 0.0512, 2.188)
    """
    if order not in range(2, 21):
        raise ArgumentError(f"order must be from 2 to 20, got {order}. Smooth functions have 3.")
    p = int(order)
    root, odd_energy, odd, even_energy, even, y, weights = _modes(p)
    second = (p + 1) ** (2 / (p + 1)) * special.gamma(3 / (p + 1)) / special.gamma(1 / (p + 1))
    fourth = (p + 1) ** (4 / (p + 1)) * special.gamma(5 / (p + 1)) / special.gamma(1 / (p + 1))
    rate = second / 2

    signs = (weights * root) @ odd
    linear = (weights * root * y) @ odd
    square = (weights * root * y**2) @ even
    unit = (weights * root) @ even

    # With D = E y^2 / m: L y^2 = 2 y^(p+1) - 2 gives the drive of mode k, mu^2 <y^2, k> / 2(p+1).
    drive = even_energy**2 * square / (2 * (p + 1))
    feedback = np.diag(even_energy[1:]) - np.outer(drive[1:], square[1:]) / second
    relaxation = float(np.linalg.eigvals(feedback).real.min())

    share = odd_energy * linear**2
    pairs = odd_energy[:, None] + odd_energy

    def driven(decay: float) -> float:
        return float(np.sum(np.outer(share, share) / (pairs - decay)) * 2 / second - 1)

    decay = optimize.brentq(driven, 0.0, 2 * odd_energy[0] * (1 - 1e-9), xtol=1e-14)
    bend = (even.T * (weights * 2 * p * y ** (p - 1))) @ even
    growth = -np.diag(even_energy) - bend + np.outer(unit, unit) * 2 / second
    return Well(
        order=p,
        second_moment=float(second),
        kurtosis=float(fourth / second**2),
        sign_rates=tuple(float(rate * e) for e in odd_energy),
        sign_amplitudes=tuple(float(s) for s in signs**2),
        relaxation=float(rate * relaxation),
        correlation_decay=float(rate * decay),
        gradient_growth=float(rate * np.linalg.eigvalsh(growth)[-1]),
    )


def _modes(p: int) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Energies and modes on a half line, which keeps |y| smooth; weights count both halves."""
    reach = (_EDGE * (p + 1)) ** (1 / (p + 1))
    t, w = (np.asarray(v, dtype=np.float64) for v in legendre.leggauss(4 * _BASIS))
    y, weights = (t + 1) / 2 * reach, w * reach
    values = np.asarray(legendre.legvander(t, _BASIS - 1), dtype=np.float64)
    slopes = np.asarray(legendre.legval(t, legendre.legder(np.eye(_BASIS))).T * 2 / reach)
    density = np.exp(-(y ** (p + 1)) / (p + 1))
    root = np.sqrt(density / (weights @ density))
    potential = y ** (2 * p) / 4 - p * y ** (p - 1) / 2

    def solve(base: Array, derivative: Array) -> tuple[Array, Array]:
        mass = (base.T * weights) @ base
        energy = (derivative.T * weights) @ derivative + (base.T * (weights * potential)) @ base
        levels, columns = linalg.eigh(energy, mass, subset_by_index=[0, _MODES - 1])
        return levels, base @ columns

    even_energy, even = solve(values, slopes)
    # P_k + P_(k-1) vanish at y = 0, as odd functions do.
    odd_energy, odd = solve(values[:, 1:] + values[:, :-1], slopes[:, 1:] + slopes[:, :-1])
    return root, odd_energy, odd, even_energy, even, y, weights


@dataclass(frozen=True)
class SmallNoise:
    """What a diagonal + noise network of one activation does, leading order in the noise.

    Attributes:
        mean_square: q* = E x^2, x after the activation.
        kurtosis: E x^4 / q*^2.
        relaxation: rate per layer at which q returns to q*.
        sign_rate: decay rate per layer of E sgn x_0 sgn x_l.
        sign_amplitude: its factor, sign memory ~ amplitude * exp(-rate * l).
        correlation_decay: rate per layer of the slow decay of a small correlation of two inputs.
        chi: growth of the mean-square gradient per layer.
    """

    mean_square: float
    kurtosis: float
    relaxation: float
    sign_rate: float
    sign_amplitude: float
    correlation_decay: float
    chi: float


def small_noise(activation: Activation, alpha: float) -> SmallNoise:
    """Fixed point and rates for omega = 1 / kappa, to leading order in t = kappa^2 alpha^2.

    q* = E y^2 (t kappa^p E y^2 / 2c)^(2/(p-1)): 0.2285 kappa^5 alpha^2 / c for smooth f, and
    RMS 0.342 kappa^4 alpha^2 / c for softsign-like ones.

    Args:
        activation: f, which bends towards the axis at 0.
        alpha: noise scale sigma, positive; entries of Z have alpha / sqrt(fan_in).

    Returns:
        The constants. They are too large by a share proportional to t, measured against
        ``noise_density`` up to t = 0.16 (softsign: 0.09): RMS 0.5 to 0.6 t (erf 0.7 t, softsign
        0.7 t), kurtosis 0.4 t (0.2 t), sign rate 0.45 t, chi - 1 0.2 to 0.45 t;
        at t = 0.5 RMS is 20% and the sign rate 17% too large. Width n takes another 0.8/n
        off the RMS.

    Raises:
        ArgumentError: if alpha is not positive, or f does not bend towards the axis at 0.

    Source: the network is that of Lee, Choi and Kim 2024, arXiv 2410.02242.

    >>> from equipoise.theory import activations
    >>> s = small_noise(activations.tanh(), 0.085)
    >>> round(s.mean_square**0.5, 4), round(s.chi - 1, 6)
    (0.0704, 0.000919)
    """
    noise = _checks.positive("alpha", alpha)
    e, w = _bending(activation)
    t = (e.slope * noise) ** 2
    return SmallNoise(
        mean_square=w.second_moment
        * (t * abs(e.slope) ** e.order * w.second_moment / (2 * abs(e.coefficient)))
        ** (2 / (e.order - 1)),
        kurtosis=w.kurtosis,
        relaxation=w.relaxation * t,
        sign_rate=w.sign_rates[0] * t,
        sign_amplitude=w.sign_amplitudes[0],
        correlation_decay=w.correlation_decay * t,
        chi=1.0 + w.gradient_growth * t,
    )


def noise_scale_for_sign_memory(activation: Activation, depth: int, memory: float) -> float:
    """The alpha at which E sgn x_0 sgn x_L has a given value, for a signal at stationarity.

    alpha^2 = ln(0.776 / memory) / (0.4626 kappa^2 L) for smooth f and memory below 0.5; the whole
    series of modes is inverted, so larger memories are right too.

    Args:
        activation: f, which bends towards the axis at 0.
        depth: L, number of layers.
        memory: target, 1e-12 to 0.88.

    Returns:
        alpha, with the relative error of ``small_noise`` in the rate.

    Raises:
        ArgumentError: if the target is out of range, or asks for kappa alpha > 0.7, where noise is
            not small.

    >>> from equipoise.theory import activations
    >>> round(noise_scale_for_sign_memory(activations.tanh(), 100, 0.5), 4)
    0.0988
    """
    layers = _checks.at_least("depth", depth, 1)
    if not _LEAST_MEMORY <= memory <= _MOST_MEMORY:
        raise ArgumentError(
            f"memory must be between {_LEAST_MEMORY:g} and {_MOST_MEMORY:g}, got {memory}. "
            "Signs are kept whole only without noise."
        )
    e, w = _bending(activation)
    last = math.log(1 / memory) / w.sign_rates[0]
    time = optimize.brentq(lambda t: w.sign_memory(t) - memory, 0.0, last, xtol=1e-15)
    return _small(math.sqrt(time / layers) / abs(e.slope), e, "Ask for more memory or more layers.")


def noise_scale_for_rms(activation: Activation, rms: float) -> float:
    """The alpha at which a deep signal keeps a given RMS, the inverse of ``small_noise``.

    alpha = rms sqrt(c / kappa^5) / 0.478 for smooth f, sqrt(rms c / (0.342 kappa^4)) for f like
    softsign.

    Args:
        activation: f, which bends towards the axis at 0.
        rms: sqrt(E x^2) after the activation, positive.

    Returns:
        alpha, with the relative error of ``small_noise`` in the RMS.

    Raises:
        ArgumentError: if the target asks for kappa alpha > 0.7, where noise is not small.

    >>> from equipoise.theory import activations
    >>> round(noise_scale_for_rms(activations.tanh(), 0.0704), 4)
    0.085
    """
    level = _checks.positive("rms", rms)
    e, w = _bending(activation)
    length = level / math.sqrt(w.second_moment)
    pull = 2 * abs(e.coefficient) / (abs(e.slope) ** (e.order + 2) * w.second_moment)
    # Roots before the product: the square of a small RMS may leave the range of floats.
    return _small(length ** ((e.order - 1) / 2) * math.sqrt(pull), e, "Ask for a smaller RMS.")


def noise_scale_for_negative_share(share: float, depth: int, omega: float = 1.0) -> float:
    """The sigma at which a share of width-1 networks has turned the sign of its input at layer L.

    A gain N(omega, sigma^2) is negative with p = Phi(-omega / sigma); an odd number of them in L
    layers has probability pi_L = (1 - (1-2p)^L) / 2. So p = (1 - (1 - 2 pi_L)^(1/L)) / 2 and
    sigma = -omega / Phi^-1(p). Exact at width 1 only: in a wide network gains are heavy-tailed and
    small units turn back and forth, and ``noise_scale_for_sign_memory`` holds.

    Args:
        share: pi_L, in (0, 1/2).
        depth: L.
        omega: diagonal entry, positive.

    Returns:
        sigma, exact.

    Raises:
        ArgumentError: if share is not strictly between 0 and 1/2, which no depth reaches.

    >>> round(noise_scale_for_negative_share(0.25, 100), 4)
    0.3702
    """
    layers = _checks.at_least("depth", depth, 1)
    diagonal = _checks.positive("omega", omega)
    if not 0 < share < 0.5:
        raise ArgumentError(
            f"share must be strictly between 0 and 0.5, got {share}. "
            "Signs turned at random end at one half."
        )
    # log1p and expm1 keep the digits of a small p in a deep network.
    negative = -math.expm1(math.log1p(-2 * share) / layers) / 2
    return float(-diagonal / special.ndtri(negative))


def _bending(activation: Activation) -> tuple[Expansion, Well]:
    expansion = expansion_at_zero(activation)
    if not expansion.bends_towards_axis:
        raise ArgumentError(
            f"activation must have a slope at 0 and bend towards the axis, got {activation}. "
            "Diagonal + noise weights need an odd sigmoid such as tanh."
        )
    return expansion, well(expansion.order)


def _small(alpha: float, expansion: Expansion, remedy: str) -> float:
    if abs(expansion.slope) * alpha > 0.7:
        raise ArgumentError(
            f"target must be reachable with little noise, got alpha = {alpha:.3g} at slope "
            f"{expansion.slope:.3g}. {remedy}"
        )
    return alpha
