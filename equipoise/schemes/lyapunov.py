"""Scales at which a chosen moment of the signal's norm is kept at finite width, order 0 included.

Order s keeps E |x|^s over draws: s = 2 is He's rule, s -> 0 the typical draw (the Lyapunov
exponent is 0). Where f is a line on each side of 0 the scale is exact, for every other f it is of
first order in 1 / width, at preactivations of variance 1.
"""

import math

from scipy import special

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Normal, Orthogonal
from equipoise.schemes.variance import moment_gain
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics
from equipoise.theory.moments import critical_scale

# Step in log q of the differences that show how E f^2 bends.
_STEP = 0.05


def is_two_lines(activation: Activation) -> bool:
    """Whether f is a line on each side of 0, for which scales are exact.

    >>> from equipoise.theory import activations
    >>> is_two_lines(activations.relu()), is_two_lines(activations.gelu())
    (True, False)
    """
    return activation.homogeneity == 1.0


def kept_moment(
    fans: Fans,
    units: int,
    activation: Activation,
    order: float = 0.0,
    distribution: str = "normal",
) -> Normal | Orthogonal:
    """Weights W that keep (E RMS(f(W x))^s)^(1/s) at the RMS of x, exactly; s = 0 the typical one.

    sigma = (E|f(g)|^s)^(-1/s) sqrt(units / fan_in); for orthogonal weights the mean over their Haar
    law. An independent kernel of a convolution is taken at images that are equal at all positions,
    which deep layers tend to; unlike positions lose less, up to what He's rule keeps.

    Args:
        fans: of the weight, where its entries are independent; of the matrix, where orthogonal.
        units: number of outputs that f is applied to.
        activation: f, a line on each side of 0, which follows the weight.
        order: s, from 0 to below 4.
        distribution: ``normal`` or ``orthogonal``.

    Returns:
        The law. For ReLU at order 0 it is that of draws which do not map x to 0.

    Raises:
        ArgumentError: for an activation of another kind, or an order or distribution out of range.

    Source: order 0 arXiv 2602.10949, others arXiv 2005.11878.

    >>> from equipoise.theory import activations
    >>> round(kept_moment(Fans(8, 8), 8, activations.relu(), 2.0).std, 12)
    0.5
    >>> round(kept_moment(Fans(8, 8), 8, activations.relu()).std, 6)
    0.610328
    """
    s = _order(order)
    if _checks.one_of("distribution", distribution, ("normal", "orthogonal")) == "normal":
        return Normal(critical_scale(activation, units, fans.fan_in, "gaussian", s))
    return Orthogonal(critical_scale(activation, units, fans.fan_in, "haar", s))


def kept_moment_at_unit_level(
    fans: Fans,
    feeding: int,
    activation: Activation,
    order: float = 0.0,
    distribution: str = "normal",
) -> Normal | Orthogonal:
    """Weights that bring f(z) back to RMS 1 in the moment of order s, to first order in 1 / width.

    For n units z of variance 1 the log RMS of f has the variance v = c / n and the mean
    log(E f^2) / 2 - c / n, c = (E f^4 / (E f^2)^2 - 1) / 4; orthogonal weights keep |z|, which
    leaves v = (c - r^2 / 2) / n with r = d log E f^2 / d log q. The order adds s v / 2. An
    orthogonal weight of fewer rows than columns keeps a share of |f|^2 that follows a beta law,
    whose moment is exact.

    Args:
        fans: of the weight.
        feeding: n, number of units of f(z).
        activation: f, which feeds the weight.
        order: s, from 0 to below 4.
        distribution: ``normal`` or ``orthogonal``.

    Returns:
        The law.

    Raises:
        ArgumentError: if f vanishes or its fourth moment leaves the range of floats, or for an
            order or distribution out of range.

    >>> from equipoise.theory import activations
    >>> kept_moment_at_unit_level(Fans(16, 16), 16, activations.identity(), 2.0).std
    0.25
    """
    s, n = _order(order), _checks.at_least("feeding", feeding, 1)
    c = statistics(activation, 1.0).log_norm_coefficient
    if not math.isfinite(c):
        raise ArgumentError(
            f"activation must have a finite fourth moment, got {activation}. Use scheme='he'."
        )
    gain = moment_gain(activation)
    if _checks.one_of("distribution", distribution, ("normal", "orthogonal")) == "normal":
        return Normal(gain * math.exp(c * (1.0 - s / 2) / n) / math.sqrt(fans.fan_in))
    less, here, more = (
        math.log(statistics(activation, math.exp(step)).second_moment)
        for step in (-_STEP, 0.0, _STEP)
    )
    passed, bend = (more - less) / (2 * _STEP), (more - 2 * here + less) / _STEP**2
    mean = -(c - passed / 2 + bend / 2) / n
    variance = max(0.0, c - passed**2 / 2) / n
    kept = _kept_by_projection(fans, s)
    return Orthogonal(gain * math.exp(-mean - s * variance / 2) / kept)


def _kept_by_projection(fans: Fans, s: float) -> float:
    """(E r^s)^(1/s), r the share of the RMS that a Haar weight of gain 1 passes on.

    Of a shape that does not narrow it is sqrt(fan_in / fan_out); else r^2 fan_out / fan_in has the
    law Beta(fan_out / 2, (fan_in - fan_out) / 2).
    """
    level = math.sqrt(fans.fan_in / fans.fan_out)
    if fans.fan_out >= fans.fan_in:
        return level
    a, b = fans.fan_out / 2, fans.fan_in / 2
    if s == 0.0:
        return level * math.exp(0.5 * float(special.digamma(a) - special.digamma(b)))
    grown = special.gammaln(a + s / 2) - special.gammaln(a)
    return level * math.exp(float(grown - special.gammaln(b + s / 2) + special.gammaln(b)) / s)


def _order(order: float) -> float:
    s = _checks.not_negative("order", order)
    if not s < 4.0:
        raise ArgumentError(f"order must be below 4, got {order}. He's rule is order 2.")
    return s
