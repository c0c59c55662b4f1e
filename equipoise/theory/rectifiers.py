"""Curved rectifiers: near 0 or a constant on the left, growing on the right."""

import math

import numpy as np
from scipy import special

from equipoise import _checks
from equipoise.theory.activation import Activation, Array, cached_by_value

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946

# Least values, at the roots of f'; that of silu is -W(1/e), W Lambert's function.
_LEAST_GELU = -0.1699712074799036616938684694
_LEAST_GELU_TANH = -0.1700407505712540506390674280
_LEAST_SILU = -0.2784645427610737951093587390
_LEAST_MISH = -0.3088434130172504066287602290


def _sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x), dtype=np.float64)


def _cdf(x: Array) -> Array:
    return np.asarray(special.ndtr(x), dtype=np.float64)


def _phi(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@cached_by_value
def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """f(x) = scale * x for x > 0, scale * alpha * (exp(input_scale * x) - 1) otherwise.

    SELU and CELU are members: ``selu()``, ``celu(alpha)``. The slope is continuous at 0 where
    alpha * input_scale = 1; its derivative jumps even there.

    Args:
        alpha: depth of the negative side before scaling, positive.
        scale: factor of the whole, positive.
        input_scale: factor of x on the negative side, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if a parameter is not positive and finite.

    Source: arXiv 1511.07289.

    >>> elu(2.0).slope_left, elu(2.0).lower, elu().bends
    (2.0, -2.0, (0.0,))
    """
    a, s = _checks.positive("alpha", alpha), _checks.positive("scale", scale)
    k = _checks.positive("input_scale", input_scale)
    is_selu = (a, s, k) == (_SELU_ALPHA, _SELU_SCALE, 1.0)
    named = () if is_selu else tuple(
        (name, v)
        for name, v in (("alpha", a), ("scale", s), ("input_scale", k))
        if v != 1.0
    )  # fmt: skip
    # alpha * (1 / alpha) may miss 1 by a rounding.
    smooth = math.isclose(a * k, 1.0, rel_tol=4e-16)
    return Activation(
        "selu" if is_selu else "elu",
        lambda x: s * np.where(x > 0, x, a * np.expm1(k * np.minimum(x, 0.0))),
        lambda x: s * np.where(x > 0, 1.0, a * k * np.exp(k * np.minimum(x, 0.0))),
        # Even where the slope is continuous the second derivative jumps, which costs a smooth
        # quadrature rule its digits just as a kink does.
        kinks=(0.0,),
        slope_left=s if smooth else s * a * k,
        slope_right=s,
        parameters=named,
        bends=(0.0,) if smooth else (),
        lower=-s * a,
        upper=math.inf,
    )


def selu() -> Activation:
    """Scaled ELU with the self-normalizing constants: N(0, 1) in, mean 0 and variance 1 out.

    Source: arXiv 1706.02515.

    >>> round(selu().slope_left, 9)
    1.758099341
    """
    return elu(_SELU_ALPHA, _SELU_SCALE)


def celu(alpha: float = 1.0) -> Activation:
    """f(x) = x for x > 0, alpha * (exp(x / alpha) - 1) otherwise: ELU with a continuous slope.

    Args:
        alpha: depth of the negative side, positive.

    Returns:
        ``elu(alpha, 1, 1 / alpha)``.

    Raises:
        ArgumentError: if alpha is not positive and finite.

    Source: arXiv 1704.07483.

    >>> celu(3.0).slope_left, celu(3.0).corners
    (1.0, ())
    """
    return elu(alpha, 1.0, 1.0 / _checks.positive("alpha", alpha))


@cached_by_value
def gelu(approximate: str = "none") -> Activation:
    """f(x) = x Phi(x), or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    Args:
        approximate: ``none`` for the first, ``tanh`` for the second.

    Returns:
        The activation.

    Raises:
        ArgumentError: if approximate is neither.

    Source: arXiv 1606.08415.

    >>> round(gelu().lower, 12), round(gelu("tanh").lower, 12)
    (-0.16997120748, -0.170040750571)
    """
    _checks.one_of("approximate", approximate, ("none", "tanh"))
    if approximate == "tanh":
        k, c = math.sqrt(2 / math.pi), 0.044715

        def gate(x: Array) -> Array:
            return _sigmoid(2 * k * (x + c * x**3))

        return Activation(
            "gelu_tanh",
            lambda x: x * gate(x),
            lambda x: gate(x) + x * gate(x) * gate(-x) * 2 * k * (1 + 3 * c * x * x),
            slope_left=0.5,
            slope_right=0.5,
            lower=_LEAST_GELU_TANH,
            upper=math.inf,
        )
    return Activation(
        "gelu",
        lambda x: x * _cdf(x),
        lambda x: _cdf(x) + x * _phi(x),
        slope_left=0.5,
        slope_right=0.5,
        lower=_LEAST_GELU,
        upper=math.inf,
    )


@cached_by_value
def silu(beta: float = 1.0) -> Activation:
    """f(x) = x sigmoid(beta x), also called swish; its least value is -W(1/e) / beta.

    Args:
        beta: sharpness of the gate, positive.

    Returns:
        The activation.

    Raises:
        ArgumentError: if beta is not positive and finite.

    Source: arXiv 1710.05941.

    >>> round(silu(2.0).lower, 12)
    -0.139232271381
    """
    b = _checks.positive("beta", beta)
    return Activation(
        "silu",
        lambda x: x * _sigmoid(b * x),
        lambda x: _sigmoid(b * x) + b * x * _sigmoid(b * x) * _sigmoid(-b * x),
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if b == 1.0 else (("beta", b),),
        lower=_LEAST_SILU / b,
        upper=math.inf,
    )


def quick_gelu() -> Activation:
    """f(x) = x sigmoid(1.702 x), the sigmoid approximation of GELU.

    Source: arXiv 1606.08415.

    >>> quick_gelu() is silu(1.702)
    True
    """
    return silu(1.702)


@cached_by_value
def mish() -> Activation:
    """f(x) = x tanh(log(1 + exp(x))).

    Source: arXiv 1908.08681.

    >>> round(mish().lower, 12), mish().slope
    (-0.308843413017, 0.6)
    """

    # tanh(log(1 + u)) = n / (n + 2) with n = u (u + 2): no digit is lost in either tail. Beyond 40
    # the gate is 1 in float64, and u stays far from overflow.
    def squared(x: Array) -> Array:
        u = np.exp(np.minimum(x, 40.0))
        return np.asarray(u * (u + 2))

    def f(x: Array) -> Array:
        n = squared(x)
        return np.asarray(x * (n / (n + 2)))

    def df(x: Array) -> Array:
        n = squared(x)
        return np.asarray(n / (n + 2) + x * _sigmoid(x) * 4 * (n + 1) / (n + 2) ** 2)

    return Activation(
        "mish", f, df, slope_left=0.6, slope_right=0.6, lower=_LEAST_MISH, upper=math.inf
    )


@cached_by_value
def softplus(beta: float = 1.0) -> Activation:
    """f(x) = log(1 + exp(beta x)) / beta.

    Args:
        beta: sharpness, positive; f tends to ReLU as it grows.

    Returns:
        The activation.

    Raises:
        ArgumentError: if beta is not positive and finite.

    >>> round(softplus(2.0).value_at_zero, 12)  # log(2) / 2
    0.34657359028
    """
    b = _checks.positive("beta", beta)
    return Activation(
        "softplus",
        lambda x: np.logaddexp(0.0, b * x) / b,
        lambda x: _sigmoid(b * x),
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if b == 1.0 else (("beta", b),),
        lower=0.0,
        upper=math.inf,
    )


@cached_by_value
def squareplus(b: float = 4.0) -> Activation:
    """f(x) = (x + sqrt(x^2 + b)) / 2.

    Args:
        b: width of the bend, positive; f(0) = sqrt(b) / 2.

    Returns:
        The activation.

    Raises:
        ArgumentError: if b is not positive and finite.

    Source: arXiv 2112.11687.

    >>> squareplus().value_at_zero
    1.0
    """
    c = _checks.positive("b", b)

    def f(x: Array) -> Array:
        # The sum cancels on the left: there b / 2 over the sum of sizes is the same number.
        total = np.sqrt(x * x + c) + np.abs(x)
        return np.where(x < 0, c / 2 / total, total / 2)

    def df(x: Array) -> Array:
        return f(x) / np.sqrt(x * x + c)

    return Activation(
        "squareplus",
        f,
        df,
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if c == 4.0 else (("b", c),),
        lower=0.0,
        upper=math.inf,
    )


@cached_by_value
def hardswish() -> Activation:
    """f(x) = x min(max(x / 6 + 1 / 2, 0), 1).

    Source: arXiv 1905.02244.

    >>> hardswish().lower  # at x = -3/2
    -0.375
    """
    return Activation(
        "hardswish",
        lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0).astype(np.float64)),
        kinks=(-3.0, 3.0),
        slope_left=0.5,
        slope_right=0.5,
        lower=-0.375,
        upper=math.inf,
    )


@cached_by_value
def squared_relu() -> Activation:
    """f(x) = max(x, 0)^2; its slope is continuous and its second derivative jumps.

    Source: arXiv 2109.08668.

    >>> squared_relu().homogeneity, squared_relu().bends
    (2.0, (0.0,))
    """
    return Activation(
        "squared_relu",
        lambda x: np.maximum(x, 0.0) ** 2,
        lambda x: 2 * np.maximum(x, 0.0),
        kinks=(0.0,),
        bends=(0.0,),
        lower=0.0,
        upper=math.inf,
        homogeneity=2.0,
    )
