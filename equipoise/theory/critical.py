"""The critical line: weight and bias variances at which gradients keep their size.

On it chi_1 = weight_var E f'(z)^2 = 1 at a fixed point q = weight_var E f(z)^2 + bias_var of the
length map, so q itself is a coordinate of the line: both variances are functions of it.

Source: Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2016, arXiv 1611.01232.
"""

import math
from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from equipoise import _checks
from equipoise.theory.activations import Activation
from equipoise.theory.layermaps import check_map, energy, refuse_jumps, slope_energy

Array = NDArray[np.float64]

# Levels searched, and nodes for each factor e of q.
_SMALLEST, _LARGEST, _PER_E_FOLD = 1e-12, 1e6, 3
# Share of q below which a bias variance is rounding.
_SAME = 1e-11


def critical_line(activation: Activation, q: ArrayLike) -> tuple[Array, Array]:
    """Variances (weight_var, bias_var) that make q a fixed point with chi_1 = 1.

    weight_var = 1 / E f'(z)^2 and bias_var = q - weight_var E f(z)^2, z ~ N(0, q). A q at which
    that bias_var would be negative has no critical network: both are nan there. With mean Hermite
    degrees, it is where the mean degree of f (its constant part included) is below 1.

    Args:
        activation: the function f, without jumps.
        q: second moments of the preactivation, dimensionless, positive, any shape.

    Returns:
        Two arrays of the shape of q, to relative errors of 1e-9 of weight_var and of q.

    Raises:
        ArgumentError: if a q is not positive and finite, or the activation jumps.

    >>> from equipoise.theory import activations
    >>> weight_var, bias_var = critical_line(activations.erf(), 2.0)
    >>> round(float(weight_var), 9), round(float(bias_var), 9)  # 3 pi / 4 for the first
    (2.35619449, 0.609057173)
    """
    refuse_jumps(activation)
    levels = np.asarray(q, dtype=np.float64)
    pairs = [_point(activation, _checks.positive("q", v)) for v in levels.ravel().tolist()]
    both = np.array(pairs).reshape(*levels.shape, 2)
    return both[..., 0], both[..., 1]


def _point(activation: Activation, q: float) -> tuple[float, float]:
    share = _bias_share(activation, q)
    if not share >= 0.0:
        return math.nan, math.nan
    return 1.0 / slope_energy(activation, q), q * share


def _bias_share(activation: Activation, q: float) -> float:
    """bias_var / q that the line has at q: 1 - E f^2 / (q E f'^2), 0 where that is rounding.

    Minus infinity where no slope is left, or where the moments leave the range of floats.
    """
    square, slope = energy(activation, q), slope_energy(activation, q)
    if not (square < math.inf and 0.0 < slope < math.inf):
        return -math.inf
    # One after the other: the product of a small level and a small slope may vanish.
    share = 1.0 - square / slope / q
    return 0.0 if abs(share) <= _SAME else share


def critical_weight_var(activation: Activation, bias_var: float = 0.0) -> tuple[float, ...]:
    """All weight_var for which a fixed point of the length map has chi_1 = 1, in rising order.

    Roots over q of q - E f(z)^2 / E f'(z)^2 = bias_var, and the limit q = 0, where without bias
    and with f(0) = 0 the weight_var is 1 over the mean square of the two slopes of f at 0. That
    fixed point need not be the stable one, nor the one reached from q = 1: ``mean_field`` says.

    Args:
        activation: the function f, without jumps.
        bias_var: variance of a bias, at least 0.

    Returns:
        The values, to a relative error of about 1e-9; empty where there is none. Fixed points q
        from 1e-12 to 1e6 are searched, six for each decade; pairs closer than that may be missed.

    Raises:
        ArgumentError: if bias_var is negative or not finite, or the activation jumps.

    >>> from equipoise.theory import activations
    >>> critical_weight_var(activations.relu()), critical_weight_var(activations.relu(), 0.1)
    ((2.0,), ())
    >>> critical_weight_var(activations.tanh())
    (1.0,)
    """
    *_, bias_var = check_map(1.0, 1.0, bias_var)
    refuse_jumps(activation)

    def excess(log_q: float) -> float:
        # Over q, so that rounding is the same at every level.
        q = math.exp(log_q)
        return _bias_share(activation, q) - bias_var / q

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    x = np.linspace(low, high, math.ceil((high - low) * _PER_E_FOLD) + 1)
    values = np.array([excess(v) for v in x])
    sign = np.sign(values).astype(int)

    found: list[float] = []
    at_zero = slope_energy(activation, 0.0)
    if bias_var == 0.0 and activation.value_at_zero == 0.0 and at_zero > 0.0:
        found.append(1.0 / at_zero)
    start = 0
    for value, group in groupby(sign):
        end = start + len(list(group))
        if value == 0 and start == 0 and found:
            # Small signals see f as its slopes at 0: the limit q = 0 stands for all of them.
            pass
        elif value == 0:
            # A homogeneous stretch: one weight_var serves every level in it.
            found.append(1.0 / slope_energy(activation, math.exp(x[(start + end - 1) // 2])))
        elif end < len(x) and sign[end] == -value and np.isfinite(values[end - 1 : end + 1]).all():
            root = optimize.brentq(excess, x[end - 1], x[end], xtol=1e-13, rtol=1e-13)
            found.append(1.0 / slope_energy(activation, math.exp(root)))
        start = end
    return _distinct(sorted(found))


def _distinct(ordered: list[float]) -> tuple[float, ...]:
    """Values without repetitions to rounding."""
    kept: list[float] = []
    for value in ordered:
        if not kept or value > kept[-1] * (1 + 1e-9):
            kept.append(value)
    return tuple(kept)
