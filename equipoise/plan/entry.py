"""What enters each stack: read from the inputs where they reach it, else from what was planned."""

import math
from dataclasses import dataclass, field

import numpy as np

from equipoise.schemes.laws import Array

# Principal axes need more rows than axes, or they are noise; this many rows settle any width used.
_MOST_ROWS = 16384
_MOST_GRAM = 1024
# A mean below this share of the energy is not worth a data-dependent bias.
_LEAST_MEAN_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Inputs:
    """Values that enter a stack.

    Attributes:
        mean_square: second moment per input unit; nan where unknown.
        rows: the values themselves, shape (rows, features), one row for each site of a map, or an
            empty array where unknown.
        maps: the same as (rows, channels, sites) where a convolution reads them, else empty.
        share: part of the second moment that all rows have in common, where they are not known.
        mean: of all units and rows, where they are not known.
    """

    mean_square: float
    rows: Array
    maps: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))
    share: float = 0.0
    mean: float = 0.0

    @property
    def share_of_mean(self) -> float:
        """Part of the second moment that the squared mean is."""
        return min(1.0, self.mean**2 / self.mean_square) if self.mean else 0.0

    @property
    def drawn_share(self) -> float:
        """Part of the second moment that rows have in common and that differs between units."""
        return max(0.0, self.share - self.share_of_mean)

    @property
    def is_known(self) -> bool:
        """Whether the second moment is known and not 0."""
        return math.isfinite(self.mean_square) and self.mean_square > 0


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Mean and leading principal axes of rows.

    Attributes:
        mean: shape (fan_in,).
        axes: orthonormal rows in order of variance, shape (k, fan_in).
        variances: along each axis, shape (k,).
        total_variance: summed over all axes.
        participation: effective number of directions, (sum variances)^2 / sum variances^2.
    """

    mean: Array
    axes: Array
    variances: Array
    total_variance: float
    participation: float

    @property
    def participation_with_mean(self) -> float:
        """The same for second moments about 0, to which the mean adds one direction."""
        energy = float(np.square(self.mean).sum())
        squares = self.total_variance**2 / self.participation + energy**2
        return (self.total_variance + energy) ** 2 / squares


def principal_axes(rows: Array, count: int) -> PrincipalAxes | None:
    """Mean and ``count`` leading principal axes of rows; None where rows cannot settle them.

    Args:
        rows: shape (rows, fan_in). An evenly spaced subset is used where there are very many.
        count: number of axes wanted.

    Returns:
        Mean and axes, fewer of these if the rows vary in fewer directions; None if there are not
        twice as many rows as axes, or all rows are the same.
    """
    if len(rows) < 2 * count + 2:
        return None
    size = rows.shape[1]
    most = _MOST_ROWS if size <= _MOST_GRAM else _MOST_GRAM
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
    mean = rows.mean(axis=0)
    centred = rows - mean
    # The smaller of the two Gram matrices has the same non-zero spectrum.
    if size <= len(rows):
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        axes = vectors[:, ::-1][:, :count].T
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T / len(rows))
        lead = vectors[:, ::-1][:, :count]
        axes = lead.T @ centred
    variances = np.maximum(values[::-1], 0.0)[:count]
    total = float(np.maximum(values, 0.0).sum())
    if total <= 0:
        return None
    real = variances > 1e-10 * total
    axes, variances = axes[real], variances[real]
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    # The sign of an eigenvector is the solver's whim: the largest entry is made positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.sign(largest)
    squares = float(np.square(values).sum())
    return PrincipalAxes(mean, axes, variances, total, total**2 / squares)


def mean_matters(axes: PrincipalAxes, rows: int) -> bool:
    """Whether the mean carries a share of the energy that sampling alone does not explain."""
    energy = float(np.square(axes.mean).sum())
    return energy > (_LEAST_MEAN_SHARE + 10.0 / rows) * (energy + axes.total_variance)
