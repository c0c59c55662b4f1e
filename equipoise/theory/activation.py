"""The activation as data: the function, its derivative, and what theory must know about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from inspect import signature
from typing import Literal, ParamSpec

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Parity = Literal["odd", "even", "none"]


@dataclass(frozen=True)
class Activation:
    """A pointwise function f with its derivative and the points where they break.

    Attributes:
        name: the field's name, such as ``gelu`` or ``leaky_relu``.
        f: the function, on float64 arrays of any shape.
        df: its derivative; at a kink either one-sided value may be returned.
        kinks: abscissae where f is continuous and a derivative of it jumps: the slope itself, or
            (see ``bends``) only a higher one.
        jumps: abscissae where f itself jumps; derivative statistics are infinite there.
        parity: ``odd``, ``even`` or ``none``.
        slope_left: derivative at 0 from the left.
        slope_right: derivative at 0 from the right.
        parameters: name-value pairs that tell this member of a family from the others.
        bends: those of ``kinks`` where the slope is known to be continuous.
        lower: infimum of f, -inf where it is unbounded, nan where it is not known.
        upper: supremum of f, inf where it is unbounded, nan where it is not known.
        homogeneity: degree k with f(t x) = t^k f(x) for all t > 0; None where there is none.
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
    bends: tuple[float, ...] = ()
    lower: float = math.nan
    upper: float = math.nan
    homogeneity: float | None = None

    @property
    def value_at_zero(self) -> float:
        """f(0).

        >>> from equipoise.theory import activations
        >>> activations.sigmoid().value_at_zero
        0.5
        """
        return float(self.f(np.zeros(1))[0])

    @property
    def slope(self) -> float:
        """Symmetric slope at zero, (f'(0-) + f'(0+)) / 2.

        >>> from equipoise.theory import activations
        >>> activations.relu().slope
        0.5
        """
        return (self.slope_left + self.slope_right) / 2

    @property
    def breaks(self) -> tuple[float, ...]:
        """Every point, in order, at which a panel of a quadrature must end: kinks and jumps.

        >>> from equipoise.theory import activations
        >>> activations.hardshrink(2.0).breaks
        (-2.0, 2.0)
        """
        return tuple(sorted({*self.kinks, *self.jumps}))

    @property
    def corners(self) -> tuple[float, ...]:
        """The kinks at which the slope itself jumps: all but the bends.

        >>> from equipoise.theory import activations
        >>> activations.elu(1.0).corners, activations.elu(2.0).corners
        ((), (0.0,))
        """
        return tuple(k for k in self.kinks if k not in self.bends)

    @property
    def is_smooth(self) -> bool:
        """Whether f has derivatives of every order everywhere.

        >>> from equipoise.theory import activations
        >>> activations.gelu().is_smooth, activations.elu().is_smooth
        (True, False)
        """
        return not self.kinks and not self.jumps

    @property
    def is_bounded(self) -> bool:
        """Whether both bounds of f are known and finite.

        >>> from equipoise.theory import activations
        >>> activations.tanh().is_bounded, activations.gelu().is_bounded
        (True, False)
        """
        return math.isfinite(self.lower) and math.isfinite(self.upper)

    def __str__(self) -> str:
        inside = ", ".join(f"{k}={v:g}" for k, v in self.parameters)
        return f"{self.name}({inside})" if inside else self.name


P = ParamSpec("P")


def cached_by_value(make: Callable[P, Activation]) -> Callable[P, Activation]:
    """A factory that builds each member once, however its arguments are passed.

    Activations hold functions, which compare by identity: equal members must be one object.

    >>> from equipoise.theory import activations
    >>> activations.elu() is activations.elu(alpha=1.0)
    True
    """
    form = signature(make)
    cached = lru_cache(maxsize=None)(lambda *values: make(*values))  # type: ignore[call-arg]

    @wraps(make)
    def factory(*args: P.args, **kwargs: P.kwargs) -> Activation:
        bound = form.bind(*args, **kwargs)
        bound.apply_defaults()
        return cached(*bound.arguments.values())

    return factory
