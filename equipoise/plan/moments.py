"""What each kind of node does to the second moment of a value, and to the share all sites have.

Wide limit: weights are drawn afresh, so that values which come from different weights do not
correlate. The share of a value is that part of its second moment which is the same at different
sites and rows; averages over sites keep it and divide the rest.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

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
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import hermite_coefficients, statistics

# Scores of this variance leave nearly all to one of them.
_MOST_SPREAD = 100.0
_COEFFICIENTS = 24


def second_moment(
    node: Node,
    levels: Sequence[float],
    shares: Sequence[float],
    factor: float,
    *,
    averages: bool = False,
) -> float:
    """Second moment of what a node makes, nan where it is not known.

    Args:
        node: the node; affine layers are planned, and sums add up what their terms share
            (``plan.covariance``): neither is asked for here.
        levels: second moments of what it reads.
        shares: common shares of what it reads.
        factor: second moment of the parameter or constant of a gain or shift.
        averages: whether the first factor of a contraction is made by a softmax.
    """
    match node:
        case Reshape() | Permute() | Flatten() | Take() | Spread():
            return levels[0]
        case Dropout(probability=p, is_active=active):
            return levels[0] / (1.0 - p * active) if p < 1 else math.nan
        case Nonlinearity(activation=activation):
            return statistics(activation, levels[0]).second_moment if levels[0] > 0 else math.nan
        case Norm(is_tracked=True):
            return levels[0]
        case Norm(kind="rms", epsilon=epsilon):
            return _normalized(levels[0], 1.0, epsilon)
        case Norm(epsilon=epsilon):
            return _normalized(levels[0], 1.0, epsilon)
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
            return _participation(levels[0] * (1.0 - shares[0]), size) / size
        case Contract(size=size) if averages:
            # The first factor's second moment is that of one weight: their squares add up.
            return levels[1] * (shares[1] + (1.0 - shares[1]) * min(1.0, levels[0] * size))
        case Contract(size=size):
            return size * levels[0] * levels[1]
        case Attention(size=size, scale=scale, visible=visible):
            spread = scale**2 * size * levels[0] * levels[1] * (1.0 - shares[1])
            weights = _participation(spread, 1.0 / visible)
            return levels[2] * (shares[2] + (1.0 - shares[2]) * weights)
        case Concat(sizes=sizes):
            total = sum(sizes)
            # An empty cache of earlier keys has no second moment.
            known = [q * n for q, n in zip(levels, sizes, strict=True) if n]
            return sum(known) / total if total else math.nan
        case Pool(kind="average", window=window):
            return levels[0] * (shares[0] + (1.0 - shares[0]) / math.prod(window))
        case _:
            return math.nan


def share_of(
    node: Node,
    levels: Sequence[float],
    shares: Sequence[float],
    level: float,
    *,
    averages: bool = False,
) -> float:
    """Share of a value's second moment that all sites and rows have in common.

    Args:
        node: what makes the value.
        levels: second moments of what it reads.
        shares: common shares of what it reads.
        level: second moment of the value.
        averages: as for ``second_moment``.
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
        case Attention(size=size, scale=scale, sites=sites, visible=visible):
            # Two queries weigh the same values: what they make is alike by as much as their weights
            # overlap, which is the more the more the queries have in common.
            spread = scale**2 * size * levels[0] * levels[1] * (1.0 - shares[1]) * shares[0]
            # Of a causal pair the later query sees more keys than two in a row do.
            overlap = _participation(spread, 1.0 / min(visible, 2.0 / sites))
            kept = levels[2] * (shares[2] + (1.0 - shares[2]) * overlap)
            return min(1.0, kept / level) if level > 0 else 0.0
        case Contract(size=size) if averages:
            kept = levels[1] * (shares[1] + (1.0 - shares[1]) / size)
            return min(1.0, kept / level) if level > 0 else 0.0
        case Contract():
            # Scores: what all keys have in common.
            return shares[1]
        case Pool(kind="average"):
            return min(1.0, levels[0] * shares[0] / level) if level > 0 else shares[0]
        case Affine():
            return shares[0]
        case _:
            return shares[0] if shares else 0.0


def _normalized(level: float, wanted: float, epsilon: float) -> float:
    """Second moment behind a division by sqrt(level + epsilon); ``wanted`` where it is unknown."""
    return wanted * level / (level + epsilon) if level > 0 else wanted


def _participation(spread: float, size: float) -> float:
    """Sum of squared weights of a softmax over ``size`` normal scores of variance ``spread``."""
    spread = min(spread, _MOST_SPREAD) if spread >= 0 else 0.0
    return _softmax_energy(float(f"{spread:.4g}"), size)


@lru_cache(maxsize=4096)
def _softmax_energy(spread: float, size: float) -> float:
    """E sum p^2 over draws, exact at any size.

    With 1 / S^2 = int t e^(-t S) dt it is n int t E[e^(2 s) e^(-t e^s)] E[e^(-t e^s)]^(n - 1) dt, a
    trapezoid sum over log t of two means over one score s.
    """
    if size <= 1.0:
        return 1.0
    std = math.sqrt(spread)
    z = np.linspace(-8.0, 8.0, 81)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    far = 8.0 * std
    log_t = np.arange(-far - math.log(size) - 12.0, far + 4.0, 0.1)
    powers = np.exp(np.minimum(log_t[:, None] + std * z, 700.0))
    alone = np.exp(-powers) @ weights
    squared = (powers**2 * np.exp(-powers)) @ weights
    total = float(np.sum(squared * alone ** (size - 1.0)) * 0.1)
    return min(1.0, max(1.0 / size, size * total))


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
    known = sum(a * share**k for k, a in enumerate(series))
    # What the series leaves out is of high degree: it counts only near 1.
    return min(1.0, known + max(0.0, 1.0 - sum(series)) * share ** len(series))
