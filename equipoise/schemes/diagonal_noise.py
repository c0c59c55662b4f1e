"""Diagonal + noise weights for tanh-like networks, and the noise that a target layer asks for."""

import math

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import DiagonalNoise
from equipoise.theory import noiselaw
from equipoise.theory.activations import Activation
from equipoise.theory.diagonal_noise import noise_scale_for_sign_memory
from equipoise.theory.noiselaw import NoiseLaw
from equipoise.theory.oddsigmoid import odd_sigmoid

PUBLISHED_ALPHA = 0.085
NOISES = ("normal", "uniform", "truncated_normal", "laplace", "student_t")


def noise_law(name: str, parameter: float = 0.0) -> NoiseLaw:
    """The law of the noise by name, of mean 0 and standard deviation 1.

    Args:
        name: ``normal``, ``uniform``, ``truncated_normal``, ``laplace`` or ``student_t``.
        parameter: bound of the truncated law or degrees of freedom of Student's; 0 for the default.

    Returns:
        The law.

    Raises:
        ArgumentError: for an unknown name or a parameter out of range.

    >>> noise_law("student_t", 3.0).excess_kurtosis
    inf
    """
    match _checks.one_of("noise", name, NOISES):
        case "uniform":
            return noiselaw.uniform()
        case "truncated_normal":
            return noiselaw.truncated_normal(parameter or 2.0)
        case "laplace":
            return noiselaw.laplace()
        case "student_t":
            return noiselaw.student_t(parameter or 5.0)
        case _:
            return noiselaw.normal()


def diagonal_noise(
    fans: Fans,
    activation: Activation,
    alpha: float = PUBLISHED_ALPHA,
    noise: str = "normal",
    parameter: float = 0.0,
) -> DiagonalNoise:
    """W = omega D + Z with D_ij = 1 where i = j (mod fan_in) and Z_ij of std alpha / sqrt(fan_in).

    omega = 1 / f'(0), which is 1 for tanh, keeps small signals on the edge of f's fixed point at 0.

    Args:
        fans: of the weight.
        activation: f, with a non-zero slope at 0.
        alpha: noise scale, positive; 0.085 is the published value.
        noise: law of the entries of Z, as for ``noise_law``; ``normal`` is published.
        parameter: of that law.

    Returns:
        The law.

    Raises:
        ArgumentError: if the activation has no slope at 0, or for a noise that is not known.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242; other noise: arXiv 2509.23085.

    >>> from equipoise.theory import activations
    >>> law = diagonal_noise(Fans(25, 16), activations.tanh())
    >>> law.diagonal, law.noise_std
    (1.0, 0.017)
    """
    if activation.slope == 0.0 or not math.isfinite(activation.slope):
        raise ArgumentError(
            f"activation must have a non-zero slope at 0, got {activation}. Use another scheme."
        )
    noise_law(noise, parameter)
    scale = _checks.positive("alpha", alpha, f"{PUBLISHED_ALPHA} is published.")
    std = scale / math.sqrt(fans.fan_in)
    return DiagonalNoise(1.0 / activation.slope, std, noise, parameter)


def odd_sigmoid_scale(activation: Activation, layer: int, memory: float = 0.5) -> float:
    """The alpha at which a network of an odd sigmoid still knows signs at a target layer.

    alpha^2 = ln(0.776 / memory) / (0.4626 kappa^2 L), to leading order in alpha.

    Args:
        activation: f, in the odd-sigmoid class.
        layer: L, at least 1.
        memory: E sgn x_0 sgn x_L, 1e-12 to 0.88.

    Returns:
        alpha.

    Raises:
        ArgumentError: naming the property of the class that f lacks, or for a target that little
            noise does not reach.

    Source: Lee, Choi and Kim 2025, arXiv 2509.23085 (the class and the idea of a target layer).

    >>> from equipoise.theory import activations
    >>> round(odd_sigmoid_scale(activations.tanh(), 100), 4)
    0.0988
    """
    membership = odd_sigmoid(activation)
    if not membership.is_wide_member:
        raise ArgumentError(
            f"activation must be an odd sigmoid, but {membership.reason}. "
            "Use tanh, erf, arctan, softsign or another scheme."
        )
    return noise_scale_for_sign_memory(activation, layer, memory)
