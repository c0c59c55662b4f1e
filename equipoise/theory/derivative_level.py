"""The level of a signal at which a network's derivatives keep their size in depth.

Without biases every unit bends where its inputs rest. There nothing saturates, so that the slope
grows by the gain of the weights, layer after layer, while elsewhere it is held: nearly all that a
deep network has of second derivatives is at one point. Biases that bring a share of each layer's
energy take that peak away. They are the same for all inputs, though: of what inputs differ by, a
layer hands on less, by 1 - share, and the level must rise until the gain makes up for it,

    (1 - share) * degree(q) = exp(budget / depth),

with the mean Hermite degree of f0 at q. That is the critical line of wide networks with biases.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activation import Activation
from equipoise.theory.hermite import statistics

_LOWEST, _HIGHEST = 1e-8, 1e2


@dataclass(frozen=True)
class DerivativeLevel:
    """Scales of a deep network with biases.

    Attributes:
        q: second moment of the preactivations.
        weight_var: gain of the weights in energy, G^2.
        bias_var: variance of the biases.
        growth: of the mean-square slope per layer, chi_1.
        peak: slope at the point where the first layer's units are 0, over that where their energy
            is q, both RMS over draws.
    """

    q: float
    weight_var: float
    bias_var: float
    growth: float
    peak: float


def with_biases(budget: float, depth: int, share: float) -> float:
    """Nats that a stack without biases spends at the level where one with them spends ``budget``.

    Args:
        budget: growth of the mean-square slope over the whole depth, nats, not negative.
        depth: number of weights between hidden layers.
        share: of each layer's energy that biases bring, from 0 to below 1.

    Returns:
        budget - depth * log(1 - share).

    >>> round(with_biases(0.0, 30, 0.05), 3)
    1.539
    """
    _checks.not_negative("budget", budget)
    layers = _checks.at_least("depth", depth, 0)
    if not 0 <= share < 1:
        raise ArgumentError(
            f"share must be from 0 to below 1, got {share}. Pass the part of the energy that "
            "biases bring."
        )
    return budget - layers * math.log1p(-share)


@lru_cache(maxsize=256)
def derivative_level(
    activation: Activation, depth: int, share: float, budget: float = 0.0
) -> DerivativeLevel:
    """The level at which derivatives grow by ``budget`` nats over the depth, with biases.

    Args:
        activation: f, nearly a line around 0; its mean Hermite degree rises with q.
        depth: number of weights between hidden layers, at least 1.
        share: of each layer's energy that biases bring, above 0 and below 1.
        budget: growth of the mean-square slope over the whole depth, nats, not negative.

    Returns:
        The level, in the limit of wide layers.

    Raises:
        ArgumentError: for numbers out of range, or a function that is never bent so far.

    >>> from equipoise.theory import activations
    >>> found = derivative_level(activations.tanh(), 30, 0.05)
    >>> round(found.q, 3), round(found.growth, 9), round(found.peak, 2)
    (0.349, 1.0, 2.99)
    """
    _checks.positive("share", share)
    layers = _checks.at_least("depth", depth, 1)
    wanted = math.exp(with_biases(budget, layers, share) / layers)

    def missing(log_q: float) -> float:
        return statistics(activation, math.exp(log_q)).mean_hermite_degree - wanted

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    if not missing(high) > 0:
        raise ArgumentError(
            f"activation must reach a mean Hermite degree of {wanted:.4g}, got {activation}, which "
            "does not. Take a smaller share or budget."
        )
    q = math.exp(brentq(missing, low, high, xtol=1e-9))
    at = statistics(activation, q)
    gain, bias = (1.0 - share) * q / at.centred_energy, share * q
    return DerivativeLevel(
        q, gain, bias, gain * at.slope_energy, _peak(activation, depth, gain, bias, at.slope_energy)
    )


def _peak(f: Activation, depth: int, gain: float, bias: float, usual: float) -> float:
    """The product over layers of the slopes at rest over the usual ones, as amplitude."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    log_peak, q = 0.0, 0.0
    for _ in range(depth):
        z = math.sqrt(q) * nodes
        log_peak += math.log(float(weights @ np.square(f.df(z))) / usual)
        q = gain * float(weights @ np.square(f.f(z) - f.value_at_zero)) + bias
    return math.exp(log_peak / 2)
