"""Variance scaling: independent entries whose variance keeps a mean square in the wide limit."""

import math

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Normal, Uniform
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics


def xavier(fans: Fans, gain: float = 1.0) -> Uniform:
    """Uniform entries of variance 2 gain^2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010.

    >>> xavier(Fans(2, 4))
    Uniform(bound=1.0)
    """
    return Uniform(_checks.positive("gain", gain) * math.sqrt(6.0 / (fans.fan_in + fans.fan_out)))


def he(fans: Fans, activation: Activation, input_rms: float = 1.0) -> Normal:
    """Normal entries of variance 1 / (fan_in E f(z)^2), z ~ N(0, 1), f the activation that feeds W.

    For ReLU this is the published 2 / fan_in; for every other activation the exact gain of the same
    idea. It keeps the mean over draws of the signal's mean square, in the limit of infinite width.

    Args:
        fans: of the weight.
        activation: what feeds the weight; the identity for the first layer.
        input_rms: RMS of z, positive.

    Returns:
        The law under which preactivations have variance 1.

    Source: He et al. 2015, arXiv 1502.01852.

    >>> from equipoise.theory import activations
    >>> round(he(Fans(8, 8), activations.relu()).std, 12)
    0.5
    """
    q = _checks.positive("input_rms", input_rms) ** 2
    return Normal(moment_gain(activation, q) / math.sqrt(fans.fan_in))


def moment_gain(activation: Activation, q: float = 1.0) -> float:
    """1 / sqrt(E f(z)^2), z ~ N(0, q): restores second moments to 1; sqrt(2) for ReLU at q = 1.

    Raises:
        ArgumentError: if f vanishes at this scale.

    >>> from equipoise.theory import activations
    >>> round(moment_gain(activations.relu()) ** 2, 12)
    2.0
    """
    energy = statistics(activation, q).second_moment
    if not energy > 0:
        raise ArgumentError(
            f"activation must not vanish on preactivations of variance {q:g}, got {activation}. "
            "No weight can restore its signal."
        )
    return 1.0 / math.sqrt(energy)
