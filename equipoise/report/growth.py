"""How gradients grow over a deep stack of one activation, by way of drawing its weights."""

import math
from dataclasses import dataclass

from equipoise.schemes.framed import DEFAULT_BUDGET
from equipoise.theory.activations import Activation
from equipoise.theory.cell_fluctuation import Weights
from equipoise.theory.fluctuation import gradient_fluctuation, signal_fluctuation
from equipoise.theory.layermaps import energy
from equipoise.theory.lyapunov import LogGain, WeightLaw, log_gain
from equipoise.theory.moments import critical_scale
from equipoise.theory.oddpart import ActivationClass, classify, mirrored_pair
from equipoise.theory.odds import largest_depth, usable_odds, usable_odds_normal
from equipoise.theory.structured import HiddenLayer, balance

_LN10 = math.log(10.0)
_EXACT = "exact"
_FIRST = "order 1/width"
# The first order in 1 / width stands for small deviations of the level, in nats.
_SMALL = 0.5


@dataclass(frozen=True)
class Growth:
    """The norm of the gradient at the first hidden layer over that at the last.

    Attributes:
        name: how the weights are drawn.
        scale: of the hidden weights: standard deviation of entries times sqrt(width), or gain of
            the orthogonal matrices.
        decades: mean over draws of its log10.
        spread: standard deviation over draws of its log10.
        odds: probability that it stays within one decade of 1.
        even_depth: the largest depth at which that is at least 1/2, in layers; nan if not known.
        claim: how good the numbers are.
    """

    name: str
    scale: float
    decades: float
    spread: float
    odds: float
    even_depth: float
    claim: str


def growths(f: Activation, width: int, depth: int) -> tuple[Growth, ...]:
    """The usual ways of drawing, and ours, for a stack of constant width.

    Args:
        f: the activation.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Returns:
        One entry for each way that theory covers; none for an activation that jumps.

    >>> from equipoise.theory import activations
    >>> [g.name for g in growths(activations.relu(), 16, 50)][:2]
    ['He, Gaussian', 'Lyapunov, Gaussian']
    """
    if f.jumps:
        return ()
    rows = _homogeneous(f, width, depth) if f.homogeneity == 1.0 else _plain(f, width, depth)
    kind = classify(f).kind
    if kind is ActivationClass.MIRROR and width >= 2:
        rows.append(_framed("mirrored", mirrored_pair(f), width // 2, depth))
    elif kind is ActivationClass.CENTRE:
        rows.append(_framed(f"centred, budget {DEFAULT_BUDGET:g}", f, width, depth))
    return tuple(rows)


def _homogeneous(f: Activation, width: int, depth: int) -> list[Growth]:
    """Lines on both sides of 0: log gains are independent, in both directions alike."""
    he, haar_he = (critical_scale(f, width, law=law, order=2.0) for law in ("gaussian", "haar"))
    ways: list[tuple[str, float, WeightLaw]] = [
        ("He, Gaussian", he, "gaussian"),
        ("Lyapunov, Gaussian", critical_scale(f, width), "gaussian"),
        ("He, orthogonal", haar_he, "haar"),
        ("Lyapunov, orthogonal", critical_scale(f, width, law="haar"), "haar"),
    ]
    rows = []
    for name, scale, law in ways:
        one = log_gain(f, width, None, scale, law)
        unit = math.sqrt(width) if law == "gaussian" else 1.0
        rows.append(
            Growth(
                name,
                scale * unit,
                depth * one.mean / _LN10,
                math.sqrt(depth * one.variance) / _LN10,
                usable_odds(f, width, depth, scale, law),
                _even_depth(f, width, scale, law),
                _EXACT + (", if it survives" if one.survival < 1.0 else ""),
            )
        )
    return rows


def _even_depth(f: Activation, width: int, scale: float, law: WeightLaw) -> float:
    found = largest_depth(f, width, 0.5, scale, law)
    return math.inf if found >= 2**40 else float(found)


def _plain(f: Activation, width: int, depth: int) -> list[Growth]:
    """Weights that hold q = 1, for functions that pass through 0: others shift their mean."""
    if f.value_at_zero != 0.0 or not energy(f, 1.0) > 0.0:
        return []
    gain = 1.0 / math.sqrt(energy(f, 1.0))
    rows = []
    ways: list[tuple[str, Weights]] = [("He, Gaussian", "gaussian"), ("He, orthogonal", "haar")]
    for name, weights in ways:
        if signal_fluctuation(f, 1.0, width, depth, weights).std > _SMALL:
            nan = math.nan
            rows.append(Growth(name, gain, nan, nan, nan, nan, "the level does not stay"))
            continue
        law = gradient_fluctuation(f, 1.0, width, depth, weights)
        rows.append(_first_order(name, gain, law.mean, law.std))
    return rows


def _framed(name: str, f: Activation, units: int, depth: int) -> Growth:
    if classify(f).kind is ActivationClass.LINEAR:
        # Pairs of a gate are one line: an orthogonal map, at birth, of any depth.
        return Growth(name, 1.0 / f.slope, 0.0, 0.0, 1.0, math.inf, "exact")
    stack = balance([HiddenLayer(units, f)] * depth, units, units, DEFAULT_BUDGET)
    law = gradient_fluctuation(f, stack.q[0], units, depth)
    return _first_order(name, stack.gains[0], law.mean, law.std)


def _first_order(name: str, scale: float, mean: float, std: float) -> Growth:
    odds = usable_odds_normal(LogGain(mean, std * std, 1.0), 1)
    return Growth(name, scale, mean / _LN10, std / _LN10, odds, math.nan, _FIRST)
