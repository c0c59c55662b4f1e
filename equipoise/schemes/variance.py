"""Variance scaling: independent entries whose variance keeps a mean square in the wide limit."""

import math

from scipy import special

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Normal, TruncatedNormal, Uniform
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics

DISTRIBUTIONS = ("normal", "uniform", "truncated")
MODES = ("fan_in", "fan_out", "average")
Independent = Normal | Uniform | TruncatedNormal
_GAIN = "1 leaves the rule as it is; a negative one would only change signs."


def independent(std: float, distribution: str = "normal", bound: float = 2.0) -> Independent:
    """Independent entries of mean 0 and a given standard deviation.

    Args:
        std: of the entries as they are drawn, not negative; of the truncated law too, whose cut is
            made on a wider normal law.
        distribution: ``normal``, ``uniform`` or ``truncated``.
        bound: where the truncated law is cut, in standard deviations of the law that is cut.

    Returns:
        The law.

    Raises:
        ArgumentError: for a negative std, an unknown distribution or a bound below 0.1.

    >>> independent(1.0, "uniform").bound ** 2
    2.9999999999999996
    >>> round(independent(1.0, "truncated").scale, 6)  # 1 / 0.879626
    1.136847
    """
    value = _checks.not_negative("std", std)
    match _checks.one_of("distribution", distribution, DISTRIBUTIONS):
        case "uniform":
            return Uniform(value * math.sqrt(3.0))
        case "truncated":
            scale = value / truncated_std(bound)
            return TruncatedNormal(scale, -bound * scale, bound * scale)
        case _:
            return Normal(value)


def truncated_std(bound: float) -> float:
    """Standard deviation of N(0, 1) given |z| <= bound: sqrt(P(chi2_3 < b^2) / P(chi2_1 < b^2)).

    Raises:
        ArgumentError: if the bound is below 0.1, where the law is uniform.

    >>> round(truncated_std(2.0), 9)
    0.879625661
    """
    b = _checks.positive("bound", bound)
    if b < 0.1:
        raise ArgumentError(
            f"bound must be at least 0.1 standard deviations, got {bound}. Use uniform entries."
        )
    return math.sqrt(float(special.gammainc(1.5, b * b / 2) / special.gammainc(0.5, b * b / 2)))


def xavier(
    fans: Fans,
    gain: float = 1.0,
    distribution: str = "uniform",
    mode: str = "average",
    bound: float = 2.0,
) -> Independent:
    """Entries of variance gain^2 over the mean of fan_in and fan_out.

    Args:
        fans: of the weight.
        gain: factor, positive.
        distribution: ``normal``, ``uniform`` (as published) or ``truncated``.
        mode: ``average`` (as published), ``fan_in`` or ``fan_out``.
        bound: as for ``independent``.

    Returns:
        The law.

    Raises:
        ArgumentError: for a gain that is not positive or an unknown word.

    Source: Glorot and Bengio 2010.

    >>> xavier(Fans(2, 4)).bound
    1.0
    """
    std = _checks.positive("gain", gain, _GAIN) / math.sqrt(_fan(fans, mode))
    return independent(std, distribution, bound)


def he(
    fans: Fans,
    activation: Activation,
    input_rms: float = 1.0,
    distribution: str = "normal",
    mode: str = "fan_in",
    bound: float = 2.0,
) -> Independent:
    """Entries of variance 1 / (fan_in E f(z)^2), z ~ N(0, 1), f the activation that feeds W.

    For ReLU this is the published 2 / fan_in; for every other activation the exact gain of the same
    idea. It keeps the mean over draws of the signal's mean square, in the limit of infinite width.
    Mode ``fan_out`` keeps that of the gradient, 1 / (fan_out E f'(z)^2), and ``average`` halves the
    difference, 2 / (fan_in E f(z)^2 + fan_out E f'(z)^2).

    Args:
        fans: of the weight.
        activation: what feeds the weight; the identity for the first layer.
        input_rms: RMS of z, positive.
        distribution: ``normal`` (as published), ``uniform`` or ``truncated``.
        mode: ``fan_in``, ``fan_out`` or ``average``.
        bound: as for ``independent``.

    Returns:
        The law under which preactivations (or their gradients) keep variance 1.

    Raises:
        ArgumentError: for an unknown word, a level that is not positive, an f that vanishes, or an
            f that jumps where its gradient counts.

    Source: He et al. 2015, arXiv 1502.01852.

    >>> from equipoise.theory import activations
    >>> round(he(Fans(8, 8), activations.relu()).std, 12)
    0.5
    """
    q = _checks.positive("input_rms", input_rms) ** 2
    match _checks.one_of("mode", mode, MODES):
        case "fan_in":
            power = fans.fan_in * moment_gain(activation, q) ** -2
        case "fan_out":
            power = fans.fan_out * slope_gain(activation, q) ** -2
        case _:
            forward = fans.fan_in * moment_gain(activation, q) ** -2
            power = (forward + fans.fan_out * slope_gain(activation, q) ** -2) / 2
    return independent(1.0 / math.sqrt(power), distribution, bound)


def lecun(
    fans: Fans, gain: float = 1.0, distribution: str = "normal", bound: float = 2.0
) -> Independent:
    """Entries of variance gain^2 / fan_in.

    Args:
        fans: of the weight.
        gain: factor, positive.
        distribution: ``normal``, ``uniform`` or ``truncated``.
        bound: as for ``independent``.

    Returns:
        The law.

    Raises:
        ArgumentError: for a gain that is not positive or an unknown distribution.

    Source: LeCun et al. 1998; for SELU: Klambauer et al. 2017, arXiv 1706.02515.

    >>> lecun(Fans(4, 9)).std
    0.5
    """
    return xavier(fans, gain, distribution, "fan_in", bound)


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


def slope_gain(activation: Activation, q: float = 1.0) -> float:
    """1 / sqrt(E f'(z)^2), z ~ N(0, q): restores the gradient's second moment; sqrt(2) for ReLU.

    Raises:
        ArgumentError: if f is flat at this scale or jumps.

    >>> from equipoise.theory import activations
    >>> round(slope_gain(activations.relu()) ** 2, 12)
    2.0
    """
    energy = math.inf if activation.jumps else statistics(activation, q).slope_energy
    if not 0 < energy < math.inf:
        raise ArgumentError(
            f"activation must have a slope of finite mean square, got {activation} at variance "
            f"{q:g}. Use mode='fan_in'."
        )
    return 1.0 / math.sqrt(energy)


def _fan(fans: Fans, mode: str) -> float:
    match _checks.one_of("mode", mode, MODES):
        case "fan_in":
            return fans.fan_in
        case "fan_out":
            return fans.fan_out
        case _:
            return (fans.fan_in + fans.fan_out) / 2
