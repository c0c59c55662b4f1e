"""Shifted networks: an activation worked at a point away from 0, where it may be exactly linear.

With b = c - W f(c) in every layer the preactivations are c + v and what is passed on is
f(c + v) - f(c): a stack of that function, centred at 0. For ReLU and its like it is v as long as
v > -c, at full rank, which no mirrored pair has; the price is the size of c, since every unit of
every layer must stay in its linear range.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy import optimize, special

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics

Array = NDArray[np.float64]
Inputs = Literal["gaussian", "one_norm"]

_NODES, _WEIGHTS = leggauss(20)
# The chance of a norm, or of a unit, this many standard deviations out is below float64.
_REACH = 38.0
# Between these a kink lies in the middle of the inputs, and beyond all of them.
_NEAR, _FAR = 1e-6, 8.0
# Norms below have no chance, and no logarithm near 0 leaves the range of floats.
_LEAST = 1e-100


def shifted(activation: Activation, shift: float) -> Activation:
    """f_c(v) = f(c + v) - f(c), the activation seen from the operating point c.

    Args:
        activation: f.
        shift: c, in units of the preactivation; f must have a slope there and no corner or jump.

    Returns:
        The activation, with f_c(0) = 0, slope f'(c) at 0 and all breaks moved by -c. A line, and
        an f with f(0) = 0 at c = 0, are returned as they are.

    Raises:
        ArgumentError: if the shift is not finite, or f breaks, is flat or overflows at it.

    >>> from equipoise.theory import activations
    >>> import numpy as np
    >>> at = shifted(activations.relu(), 2.0)
    >>> at.f(np.array([-3.0, -1.0, 5.0])).tolist(), at.kinks, at.slope
    ([-2.0, -1.0, 5.0], (-2.0,), 1.0)
    """
    c = _checks.finite("shift", shift)
    if c in activation.corners:
        raise _refusal(activation, c, "has a kink there")
    if c in activation.jumps:
        raise _refusal(activation, c, "jumps there")
    f, df = activation.f, activation.df
    point = np.full(1, c)
    with np.errstate(over="ignore", invalid="ignore"):
        value, slope = float(f(point)[0]), float(df(point)[0])
    if not (math.isfinite(value) and math.isfinite(slope)):
        raise _refusal(activation, c, "leaves the range of floats there")
    if slope == 0.0:
        raise _refusal(activation, c, "has slope 0 there")
    is_line = activation.homogeneity == 1.0 and activation.is_smooth
    if is_line or (c == 0.0 and value == 0.0):
        return activation
    return Activation(
        activation.name,
        lambda v: f(c + v) - value,
        lambda v: df(c + v),
        kinks=tuple(k - c for k in activation.kinks),
        jumps=tuple(j - c for j in activation.jumps),
        # An odd or even function has no parity about another point.
        parity=activation.parity if c == 0.0 else "none",
        slope_left=slope,
        slope_right=slope,
        parameters=(*activation.parameters, ("shift", c)),
        bends=tuple(k - c for k in activation.bends),
        lower=activation.lower - value,
        upper=activation.upper - value,
    )


def _refusal(activation: Activation, c: float, why: str) -> ArgumentError:
    return ArgumentError(
        f"shift must be a point where {activation} is smooth and not flat, got {c:g}: it {why}. "
        "Move it."
    )


@dataclass(frozen=True)
class Departure:
    """Probabilities that a signal leaves the linear range of a shifted stack.

    Attributes:
        unit: for one unit.
        layer: for at least one unit of a layer.
        stack: for at least one unit of at least one layer.
    """

    unit: float
    layer: float
    stack: float


def departure(shift: float, width: int, depth: int, inputs: Inputs = "gaussian") -> Departure:
    """Probability that some v <= -c in a linear stack of orthogonal layers, c in units of rms(v).

    Each Haar weight turns v to a uniform direction and keeps its norm R. At norm r sqrt(n) a unit
    has u^2 = v^2 / (r^2 n) ~ Beta(1/2, (n - 1) / 2), so p(c / r) = P(u >= c / (r sqrt(n))), which
    is 0 for c >= r sqrt(n). A layer departs with 1 - (1 - p)^n, a stack with 1 - (1 - p)^(n L);
    for Gaussian inputs these are averaged over R ~ chi_n, which all layers share. A unit then has
    Phi(-c) and a layer 1 - Phi(c)^n. Taking layers as independent too would overstate the
    departure of narrow deep stacks by up to 2.7 times (width 16, depth 200).

    Args:
        shift: distance from the operating point to the end of the linear range, in units of
            rms(v), finite; negative where the operating point lies outside.
        width: n, units of a layer, at least 1.
        depth: L, at least 1.
        inputs: ``gaussian``, or ``one_norm`` for inputs that all have the norm sqrt(n) rms(v).

    Returns:
        The three probabilities. Units of one layer at one norm are taken as independent, which
        costs a relative error of the order of n p; the average over R has one of 1e-10.

    Raises:
        ArgumentError: if the shift is not finite, width or depth is below 1, or the inputs are
            of no known kind.

    >>> chance = departure(4.0, 16, 200)
    >>> round(chance.unit, 7), round(chance.stack, 3)
    (3.17e-05, 0.043)
    >>> departure(4.0, 16, 200, "one_norm").stack
    0.0
    """
    c = _checks.finite("shift", shift, "Pass it in units of rms(v).")
    n, layers = _checks.at_least("width", width, 1), _checks.at_least("depth", depth, 1)
    _checks.one_of("inputs", inputs, ("gaussian", "one_norm"))
    if inputs == "one_norm":
        unit = float(_beyond(np.array([c]), n)[0])
        # A certain departure has no logarithm to stay.
        stays = math.log1p(-unit) if unit < 1.0 else -math.inf
        return Departure(unit, -math.expm1(n * stays), -math.expm1(n * layers * stays))
    stays = float(special.log_ndtr(c))
    layer = -math.expm1(n * stays)
    # Where departures are common the independence of units understates even a single layer.
    return Departure(float(special.ndtr(-c)), layer, max(layer, _averaged(c, n, layers)))


def shift_for_departure(
    probability: float, width: int, depth: int, inputs: Inputs = "gaussian"
) -> float:
    """Shift c in units of rms(v) at which a stack leaves its linear range with a probability.

    The inverse of ``departure(c, width, depth, inputs).stack``.

    Args:
        probability: P for the whole stack, between 0 and 1.
        width: n, at least 1.
        depth: L, at least 1.
        inputs: as for ``departure``.

    Returns:
        c in units of rms(v), to about 1e-9. At width 1 the probability jumps and c is the place of
        the jump.

    Raises:
        ArgumentError: if the probability is not between 0 and 1, or for the arguments of
            ``departure``.

    >>> [round(shift_for_departure(p, 16, 200), 2) for p in (0.5, 0.1, 0.01)]
    [2.97, 3.72, 4.4]
    """
    if not 0.0 < probability < 1.0:
        raise ArgumentError(
            f"probability must be between 0 and 1, got {probability}. "
            "No finite shift reaches the ends."
        )

    def excess(c: float) -> float:
        return departure(c, width, depth, inputs).stack - probability

    # Below -40 every input departs, beyond 40 + sqrt(n) none does.
    return float(optimize.brentq(excess, -_REACH - 2.0, _REACH + math.sqrt(width), xtol=1e-11))


@dataclass(frozen=True)
class Bend:
    """One layer of units that rest at c, with v ~ N(0, 1), and are centred at their mean.

    Attributes:
        shift: c.
        mean: E f(c + v).
        std: of f(c + v).
        growth: log(E f'^2 / Var f), nats by which mean-square gradients grow where a gain of
            1 / std keeps the signal; 0 for a line.
    """

    shift: float
    mean: float
    std: float
    growth: float


def bend(activation: Activation, shift: float) -> Bend:
    """What a kink at a distance c below the middle of the inputs does to one layer.

    Args:
        activation: f, with a slope at c.
        shift: c in units of rms(v).

    Returns:
        Mean, size and gradient growth, as exact as ``statistics``.

    Raises:
        ArgumentError: as ``shifted``.

    >>> from equipoise.theory import activations
    >>> far = bend(activations.relu(), 6.0)
    >>> round(far.mean, 6), round(far.std, 6), round(far.growth, 6)
    (6.0, 1.0, 0.0)
    """
    seen = statistics(shifted(activation, shift), 1.0)
    variance = seen.centred_energy - seen.mean**2
    value = float(activation.f(np.full(1, float(shift)))[0])
    return Bend(
        float(shift), value + seen.mean, math.sqrt(variance), math.log(seen.slope_energy / variance)
    )


def bend_for_growth(activation: Activation, growth: float) -> Bend:
    """The layer whose kink makes mean-square gradients grow by so many nats.

    Near c = 0 the kink lies in the middle of the inputs, far out none of them meets it: growth
    falls with c in between.

    Args:
        activation: a line above 0, such as leaky ReLU.
        growth: nats in a layer, positive.

    Returns:
        The layer at the c that has the growth, to about 1e-9; with the kink in the middle where
        even that makes less.

    Raises:
        ArgumentError: if the growth is not positive.

    >>> from equipoise.theory import activations
    >>> [round(bend_for_growth(activations.relu(), b / 40).shift, 2) for b in (0.3, 0.85)]
    [2.35, 1.92]
    """
    growth = _checks.positive("growth", growth, "Pass nats in each layer.")

    def excess(c: float) -> float:
        return bend(activation, c).growth - growth

    # Beyond 8 RMS the growth is below the rounding of what it is a ratio of.
    c = _NEAR
    if excess(_NEAR) > 0:
        c = _FAR if excess(_FAR) >= 0 else float(optimize.brentq(excess, _NEAR, _FAR, xtol=1e-10))
    return bend(activation, c)


def _beyond(c: Array, n: int) -> Array:
    """P(v >= c) for one coordinate v of a uniform vector of norm sqrt(n)."""
    # All beyond the norm is one case; squares of what is far beyond would overflow.
    c = np.clip(c, -2 * math.sqrt(n), 2 * math.sqrt(n))
    if n == 1:
        tail = np.where(np.abs(c) < 1.0, 0.5, 0.0)
    else:
        inside = np.clip(1.0 - c * c / n, 0.0, 1.0)
        tail = special.betainc((n - 1) / 2, 0.5, inside) / 2
    return np.where(c > 0, tail, 1.0 - tail)


def _averaged(c: float, n: int, layers: int) -> float:
    """E over R ~ chi_n of 1 - (1 - p(c sqrt(n) / R))^(n L), by Gauss-Legendre panels in R."""
    middle = math.sqrt(n)
    far = middle + _REACH
    c = min(max(c, -far), far)
    # No unit passes c before the norm does, and from there p starts as a power (n - 1) / 2 of the
    # excess, with any prefactor: panels halve towards that break.
    least = max(_LEAST, middle - _REACH)
    breaks = abs(c) * np.append(1.0, 1.0 + 2.0 ** np.arange(-45, 40))
    edges = np.unique([*np.linspace(least, far, 161), *breaks[(breaks > least) & (breaks < far)]])
    half, centre = np.diff(edges)[:, None] / 2, ((edges[1:] + edges[:-1]) / 2)[:, None]
    norm = (centre + half * _NODES).ravel()
    weights = (half * _WEIGHTS).ravel()
    # Off its value at sqrt(n), so that a wide layer does not cancel large terms.
    off = norm / middle - 1.0
    density = weights * np.exp((n - 1) * np.log(norm / middle) - n * (off + off * off / 2))
    # Where every unit is beyond the end the logarithm is -inf, and the stack departs for certain.
    with np.errstate(divide="ignore"):
        leaves = -np.expm1(n * layers * np.log1p(-_beyond(c * middle / norm, n)))
    return min(1.0, float(density @ leaves / density.sum()))
