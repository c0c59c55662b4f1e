"""The named activations, in one place.

They are evaluated with numpy in float64, so every expectation and every class that follows needs no
framework. Factories are cached by value: ``elu() is elu(1.0)``.
"""

from equipoise.theory.activation import Activation, Array, Parity
from equipoise.theory.piecewise_linear import (
    hardshrink,
    hardsigmoid,
    hardtanh,
    identity,
    leaky_relu,
    linear,
    prelu,
    relu,
    relu6,
    rrelu,
    softshrink,
)
from equipoise.theory.rectifiers import (
    celu,
    elu,
    gelu,
    hardswish,
    mish,
    quick_gelu,
    selu,
    silu,
    softplus,
    squared_relu,
    squareplus,
)
from equipoise.theory.sigmoids import (
    arctan,
    erf,
    inverse_sqrt,
    logsigmoid,
    sigmoid,
    sin,
    softsign,
    tanh,
    tanhshrink,
)

__all__ = [
    "Activation",
    "Array",
    "Parity",
    "arctan",
    "celu",
    "elu",
    "erf",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "identity",
    "inverse_sqrt",
    "known_activations",
    "leaky_relu",
    "linear",
    "logsigmoid",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "softshrink",
    "softsign",
    "squared_relu",
    "squareplus",
    "tanh",
    "tanhshrink",
]


def known_activations() -> tuple[Activation, ...]:
    """Every distinct activation of this module at its default parameters.

    >>> [str(a) for a in known_activations()][:3]
    ['identity', 'relu', 'leaky_relu(negative_slope=0.01)']
    """
    return (
        identity(), relu(), leaky_relu(), relu6(), elu(), selu(), celu(2.0), gelu(), gelu("tanh"),
        quick_gelu(), silu(), mish(), softplus(), squareplus(), sigmoid(), logsigmoid(), tanh(),
        hardtanh(), hardsigmoid(), hardswish(), softsign(), arctan(), erf(), inverse_sqrt(), sin(),
        tanhshrink(), softshrink(), hardshrink(), squared_relu(),
    )  # fmt: skip
