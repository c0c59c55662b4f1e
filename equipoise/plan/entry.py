"""What enters each stack: read from the inputs where they reach it, else from what was planned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    Permute,
    Pool,
    Reshape,
    Trace,
)
from equipoise.schemes.laws import Array
from equipoise.schemes.sites import Pooling, window_sites
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
        rows: the values themselves, shape (rows, features), one row for each site of a map, or an
            empty array where unknown.
        maps: the same as (rows, channels, sites) where a convolution reads them, else empty.
    """

    mean_square: float
    rows: Array
    maps: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))

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
        self._trace = trace
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
        first = stack.affines[0]
        values = self._rows_of(stack.entry_value)
        empty = np.zeros((0, first.in_size))
        maps = np.zeros((0, first.in_size, 0))
        if not values.size:
            return Inputs(self._level_of(stack.entry_value), empty)
        mean_square = float(np.mean(np.square(values)))
        sites = len(first.in_sites)
        if sites and values.shape[-sites - 1 :] == (first.in_size, *first.in_sites):
            maps = values.reshape(-1, first.in_size, math.prod(first.in_sites))
            return Inputs(mean_square, np.moveaxis(maps, 1, 2).reshape(-1, first.in_size), maps)
        if not sites and values.ndim >= -first.axis and values.shape[first.axis] == first.in_size:
            rows = np.moveaxis(values, first.axis, -1).reshape(-1, first.in_size)
            return Inputs(mean_square, rows)
        if not sites and values.size % first.in_size == 0 and not self._trace.values:
            return Inputs(mean_square, values.reshape(-1, first.in_size))
        return Inputs(mean_square, empty)

    def _rows_of(self, value: int) -> Array:
        if value not in self._rows:
            self._rows[value] = self._computed(value)
        return self._rows[value]

    def _computed(self, value: int) -> Array:
        """What operations without weights make of the inputs; empty where others are needed."""
        node = self._producer.get(value)
        if not isinstance(node, Reshape | Flatten | Permute | Dropout | Nonlinearity | Pool):
            return np.zeros((0,))
        rows = self._rows_of(node.input)
        if not rows.size:
            return rows
        match node:
            case Dropout():
                return rows
            case Nonlinearity(activation=activation):
                return np.asarray(activation.f(rows))
            case Permute(order=order):
                return rows.transpose(order)
            case Pool():
                return pooled_values(node, rows)
            case Flatten() if not self._trace.values:
                return rows.reshape(len(rows), -1)
            case Reshape(out_size=size) if not self._trace.values:
                return rows.reshape(-1, size)
            case _:
                return rows.reshape(self._trace.values[value].shape)

    def _is_symmetric(self, value: int) -> bool:
        """Whether a weight whose sign is random has made a value, so that it averages to 0."""
        match self._producer.get(value):
            case Affine():
                return True
            case Nonlinearity(input=source, activation=activation):
                return activation.parity == "odd" and self._is_symmetric(source)
            case Reshape(input=source) | Permute(input=source) | Flatten(input=source):
                return self._is_symmetric(source)
            case Dropout(input=source):
                return self._is_symmetric(source)
            case Merge(inputs=sources):
                return all(self._is_symmetric(source) for source in sources)
            case _:
                return False

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
                # What does not average to 0 over draws may point the same way in all of them.
                if sum(not self._is_symmetric(source) for source in sources) <= 1:
                    level = sum(self._level_of(source) for source in sources)
            case Permute(input=source) | Flatten(input=source):
                level = self._level_of(source)
            case Affine() | Pool() | Opaque() | None:
                pass
        self._level[value] = level
        return level


def pooling(node: Pool) -> Pooling:
    """The table of a pooling."""
    return Pooling(
        node.kind,
        window_sites(
            node.in_sites, node.out_sites, node.window, node.stride, node.padding, node.dilation
        ),
        node.counts_padding,
    )


def pooled_values(node: Pool, values: Array) -> Array:
    """What a pooling makes of values of any shape."""
    count = len(node.in_sites)
    axes = node.axes or tuple(range(-count, 0))
    last = tuple(range(-count, 0))
    moved = np.moveaxis(values, axes, last)
    maps = moved.reshape(1, -1, math.prod(node.in_sites))
    shape = (*moved.shape[:-count], *node.out_sites)
    return np.moveaxis(pooling(node).pooled(maps).reshape(shape), last, axes)


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
