"""Activations as data: the function, its derivative, and what theory must know about them.

Functions are evaluated with numpy in float64, so every expectation and every class that follows
needs no framework. Factories are cached by value: ``elu() is elu(1.0)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from inspect import signature
from typing import Literal, ParamSpec

import numpy as np
from numpy.typing import NDArray
from scipy import special

from equipoise import _checks
from equipoise.errors import ArgumentError

Array = NDArray[np.float64]
Parity = Literal["odd", "even", "none"]


@dataclass(frozen=True)
class Activation:
    """A pointwise function f with its derivative and the points where they break.

    Attributes:
        name: the field's name, such as ``gelu`` or ``leaky_relu``.
        f: the function, on float64 arrays of any shape.
        df: its derivative; at a kink either one-sided value may be returned.
        kinks: abscissae where the derivative jumps.
        jumps: abscissae where f itself jumps; derivative statistics are infinite there.
        parity: ``odd``, ``even`` or ``none``.
        slope_left: derivative at 0 from the left.
        slope_right: derivative at 0 from the right.
        parameters: name-value pairs that tell this member of a family from the others.
    """

    name: str
    f: Callable[[Array], Array]
    df: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()
    jumps: tuple[float, ...] = ()
    parity: Parity = "none"
    slope_left: float = 0.0
    slope_right: float = 0.0
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def value_at_zero(self) -> float:
        """f(0)."""
        return float(self.f(np.zeros(1))[0])

    @property
    def slope(self) -> float:
        """Symmetric slope at zero, (f'(0-) + f'(0+)) / 2."""
        return (self.slope_left + self.slope_right) / 2

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v:g}" for k, v in self.parameters)
        return f"{self.name}({inside})" if inside else self.name


P = ParamSpec("P")


def _once(make: Callable[P, Activation]) -> Callable[P, Activation]:
    """Cache a factory by the values of its arguments, however they are passed."""
    form = signature(make)
    cached = lru_cache(maxsize=None)(lambda *values: make(*values))  # type: ignore[call-arg]

    @wraps(make)
    def factory(*args: P.args, **kwargs: P.kwargs) -> Activation:
        bound = form.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.arguments.values())

    return factory


def _sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x), dtype=np.float64)


def _dsigmoid(x: Array) -> Array:
    return _sigmoid(x) * _sigmoid(-x)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _phi(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cdf(x: Array) -> Array:
    return np.asarray(special.ndtr(x), dtype=np.float64)


@_once
def identity() -> Activation:
    """f(x) = x."""
    return linear(1.0)


@_once
def linear(slope: float = 1.0) -> Activation:
    """f(x) = slope * x."""
    a = _checks.finite("slope", slope)
    return Activation(
        "identity" if a == 1.0 else "linear",
        lambda x: a * x,
        lambda x: np.full_like(x, a),
        parity="odd",
        slope_left=a,
        slope_right=a,
        parameters=() if a == 1.0 else (("slope", a),),
    )


@_once
def relu() -> Activation:
    """f(x) = max(x, 0)."""
    return Activation(
        "relu",
        lambda x: np.maximum(x, 0.0),
        lambda x: (x > 0).astype(np.float64),
        kinks=(0.0,),
        slope_right=1.0,
    )


@_once
def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """f(x) = x for x > 0, negative_slope * x otherwise."""
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
    )


@_once
def hardtanh(low: float = -1.0, high: float = 1.0) -> Activation:
    """f(x) = min(max(x, low), high); ``hardtanh(0, 6)`` is ReLU6."""
    if not low < high:
        raise ArgumentError(f"low must be below high, got low={low}, high={high}. Swap them.")
    relu6 = low == 0.0 and high == 6.0
    return Activation(
        "relu6" if relu6 else "hardtanh",
        lambda x: np.clip(x, low, high),
        lambda x: ((x > low) & (x < high)).astype(np.float64),
        kinks=(float(low), float(high)),
        parity="odd" if low == -high else "none",
        slope_left=float(low < 0 <= high),
        slope_right=float(low <= 0 < high),
        parameters=() if relu6 or (low, high) == (-1.0, 1.0) else (("low", low), ("high", high)),
    )


def relu6() -> Activation:
    """f(x) = min(max(x, 0), 6)."""
    return hardtanh(0.0, 6.0)


@_once
def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """f(x) = scale * x for x > 0, scale * alpha * (exp(input_scale * x) - 1) otherwise.

    SELU and CELU are members: ``selu()``, ``celu(alpha)``.
    """
    a, s = _checks.positive("alpha", alpha), _checks.positive("scale", scale)
    k = _checks.positive("input_scale", input_scale)
    selu_like = (a, s, k) == (_SELU_ALPHA, _SELU_SCALE, 1.0)
    named = () if selu_like else tuple(
        (name, v)
        for name, v in (("alpha", a), ("scale", s), ("input_scale", k))
        if v != 1.0
    )  # fmt: skip
    smooth = a * k == 1.0
    return Activation(
        "selu" if selu_like else "elu",
        lambda x: s * np.where(x > 0, x, a * np.expm1(k * np.minimum(x, 0.0))),
        lambda x: s * np.where(x > 0, 1.0, a * k * np.exp(k * np.minimum(x, 0.0))),
        # Even where the slope is continuous the second derivative jumps, which costs a smooth
        # quadrature rule its digits just as a kink does.
        kinks=(0.0,),
        slope_left=s if smooth else s * a * k,
        slope_right=s,
        parameters=named,
    )


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def selu() -> Activation:
    """Scaled ELU with the self-normalizing constants. Source: arXiv 1706.02515."""
    return elu(_SELU_ALPHA, _SELU_SCALE)


def celu(alpha: float = 1.0) -> Activation:
    """f(x) = x for x > 0, alpha * (exp(x / alpha) - 1) otherwise. Source: arXiv 1704.07483."""
    return elu(alpha, 1.0, 1.0 / _checks.positive("alpha", alpha))


@_once
def gelu(approximate: str = "none") -> Activation:
    """f(x) = x Phi(x), or its tanh approximation. Source: arXiv 1606.08415."""
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
        )
    return Activation(
        "gelu",
        lambda x: x * _cdf(x),
        lambda x: _cdf(x) + x * _phi(x),
        slope_left=0.5,
        slope_right=0.5,
    )


@_once
def silu(beta: float = 1.0) -> Activation:
    """f(x) = x sigmoid(beta x), also called swish. Source: arXiv 1710.05941."""
    b = _checks.positive("beta", beta)
    return Activation(
        "silu",
        lambda x: x * _sigmoid(b * x),
        lambda x: _sigmoid(b * x) + b * x * _dsigmoid(b * x),
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if b == 1.0 else (("beta", b),),
    )


def quick_gelu() -> Activation:
    """f(x) = x sigmoid(1.702 x)."""
    return silu(1.702)


@_once
def mish() -> Activation:
    """f(x) = x tanh(log(1 + exp(x))). Source: arXiv 1908.08681."""

    def df(x: Array) -> Array:
        t = np.tanh(_softplus(x))
        return np.asarray(t + x * (1 - t * t) * _sigmoid(x))

    return Activation(
        "mish", lambda x: x * np.tanh(_softplus(x)), df, slope_left=0.6, slope_right=0.6
    )


@_once
def softplus(beta: float = 1.0) -> Activation:
    """f(x) = log(1 + exp(beta x)) / beta."""
    b = _checks.positive("beta", beta)
    return Activation(
        "softplus",
        lambda x: _softplus(b * x) / b,
        lambda x: _sigmoid(b * x),
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if b == 1.0 else (("beta", b),),
    )


@_once
def squareplus(b: float = 4.0) -> Activation:
    """f(x) = (x + sqrt(x^2 + b)) / 2. Source: arXiv 2112.11687."""
    c = _checks.positive("b", b)
    return Activation(
        "squareplus",
        lambda x: np.where(
            x < 0, c / 2 / (np.sqrt(x * x + c) + np.abs(x)), (x + np.sqrt(x * x + c)) / 2
        ),
        lambda x: np.where(
            x < 0,
            c / 2 / (np.sqrt(x * x + c) * (np.sqrt(x * x + c) + np.abs(x))),
            (1 + x / np.sqrt(x * x + c)) / 2,
        ),
        slope_left=0.5,
        slope_right=0.5,
        parameters=() if c == 4.0 else (("b", c),),
    )


@_once
def sigmoid() -> Activation:
    """f(x) = 1 / (1 + exp(-x))."""
    return Activation("sigmoid", _sigmoid, _dsigmoid, slope_left=0.25, slope_right=0.25)


@_once
def logsigmoid() -> Activation:
    """f(x) = log sigmoid(x)."""
    return Activation(
        "logsigmoid",
        lambda x: -_softplus(-x),
        lambda x: _sigmoid(-x),
        slope_left=0.5,
        slope_right=0.5,
    )


@_once
def tanh(scale: float = 1.0) -> Activation:
    """Hyperbolic tangent of scale times x."""
    a = _checks.positive("scale", scale)
    return Activation(
        "tanh",
        lambda x: np.tanh(a * x),
        # 1 - tanh^2 would lose its digits in the tails; beyond 350 the slope is 0 in float64.
        lambda x: a / np.cosh(np.minimum(np.abs(a * x), 350.0)) ** 2,
        parity="odd",
        slope_left=a,
        slope_right=a,
        parameters=() if a == 1.0 else (("scale", a),),
    )


@_once
def softsign() -> Activation:
    """f(x) = x / (1 + |x|)."""
    return Activation(
        "softsign",
        lambda x: x / (1 + np.abs(x)),
        lambda x: 1 / (1 + np.abs(x)) ** 2,
        # The slope is continuous but its derivative jumps: a panel must end here.
        kinks=(0.0,),
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
    )


@_once
def arctan() -> Activation:
    """Inverse tangent."""
    return Activation(
        "arctan",
        np.arctan,
        lambda x: 1 / (1 + x * x),
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
    )


@_once
def erf() -> Activation:
    """Error function."""
    k = 2 / math.sqrt(math.pi)
    return Activation(
        "erf",
        lambda x: np.asarray(special.erf(x), dtype=np.float64),
        lambda x: k * np.exp(-x * x),
        parity="odd",
        slope_left=k,
        slope_right=k,
    )


@_once
def inverse_sqrt() -> Activation:
    """f(x) = x / sqrt(1 + x^2)."""
    return Activation(
        "inverse_sqrt",
        lambda x: x / np.sqrt(1 + x * x),
        lambda x: (1 + x * x) ** -1.5,
        parity="odd",
        slope_left=1.0,
        slope_right=1.0,
    )


@_once
def sin(frequency: float = 1.0) -> Activation:
    """Sine of frequency times x."""
    w = _checks.positive("frequency", frequency)
    return Activation(
        "sin",
        lambda x: np.sin(w * x),
        lambda x: w * np.cos(w * x),
        parity="odd",
        slope_left=w,
        slope_right=w,
        parameters=() if w == 1.0 else (("frequency", w),),
    )


@_once
def hardsigmoid() -> Activation:
    """f(x) = min(max(x / 6 + 1 / 2, 0), 1)."""
    return Activation(
        "hardsigmoid",
        lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0),
        kinks=(-3.0, 3.0),
        slope_left=1 / 6,
        slope_right=1 / 6,
    )


@_once
def hardswish() -> Activation:
    """f(x) = x hardsigmoid(x). Source: arXiv 1905.02244."""
    return Activation(
        "hardswish",
        lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0).astype(np.float64)),
        kinks=(-3.0, 3.0),
        slope_left=0.5,
        slope_right=0.5,
    )


@_once
def tanhshrink() -> Activation:
    """f(x) = x - tanh(x)."""

    def f(x: Array) -> Array:
        # x - tanh(x) cancels near 0; its series x^3/3 - 2x^5/15 + 17x^7/315 takes over there.
        series = x**3 * (1 / 3 - x**2 * (2 / 15 - x**2 * (17 / 315 - x**2 * 62 / 2835)))
        return np.where(np.abs(x) < 0.02, series, x - np.tanh(x))

    return Activation("tanhshrink", f, lambda x: np.tanh(x) ** 2, parity="odd")


@_once
def softshrink(threshold: float = 0.5) -> Activation:
    """f(x) = x - sign(x) threshold where |x| > threshold, else 0."""
    t = _checks.positive("threshold", threshold)
    return Activation(
        "softshrink",
        lambda x: np.sign(x) * np.maximum(np.abs(x) - t, 0.0),
        lambda x: (np.abs(x) > t).astype(np.float64),
        kinks=(-t, t),
        parity="odd",
        parameters=() if t == 0.5 else (("threshold", t),),
    )


@_once
def hardshrink(threshold: float = 0.5) -> Activation:
    """f(x) = x where |x| > threshold, else 0: it jumps, so it has no derivative statistics."""
    t = _checks.positive("threshold", threshold)
    return Activation(
        "hardshrink",
        lambda x: np.where(np.abs(x) > t, x, 0.0),
        lambda x: (np.abs(x) > t).astype(np.float64),
        jumps=(-t, t),
        parity="odd",
        parameters=() if t == 0.5 else (("threshold", t),),
    )


@_once
def squared_relu() -> Activation:
    """f(x) = max(x, 0)^2. Source: arXiv 2109.08668."""
    return Activation(
        "squared_relu",
        lambda x: np.maximum(x, 0.0) ** 2,
        lambda x: 2 * np.maximum(x, 0.0),
        kinks=(0.0,),
    )


def known_activations() -> tuple[Activation, ...]:
    """Every activation of this module at its default parameters.

    >>> [str(a) for a in known_activations()][:3]
    ['identity', 'relu', 'leaky_relu(negative_slope=0.01)']
    """
    return (
        identity(), relu(), leaky_relu(), relu6(), elu(), selu(), celu(2.0), gelu(), gelu("tanh"),
        quick_gelu(), silu(), mish(), softplus(), squareplus(), sigmoid(), logsigmoid(), tanh(),
        hardtanh(), hardsigmoid(), hardswish(), softsign(), arctan(), erf(), inverse_sqrt(), sin(),
        tanhshrink(), softshrink(), hardshrink(), squared_relu(),
    )  # fmt: skip
