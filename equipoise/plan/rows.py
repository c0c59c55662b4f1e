"""What inputs become on the way to the first weights, row by row."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import (
    Affine,
    Dropout,
    Flatten,
    Node,
    Nonlinearity,
    Permute,
    Pool,
    Reshape,
    makes,
)
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array
from equipoise.schemes.sites import Pooling, window_sites


class Rows:
    """Values that the inputs alone decide, and what operations without weights make of them.

    Args:
        trace: the model.
        samples: values of its inputs by value number.
        look: a value as it was seen behind parameters that keep theirs, None where it was not.
    """

    def __init__(
        self,
        trace: Trace,
        samples: Mapping[int, Array],
        look: Callable[[int], Array | None],
    ) -> None:
        self._trace, self._look = trace, look
        self._rows: dict[int, Array] = dict(samples)
        self._producer: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}

    def of(self, value: int) -> Array:
        """A value on the inputs given; empty where weights come before it."""
        if value not in self._rows:
            seen = self._look(value)
            self._rows[value] = self._computed(value) if seen is None else seen
        return self._rows[value]

    def known(self, value: int) -> Array:
        """A value as far as it was asked for before; empty where it was not."""
        return self._rows.get(value, np.zeros(0))

    def _computed(self, value: int) -> Array:
        """What operations without weights make of the inputs; empty where others are needed."""
        node = self._producer.get(value)
        if not isinstance(node, Reshape | Flatten | Permute | Dropout | Nonlinearity | Pool):
            return np.zeros((0,))
        rows = self.of(node.input)
        if not rows.size:
            return rows
        match node:
            case Dropout(probability=p, is_active=active):
                # One mask stands for all: functions behind it are given what they will be given.
                kept = np.random.default_rng(value).random(rows.shape) >= p * active
                return rows * kept / (1.0 - p * active) if p * active < 1 else 0.0 * rows
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

    def share(self, value: int) -> float:
        """Part of the second moment that sites have in common; without sites, that rows have."""
        rows = self._rows.get(value, np.zeros(0))
        energy = float(np.mean(np.square(rows))) if rows.size else 0.0
        sites = self._sites(value, rows.ndim)
        count = math.prod(rows.shape[i] for i in sites)
        if count > 1 and energy > 0:
            # Mean product of two different sites of one row.
            total = float(np.mean(np.square(rows.mean(axis=sites)))) / energy
            return float(min(1.0, (count * total - 1.0) / (count - 1.0)))
        if rows.ndim < 2 or len(rows) < 2:
            return 0.0
        flat = rows.reshape(len(rows), -1)
        common = float(np.mean(np.square(flat.mean(axis=0)))) - energy / len(flat)
        return min(1.0, max(0.0, common / energy)) if energy > 0 else 0.0

    def _sites(self, value: int, rank: int) -> tuple[int, ...]:
        """Axes of an input that are neither its rows nor its features."""
        if not self._trace.values or rank < 3:
            return ()
        feature = rank + self._trace.values[value].axis
        return tuple(i for i in range(1, rank) if i != feature)


def entering(first: Affine, values: Array, has_shapes: bool) -> Inputs:
    """Values that enter a layer, as rows and where it is a convolution as maps.

    Args:
        first: the layer.
        values: on the inputs given, of the shape that they have in the model.
        has_shapes: whether the trace holds the shapes of its values; else rows may be cut anew.
    """
    mean_square = float(np.mean(np.square(values)))
    size, sites = first.in_size, len(first.in_sites)
    if sites and values.shape[-sites - 1 :] == (size, *first.in_sites):
        maps = values.reshape(-1, size, math.prod(first.in_sites))
        return Inputs(mean_square, np.moveaxis(maps, 1, 2).reshape(-1, size), maps)
    if not sites and values.ndim >= -first.axis and values.shape[first.axis] == size:
        return Inputs(mean_square, np.moveaxis(values, first.axis, -1).reshape(-1, size))
    if not sites and values.size % size == 0 and not has_shapes:
        return Inputs(mean_square, values.reshape(-1, size))
    return Inputs(mean_square, np.zeros((0, size)))


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
