"""Laws of the noise entries in W = omega D + Z, all of mean 0 and standard deviation 1."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from equipoise import _checks
from equipoise.errors import ArgumentError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseLaw:
    """A standardised law; laws of one name and one set of parameters are equal.

    Attributes:
        name: the field's name.
        excess_kurtosis: E z^4 - 3; infinite where the fourth moment is.
        draw: independent entries of a given shape from a numpy generator.
        parameters: name-value pairs that tell this member of a family from the others.
    """

    name: str
    excess_kurtosis: float
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] = field(compare=False)
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def is_gaussian(self) -> bool:
        """Whether sums of entries have the law of one entry, which exact shortcuts need.

        >>> normal().is_gaussian, laplace().is_gaussian
        (True, False)
        """
        return self.name == "normal"


def normal() -> NoiseLaw:
    """N(0, 1), the published law.

    >>> normal().excess_kurtosis
    0.0
    """
    return NoiseLaw("normal", 0.0, lambda rng, shape: rng.standard_normal(shape))


def uniform() -> NoiseLaw:
    """Uniform on [-sqrt 3, sqrt 3]; excess kurtosis -6/5.

    >>> uniform().excess_kurtosis
    -1.2
    """
    edge = math.sqrt(3.0)
    return NoiseLaw("uniform", -1.2, lambda rng, shape: rng.uniform(-edge, edge, shape))


def truncated_normal(bound: float = 2.0) -> NoiseLaw:
    """A normal law cut at +-bound of its standard deviations, rescaled to standard deviation 1.

    With m = 2 bound phi(bound) / (2 Phi(bound) - 1): variance v = 1 - m before the rescaling, and
    fourth moment 3 - (3 + bound^2) m.

    Args:
        bound: cut in standard deviations of the uncut law, at least 0.01.

    Returns:
        The law.

    Raises:
        ArgumentError: if bound is below 0.01.

    >>> round(truncated_normal(2.0).excess_kurtosis, 4)
    -0.6345
    """
    b = _checks.positive("bound", bound)
    if b < 0.01:
        raise ArgumentError(f"bound must be at least 0.01, got {bound}. Use uniform() instead.")
    inside = special.erf(b / math.sqrt(2.0))
    # 1 - m loses its digits at small bounds; the incomplete gamma function does not.
    variance = special.gammainc(1.5, b * b / 2) / inside
    fourth = 3 * special.gammainc(2.5, b * b / 2) / inside
    lowest, std = special.ndtr(-b), math.sqrt(variance)

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        z = special.ndtri(lowest + inside * rng.random(shape)) / std
        return np.asarray(z, dtype=np.float64)

    kurtosis = float(fourth / variance**2 - 3)
    return NoiseLaw("truncated_normal", kurtosis, draw, (("bound", b),))


def laplace() -> NoiseLaw:
    """Density exp(-sqrt 2 |z|) / sqrt 2; excess kurtosis 3.

    >>> laplace().excess_kurtosis
    3.0
    """
    return NoiseLaw("laplace", 3.0, lambda rng, shape: rng.laplace(0.0, math.sqrt(0.5), shape))


def student_t(degrees: float = 5.0) -> NoiseLaw:
    """Student t divided by its standard deviation; excess kurtosis 6 / (degrees - 4).

    Args:
        degrees: degrees of freedom, above 2, where the variance is finite.

    Returns:
        The law; its excess kurtosis is infinite up to 4 degrees.

    Raises:
        ArgumentError: if degrees is 2 or less.

    >>> student_t(5.0).excess_kurtosis, student_t(3.0).excess_kurtosis
    (6.0, inf)
    """
    df = _checks.finite("degrees", degrees)
    if df <= 2:
        raise ArgumentError(
            f"degrees must exceed 2, got {degrees}. At 2 or below the law has no variance to set."
        )
    std = math.sqrt(df / (df - 2))
    return NoiseLaw(
        "student_t",
        6 / (df - 4) if df > 4 else math.inf,
        lambda rng, shape: rng.standard_t(df, shape) / std,
        (("degrees", df),),
    )
