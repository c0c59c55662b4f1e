"""Mean-field maps of wide networks: signal length, correlation of two signals, gradient growth.

A layer is z' = W f(z) + b with independent weights of variance weight_var / fan_in and biases of
variance bias_var. As the width grows preactivations become Gaussian, and one layer acts on their
second moment q and on the correlation c of two inputs by the maps of this module. Both statements
hold in the limit of infinite width; at width n corrections of order depth / n remain.

Source: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2016, arXiv 1611.01232.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.bivariate import correlated_second_moment, product_expectation
from equipoise.theory.gaussian import expectation

Array = NDArray[np.float64]


@lru_cache(maxsize=16384)
def energy(activation: Activation, q: float) -> float:
    """E f(z)^2 for z ~ N(0, q), and its limit f(0)^2 at q = 0.

    Args:
        activation: the function f.
        q: second moment of the preactivation, dimensionless, at least 0.

    Returns:
        The second moment, to a relative error below 1e-9.

    Raises:
        ArgumentError: if q is negative or not finite.

    >>> from equipoise.theory import activations
    >>> round(energy(activations.relu(), 3.0), 12)
    1.5
    """
    if q == 0.0:
        return activation.value_at_zero**2
    return expectation(lambda z: activation.f(z) ** 2, q, activation.kinks + activation.jumps).value


@lru_cache(maxsize=16384)
def slope_energy(activation: Activation, q: float) -> float:
    """E f'(z)^2 for z ~ N(0, q), and its limit at q = 0, the mean square of the two slopes there.

    Args:
        activation: the function f, without jumps.
        q: second moment of the preactivation, dimensionless, at least 0.

    Returns:
        The mean-square slope, to a relative error below 1e-9.

    Raises:
        ArgumentError: if q is negative or not finite.

    >>> from equipoise.theory import activations
    >>> round(slope_energy(activations.relu(), 3.0), 12)
    0.5
    """
    if q == 0.0:
        return (activation.slope_left**2 + activation.slope_right**2) / 2
    return expectation(lambda z: activation.df(z) ** 2, q, activation.kinks).value


def length_map(activation: Activation, q: float, weight_var: float, bias_var: float = 0.0) -> float:
    """Second moment of the next preactivation, q' = weight_var E f(z)^2 + bias_var, z ~ N(0, q).

    Args:
        activation: the function f.
        q: second moment of the preactivation, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        q', dimensionless, to a relative error below 1e-9 in the limit of infinite width.

    Raises:
        ArgumentError: for q or weight_var not positive and finite, or bias_var negative.

    Source: Poole et al. 2016, arXiv 1606.05340.

    >>> from equipoise.theory import activations
    >>> round(length_map(activations.relu(), 3.0, 2.0, 0.5), 9)
    3.5
    """
    q, weight_var, bias_var = check_map(q, weight_var, bias_var)
    return weight_var * energy(activation, q) + bias_var


def length_map_slope(activation: Activation, q: float, weight_var: float) -> float:
    """Slope of the length map, dq'/dq = weight_var E z f(z) f'(z) / q, z ~ N(0, q) (Stein).

    It is not chi_1: at a fixed point without bias it is d log q' / d log q.

    Args:
        activation: the function f. Where it jumps the slope is weight_var E f^2 (z^2/q - 1)/(2q).
        q: second moment of the preactivation, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.

    Returns:
        The slope, dimensionless, to about 1e-9.

    Raises:
        ArgumentError: for q or weight_var not positive and finite.

    >>> from equipoise.theory import activations
    >>> round(length_map_slope(activations.relu(), 3.0, 2.0), 9)
    1.0
    """
    q, weight_var, _ = check_map(q, weight_var)
    f, df, std = activation.f, activation.df, math.sqrt(q)
    breaks = activation.kinks + activation.jumps
    if activation.jumps:
        return (
            weight_var
            * expectation(lambda z: f(z) ** 2 * (z * z / q - 1) / (2 * q), q, breaks).value
        )

    def even_part(z: Array) -> Array:
        # The odd part of z f f' integrates to 0, but near a large f(0) it would drown the rest.
        return z * (f(z) * df(z) - f(-z) * df(-z)) / (2 * q)

    noise = 1e-13 * abs(activation.value_at_zero * activation.slope) / std
    mirrored = breaks + tuple(-k for k in breaks)
    return weight_var * expectation(even_part, q, mirrored, floor=noise).value


def correlation_map(
    activation: Activation, c: float, q: float, weight_var: float, bias_var: float = 0.0
) -> float:
    """Correlation of two signals one layer on, c' = (weight_var E f(z1) f(z2) + bias_var) / q'.

    z1, z2 have variance q and correlation c; q' is the length map at q, which is q at a fixed
    point, so that c' = 1 at c = 1 for every q.

    Args:
        activation: the function f.
        c: correlation, from -1 to 1.
        q: second moment of both preactivations, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.
        bias_var: variance of a bias, at least 0.

    Returns:
        c', to about 1e-9; nan where q' is 0.

    Raises:
        ArgumentError: for arguments out of these ranges.

    Source: Poole et al. 2016, arXiv 1606.05340.

    >>> from equipoise.theory import activations
    >>> round(correlation_map(activations.relu(), 0.0, 1.0, 2.0), 9)  # 1 / pi
    0.318309886
    """
    q, weight_var, bias_var = check_map(q, weight_var, bias_var)
    after = length_map(activation, q, weight_var, bias_var)
    if after == 0.0:
        return math.nan
    return (weight_var * correlated_second_moment(activation, q, c).value + bias_var) / after


def correlation_map_slope(activation: Activation, c: float, q: float, weight_var: float) -> float:
    """Slope of the correlation map, dc'/dc = weight_var E f'(z1) f'(z2), z1, z2 ~ N(0, q).

    It is the slope where q is a fixed point of the length map; elsewhere multiply by q / q'. At
    c = 1 it is chi_1.

    Args:
        activation: the function f, without jumps.
        c: correlation, from -1 to 1.
        q: second moment of both preactivations, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.

    Returns:
        The slope, dimensionless, to about 1e-9.

    Raises:
        ArgumentError: for arguments out of these ranges, or an activation that jumps.

    Source: Schoenholz et al. 2016, arXiv 1611.01232.

    >>> from equipoise.theory import activations
    >>> round(correlation_map_slope(activations.relu(), 0.0, 1.0, 2.0), 9)
    0.5
    """
    q, weight_var, _ = check_map(q, weight_var)
    refuse_jumps(activation)
    df, kinks = activation.df, activation.kinks
    return weight_var * product_expectation(df, df, q, q, c, kinks, kinks).value


def chi_1(activation: Activation, q: float, weight_var: float) -> float:
    """Growth per layer of the mean-square gradient, chi_1 = weight_var E f'(z)^2, z ~ N(0, q).

    Args:
        activation: the function f, without jumps.
        q: second moment of the preactivation, dimensionless, positive.
        weight_var: fan_in times the variance of a weight, positive.

    Returns:
        chi_1, dimensionless, to a relative error below 1e-9.

    Raises:
        ArgumentError: for q or weight_var not positive and finite, or an activation that jumps.

    Source: Schoenholz et al. 2016, arXiv 1611.01232.

    >>> from equipoise.theory import activations
    >>> round(chi_1(activations.relu(), 3.0, 2.0), 9)
    1.0
    """
    q, weight_var, _ = check_map(q, weight_var)
    refuse_jumps(activation)
    return weight_var * slope_energy(activation, q)


def check_map(q: float, weight_var: float, bias_var: float = 0.0) -> tuple[float, float, float]:
    """A level and variances as floats; refuse those that no layer can have.

    Args:
        q: second moment of the preactivation, to be positive and finite.
        weight_var: to be positive and finite.
        bias_var: to be finite and at least 0.

    Returns:
        The three in this order, in double precision.

    Raises:
        ArgumentError: naming the one that is not.

    >>> check_map(1, 2)
    (1.0, 2.0, 0.0)
    """
    q = _checks.positive("q", q, "Pass a second moment, not its logarithm.")
    weight_var = _checks.positive("weight_var", weight_var, "Pass sigma_w**2, not its logarithm.")
    if not (math.isfinite(bias_var) and bias_var >= 0):
        raise ArgumentError(
            f"bias_var must be finite and at least 0, got {bias_var}. Pass sigma_b**2."
        )
    return q, weight_var, float(bias_var)


def refuse_jumps(activation: Activation) -> None:
    """Refuse an activation whose mean-square slope is infinite.

    Args:
        activation: to be continuous.

    Raises:
        ArgumentError: if it jumps.

    >>> from equipoise.theory import activations
    >>> refuse_jumps(activations.relu())
    """
    if activation.jumps:
        raise ArgumentError(
            f"activation must be continuous, got {activation}, which jumps: its chi_1 is infinite. "
            "Take a continuous one, such as softshrink for hardshrink."
        )
