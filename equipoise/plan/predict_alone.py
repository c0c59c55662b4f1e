"""What a layer that stands alone makes of values of which only second moments are known.

Between two normalisations a stack is one linear map. Its second moment is exact, its spread that of
a quadratic form; nothing has to be drawn.
"""

import math
from dataclasses import replace

import numpy as np

from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.predict_entries import acts_as_normal, moments
from equipoise.plan.predict_sites import spread_sites
from equipoise.plan.stack_plan import Expected
from equipoise.plan.stacks import Stack
from equipoise.schemes.convolution import Convolution
from equipoise.schemes.laws import (
    Framed,
    Law,
    Matrix,
    Mirrored,
    Normal,
    Orthogonal,
    Taps,
    TruncatedNormal,
    Uniform,
    Zero,
)
from equipoise.schemes.sites import Sites, block_sites

# Relative variance of a mean square above which its log is no longer near to normal.
_MOST_VARIANCE = 0.1
# The middle of a chi-squared law lies a third of its relative variance below the mean.
_BELOW = 1.0 / 3.0
# Sites, and maps, on which one layer is followed where there are more.
_FEW_SITES, _MOST_MAPS = 64, 64


def expect_alone(stack: Stack, weight: Law, bias: Law, entry: Inputs, rows: int) -> Expected | None:
    """Expectations of a stack of one layer, in closed form.

    Of N vectors in d dimensions with participation ratio P, ``|W x|^2`` over its mean has variance
    ``2 / (m P)`` where W has m rows of independent normal entries, and about
    ``2 (1/r - 1/d) (1/P - 1/d) d / (d + 2)`` where it is an isometry on r random directions.
    ``1 / P = 1/d + 1/N`` if the vectors are independent, more if they have a part in common.

    Args:
        stack: one layer.
        weight: law of its weight.
        bias: law of its bias.
        entry: what enters.
        rows: number of inputs of a batch.

    Returns:
        The expectations; None where values are known, or the law is another one, or too few
        numbers are averaged for a narrow law.
    """
    if stack.hidden or bias != Zero() or entry.rows.size or entry.maps.size:
        return None
    affine = stack.affines[0]
    matrix, block = _taken_apart(weight, affine)
    reads, sites = _reads(affine, block)
    groups, taps = affine.convolution.groups, math.prod(block)
    rows_out, size = affine.out_size // groups, affine.in_size // groups
    if not reads:
        # Taps that meet nothing but padding.
        return None
    window = reads * size
    of_mean, common, count = entry.share_of_mean, entry.drawn_share, rows * sites
    s = of_mean + common
    alike = s * s + (1 - s) ** 2 * (1 / window + 1 / count) + 2 * s * (1 - s) / window
    match matrix:
        case Normal() | Uniform() | TruncatedNormal():
            mean, std = moments(matrix, rows_out)
            if mean or not acts_as_normal(matrix, round(window)):
                return None
            gain_square, drawn = std * std, 2 * alike / affine.out_size
        case Orthogonal() | Framed() if not affine.convolution.is_transposed:
            if isinstance(matrix, Orthogonal):
                rank, scale = min(rows_out, size * taps), matrix.gain
            elif isinstance(matrix.out_layout, Mirrored) or isinstance(matrix.in_layout, Mirrored):
                return None
            else:
                rank, scale = matrix.rank, matrix.scale
            whole = size * taps
            gain_square = scale * scale * rank / (whole * rows_out)
            left = max(0.0, alike - 1 / whole) * whole / (whole + 2)
            drawn = 2 * (1 / rank - 1 / whole) * left / groups
        case _:
            return None
    read = affine.in_size * count * max(1.0, math.prod(affine.in_sites) / sites)
    shared = (common + 2 * of_mean) * common
    variance = drawn + 2 * (shared / affine.in_size + (1 - s) ** 2 / read)
    if not variance < _MOST_VARIANCE:
        return None
    signal = math.sqrt(entry.mean_square * gain_square * window)
    signal *= math.exp(-0.5 * _BELOW * variance)
    return Expected(
        (signal,), (1.0,), (0.5 * math.sqrt(variance),), (0.0,), (s,), 1.0, 0.0,
        "second moments, exact", correlation_std=(math.nan,), at_exit=signal,
    )  # fmt: skip


def at_some_sites(stack: Stack, weight: Law, bias: Law, entry: Inputs) -> tuple[Stack, Law, Inputs]:
    """A convolution that stands alone, at few of many sites, as one over the windows read there.

    Args:
        stack: the layers.
        weight: law of the first weight.
        bias: law of the first bias.
        entry: what enters.

    Returns:
        Stack, law and inputs whose expectations are nearly the same; those given where there are
        more layers, few sites, or values that are not known.
    """
    affine = stack.affines[0]
    c, made = affine.convolution, math.prod(affine.out_sites)
    if stack.hidden or bias != Zero() or not entry.maps.size or c.is_transposed:
        return stack, weight, entry
    matrix, block = _taken_apart(weight, affine)
    if not c.kernel or made <= _FEW_SITES or matrix is None:
        return stack, weight, entry
    table = block_sites(c, block, affine.in_sites, affine.out_sites)
    times = np.bincount(table.index[table.index >= 0], minlength=table.count)
    energy = float(np.mean(np.square(entry.maps) @ times)) / table.index.size
    chosen = np.linspace(0, made - 1, _FEW_SITES).astype(int)
    maps = entry.maps[np.linspace(0, len(entry.maps) - 1, _MOST_MAPS).astype(int)]
    read = Sites(table.count, table.index[chosen]).joined(maps)
    point = Convolution((1,), (1,), ((0, 0),), (1,), c.groups)
    smaller = replace(
        affine, in_size=read.shape[1], convolution=point, in_sites=(_FEW_SITES,),
        out_sites=(_FEW_SITES,), axis=-2,
    )  # fmt: skip
    inputs = Inputs(energy, np.moveaxis(read, 1, 2).reshape(-1, read.shape[1]), read)
    return replace(stack, affines=(smaller,)), Taps(matrix, (1,), c.groups), inputs


def _taken_apart(weight: Law, affine: Affine) -> tuple[Matrix | None, tuple[int, ...]]:
    """The law of the matrix of all taps that a weight has, None for others, and these taps."""
    if isinstance(weight, Taps):
        return weight.matrix, weight.block
    if isinstance(weight, Normal | Uniform | TruncatedNormal | Orthogonal | Framed):
        return weight, affine.convolution.kernel
    return None, ()


def _reads(affine: Affine, block: tuple[int, ...]) -> tuple[float, int]:
    """Mean number of taps that meet a site which is there, by site made; and number of these."""
    c = affine.convolution
    if not c.kernel:
        return 1.0, max(1, math.prod(affine.in_sites))
    made = math.prod(affine.out_sites)
    if c.is_transposed:
        table = spread_sites(affine, block)
    else:
        table = block_sites(c, block, affine.in_sites, affine.out_sites)
    return float(np.count_nonzero(table.index >= 0)) / made, made
