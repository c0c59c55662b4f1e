"""Draws of single matrices from one generator, for laws that refer to nothing else."""

import math

import numpy as np
from scipy import special

from equipoise.schemes.diagonal_noise import noise_law
from equipoise.schemes.laws import Array, DiagonalNoise, Directions, Sparse, TruncatedNormal

# Few are needed but where nearly all columns are used; then the rows are nearly alike anyway.
_MOST_PROJECTIONS, _EVEN = 300, 1e-5


def truncated_normal(
    law: TruncatedNormal, shape: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """Normal entries given that they lie in [low, high], by the inverse of the distribution."""
    low, high = (law.low - law.mean) / law.scale, (law.high - law.mean) / law.scale
    # In the upper tail the distribution function has no digits left; its mirror image has.
    sign = -1.0 if low > 0 else 1.0
    first, last = sorted((sign * low, sign * high))
    share = rng.random(shape)
    below, above = special.log_ndtr(first), special.log_ndtr(last)
    if above == -np.inf:
        # So far out even the logarithm is no float: all of the law lies at the nearer bound.
        return np.full(shape, law.low if low > 0 else law.high, dtype=np.float64)
    # log of (1 - u) Phi(first) + u Phi(last), which keeps its digits however far out both are.
    log_p = above + np.log(np.exp(below - above) * (1.0 - share) + share)
    z = sign * np.clip(special.ndtri_exp(log_p), first, last)
    return np.asarray(np.clip(law.mean + law.scale * z, law.low, law.high))


def sparse(law: Sparse, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Normal entries of which a share is 0 in each column."""
    rows, columns = shape
    values = law.std * rng.standard_normal(shape)
    order = rng.random(shape).argsort(axis=0)[: math.ceil(law.share * rows)]
    values[order, np.arange(columns)[None, :]] = 0.0
    return values


def directions(law: Directions, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Rows of one norm in directions that are spread evenly."""
    rows, columns = shape
    signs = rng.choice([-1.0, 1.0], (rows, 1))
    if columns == 2:
        angles = np.pi * (rng.permutation(rows) + rng.random()) / rows
        unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        squares = [
            semi_orthogonal(rng.standard_normal((columns, columns)), (columns, columns))
            for _ in range(-(-rows // columns))
        ]
        unit = np.concatenate(squares)[:rows]
    return np.asarray(law.norm * signs * unit)


def diagonal_noise(law: DiagonalNoise, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ones where i = j (mod fan_in), times the diagonal, plus noise."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    ones = (rows % shape[1] == columns).astype(np.float64)
    noise = noise_law(law.noise, law.parameter).draw(rng, shape)
    return np.asarray(law.diagonal * ones + law.noise_std * noise)


def semi_orthogonal(normals: Array, shape: tuple[int, int] | tuple[int, ...]) -> Array:
    """Haar semi-orthogonal matrix of a shape, from normals of shape (max, min) of it.

    QR with the signs of R's diagonal folded in, without which the law is not Haar.
    Source: arXiv math-ph/0609050.
    """
    q, r = np.linalg.qr(normals)
    signs = np.where(np.diagonal(r) < 0, -1.0, 1.0)
    q = q * signs
    return np.ascontiguousarray(q if shape[0] >= shape[1] else q.T)


def paired(
    core: Array, shape: tuple[int, ...], rows: bool, columns: bool, rng: np.random.Generator
) -> Array:
    """[M; -M] over pairs of outputs, [M, -M] over pairs of inputs; a leftover unit is silent.

    Args:
        core: M, half as many rows or columns where these are paired.
        shape: of the weight, at most one row and one column more than the pairs fill.
        rows: whether outputs are paired.
        columns: whether inputs are paired.
        rng: for the row of a leftover unit, which has the norm of the others.

    Returns:
        The weight.
    """
    weight = core
    if columns:
        weight = np.concatenate([weight, -weight], axis=1)
    if rows:
        weight = np.concatenate([weight, -weight], axis=0)
    if shape[0] > weight.shape[0]:
        row = rng.standard_normal((1, weight.shape[1]))
        size = float(np.linalg.norm(weight)) / math.sqrt(max(1, weight.shape[0]))
        norm = float(np.linalg.norm(row))
        row = row * (size / norm) if norm > 0 else row
        weight = np.concatenate([weight, row], axis=0)
    if shape[1] > weight.shape[1]:
        # One leftover unit, at every site where the weight joins sites.
        silent = np.zeros((weight.shape[0], shape[1] - weight.shape[1]))
        weight = np.concatenate([weight, silent], axis=1)
    return weight


def log_rms(values: Array) -> Array:
    """Log of the root mean square of each column; columns of zeros count as 1e-150."""
    return np.asarray(0.5 * np.log(np.maximum(np.square(values).mean(axis=0), 1e-300)))


def even_rows(columns: Array) -> Array:
    """Orthonormal columns near to those given whose rows all have one norm, sqrt(columns / rows).

    Args:
        columns: orthonormal columns, shape (n, k).

    Returns:
        The same shape. Columns are orthonormal to rounding, norms of rows equal to about 1e-5.

    Source: alternating projections, Tropp, Dhillon, Heath and Strohmer 2005.

    >>> rows = even_rows(np.linalg.qr(np.random.default_rng(0).standard_normal((10, 4)))[0])
    >>> np.round(np.square(rows).sum(axis=1), 4).tolist() == [0.4] * 10
    True
    """
    size, count = columns.shape
    for _ in range(_MOST_PROJECTIONS):
        norms = np.linalg.norm(columns, axis=1, keepdims=True)
        if np.ptp(norms) <= _EVEN * math.sqrt(count / size):
            break
        left, _values, right = np.linalg.svd(
            columns / np.maximum(norms, np.finfo(float).tiny), full_matrices=False
        )
        columns = left @ right
    return columns
