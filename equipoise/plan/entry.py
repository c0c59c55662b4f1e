"""What enters each stack: read from the inputs where they reach it, else from what was planned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from equipoise.plan.stacks import Stack
from equipoise.plan.trace import (
    Affine,
    Dropout,
    Flatten,
    Merge,
    Node,
    Nonlinearity,
    Opaque,
    Pool,
    Reshape,
    Trace,
)
from equipoise.schemes.laws import Array
from equipoise.theory.hermite import statistics

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
        rows: the values themselves, shape (rows, fan_in), or an empty array where unknown.
    """

    mean_square: float
    rows: Array

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


class Levels:
    """Second moment of every value that is known so far, and rows for those the inputs reach."""

    def __init__(self, trace: Trace, samples: Mapping[int, Array]) -> None:
        self._producer: dict[int, Node] = {}
        for node in trace.nodes:
            for value in node.outputs if isinstance(node, Opaque) else (node.output,):
                self._producer[value] = node
        self._rows: dict[int, Array] = dict(samples)
        self._level: dict[int, float] = {
            value: float(np.mean(np.square(rows))) if rows.size else math.nan
            for value, rows in samples.items()
        }

    def set_level(self, value: int, mean_square: float) -> None:
        """Record the second moment that a planned stack gives a value."""
        self._level[value] = mean_square

    def at(self, stack: Stack) -> Inputs:
        """What enters a stack."""
        fan_in = stack.affines[0].in_size
        rows = self._rows_of(stack.entry_value)
        if rows.size and rows.shape[-1] != fan_in and rows.size % fan_in == 0:
            rows = rows.reshape(-1, fan_in)
        if rows.size and rows.shape[-1] == fan_in:
            rows = rows.reshape(-1, fan_in)
            return Inputs(float(np.mean(np.square(rows))), rows)
        return Inputs(self._level_of(stack.entry_value), np.zeros((0, fan_in)))

    def _rows_of(self, value: int) -> Array:
        if value not in self._rows:
            match self._producer.get(value):
                case Reshape(input=source, out_size=size):
                    rows = self._rows_of(source)
                    self._rows[value] = rows.reshape(-1, size) if rows.size else rows
                case Dropout(input=source):
                    self._rows[value] = self._rows_of(source)
                case Nonlinearity(input=source, activation=activation):
                    rows = self._rows_of(source)
                    self._rows[value] = activation.f(rows) if rows.size else rows
                case _:
                    self._rows[value] = np.zeros((0,))
        return self._rows[value]

    def _level_of(self, value: int) -> float:
        if value in self._level:
            return self._level[value]
        level = math.nan
        match self._producer.get(value):
            case Reshape(input=source):
                level = self._level_of(source)
            case Dropout(input=source, probability=p, is_active=active):
                level = self._level_of(source) / (1.0 - p * active) if p < 1 else math.nan
            case Nonlinearity(input=source, activation=activation):
                before = self._level_of(source)
                if before > 0:
                    level = statistics(activation, before).second_moment
            case Merge(inputs=sources):
                level = sum(self._level_of(source) for source in sources)
            case Affine() | Pool() | Flatten() | Opaque() | None:
                pass
        self._level[value] = level
        return level


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
