"""Finite width, one cell: the noise that a random weight and an activation add to log norms.

A cell is a random weight of width n and then f0 = f - f(0), at the gain that makes the level q a
fixed point of the wide limit: weight_var E f0^2 = q. All laws here are of first order in 1 / n.
With g ~ N(0, 1), z = sqrt(q) g, psi = f0^2 / E f0^2 and phi = f'^2 / E f'^2:

    s = d log E f0^2 / d log q = E z f0 f' / E f0^2       what is left of a deviation of log q
    t = d log E f'^2 / d log q                            what it does to the gradient of a layer
    chi = q E f'^2 / E f0^2                               the mean Hermite degree

Entries N(0, weight_var / n): a cell adds (Var psi) / n to the variance of log q and
(3 E phi^2 - 1) / n to that of the log squared gradient. A Haar weight keeps norms and angles, so
psi and phi count only off g^2 - 1: Var(psi - s g^2) / n and (3 Var(phi - t g^2) + 4 t^2) / n. For
the log norm itself that is (c - s^2 / 2) / n against c / n, c = (E f0^4 / (E f0^2)^2 - 1) / 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.gaussian import expectation

Array = NDArray[np.float64]
Weights = Literal["haar", "gaussian"]

# Squares of rounding errors: a linear f0 has no fluctuation of its own.
_ZERO = 1e-20


@dataclass(frozen=True)
class CellFluctuation:
    """Fluctuations of one cell, to be divided by the width: they are of order 1 / n.

    Attributes:
        signal_variance: n times the variance that the cell adds to the log norm of a signal.
        gradient_variance: n times the same for a gradient.
        covariance: n times the covariance of the two.
        signal_drift: n times the mean of the log norm that the cell adds at the fixed point.
        gradient_drift: the same for a gradient across the signal, besides log(chi) / 2.
        restoring: s, share of a small deviation of the log norm that one cell passes on.
        response: t, relative change of the mean-square gradient of a cell with its level.
        log_growth: log(chi) / 2, growth of the log norm of a gradient in the wide limit.
    """

    signal_variance: float
    gradient_variance: float
    covariance: float
    signal_drift: float
    gradient_drift: float
    restoring: float
    response: float
    log_growth: float
    # Second derivatives of log E f0^2 and log E f'^2 in log q, and what a gradient's share along
    # the signal grows by and is fed with.
    signal_bend: float
    gradient_bend: float
    along: float
    fed: float

    @property
    def stationary_signal_variance(self) -> float:
        """N times the variance of the log norm after many cells, v / (1 - s^2).

        Infinite where deviations do not fade (ReLU, and any f with abs(s) >= 1).

        >>> from equipoise.theory import activations
        >>> round(cell_fluctuation(activations.tanh(), 0.1).stationary_signal_variance, 2)
        0.04
        """
        if self.signal_variance == 0.0:
            return 0.0
        if abs(self.restoring) >= 1.0:
            return math.inf
        return self.signal_variance / (1.0 - self.restoring**2)


@lru_cache(maxsize=4096)
def cell_fluctuation(
    activation: Activation, q: float, weights: Weights = "haar"
) -> CellFluctuation:
    """Fluctuations of one cell at level q, in units of 1 / width.

    Args:
        activation: f, without jumps and not constant.
        q: second moment of the preactivation at the fixed point, dimensionless, positive.
        weights: ``haar`` (orthogonal) or ``gaussian`` (independent entries).

    Returns:
        The coefficients, with an error of 1e-9 relative or 1e-12 absolute, whichever is larger,
        where f does not oscillate: those of sin are lost from q = 1e10 on.

    Raises:
        ArgumentError: if q is not positive and finite, the weights are unknown, or the activation
            jumps or is constant.

    >>> from equipoise.theory import activations
    >>> round(cell_fluctuation(activations.relu(), 1.0).signal_variance, 9)  # c - 1/2, c = 5/4
    0.75
    >>> round(cell_fluctuation(activations.relu(), 1.0, "gaussian").signal_variance, 9)
    1.25
    """
    _checks.positive("q", q)
    _checks.one_of("weights", weights, ("haar", "gaussian"))
    if activation.jumps:
        raise ArgumentError(
            f"activation must be continuous, got {activation}, which jumps. Its gradient "
            "statistics are infinite."
        )
    zero, df, std = activation.value_at_zero, activation.df, math.sqrt(q)

    def f(z: Array) -> Array:
        return activation.f(z) - zero

    def mean(g: Callable[[Array], Array], floor: float = 0.0) -> float:
        return expectation(g, q, activation.kinks, floor=floor).value

    energy, slopes = mean(lambda z: f(z) ** 2), mean(lambda z: df(z) ** 2)
    if not (energy > 0.0 and slopes > 0.0):
        raise ArgumentError(f"activation must not be constant, got {activation} at q={q:g}. "
                            "No signal passes it.")  # fmt: skip

    def psi(z: Array) -> Array:
        return f(z) ** 2 / energy

    def phi(z: Array) -> Array:
        return df(z) ** 2 / slopes

    # The mean of f0 (z f' - f0) tells s from 1 without cancellation.
    s = 1.0 + mean(lambda z: f(z) * (z * df(z) - f(z)), 1e-14 * energy) / energy
    t = mean(lambda z: phi(z) * _he2(z / std), 1e-14) / 2

    def rest_psi(z: Array) -> Array:
        return psi(z) - 1.0 - s * _he2(z / std)

    def rest_phi(z: Array) -> Array:
        return phi(z) - 1.0 - t * _he2(z / std)

    own = _without_rounding(mean(lambda z: rest_psi(z) ** 2, _ZERO))
    own_phi = _without_rounding(mean(lambda z: rest_phi(z) ** 2, _ZERO))
    common = mean(lambda z: rest_psi(z) * rest_phi(z), 1e-14) if own * own_phi > 0.0 else 0.0
    bend_psi = mean(lambda z: psi(z) * _he4(z / std), 1e-14) / 4
    bend_phi = mean(lambda z: phi(z) * _he4(z / std), 1e-14) / 4
    fed = _without_rounding(mean(lambda z: (z * df(z) - s * f(z)) ** 2, _ZERO * energy) / energy)
    chi = q * slopes / energy
    signal, gradient, both = own, 3 * own_phi + 4 * t * t, common
    drift, gradient_drift = -bend_psi, -bend_phi
    if weights == "gaussian":
        signal, gradient, both = own + 2 * s * s, 3 * own_phi + 6 * t * t + 2, common + 2 * s * t
        drift = gradient_drift = 0.0
    return CellFluctuation(
        signal_variance=signal / 4,
        gradient_variance=gradient / 4,
        covariance=both / 4,
        signal_drift=(drift - signal / 2) / 2,
        gradient_drift=(gradient_drift - gradient / 2) / 2,
        restoring=s,
        response=t,
        log_growth=math.log(chi) / 2,
        signal_bend=bend_psi - s * s + s,
        gradient_bend=bend_phi - t * t + t,
        along=common + 2 * s * t,
        fed=fed / chi,
    )


def _he2(x: Array) -> Array:
    return x * x - 1.0


def _he4(x: Array) -> Array:
    return x * x * (x * x - 6.0) + 3.0


def _without_rounding(square: float) -> float:
    return 0.0 if square <= _ZERO else square
