"""The chance that one draw of a deep network is usable, exactly at real width.

Log gains of layers are independent, so the log norm after L layers has the characteristic function
phi(w)^L, with phi(w) = E |f(g)|^(i w) from the same sum as the exponent (``lyapunov``). Inverting
it gives the law of the norm itself, not its central limit.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import betainc, ndtr

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.directions import DirectionLaw
from equipoise.theory.inversion import (
    NEGLIGIBLE,
    Complex,
    edgeworth,
    gaussian_transform,
    invert,
    rounding,
    third_cumulant,
)
from equipoise.theory.laplace import Array, steepness
from equipoise.theory.lyapunov import LogGain, WeightLaw, log_gain

_LN10 = math.log(10.0)
_NEVER_ALIVE = 1e-300
_DEEPEST = 2**40
_NO_SPREAD = 1e-13
_LEAST_WIDTH, _LEAST_RATIO = 0.25, 1e-100
_DECAY = 30.0
# Beyond it the law is so narrow that two terms of its expansion have an error below 1e-4.
_HIGHEST_FREQUENCY = 1000.0
# Few orthogonal layers of few units: atoms of one and smooth parts of others decay slowly.
_HIGHEST_WITH_ATOMS = 100.0


def survival_probability(width: float, depth: float) -> float:
    """Chance that a ReLU net maps a given input to something else than 0 in every layer.

    (1 - 2^-n)^L for n independent symmetric units in each of L layers.

    Args:
        width: n, positive.
        depth: L, not negative.

    Returns:
        A probability, exact to rounding.

    Raises:
        ArgumentError: for a width that is not positive or a negative depth.

    >>> round(survival_probability(1, 3), 12)
    0.125
    """
    _checks.positive("width", width)
    _checks.not_negative("depth", depth, "Pass layers.")
    return math.exp(depth * math.log(-math.expm1(-width * math.log(2.0))))


def mean_death_layer(width: float) -> float:
    """Mean number of ReLU layers until a given input is mapped to 0: 2^n.

    Args:
        width: n, positive.

    Returns:
        Layers; infinite beyond width 1023.

    Raises:
        ArgumentError: for a width that is not positive.

    >>> mean_death_layer(8)
    256.0
    """
    return 2.0**width if _checks.positive("width", width) < 1024 else math.inf


def usable_odds_normal(layer: LogGain, depth: float, decades: float = 1.0) -> float:
    """P(|log10 (|x_L| / |x_0|)| <= decades) if the log norm were normal, as it is for large depth.

    Phi((k ln 10 - L lambda) / (gamma sqrt L)) - Phi((-k ln 10 - L lambda) / (gamma sqrt L)), times
    the chance of survival.

    Args:
        layer: law of one layer.
        depth: L, positive.
        decades: k, positive.

    Returns:
        A probability; from depth 20 on within 0.02 of ``usable_odds`` at width 8 and 0.01 from
        width 16 on (measured at slopes 0 to 0.3).

    Raises:
        ArgumentError: for a depth or a number of decades that is not positive.

    >>> from equipoise.theory import activations
    >>> he = log_gain(activations.leaky_relu(0.01), 16, scale=math.sqrt(2 / 16 / 1.0001))
    >>> round(usable_odds_normal(he, 100), 2)
    0.02
    """
    _checks.positive("depth", depth)
    edge = _checks.positive("decades", decades) * _LN10
    mean = depth * layer.mean
    if layer.variance == 0.0:
        inside = float(abs(mean) <= edge)
    else:
        std = math.sqrt(depth * layer.variance)
        inside = float(ndtr((edge - mean) / std) - ndtr((-edge - mean) / std))
    return float(inside * layer.survival**depth)


def usable_odds(
    activation: Activation,
    width: float,
    depth: int,
    scale: float,
    law: WeightLaw = "gaussian",
    decades: float = 1.0,
) -> float:
    """P(|log10 (|x_L| / |x_0|)| <= decades) over draws of a net of constant width, exactly.

    With S = sum of L independent log gains and phi the characteristic function of one,
    P(a <= S <= b) = (1 / pi) integral over w > 0 of Re[phi(w)^L (e^(-iwa) - e^(-iwb)) / (i w)] dw;
    for ReLU given survival, times the chance of survival.

    Args:
        activation: a line on each side of 0.
        width: n, real, from 0.25 on (0.001 for ReLU); an integer for Haar weights. At depth 1 and
            widths below 1, or slopes of ratio below 1e-20, it takes seconds.
        depth: L, an integer of at least 1.
        scale: standard deviation of Gaussian entries, or factor of the orthogonal matrices.
        law: ``gaussian`` or ``haar``.
        decades: how far the norm may move, positive.

    Returns:
        A probability; absolute error below 1e-10 where the log norm has a standard deviation above
        0.008, below 1e-5 where it is narrower and two terms of its expansion serve. Two or more
        orthogonal layers, whose law has atoms: below 1e-3, from 8 units or 10 layers on 1e-5.

    Raises:
        ArgumentError: as for ``log_gain``, for a width, depth or decades out of range, and for
            slopes of ratio below 1e-100 other than 0.

    >>> from equipoise.theory import activations
    >>> from equipoise.theory.moments import critical_scale
    >>> act = activations.leaky_relu(0.01)
    >>> round(usable_odds(act, 16, 100, critical_scale(act, 16)), 2)
    0.52
    """
    layer = log_gain(activation, width, None, scale, law)
    _checks.at_least("depth", depth, 1)
    edge = _checks.positive("decades", decades) * _LN10
    alive = layer.survival**depth
    _refuse_long_tails(activation, width)
    if law == "haar" and width != int(width):
        raise ArgumentError(
            f"width must be an integer for the odds of haar weights, got {width}. Round it."
        )
    if layer.variance < _NO_SPREAD or alive < _NEVER_ALIVE:
        # Isometries, or nearly: what is left of the variance is rounding.
        return float(abs(depth * layer.mean) <= edge) * alive
    return alive * _probability(activation, width, law, depth, layer, math.log(scale), edge)


def _refuse_long_tails(activation: Activation, width: float) -> None:
    """The sums grow as the square of how far the log norm reaches down: keep them to seconds."""
    ratio = steepness(activation)[1]
    if 0 < ratio < _LEAST_RATIO:
        raise ArgumentError(
            f"activation must have slopes of ratio 0 or above {_LEAST_RATIO:g}, got {activation}. "
            "Use relu."
        )
    if ratio > 0 and width < _LEAST_WIDTH:
        raise ArgumentError(
            f"width must be at least {_LEAST_WIDTH:g} for odds, got {width:g}. "
            "Use usable_odds_normal below it."
        )


def largest_depth(
    activation: Activation,
    width: float,
    odds: float,
    scale: float,
    law: WeightLaw = "gaussian",
    decades: float = 1.0,
) -> int:
    """The largest depth L at which ``usable_odds`` is at least ``odds``.

    The odds fall with depth (in the central limit both ends of the interval lose mass), so the
    depth is found by doubling and bisection. For few units of very unequal slopes they may rise
    again, since the law of few layers has separate peaks: the depth is then one of the crossings.

    Args:
        activation: a line on each side of 0.
        width: n, as for ``usable_odds``.
        odds: a probability between 0 and 1, both excluded.
        scale: of the weights.
        law: ``gaussian`` or ``haar``.
        decades: how far the norm may move, positive.

    Returns:
        Layers; 0 if one layer already falls short, 2^40 where no depth below that does.

    Raises:
        ArgumentError: for odds outside (0, 1) and as ``usable_odds``.

    >>> from equipoise.theory import activations
    >>> from equipoise.theory.moments import critical_scale
    >>> act = activations.leaky_relu(0.01)
    >>> largest_depth(act, 16, 0.9, critical_scale(act, 16))
    18
    """
    if not 0.0 < odds < 1.0:
        raise ArgumentError(f"odds must lie between 0 and 1, got {odds}. Pass a probability.")

    layer = log_gain(activation, width, None, scale, law)

    def holds(depth: int) -> bool:
        return usable_odds(activation, width, depth, scale, law, decades) >= odds

    def holds_nearly(depth: int) -> bool:
        return usable_odds_normal(layer, depth, decades) >= odds

    # The central limit says where to look; the exact law decides.
    low = high = max(1, _last(holds_nearly, 0, _DEEPEST))
    while not holds(low):
        if low == 1:
            return 0
        low, high = max(1, low - max(1, low // 8)), low
    while high == low or holds(high):
        low, high = high, high + max(1, high // 8)
        if low >= _DEEPEST:
            return _DEEPEST
    return _last(holds, low, high)


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last integer at which a property that ends once holds: it does at low, not at high."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _probability(
    activation: Activation,
    width: float,
    law: WeightLaw,
    depth: int,
    layer: LogGain,
    log_scale: float,
    edge: float,
) -> float:
    """P(|S| <= edge) for S the sum of ``depth`` log gains, given survival."""
    steep, ratio = steepness(activation)
    std, mean = math.sqrt(depth * layer.variance), depth * layer.mean
    # Tails are no heavier than a normal's above and an exponential of this rate below: that of the
    # fewest units of a ReLU layer that may be alive, 8 standard deviations below the mean.
    rate = width if ratio > 0 else max(1.0, width / 2 - 4 * math.sqrt(width))
    far = 12 * std + _DECAY / rate
    low, high = max(-edge - mean, -far), min(edge - mean, far)
    if low >= high:
        return 0.0
    if high - low == 2 * far:
        return 1.0
    if math.sqrt(-2 * math.log(NEGLIGIBLE)) / std > _HIGHEST_FREQUENCY:
        return edgeworth(low, high, std, depth * third_cumulant(width, ratio, law))
    # Laws of one layer are for slopes 1 and ratio, centred at the mean.
    shift = log_scale + math.log(steep)
    log_gain_of_one = layer.mean - shift
    if law == "gaussian":

        def gaussian(w: Array) -> tuple[Complex, bool]:
            phi = gaussian_transform(w, log_gain_of_one, width, ratio)
            is_lost = bool(np.abs(phi[-1]) < 10 * rounding(float(w[-1])))
            return phi**depth, is_lost

        return invert(gaussian, low, high, far, 1.0)

    directions = DirectionLaw.of(int(width), ratio)
    if depth == 1:
        # Atoms on either edge of the band belong to it, whatever rounding says.
        ends = math.exp(-edge - shift) * (1 - 1e-15), math.exp(edge - shift) * (1 + 1e-15)
        return min(max(directions.cdf(ends[1]) - directions.cdf(ends[0]), 0.0), 1.0)

    def haar(w: Array) -> tuple[Complex, bool]:
        phi, atoms = directions.characteristic(w)
        turn = np.exp(-1j * depth * w * log_gain_of_one)
        return (phi**depth - atoms**depth) * turn, bool(w[-1] > _HIGHEST_WITH_ATOMS)

    # Sums of atoms alone are a binomial number of flat layers: their transform would not decay.
    if ratio > 0:
        all_atoms = math.exp(depth * (1 - width) * math.log(2.0))
        flat = sorted((depth * shift + sign * edge) / -math.log(ratio) for sign in (-1.0, 1.0))
        slack = 1e-15 * (1 + abs(flat[0]) + abs(flat[1]))
        fewer, most = math.ceil(flat[0] - slack) - 1, math.floor(flat[1] + slack)
        inside = _fair_binomial_cdf(most, depth) - _fair_binomial_cdf(fewer, depth)
    else:
        all_atoms = math.exp(depth * (-width * math.log(2.0) - math.log(directions.alive)))
        inside = float(abs(depth * shift) <= edge)
    return min(1.0, all_atoms * inside + invert(haar, low, high, far, 1.0 - all_atoms))


def _fair_binomial_cdf(most: int, trials: int) -> float:
    """Probability of at most that many heads of a fair coin."""
    if most < 0 or most >= trials:
        return float(most >= trials)
    return float(betainc(trials - most, most + 1, 0.5))
