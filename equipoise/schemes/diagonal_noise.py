"""Diagonal + noise weights for tanh-like networks."""

import math

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import DiagonalNoise
from equipoise.theory.activations import Activation

PUBLISHED_ALPHA = 0.085


def diagonal_noise(
    fans: Fans, activation: Activation, alpha: float = PUBLISHED_ALPHA
) -> DiagonalNoise:
    """W = omega D + Z with D_ij = 1 where i = j (mod fan_in) and Z_ij ~ N(0, alpha^2 / fan_in).

    omega = 1 / f'(0), which is 1 for tanh, keeps small signals on the edge of f's fixed point at 0.

    Args:
        fans: of the weight.
        activation: f, with a non-zero slope at 0.
        alpha: noise scale, positive; 0.085 is the published value.

    Returns:
        The law.

    Raises:
        ArgumentError: if the activation has no slope at 0.

    Source: Lee, Choi and Choi 2024, arXiv 2410.02242.

    >>> from equipoise.theory import activations
    >>> diagonal_noise(Fans(25, 16), activations.tanh())
    DiagonalNoise(diagonal=1.0, noise_std=0.017)
    """
    if activation.slope == 0.0 or not math.isfinite(activation.slope):
        raise ArgumentError(
            f"activation must have a non-zero slope at 0, got {activation}. Use another scheme."
        )
    noise = _checks.positive("alpha", alpha) / math.sqrt(fans.fan_in)
    return DiagonalNoise(1.0 / activation.slope, noise)
