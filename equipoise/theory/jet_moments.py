"""Second moments of a unit and its first two derivatives along a line of inputs, through depth.

At one point the preactivations of a wide layer, with their first and second derivatives along a
direction, are jointly normal over units. A function of single numbers maps the three to
(f0, f' z', f' z'' + f'' z'^2), f0 = f - f(0), and a weight mixes units, so that their covariance
goes from layer to layer by expectations over z alone: given z, the moments of z' and z'' are
polynomials of z.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activation import Activation, Array
from equipoise.theory.derivative import difference_slope
from equipoise.theory.gaussian import expectation


@dataclass(frozen=True)
class JetMoments:
    """Second moments of a value z and its derivatives z', z'' along a direction.

    Attributes:
        value: E z^2.
        slope: E z'^2.
        bend: E z''^2.
        value_slope: E z z'; half the change of E z^2 along the direction.
        value_bend: E z z''.
        slope_bend: E z' z''.
    """

    value: float
    slope: float
    bend: float = 0.0
    value_slope: float = 0.0
    value_bend: float = 0.0
    slope_bend: float = 0.0

    def __post_init__(self) -> None:
        _checks.positive("value", self.value)
        _checks.not_negative("slope", self.slope)
        _checks.not_negative("bend", self.bend)
        if self.value_slope**2 > self.value * self.slope * (1 + 1e-9):
            raise ArgumentError(
                f"value_slope must be at most sqrt(value slope) = "
                f"{math.sqrt(self.value * self.slope):.6g}, got {self.value_slope}. "
                "Pass second moments."
            )

    def scaled(self, weight_var: float, bias_var: float = 0.0) -> "JetMoments":
        """Behind a weight: all times its variance, and the value with the bias besides.

        >>> JetMoments(1.0, 2.0).scaled(3.0, 0.5)
        JetMoments(value=3.5, slope=6.0, bend=0.0, value_slope=0.0, value_bend=0.0, slope_bend=0.0)
        """
        g = _checks.not_negative("weight_var", weight_var)
        added = _checks.not_negative("bias_var", bias_var)
        return JetMoments(
            g * self.value + added, g * self.slope, g * self.bend, g * self.value_slope,
            g * self.value_bend, g * self.slope_bend,
        )  # fmt: skip


def entry_moments(
    point: Sequence[float], axis: int, norm: float, bias_var: float = 0.0
) -> JetMoments:
    """Moments behind a first weight whose rows have one norm and even directions.

    Args:
        point: inputs, relative to where the preactivations are 0.
        axis: of the direction that is followed.
        norm: of the rows, positive.
        bias_var: variance of the first biases.

    Returns:
        E z^2 = norm^2 |x|^2 / d + bias_var, E z'^2 = norm^2 / d, E z z' = norm^2 x_axis / d.

    >>> entry_moments((0.5, 0.0), 0, 2.0).value_slope
    1.0
    """
    size = len(point)
    share = _checks.positive("norm", norm) ** 2 / size
    square = math.fsum(float(x) ** 2 for x in point)
    # At the very point where all units are 0 the correlation of value and slope has no meaning.
    value, floor = share * square + bias_var, 1e-12 * share
    if not value > floor:
        return JetMoments(floor, share)
    return JetMoments(value, share, value_slope=share * float(point[axis]))


def jet_through(activation: Activation, before: JetMoments) -> JetMoments:
    """Moments of f0(z) and its derivatives from those of z, z', z'', jointly normal.

    Args:
        activation: f, without kinks or jumps.
        before: moments of the preactivations.

    Returns:
        The moments behind f, to a relative error of about 1e-8.

    Raises:
        ArgumentError: for a function without a second derivative.

    >>> from equipoise.theory import activations
    >>> round(jet_through(activations.linear(2.0), JetMoments(1.0, 3.0, 0.5)).slope, 9)
    12.0
    """
    if activation.breaks:
        raise ArgumentError(
            f"activation must have a second derivative, got {activation}, which breaks at "
            f"{activation.breaks[0]:g}. Use a smooth one."
        )
    a = before.value_slope / before.value
    b = before.value_bend / before.value
    # What of slope and bend is independent of the value.
    slope = max(0.0, before.slope - a * before.value_slope)
    both = before.slope_bend - a * before.value_bend
    bend = max(0.0, before.bend - b * before.value_bend)
    f, df, zero = activation.f, activation.df, activation.value_at_zero
    ddf = _second_derivative(activation)

    def mean(g: Callable[[Array], Array]) -> float:
        return expectation(g, before.value).value

    def square(z: Array) -> Array:
        return (a * z) ** 2 + slope

    def bent(z: Array) -> Array:
        """E (f' z'' + f'' z'^2) given z."""
        return df(z) * b * z + ddf(z) * square(z)

    def slope_bent(z: Array) -> Array:
        third = (a * z) ** 3 + 3 * a * z * slope
        return df(z) * (df(z) * (a * b * z * z + both) + ddf(z) * third)

    def bent_square(z: Array) -> Array:
        mixed = square(z) * b * z + 2 * a * z * both
        fourth = (a * z) ** 4 + 6 * (a * z) ** 2 * slope + 3 * slope**2
        return (
            df(z) ** 2 * ((b * z) ** 2 + bend) + 2 * df(z) * ddf(z) * mixed + ddf(z) ** 2 * fourth
        )

    return JetMoments(
        mean(lambda z: (f(z) - zero) ** 2),
        mean(lambda z: df(z) ** 2 * square(z)),
        mean(bent_square),
        mean(lambda z: (f(z) - zero) * df(z) * a * z),
        mean(lambda z: (f(z) - zero) * bent(z)),
        mean(slope_bent),
    )


@lru_cache(maxsize=64)
def _second_derivative(activation: Activation) -> Callable[[Array], Array]:
    return difference_slope(activation.df)
