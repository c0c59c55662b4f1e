"""What a layer's values still know of the inputs: the correlation of Gram matrices, and rank."""

import math

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError

Array = NDArray[np.float64]

# Share of the mean square below which a variance is rounding.
_ROUNDING = 1e-12


def gram_correlation(x: Array, y: Array) -> float:
    """Pearson correlation over pairs i < j of the inner products x_i . x_j and y_i . y_j.

    1 where y is x turned, moved into more dimensions or scaled; 0 where the inner products of y
    say nothing of those of x, or are all the same. The Gram matrices themselves are never formed:
    sum over i, j of (x_i . x_j) (y_i . y_j) = |X^T Y|_F^2.

    Args:
        x: shape (rows, features), at least 3 rows.
        y: shape (rows, other features).

    Returns:
        The correlation; it does not depend on the scale of either.

    Raises:
        ArgumentError: for arrays of other shapes, fewer rows or numbers that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((50, 4))
    >>> round(gram_correlation(x, 1e-200 * x[:, ::-1]), 12)
    1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 3:
        raise ArgumentError(
            f"x and y must be matrices with the same 3 rows or more, got shapes {x.shape} and "
            f"{y.shape}. Pass one row for each input."
        )
    a, b = _scaled("x", x), _scaled("y", y)
    pairs = len(a) * (len(a) - 1)
    norms = [np.square(v).sum(axis=1) for v in (a, b)]
    means = [
        (float(np.square(v.sum(axis=0)).sum()) - float(n.sum())) / pairs
        for v, n in zip((a, b), norms, strict=True)
    ]

    def product(left: int, right: int) -> float:
        whole = float(np.square((a, b)[left].T @ (a, b)[right]).sum())
        return (whole - float(norms[left] @ norms[right])) / pairs

    variances = []
    for i in range(2):
        square = product(i, i)
        variance = square - means[i] ** 2
        if not variance > _ROUNDING * square:
            return 0.0
        variances.append(variance)
    covariance = product(0, 1) - means[0] * means[1]
    return covariance / math.sqrt(variances[0] * variances[1])


def participation_rank(y: Array) -> float:
    """Effective number of directions (sum lambda)^2 / sum lambda^2 of the second moments about 0.

    Args:
        y: shape (rows, features).

    Returns:
        From 1 to the number of features; 0 where all is 0.

    Raises:
        ArgumentError: for numbers that are not finite.

    >>> participation_rank(np.eye(5))
    5.0
    """
    scaled = _scaled("y", y)
    moments = scaled.T @ scaled
    square = float(np.square(moments).sum())
    return float(np.trace(moments)) ** 2 / square if square > 0 else 0.0


def _scaled(name: str, values: Array) -> Array:
    """Values with a largest entry of 1, so that no square leaves the range of floats."""
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        raise ArgumentError(f"{name} must hold finite numbers, got {largest}. Look at the network.")
    # In two steps: one over a number below the normal range is infinite.
    power = math.frexp(largest)[1] if largest > 0 else 0
    scaled: Array = np.ldexp(values, -power)
    return scaled


def norm_factor(width: int) -> float:
    """Correlation of the inner products x . y and x . y / (|x| |y|) of normal vectors, exactly.

    Where a network keeps all angles and brings all norms to one size, this is what is left:
    (E|x|)^2 / E|x|^2 = (2 / n) (Gamma((n + 1) / 2) / Gamma(n / 2))^2.

    >>> round(norm_factor(16), 4)
    0.9693
    """
    log_ratio = math.lgamma((width + 1) / 2) - math.lgamma(width / 2)
    return 2.0 / width * math.exp(2.0 * log_ratio)


def orthogonal_gram_correlation(width: int, budget: float) -> float:
    """Gram correlation behind a very deep orthogonal tanh-like stack that spends a budget.

    To leading order in the level of the signal. Each layer adds to a direction the part of its
    cubic bend that no linear map makes, in a Haar-random frame: of relative energy s, with
    2 L s = B for Gaussian units. So the mean of a cosine shrinks by 1 - s in each layer, while
    random turns keep its variance at 1 / n: it forgets by exp(-B / 2) in all. For n units of fixed
    norm that part has only the share v = (15 / ((1 + 2/n)(1 + 4/n)) - 9 / (1 + 2/n)^2) / 6 of its
    energy. Norms are all drawn to the fixed point (``norm_factor``):

        correlation = norm_factor(n) exp(-v B / 2).

    Args:
        width: n, units of each layer and features of normal inputs, at least 2.
        budget: B, nats of growth of the mean-square gradient over the stack, not negative.

    Returns:
        The correlation. Holds where the depth is many times 1 / B, in layers; measured within .01
        at 10,000 layers of width 16 and 64.

    Raises:
        ArgumentError: for arguments out of these ranges.

    >>> round(orthogonal_gram_correlation(16, 0.3), 3)
    0.887
    """
    _checks.at_least("width", width, 2)
    _checks.not_negative("budget", budget)
    return norm_factor(width) * math.exp(-_bent_share(width) * budget / 2.0)


def budget_for_gram_correlation(width: int, wanted: float) -> float:
    """The budget at which ``orthogonal_gram_correlation`` is the number wanted.

    Args:
        width: as there.
        wanted: between 0 and ``norm_factor(width)``.

    Returns:
        Nats.

    Raises:
        ArgumentError: for a number that no budget gives, or another width.

    >>> round(budget_for_gram_correlation(16, 0.9), 3)
    0.25
    """
    _checks.at_least("width", width, 2)
    most = norm_factor(width)
    if not 0.0 < wanted < most:
        raise ArgumentError(
            f"wanted must be between 0 and {most:.4g} at width {width}, got {wanted}. "
            "Sizes are lost at any budget where depth is large; ask for less."
        )
    return 2.0 * math.log(most / wanted) / _bent_share(width)


def _bent_share(width: int) -> float:
    a, b = 1.0 + 2.0 / width, 1.0 + 4.0 / width
    return (15.0 / (a * b) - 9.0 / a**2) / 6.0
