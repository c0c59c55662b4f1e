"""Whether draws keep to the second moments that are told of what a node makes."""

import math
from collections.abc import Sequence

import numpy as np

from equipoise.plan.moments import ROUNDING, Weights, behind, scores_apart
from equipoise.plan.nodes import Attention, Contract, Node, Nonlinearity, Pool, Softmax
from equipoise.plan.participation import participation
from equipoise.theory.activations import Activation

# Scores of a larger variance have weights that few of them take.
_MOST_SCORES = 1.5
# Below this share of a second moment that is left of a mean over sites, it is not told.
_LEAST_LEFT = 0.25
# A factor 2 of a level that becomes more than this is not followed.
_STEEPEST = 8.0
# So many units are enough for some of them to be on each side of 0 in most draws; a side is silent
# below this share of the other.
_FEW, _SILENT = 3, 0.1
# Values of no more units are taken for as many directions in which sites differ.
_NARROW = 8


def is_steady(activation: Activation, q: float, width: int = 0) -> bool:
    """Whether draws keep to the level behind a function that is told by the level before it.

    Levels stray from draw to draw. Where a function turns a factor 2 of q into more than 8, as one
    that is flat around 0 does, the level of the middle draw says little of what is behind it.

    Args:
        activation: f.
        q: second moment of x.
        width: number of units, 0 where it is not known. With one or two that are silent on one side
            of 0 too many draws are silent throughout.
    """
    if not 0 < q < math.inf:
        return q == 0
    if 0 < width < _FEW and _is_one_sided(activation, q):
        return False
    low, found, high = (behind(activation, q * by) for by in (0.5, 1.0, 2.0))
    return found <= _STEEPEST * low and high <= _STEEPEST * found


def is_told(
    node: Node,
    levels: Sequence[float],
    shares: Sequence[float],
    width: int,
    weights: Weights | None = None,
) -> bool:
    """Whether draws keep to what ``second_moment`` says of a node.

    Args:
        node: the node.
        levels: second moments of what it reads.
        shares: common shares of what it reads, nan where they are not known.
        width: number of units of the value, 0 where it is not known.
        weights: as for ``second_moment``.
    """
    match node:
        case Nonlinearity(activation=activation):
            return is_steady(activation, levels[0], width)
        case Pool(kind="average", window=window):
            # Where sites are more alike than was thought, no more than all is left.
            left = shares[0] + (1.0 - shares[0]) / math.prod(window)
            return left >= _LEAST_LEFT or left < ROUNDING
        case Softmax():
            # What all keys have in common weighs nothing.
            return not levels[0] * (1.0 - shares[0]) > _MOST_SCORES
        case Contract(size=size) if weights:
            squares = size * levels[weights.place]
            # As normal scores of this variance have them.
            spread = math.log(max(1.0, size * squares))
            share = shares[1 - weights.place]
            return not (math.isnan(shares[-1]) or _is_tilted(spread, squares, share, width))
        case Attention(visible=visible):
            spread = scores_apart(node, levels, shares)
            squares = participation(spread, 1.0 / visible)
            return not (math.isnan(shares[-1]) or _is_tilted(spread, squares, shares[2], width))
        case Contract():
            return not math.isnan(shares[-1])
        case _:
            return True


def _is_tilted(spread: float, squares: float, share: float, width: int) -> bool:
    """Whether an average of few units is mostly what scores and values have to do with each other.

    Scores s and values v that are both read from d normal numbers have cov(s, v)^2 of var s var v /
    d, and the mean of v weighed by e^s is cov(s, v). The width of a value is that of what it was
    read from only where both are narrow.
    """
    return 0 < width <= _NARROW and spread / width > squares + share / max(1.0 - share, ROUNDING)


def _is_one_sided(activation: Activation, q: float) -> bool:
    low, high = sorted(abs(activation.f(np.array([-math.sqrt(q), math.sqrt(q)]))))
    return bool(low < _SILENT * high)
