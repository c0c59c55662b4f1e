"""What each kind of node does to the second moment of a value, and to the share all sites have.

Wide limit: weights are drawn afresh, so that values which come from different weights do not
correlate. The share of a value is that part of its second moment which the sites of one row have in
common: the mean product of two of them over the second moment. Averages over sites keep it and
divide the rest; nan where it is not known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Constant,
    Contract,
    Dropout,
    Flatten,
    Gain,
    Lookup,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Opaque,
    Permute,
    Pool,
    Product,
    Reshape,
    Shift,
    Softmax,
    Spread,
    Take,
)
from equipoise.plan.participation import participation
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import hermite_coefficients, statistics

_COEFFICIENTS = 24
# A mean of this share of the second moment decides how alike sites are, whatever they were before.
_MOSTLY = 0.25
# Below this share nothing but rounding is left of a signal.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Weights:
    """The factor of a contraction that a softmax made, whichever its axis.

    Attributes:
        place: 0 or 1.
        mean: of the weights, 1 over the size of the axis along which they add up to 1.
        is_average: whether that is the axis that is summed over.
    """

    place: int
    mean: float
    is_average: bool = True


def second_moment(
    node: Node,
    levels: Sequence[float],
    shares: Sequence[float],
    factor: float,
    weights: Weights | None = None,
) -> float:
    """Second moment of what a node makes, nan where it is not known.

    Args:
        node: the node; affine layers are planned and not asked for here.
        levels: second moments of what it reads.
        shares: common shares of what it reads.
        factor: second moment of the parameter or constant of a gain or shift.
        weights: of a contraction with a softmax; None of all else.

    Values that a sum, shift or product reads must be independent (``plan.origins``).
    """
    match node:
        case Reshape() | Permute() | Flatten() | Take():
            return levels[0]
        case Spread(kept=kept):
            return levels[0] * (shares[0] + (1.0 - shares[0]) * kept)
        case Dropout(probability=p, is_active=active):
            return levels[0] / (1.0 - p * active) if p < 1 else math.nan
        case Nonlinearity(activation=activation):
            return behind(activation, levels[0])
        case Merge():
            return sum(levels)
        case Norm():
            return _normalized(node, levels[0])
        case Product():
            return math.prod(levels)
        case Gain():
            return levels[0] * factor
        case Shift():
            return levels[0] + factor
        case Constant(mean_square=mean_square):
            return mean_square
        case Softmax(size=size):
            # What all keys have in common shifts every score of a query: it weighs nothing.
            return participation(levels[0] * (1.0 - shares[0]), size) / size
        case Contract(size=size) if weights:
            # Of what all sites share the weights' own sum is left, of the rest that of squares.
            squares = min(1.0, size * levels[weights.place])
            q, share = levels[1 - weights.place], shares[1 - weights.place]
            return q * (share * (size * weights.mean) ** 2 + (1.0 - share) * squares)
        case Contract(size=size):
            return size * levels[0] * levels[1]
        case Attention(visible=visible):
            squares = participation(scores_apart(node, levels, shares), 1.0 / visible)
            return levels[2] * (shares[2] + (1.0 - shares[2]) * squares)
        case Concat(sizes=sizes):
            total = sum(sizes)
            # An empty cache of earlier keys has no second moment.
            known = [q * n for q, n in zip(levels, sizes, strict=True) if n]
            return sum(known) / total if total else math.nan
        case Pool(kind="average", window=window):
            left = shares[0] + (1.0 - shares[0]) / math.prod(window)
            # Of values that add up to 0 only rounding is left.
            return levels[0] * left if not left < ROUNDING else 0.0
        case _:
            return math.nan


def scores_apart(node: Attention, levels: Sequence[float], shares: Sequence[float]) -> float:
    """Variance of an attention's scores, less what all keys have in common, which weighs nothing.

    Args:
        node: the attention.
        levels: second moments of queries, keys and values.
        shares: parts of these that all sites have in common.
    """
    return node.scale**2 * node.size * levels[0] * levels[1] * (1.0 - shares[1])


def averaging(node: Node, producer: Mapping[int, Node]) -> Weights | None:
    """Which factor of a product is made by a softmax, None where neither is."""
    if isinstance(node, Contract):
        for place, value in enumerate(node.inputs):
            softmax, is_turned = _softmax_behind(value, producer)
            if softmax and softmax.size:
                # The first is summed over its last axis, the second over the one before.
                is_average = softmax.axis == (-1 - place if not is_turned else place - 2)
                return Weights(place, 1.0 / softmax.size, is_average)
    return None


def _softmax_behind(value: int, producer: Mapping[int, Node]) -> tuple[Softmax | None, bool]:
    """The softmax that made a value, up to dropout and moves, and whether it was transposed."""
    is_turned = False
    while True:
        match producer.get(value):
            case Permute(input=source):
                value, is_turned = source, not is_turned
            case Dropout(input=source) | Reshape(input=source):
                value = source
            case Take(input=source) | Spread(input=source):
                value = source
            case Softmax() as node:
                return node, is_turned
            case _:
                return None, is_turned


def behind(activation: Activation, q: float) -> float:
    """Second moment of f(x) for normal x of second moment q, nan where q is not known."""
    if q == 0:
        return float(activation.value_at_zero) ** 2
    return statistics(activation, q).second_moment if 0 < q < math.inf else math.nan


def share_of(
    node: Node,
    levels: Sequence[float],
    shares: Sequence[float],
    level: float,
    weights: Weights | None = None,
) -> float:
    """Share of a value's second moment that all sites have in common.

    Args:
        node: what makes the value.
        levels: second moments of what it reads.
        shares: common shares of what it reads.
        level: second moment of the value.
        weights: as for ``second_moment``.
    """
    match node:
        case Lookup(share=share):
            return share
        case Constant() | Opaque():
            return 0.0
        case Nonlinearity(activation=activation):
            q = levels[0]
            return _bent(activation, q, shares[0]) if q > 0 and math.isfinite(q) else shares[0]
        case Merge() | Concat():
            sizes = node.sizes if isinstance(node, Concat) else (1,) * len(levels)
            energies = [q * n if q > 0 else 0.0 for q, n in zip(levels, sizes, strict=True)]
            common = sum(e * c for e, c in zip(energies, shares, strict=True))
            return common / sum(energies) if sum(energies) > 0 else 0.0
        case Product():
            return math.prod(shares)
        case Softmax(size=size):
            # Weights are positive: what they have in common is their mean.
            return _part(1.0 / size**2, level)
        case Attention(sites=sites, visible=visible):
            # Two queries weigh the same values: what they make is alike by as much as their weights
            # overlap, which is the more the more the queries have in common.
            spread = scores_apart(node, levels, shares) * shares[0]
            # Of a causal pair the later query sees more keys than two in a row do.
            overlap = participation(spread, 1.0 / min(visible, 2.0 / sites))
            return _part(levels[2] * (shares[2] + (1.0 - shares[2]) * overlap), level)
        case Contract(size=size) if weights:
            q, share = levels[1 - weights.place], shares[1 - weights.place]
            seen = share * size + 1.0 - share
            return _part(q * seen * size * weights.mean**2, level)
        case Contract():
            # Scores: what all keys have in common.
            return shares[1]
        case Pool(kind="average") | Spread() | Dropout():
            # Dropout strikes each site by itself.
            return _part(levels[0] * shares[0], level) if level > 0 else shares[0]
        case Norm(is_tracked=False, kind="batch"):
            # The mean over all rows is gone; what is left of that of one row is not known.
            return math.nan
        case Norm(is_tracked=False, kind="instance", size=size):
            # Sites add up to 0.
            return -1.0 / (size - 1) if size > 1 else 0.0
        case Affine(convolution=convolution) if convolution.is_transposed:
            # Sites beside each other are made by other taps of the kernel.
            return shares[0] / math.prod(convolution.stride)
        case Affine():
            return shares[0]
        case _:
            return shares[0] if shares else 0.0


def _normalized(node: Norm, level: float) -> float:
    """Second moment behind a norm without its gain and offset; of an unknown level that is 1."""
    if node.size == 1 and node.kind != "rms":
        return 0.0
    if node.is_tracked:
        return level * node.scale + node.centre
    if level == 0:
        return 0.0
    return level / (level + node.epsilon) if level > 0 else 1.0


def _part(common: float, level: float) -> float:
    """The share of a second moment, 0 where there is none."""
    # The order lets nan pass.
    return min(common / level, 1.0) if level > 0 else 0.0


@lru_cache(maxsize=4096)
def _bent_series(activation: Activation, q: float) -> tuple[float, ...]:
    coefficients = hermite_coefficients(activation, q, _COEFFICIENTS)
    # They are those of f less f(0).
    coefficients[0] += activation.value_at_zero
    total = statistics(activation, q).second_moment
    return tuple(float(a) ** 2 / total for a in coefficients) if total > 0 else ()


def _bent(activation: Activation, q: float, share: float) -> float:
    """Cosine behind a function for a cosine before it: sum a_k^2 c^k / sum a_k^2."""
    series = _bent_series(activation, float(f"{q:.3g}"))
    if not series:
        return share
    if math.isnan(share):
        # Where the function's own mean is most of it, that of the signal hardly counts.
        share = 0.5 if series[0] > _MOSTLY else math.nan
    known = sum(a * share**k for k, a in enumerate(series))
    # What the series leaves out is of high degree: it counts only near 1.
    return min(known + max(0.0, 1.0 - sum(series)) * share ** len(series), 1.0)
