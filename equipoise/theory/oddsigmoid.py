"""Odd-sigmoid activations: the class, the property that fails, and the expansion at zero.

Diagonal + noise weights need f odd, smooth, bounded, strictly increasing and concave on positives.
What f does to a small signal is its expansion f(z) = kappa z - e z|z| - c z^3 + ..., where e is 0
for every function that is smooth at 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray

from equipoise.theory.activations import Activation

Array = NDArray[np.float64]

_DEGREE = 18
_WIDEST, _HALVINGS = 2.0**40, 100
_BETWEEN = 0.9 ** np.arange(1, 300)
_GRID: Array = np.geomspace(1e-6, 1e9, 4000)
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Expansion:
    """Leading coefficients of the odd part: f(z) - f(-z) = 2 (kappa z - e z|z| - c z^3 + ...).

    Attributes:
        slope: kappa, the symmetric slope at 0.
        quadratic: e, 0 where f is smooth at 0; softsign has 1.
        cubic: c, the cubic coefficient with its sign turned; tanh has 1/3.
        error: bound on the absolute rounding error of ``cubic``.
    """

    slope: float
    quadratic: float
    cubic: float
    error: float

    @property
    def order(self) -> int:
        """Order of the first term after the linear one: 2 or 3, or 0 where both vanish.

        >>> Expansion(1.0, 0.0, 1 / 3, 0.0).order
        3
        """
        if self.quadratic != 0.0:
            return 2
        return 3 if self.cubic != 0.0 else 0

    @property
    def coefficient(self) -> float:
        """Coefficient of that term, 0 where both vanish.

        >>> Expansion(1.0, 1.0, 0.0, 0.0).coefficient
        1.0
        """
        return self.quadratic if self.quadratic != 0.0 else self.cubic

    @property
    def bends_towards_axis(self) -> bool:
        """Whether that term takes from |kappa z|: it has the sign of a slope that is not 0.

        >>> Expansion(1.0, 0.0, 1 / 3, 0.0).bends_towards_axis
        True
        >>> Expansion(-1.0, 0.0, 1 / 6, 0.0).bends_towards_axis  # -sinh
        False
        """
        return self.slope * self.coefficient > 0.0


@dataclass(frozen=True)
class OddSigmoid:
    """Membership of the odd-sigmoid class, with the evidence.

    Attributes:
        is_member: f is odd, smooth, bounded, strictly increasing and concave on positives.
        is_wide_member: all of these, but f may be only once differentiable at 0 (softsign).
        failing: the properties that fail, in the order odd, smooth, increasing, bounded, concave.
        reason: one sentence that names the first of them.
        slope: kappa = f'(0).
        cubic: c of f = kappa z - c z^3 + ...
        quadratic: e of f = kappa z - e z|z| + ..., 0 where f is smooth at 0.
    """

    is_member: bool
    is_wide_member: bool
    failing: tuple[str, ...]
    reason: str
    slope: float
    cubic: float
    quadratic: float


@lru_cache
def expansion_at_zero(activation: Activation) -> Expansion:
    """kappa, e and c of the odd part of f = kappa z - e z|z| - c z^3 + ...

    h(z) = (f(z) - f(-z)) / 2z is interpolated by Chebyshev polynomials on the widest [0, H] that
    18 of them resolve, first in z; where the term in z vanishes, once more in z^2, which has far
    better digits. Kinks away from 0 bound H.

    Args:
        activation: f, without a jump at 0.

    Returns:
        The coefficients, with an error bound on ``cubic``. Where f is smooth at 0, ``slope`` is
        good to 1e-13 and ``cubic`` to 1e-10 relative (measured 3e-11 or better for tanh, erf,
        arctan, x / sqrt(1 + x^2), sin at scales from 1e-3 to 1e6); for softsign ``quadratic`` is
        good to 1e-11 and ``cubic`` to 1e-9.

    >>> from equipoise.theory import activations
    >>> e = expansion_at_zero(activations.tanh())
    >>> round(e.slope, 12), e.quadratic, round(e.cubic, 9)
    (1.0, 0.0, 0.333333333)
    """

    def chord(z: Array) -> Array:
        return np.asarray((activation.f(z) - activation.f(-z)) / (2 * z))

    def rounding(z: Array) -> Array:
        return np.asarray(4 * _EPSILON * abs(activation.value_at_zero) / z)

    breaks = [abs(k) for k in activation.kinks + activation.jumps if k != 0.0]
    widest = min([_WIDEST, *(0.99 * k for k in breaks)])
    fit, reach, scale, noise = _resolved(chord, rounding, widest)
    slope, quadratic = float(fit(0.0)), -float(fit.deriv()(0.0))
    # Markov: a derivative at the end of [0, H] magnifies rounding by 2 N^2 / H at most.
    steepest = 2 * _DEGREE**2 / reach
    if abs(quadratic) > max(noise * steepest, 1e-9 * scale / reach):
        cubic = -float(fit.deriv(2)(0.0)) / 2
        return Expansion(_kept(activation, slope, noise), quadratic, cubic, noise * steepest**2 / 6)
    fit, square, scale, noise = _resolved(
        lambda t: chord(np.sqrt(t)), lambda t: rounding(np.sqrt(t)), min(widest, 8 * reach) ** 2
    )
    slope, cubic = float(fit(0.0)), -float(fit.deriv()(0.0))
    error = noise * 2 * _DEGREE**2 / square
    return Expansion(
        _kept(activation, slope, noise), 0.0, 0.0 if abs(cubic) <= error else cubic, error
    )


def _kept(activation: Activation, slope: float, noise: float) -> float:
    """The declared slope where the fit agrees with it; a probed one has only 7 digits."""
    return activation.slope if abs(slope - activation.slope) <= 4 * noise else slope


def _resolved(
    g: Callable[[Array], Array], noise_at: Callable[[Array], Array], widest: float
) -> tuple[Chebyshev, float, float, float]:
    """Interpolant of g on the widest [0, H] it resolves, H, max |g| there, its rounding noise."""
    reach = widest
    for _ in range(_HALVINGS):
        # A function that leaves the range of floats on a wide interval is tried on a narrower one.
        with np.errstate(over="ignore", invalid="ignore"):
            fit = Chebyshev.interpolate(g, _DEGREE, domain=[0.0, reach])
            between: Array = np.asarray(reach * _BETWEEN, dtype=np.float64)
            seen = np.asarray(fit(between), dtype=np.float64)
            missed = np.abs(seen - g(between)) - noise_at(between)
        scale = float(np.abs(fit.coef).max())
        # On too wide an interval all nodes may lie where f has become a line.
        if max(np.abs(fit.coef[-3:]).max(), missed.max()) <= 20 * _EPSILON * scale:
            break
        reach /= 2
    noise = max(16 * _EPSILON * scale, float(np.abs(fit.coef[-3:]).max()))
    return fit, reach, scale, noise


@lru_cache
def odd_sigmoid(activation: Activation) -> OddSigmoid:
    """Whether f is an odd sigmoid, and if not, which property fails.

    Kinks and jumps are those the activation declares. The other properties are judged on 4,000
    points a side, from 1e-6 to 1e9 times the length on which f bends; f is called bounded where it
    grows by less than a hundredth over the last six of those decades.

    Args:
        activation: the function.

    Returns:
        Membership in the strict and in the wide sense, the failing properties, and kappa, c, e.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242.

    >>> from equipoise.theory import activations
    >>> odd_sigmoid(activations.arctan()).is_member
    True
    >>> odd_sigmoid(activations.hardtanh()).failing
    ('smooth', 'increasing')
    >>> odd_sigmoid(activations.relu()).reason
    'relu is not odd: f(1) = 1 and f(-1) = 0'
    """
    expansion = expansion_at_zero(activation)
    unit = bend_length(activation)
    x = unit * _GRID
    with np.errstate(over="ignore", invalid="ignore"):
        up, down = activation.f(x), activation.f(-x)
        rise, fall = (np.diff(np.concatenate([[activation.value_at_zero], y])) for y in (up, down))
        chords = rise / np.diff(np.concatenate([[0.0], x]))
        bend = np.diff(chords)
    size = np.maximum.accumulate(np.abs(up))
    beyond = 1.0 + 1e-6
    ends = [k for k in activation.kinks if activation.df(np.array([k * beyond]))[0] == 0.0]
    # Within 1e-9 of its limit a strictly increasing function may stand still in floats.
    rising = np.abs(up) < (1 - 1e-9) * size[-1]
    broken = [k for k in activation.kinks if k != 0.0] + list(activation.jumps)
    corner = 0.0 in activation.kinks and activation.slope_left != activation.slope_right
    shown = 1.0 if _at(activation, 1.0) != -_at(activation, -1.0) else unit
    values = f"f({shown:g}) = {_at(activation, shown):.3g}"
    values += f" and f({-shown:g}) = {_at(activation, -shown):.3g}"
    checks = {
        "odd": (bool(np.all(np.abs(up + down) <= 8 * _EPSILON * np.abs(up))), f"not odd: {values}"),
        "smooth": (
            not broken and not corner and 0.0 not in activation.kinks,
            f"not smooth: its slope breaks at {_points(activation)}",
        ),
        "increasing": (
            bool(np.all(rise[rising] > 0) and np.all(fall[rising] < 0))
            and not ends
            and size[-1] > 0,
            "not strictly increasing",
        ),
        "bounded": (
            bool(np.isfinite(size[-1]) and size[-1] <= 1.01 * size[x <= 1e3 * unit][-1]),
            "not bounded",
        ),
        "concave": (
            bool(np.all(bend <= 1e-9 * np.abs(chords).max())),
            "not concave on positives",
        ),
    }
    failing = tuple(name for name, (holds, _) in checks.items() if not holds)
    is_wide = failing == ("smooth",) and not broken and not corner
    if is_wide:
        reason = f"{activation} is an odd sigmoid but only once differentiable at 0"
    elif failing:
        reason = f"{activation} is {checks[failing[0]][1]}"
    else:
        reason = f"{activation} is odd, smooth, bounded, strictly increasing, concave on positives"
    return OddSigmoid(
        not failing, not failing or is_wide, failing, reason,
        expansion.slope, expansion.cubic, expansion.quadratic,
    )  # fmt: skip


def bend_length(activation: Activation) -> float:
    """Length on which the odd part of f bends, a power of two in units of the preactivation.

    The least 2^k at which the chord (f(z) - f(-z)) / 2z has moved by a quarter of its largest
    size, from 2^-40 to 2^40.

    Args:
        activation: f.

    Returns:
        The length; 1 where f has a linear odd part.

    >>> from equipoise.theory import activations
    >>> bend_length(activations.tanh()), bend_length(activations.tanh(1000.0))
    (2.0, 0.001953125)
    """
    z: Array = np.exp2(np.arange(-40, 41, dtype=np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        chord = np.abs(activation.f(z) - activation.f(-z)) / (2 * z)
        moved = np.abs(chord - chord[0]) > 0.25 * chord.max()
    return float(z[np.argmax(moved)]) if moved.any() else 1.0


def _at(activation: Activation, x: float) -> float:
    return float(activation.f(np.array([x]))[0])


def _points(activation: Activation) -> str:
    return ", ".join(f"{k:g}" for k in sorted(activation.kinks + activation.jumps))
