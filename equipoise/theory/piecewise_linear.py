"""Activations made of straight pieces: lines, ReLU and its kin, clipped lines, shrinkage."""

import math

import numpy as np

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activation import Activation, cached_by_value


@cached_by_value
def identity() -> Activation:
    """f(x) = x.

    >>> import numpy as np
    >>> identity().f(np.array([-2.0, 3.0])).tolist()
    [-2.0, 3.0]
    """
    return linear(1.0)


@cached_by_value
def linear(slope: float = 1.0) -> Activation:
    """f(x) = slope * x.

    Args:
        slope: any finite number; 1 gives ``identity``.

    Returns:
        The activation.

    Raises:
        ArgumentError: if slope is not finite.

    >>> linear(2.0).slope, linear(1.0) is identity()
    (2.0, True)
    """
    a = _checks.finite("slope", slope)
    reach = math.inf if a else 0.0
    return Activation(
        "identity" if a == 1.0 else "linear",
        lambda x: a * x,
        lambda x: np.full_like(x, a),
        parity="odd",
        slope_left=a,
        slope_right=a,
        parameters=() if a == 1.0 else (("slope", a),),
        lower=-reach,
        upper=reach,
        homogeneity=1.0,
    )


@cached_by_value
def relu() -> Activation:
    """f(x) = max(x, 0).

    >>> import numpy as np
    >>> relu().f(np.array([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    return Activation(
        "relu",
        lambda x: np.maximum(x, 0.0),
        lambda x: (x > 0).astype(np.float64),
        kinks=(0.0,),
        slope_right=1.0,
        lower=0.0,
        upper=math.inf,
        homogeneity=1.0,
    )


@cached_by_value
def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """f(x) = x for x > 0, negative_slope * x otherwise.

    Args:
        negative_slope: any finite number; 0 gives ``relu``, 1 ``identity``, -1 the absolute value.

    Returns:
        The activation.

    Raises:
        ArgumentError: if negative_slope is not finite.

    >>> leaky_relu(0.25).slope_left, leaky_relu(0.0) is relu()
    (0.25, True)
    """
    a = _checks.finite("negative_slope", negative_slope)
    if a == 0.0:
        return relu()
    if a == 1.0:
        return identity()
    return Activation(
        "leaky_relu",
        lambda x: np.where(x > 0, x, a * x),
        lambda x: np.where(x > 0, 1.0, a),
        kinks=(0.0,),
        parity="even" if a == -1.0 else "none",
        slope_left=a,
        slope_right=1.0,
        parameters=(("negative_slope", a),),
        lower=-math.inf if a > 0 else 0.0,
        upper=math.inf,
        homogeneity=1.0,
    )


def prelu(weight: float = 0.25) -> Activation:
    """f(x) = x for x > 0, weight * x otherwise: a leaky ReLU whose slope is learned.

    Args:
        weight: the slope as it stands, any finite number; 0.25 is where training starts.

    Returns:
        ``leaky_relu(weight)``: the function is the same.

    Raises:
        ArgumentError: if weight is not finite.

    Source: arXiv 1502.01852.

    >>> prelu() is leaky_relu(0.25)
    True
    """
    return leaky_relu(_checks.finite("weight", weight))


def rrelu(lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Activation:
    """f(x) = x for x > 0, a x otherwise, with a random slope a in training.

    Evaluation uses the mean slope m = (lower + upper) / 2. Training draws a ~ U(lower, upper) for
    each entry, and no fixed function is the same in all respects. The leaky ReLU of slope
    r = sqrt(E a^2) = sqrt((lower^2 + lower upper + upper^2) / 3), with the sign of m, keeps
    E f(z)^2 and E f'(z)^2, a drawn with z, for every law of z: so it keeps the length map and
    chi_1. It does not keep what is linear in a (E f, E f' and the linear part, which have m), nor
    E f(z1) f(z2) of two inputs, whose slopes are independent (m^2 where r^2 stands), nor E f^4
    (E a^4 > r^4), nor E log|f| (E log|a| < log r).

    Args:
        lower: least slope of the negative side, finite.
        upper: greatest slope of the negative side, at least ``lower``.
        training: whether slopes are drawn.

    Returns:
        ``leaky_relu(m)``, or ``leaky_relu(r)`` in training.

    Raises:
        ArgumentError: if a slope is not finite, or if lower exceeds upper.

    Source: arXiv 1505.00853.

    >>> rrelu(0.1, 0.3) is leaky_relu(0.2)
    True
    >>> round(rrelu(0.0, 0.3, training=True).slope_left ** 2, 12)
    0.03
    """
    low, high = _checks.finite("lower", lower), _checks.finite("upper", upper)
    if low > high:
        raise ArgumentError(
            f"lower must be at most upper, got lower={low:g}, upper={high:g}. Swap them."
        )
    mean = (low + high) / 2
    if not training:
        return leaky_relu(mean)
    # E a^2 as mean^2 + variance: exact where the two bounds meet.
    return leaky_relu(math.copysign(math.hypot(mean, (high - low) / math.sqrt(12)), mean))


@cached_by_value
def hardtanh(low: float = -1.0, high: float = 1.0) -> Activation:
    """f(x) = min(max(x, low), high); ``hardtanh(0, 6)`` is ReLU6.

    Args:
        low: least value, finite.
        high: greatest value, finite, above ``low``.

    Returns:
        The activation.

    Raises:
        ArgumentError: if a bound is not finite, or if low is not below high.

    >>> hardtanh(-2.0, 1.0).kinks, hardtanh(0.0, 6.0) is relu6()
    ((-2.0, 1.0), True)
    """
    remedy = "Leave out a bound that does not bind: that is relu or identity."
    low, high = _checks.finite("low", low, remedy), _checks.finite("high", high, remedy)
    if not low < high:
        raise ArgumentError(f"low must be below high, got low={low:g}, high={high:g}. Swap them.")
    is_relu6 = low == 0.0 and high == 6.0
    return Activation(
        "relu6" if is_relu6 else "hardtanh",
        lambda x: np.clip(x, low, high),
        lambda x: ((x > low) & (x < high)).astype(np.float64),
        kinks=(low, high),
        parity="odd" if low == -high else "none",
        slope_left=float(low < 0 <= high),
        slope_right=float(low <= 0 < high),
        parameters=() if is_relu6 or (low, high) == (-1.0, 1.0) else (("low", low), ("high", high)),
        lower=low,
        upper=high,
    )


def relu6() -> Activation:
    """f(x) = min(max(x, 0), 6).

    >>> relu6().upper
    6.0
    """
    return hardtanh(0.0, 6.0)


@cached_by_value
def hardsigmoid() -> Activation:
    """f(x) = min(max(x / 6 + 1 / 2, 0), 1).

    >>> import numpy as np
    >>> hardsigmoid().f(np.array([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return Activation(
        "hardsigmoid",
        lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0),
        kinks=(-3.0, 3.0),
        slope_left=1 / 6,
        slope_right=1 / 6,
        lower=0.0,
        upper=1.0,
    )


@cached_by_value
def softshrink(threshold: float = 0.5) -> Activation:
    """f(x) = x - sign(x) threshold where |x| > threshold, else 0.

    Args:
        threshold: half-width of the dead zone, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if threshold is not positive and finite.

    >>> import numpy as np
    >>> softshrink().f(np.array([-2.0, 0.4])).tolist()
    [-1.5, 0.0]
    """
    t = _checks.positive("threshold", threshold)
    return Activation(
        "softshrink",
        lambda x: np.sign(x) * np.maximum(np.abs(x) - t, 0.0),
        lambda x: (np.abs(x) > t).astype(np.float64),
        kinks=(-t, t),
        parity="odd",
        parameters=() if t == 0.5 else (("threshold", t),),
        lower=-math.inf,
        upper=math.inf,
    )


@cached_by_value
def hardshrink(threshold: float = 0.5) -> Activation:
    """f(x) = x where |x| > threshold, else 0: it jumps, so it has no derivative statistics.

    Args:
        threshold: half-width of the dead zone, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if threshold is not positive and finite.

    >>> hardshrink().jumps
    (-0.5, 0.5)
    """
    t = _checks.positive("threshold", threshold)
    return Activation(
        "hardshrink",
        lambda x: np.where(np.abs(x) > t, x, 0.0),
        lambda x: (np.abs(x) > t).astype(np.float64),
        jumps=(-t, t),
        parity="odd",
        parameters=() if t == 0.5 else (("threshold", t),),
        lower=-math.inf,
        upper=math.inf,
    )
