"""Networks of sines: the published law of their weights and phases."""

import math

import numpy as np

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Uniform
from equipoise.theory.activations import Activation

# Sines differ from anything else by far more than the rounding of a probed function.
_SAME = 1e-6
_PERIODS = 4.0
# Where the frequency of a cosine is read: before its first minimum.
_NEAR = 1e-3


def sine_frequency(activation: Activation) -> float:
    """Frequency w of an activation sin(w x), 0 for any other.

    Args:
        activation: read or probed.

    Returns:
        w, positive; 0 where f is something else.

    >>> from equipoise.theory import activations
    >>> sine_frequency(activations.sin(30.0)), sine_frequency(activations.tanh())
    (30.0, 0.0)
    """
    near = activation.slope
    if activation.parity != "odd" or not 0.0 < near < math.inf:
        return 0.0
    # The slope of a probed function has rounding of its own, which the sine has not.
    place = 0.5 / near
    w = _tidy(math.asin(max(-1.0, min(1.0, float(activation.f(np.array([place]))[0])))) / place)
    if not w > 0.0:
        return 0.0
    x = np.linspace(0.0, _PERIODS * 2.0 * math.pi / w, 1001)
    return w if float(np.max(np.abs(activation.f(x) - np.sin(w * x)))) < _SAME else 0.0


def cosine_frequency(activation: Activation) -> float:
    """Frequency w > 0 of an activation cos(w x), 0 for any other.

    Args:
        activation: read or probed; frequencies up to 1,000 are found.

    >>> from equipoise.theory import activations
    >>> cosine_frequency(activations.sin())
    0.0
    """
    if activation.parity != "even" or abs(activation.value_at_zero - 1.0) > _SAME:
        return 0.0
    near = float(activation.f(np.array([_NEAR]))[0])
    w = _tidy(math.acos(max(-1.0, min(1.0, near))) / _NEAR)
    if not w > 0.0:
        return 0.0
    x = np.linspace(0.0, _PERIODS * 2.0 * math.pi / w, 1001)
    return w if float(np.max(np.abs(activation.f(x) - np.cos(w * x)))) < _SAME else 0.0


def _tidy(w: float) -> float:
    """A frequency without the rounding of its reading."""
    return float(f"{w:.8g}")


def siren(
    fans: Fans, frequency: float = 1.0, c: float = 6.0, is_first: bool = False, first: float = 1.0
) -> Uniform:
    """Uniform entries: bound first / fan_in of a first layer, sqrt(c / fan_in) / w of the others.

    Of a hidden layer with c = 6, w W h has variance 1 where h = sin(u) with u spread over a period,
    so that every sine sees the same. In the first layer w times the bound is the highest frequency
    that the network starts with: what it should be is a matter of the task.

    Args:
        fans: of the weight.
        frequency: w of the sine that follows, positive; of the last layer, that of the sine before.
        c: 6 in the paper, positive.
        is_first: whether the layer reads coordinates.
        first: numerator of the first layer's bound, positive.

    Returns:
        The law.

    Raises:
        ArgumentError: if frequency, c or first is not positive and finite.

    Source: Sitzmann et al. 2020, arXiv 2006.09661.

    >>> siren(Fans(2, 64), 30.0, is_first=True).bound, siren(Fans(6, 64), 2.0).bound
    (0.5, 0.5)
    """
    w, scale = _checks.positive("frequency", frequency), _checks.positive("c", c)
    top = _checks.positive("first", first)
    return Uniform(top / fans.fan_in if is_first else math.sqrt(scale / fans.fan_in) / w)


def siren_phase(fans: Fans) -> Uniform:
    """Uniform biases of bound 1 / sqrt(fan_in), as the authors' networks have them.

    Times w they spread the phases of the sines over whole periods; without them a network of sines
    is an odd function.

    >>> siren_phase(Fans(4, 64)).bound
    0.5
    """
    return Uniform(1.0 / math.sqrt(fans.fan_in))


def frequency_of(activation: Activation) -> float:
    """What the law divides by: w of a sine, the slope at 0 of another odd function.

    Raises:
        ArgumentError: if the activation is not odd, or flat at 0.

    >>> from equipoise.theory import activations
    >>> frequency_of(activations.tanh())
    1.0
    """
    if activation.parity != "odd" or not 0.0 < activation.slope < math.inf:
        raise ArgumentError(
            f"scheme 'siren' must serve sines, or odd activations like them, got {activation}. "
            "Use 'he' or 'auto'."
        )
    return sine_frequency(activation) or activation.slope
