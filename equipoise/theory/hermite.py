"""Gaussian statistics of an activation: its energy, its linear part, its slope, its mean degree.

Expand f0(sqrt(q) g), f0 = f - f(0), in orthonormal Hermite polynomials with coefficients a_k. Then
E f0^2 = sum a_k^2 and, by Stein's identity, q E f'^2 = sum k a_k^2, so that their ratio is the mean
Hermite degree: the growth per layer of the mean-square gradient at a fixed point of the signal.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.gaussian import expectation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianStatistics:
    """Moments of f(z), z ~ N(0, q), with f0 = f - f(0).

    Attributes:
        q: variance of z.
        mean: E f(z).
        second_moment: E f(z)^2.
        centred_energy: E f0(z)^2.
        linear: E f'(z) = E z f(z) / q, the slope of the best linear fit (Stein).
        slope_energy: E f'(z)^2; infinite where f jumps.
        fourth_moment: E f(z)^4.
        error: estimate of the relative quadrature error of the even moments.
    """

    q: float
    mean: float
    second_moment: float
    centred_energy: float
    linear: float
    slope_energy: float
    fourth_moment: float
    error: float

    @property
    def mean_hermite_degree(self) -> float:
        """Mean degree q E f'^2 / E f0^2: 1 for a linear f0, above 1 for every other odd one.

        >>> from equipoise.theory import activations
        >>> round(statistics(activations.linear(3.0), 2.0).mean_hermite_degree, 12)
        1.0
        """
        if self.centred_energy == 0.0:
            return math.nan
        return self.q * self.slope_energy / self.centred_energy

    @property
    def nonlinear_share(self) -> float:
        """Share of the energy of f0 outside its best linear fit through 0, from 0 to 1.

        >>> from equipoise.theory import activations
        >>> round(statistics(activations.relu(), 2.0).nonlinear_share, 9)
        0.5
        """
        if self.centred_energy == 0.0:
            return math.nan
        return max(0.0, 1.0 - self.linear * self.q / self.centred_energy * self.linear)

    @property
    def log_norm_coefficient(self) -> float:
        """Coefficient c of Var log|f(z)| = c / width + O(1 / width^2), units independent.

        c = (E f^4 / (E f^2)^2 - 1) / 4; nan where E f^4 vanishes or leaves the range of floats.

        >>> from equipoise.theory import activations
        >>> round(statistics(activations.relu(), 2.0).log_norm_coefficient, 9)
        1.25
        """
        if not 0.0 < self.fourth_moment < math.inf:
            return math.nan
        return (self.fourth_moment / self.second_moment / self.second_moment - 1.0) / 4.0


@lru_cache(maxsize=4096)
def statistics(activation: Activation, q: float) -> GaussianStatistics:
    """Moments of an activation under N(0, q).

    Args:
        activation: the function.
        q: second moment of the preactivation, dimensionless, positive.

    Returns:
        The moments with an estimate of their relative error (below 1e-9 for q in [1e-6, 1e6] for
        functions that do not oscillate).

    Raises:
        ArgumentError: if q is not positive and finite.

    >>> from equipoise.theory import activations
    >>> round(statistics(activations.relu(), 1.0).second_moment, 12)
    0.5
    """
    # Single precision in q would pass into the ratios, and the cache would hand it on.
    q = _checks.positive("q", q)
    f, df, zero = activation.f, activation.df, activation.value_at_zero
    breaks = activation.kinks + activation.jumps

    first = expectation(f, q, breaks)
    second = expectation(lambda z: f(z) ** 2, q, breaks)
    centred = expectation(lambda z: (f(z) - zero) ** 2, q, breaks)
    linear = expectation(lambda z: z * (f(z) - zero) / q, q, breaks)
    slope = expectation(lambda z: df(z) ** 2, q, breaks)
    fourth = expectation(lambda z: f(z) ** 4, q, breaks)
    return GaussianStatistics(
        q=q,
        mean=first.value,
        second_moment=second.value,
        centred_energy=centred.value,
        linear=linear.value,
        slope_energy=math.inf if activation.jumps else slope.value,
        fourth_moment=fourth.value,
        error=max(
            (e.error / abs(e.value) for e in (second, centred, slope, fourth) if e.value != 0.0),
            default=0.0,
        ),
    )


def mean_hermite_degree(activation: Activation, q: float) -> float:
    """Mean Hermite degree q E f'(z)^2 / E f0(z)^2, z ~ N(0, q), f0 = f - f(0).

    It is chi_1, the growth per layer of the mean-square gradient, at a fixed point of the signal of
    f0 (Stein). At least 1 for odd f, with equality only for linear f.

    Args:
        activation: the function.
        q: second moment of the preactivation, dimensionless, positive.

    Returns:
        The degree, to a relative error of about 1e-9; infinite for functions that jump, nan for
        those that vanish.

    Raises:
        ArgumentError: if q is not positive and finite.

    >>> from equipoise.theory import activations
    >>> round(mean_hermite_degree(activations.sin(), 1.0), 9)  # q coth q
    1.313035285
    """
    return statistics(activation, q).mean_hermite_degree


def hermite_coefficients(activation: Activation, q: float, count: int) -> Array:
    """a_k = E f0(sqrt(q) g) h_k(g), k = 0 ... count - 1, h_k orthonormal Hermite polynomials.

    Args:
        activation: the function.
        q: variance of the preactivation.
        count: number of coefficients, 1 to 64 (beyond, the oscillation costs digits).

    Returns:
        Shape (count,), to 1e-9 of sqrt(E f0^2), q from 1e-6 to 1e6.

    Raises:
        ArgumentError: if q is not positive and finite, or count is not an integer from 1 to 64.

    >>> from equipoise.theory import activations
    >>> (hermite_coefficients(activations.identity(), 4.0, 3).round(9) + 0.0).tolist()
    [0.0, 2.0, 0.0]
    """
    count = _checks.at_least("count", count, 1)
    if count > 64:
        raise ArgumentError(f"count must be at most 64, got {count}. Sum fewer terms.")
    std, zero = math.sqrt(_checks.positive("q", q)), activation.value_at_zero
    breaks = activation.kinks + activation.jumps

    def term(k: int) -> float:
        def g(z: Array) -> Array:
            return (activation.f(z) - zero) * _orthonormal(k, z / std)

        return expectation(g, q, breaks).value

    return np.array([term(k) for k in range(count)])


def _orthonormal(k: int, x: Array) -> Array:
    """h_k by its three-term recursion sqrt(k+1) h_{k+1} = x h_k - sqrt(k) h_{k-1}."""
    before, now = np.zeros_like(x), np.ones_like(x)
    for j in range(k):
        before, now = now, (x * now - math.sqrt(j) * before) / math.sqrt(j + 1)
    return now
