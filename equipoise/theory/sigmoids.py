"""Sigmoids and other odd or saturating curves."""

import math

import numpy as np
from scipy import special

from equipoise import _checks
from equipoise.theory.activation import Activation, Array, cached_by_value


def _sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x), dtype=np.float64)


@cached_by_value
def sigmoid() -> Activation:
    """f(x) = 1 / (1 + exp(-x)).

    >>> sigmoid().slope, sigmoid().value_at_zero
    (0.25, 0.5)
    """
    return Activation(
        "sigmoid",
        _sigmoid,
        lambda x: _sigmoid(x) * _sigmoid(-x),
        slope_left=0.25,
        slope_right=0.25,
        lower=0.0,
        upper=1.0,
    )


@cached_by_value
def logsigmoid() -> Activation:
    """f(x) = log sigmoid(x).

    >>> round(logsigmoid().value_at_zero, 12)  # -log 2
    -0.69314718056
    """
    return Activation(
        "logsigmoid",
        lambda x: -np.logaddexp(0.0, -x),
        lambda x: _sigmoid(-x),
        slope_left=0.5,
        slope_right=0.5,
        lower=-math.inf,
        upper=0.0,
    )


@cached_by_value
def tanh(scale: float = 1.0) -> Activation:
    """Hyperbolic tangent, of scale * x.

    Args:
        scale: slope at 0, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if scale is not positive and finite.

    >>> tanh(0.5).slope
    0.5
    """
    a = _checks.positive("scale", scale)

    def df(x: Array) -> Array:
        # 1 - tanh^2 would lose its digits in the tails, 1 / cosh^2 would overflow.
        u = np.exp(-2 * np.abs(a * x))
        return np.asarray(4 * a * u / (1 + u) ** 2)

    return Activation(
        "tanh",
        lambda x: np.tanh(a * x),
        df,
        parity="odd",
        slope_left=a,
        slope_right=a,
        parameters=() if a == 1.0 else (("scale", a),),
        lower=-1.0,
        upper=1.0,
    )


@cached_by_value
def softsign() -> Activation:
    """f(x) = x / (1 + |x|); its slope is continuous and its second derivative jumps at 0.

    >>> softsign().bends, softsign().corners
    ((0.0,), ())
    """
    return Activation(
        "softsign",
        lambda x: x / (1 + np.abs(x)),
        lambda x: 1 / (1 + np.abs(x)) ** 2,
        kinks=(0.0,),
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
        bends=(0.0,),
        lower=-1.0,
        upper=1.0,
    )


@cached_by_value
def arctan() -> Activation:
    """Inverse tangent.

    >>> arctan().upper == math.pi / 2
    True
    """
    return Activation(
        "arctan",
        np.arctan,
        lambda x: 1 / (1 + x * x),
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
        lower=-math.pi / 2,
        upper=math.pi / 2,
    )


@cached_by_value
def erf() -> Activation:
    """Error function, (2 / sqrt(pi)) times the integral of exp(-t^2) from 0 to x.

    >>> erf().slope == 2 / math.sqrt(math.pi)
    True
    """
    k = 2 / math.sqrt(math.pi)
    return Activation(
        "erf",
        lambda x: np.asarray(special.erf(x), dtype=np.float64),
        lambda x: k * np.exp(-x * x),
        parity="odd",
        slope_left=k,
        slope_right=k,
        lower=-1.0,
        upper=1.0,
    )


@cached_by_value
def inverse_sqrt() -> Activation:
    """f(x) = x / sqrt(1 + x^2).

    Source: arXiv 1710.09967.

    >>> import numpy as np
    >>> inverse_sqrt().f(np.array([0.75])).round(12).tolist()
    [0.6]
    """
    return Activation(
        "inverse_sqrt",
        lambda x: x / np.sqrt(1 + x * x),
        lambda x: (1 + x * x) ** -1.5,
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
        lower=-1.0,
        upper=1.0,
    )


@cached_by_value
def sin(frequency: float = 1.0) -> Activation:
    """Sine, of frequency * x.

    Args:
        frequency: slope at 0, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if frequency is not positive and finite.

    Source: arXiv 2006.09661.

    >>> sin(30.0).slope
    30.0
    """
    w = _checks.positive("frequency", frequency)
    return Activation(
        "sin",
        lambda x: np.sin(w * x),
        lambda x: w * np.cos(w * x),
        parity="odd",
        slope_left=w,
        slope_right=w,
        parameters=() if w == 1.0 else (("frequency", w),),
        lower=-1.0,
        upper=1.0,
    )


# x - tanh(x) = x^3 (1/3 - 2 x^2 / 15 + ...), from the tangent numbers. With eight terms the rest is
# below 1e-17 of the value for |x| < 0.1.
_TANHSHRINK_SERIES = (
    1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075, 929569 / 638512875,
    -6404582 / 10854718875,
)  # fmt: skip


@cached_by_value
def tanhshrink() -> Activation:
    """f(x) = x - tanh(x), about x^3 / 3 near 0.

    >>> tanhshrink().slope
    0.0
    """

    def f(x: Array) -> Array:
        # The difference cancels near 0, where its series takes over.
        near = np.where(np.abs(x) < 0.1, x, 0.0)
        series = near**3 * np.polynomial.polynomial.polyval(near * near, _TANHSHRINK_SERIES)
        return np.where(np.abs(x) < 0.1, series, x - np.tanh(x))

    return Activation(
        "tanhshrink",
        f,
        lambda x: np.tanh(x) ** 2,
        parity="odd",
        lower=-math.inf,
        upper=math.inf,
    )
