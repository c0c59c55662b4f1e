"""What enters each stack: second moments through the whole trace, rows where inputs reach."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from equipoise.plan.behind import Behind, Seen
from equipoise.plan.covariance import Covariances, normal_moments
from equipoise.plan.entry import Inputs
from equipoise.plan.moments import second_moment, share_of
from equipoise.plan.nodes import (
    Contract,
    Dropout,
    Flatten,
    Gain,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Permute,
    Pool,
    Reshape,
    Shift,
    Spread,
    Take,
    makes,
    reads,
)
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array
from equipoise.schemes.sites import Pooling, window_sites

# A mean square below this share of the second moment is that of rounding, or of few draws.
_SMALL = 1e-4


class Levels:
    """Second moment of every value that is known so far, and rows for those the inputs reach."""

    def __init__(self, trace: Trace, samples: Mapping[int, Array]) -> None:
        self._trace = trace
        self._producer: dict[int, Node] = {}
        for node in trace.nodes:
            for value in makes(node):
                self._producer[value] = node
        self._rows: dict[int, Array] = dict(samples)
        self._level: dict[int, float] = {
            value: float(np.mean(np.square(rows))) if rows.size else math.nan
            for value, rows in samples.items()
        }
        self._share: dict[int, float] = {}
        self._factor: dict[str, float] = {}
        self._behind: Behind | None = None
        self._seen: set[int] = set()
        self._together = Covariances()
        # Values whose second moment was planned, and not found.
        self._planned: set[int] = set(self._level)

    def look_behind(self, behind: Behind) -> None:
        """Take what is seen behind parameters that keep their values, where it can be had."""
        self._behind = behind

    def set_level(self, value: int, mean_square: float) -> None:
        """Record the second moment that a planned stack gives a value."""
        if math.isnan(mean_square) and self._behind is not None and self._behind.covers(value):
            return
        self._level[value] = mean_square
        self._planned.add(value)
        self._share.pop(value, None)
        self._together.forget(value)

    def forget(self, values: Iterable[int]) -> None:
        """Find values anew, since something that they are made from has changed."""
        for value in values:
            if value not in self._planned:
                self._level.pop(value, None)
            self._share.pop(value, None)
            self._together.forget(value)

    def is_seen(self, value: int) -> bool:
        """Whether a value was looked at, rather than foretold."""
        return value in self._seen

    def at(self, stack: Stack) -> Inputs:
        """What enters a stack."""
        first = stack.affines[0]
        values = self._rows_of(stack.entry_value)
        empty = np.zeros((0, first.in_size))
        maps = np.zeros((0, first.in_size, 0))
        if not values.size:
            share = self.share(stack.entry_value)
            return Inputs(self._level_of(stack.entry_value), empty, share=share)
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
            is_certain = self._behind is not None and self._behind.is_certain(value)
            seen = self._look(value) if is_certain else None
            self._rows[value] = self._computed(value) if seen is None else seen.rows
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

    def set_factor(self, parameter: str, mean_square: float) -> None:
        """Record the second moment that a planned gain or offset has."""
        self._factor[parameter] = mean_square

    def set_share(self, value: int, share: float) -> None:
        """Record the part of a value's second moment that all its sites and rows share."""
        self._share[value] = share

    def of(self, value: int) -> float:
        """Second moment of a value, nan where it is not known."""
        return self._level_of(value)

    def share(self, value: int) -> float:
        """Part of a value's second moment that all its sites and rows have in common."""
        self._settle(value)
        return self._share[value]

    def rows(self, value: int) -> Array:
        """A value on the inputs given; empty where weights come before it."""
        return self._rows_of(value)

    def _level_of(self, value: int) -> float:
        self._settle(value)
        return self._level[value]

    def _settle(self, value: int) -> None:
        """Find the second moment and the common share of a value and of all it comes from."""
        # From the inputs on: a deep network must not exhaust Python's own stack.
        waiting = [value]
        while waiting:
            top = waiting[-1]
            node = self._producer.get(top)
            missing = [v for v in (reads(node) if node else ()) if not self._is_settled(v)]
            if missing and not self._is_settled(top):
                waiting += missing
                continue
            waiting.pop()
            if not self._is_settled(top):
                self._find(top, node)

    def _look(self, value: int) -> Seen | None:
        seen = self._behind.look(value) if self._behind is not None else None
        if seen is not None:
            self._seen.add(value)
        return seen

    def _must_look(self, value: int, sources: Sequence[int]) -> bool:
        """Whether no theory leads to a value: a kept parameter makes it, or what it comes from."""
        if self._behind is None or value in self._level or not self._behind.covers(value):
            return False
        return self._behind.is_made_by_one(value) or any(
            v in self._seen or math.isnan(self._level[v]) for v in sources
        )

    def _is_settled(self, value: int) -> bool:
        return value in self._level and value in self._share and self._together.knows(value)

    def _find(self, value: int, node: Node | None) -> None:
        if node is None:
            self._level.setdefault(value, math.nan)
            self._share.setdefault(value, self._share_of_rows(value))
            rows = self._rows.get(value, np.zeros(0))
            mean = float(rows.mean()) if rows.size else 0.0
            self._together.begin(value, mean, self._level[value])
            return
        seen = self._look(value) if self._must_look(value, reads(node)) else None
        if seen is not None:
            self._level[value] = seen.mean_square
            self._share.setdefault(value, seen.share)
        levels = [self._level[v] for v in reads(node)]
        shares = [self._share[v] for v in reads(node)]
        factor = self._factor_of(node)
        if value not in self._level:
            self._level[value] = self._second_moment(node, levels, shares, factor)
        if value not in self._share:
            averages = isinstance(node, Contract) and self._is_softmax(node.inputs[0])
            self._share[value] = share_of(
                node, levels, shares, self._level[value], averages=averages
            )
        self._together.add(value, node, self._level[value], factor)

    def _factor_of(self, node: Node) -> float:
        """Second moment of the parameter or constant that a node multiplies by or adds."""
        match node:
            case Gain(parameter=name) | Shift(parameter=name):
                return self._factor.get(name, node.mean_square)
            case Norm(weight=name):
                return self._factor.get(name, 1.0)
            case _:
                return math.nan

    def _second_moment(
        self, node: Node, levels: Sequence[float], shares: Sequence[float], factor: float
    ) -> float:
        match node:
            case Merge(inputs=sources):
                return self._together.second_moment_of_sum(sources)
            case Nonlinearity(activation=f, input=source) if levels[0] > 0:
                mean = self._together.mean(source)
                if mean * mean > _SMALL * levels[0]:
                    return normal_moments(f, levels[0], mean)[2]
            case Nonlinearity(activation=f) if levels[0] == 0:
                return f.value_at_zero**2
            case Norm():
                return second_moment(node, levels, shares, factor) * factor
            case _:
                pass
        averages = isinstance(node, Contract) and self._is_softmax(node.inputs[0])
        return second_moment(node, levels, shares, factor, averages=averages)

    def _share_of_rows(self, value: int) -> float:
        rows = self._rows.get(value, np.zeros(0))
        if rows.ndim < 2 or len(rows) < 2:
            return 0.0
        energy = float(np.mean(np.square(rows)))
        flat = rows.reshape(len(rows), -1)
        common = float(np.mean(np.square(flat.mean(axis=0)))) - energy / len(flat)
        return min(1.0, max(0.0, common / energy)) if energy > 0 else 0.0

    def _is_softmax(self, value: int) -> bool:
        while True:
            match self._producer.get(value):
                case Dropout(input=source) | Reshape(input=source) | Permute(input=source):
                    value = source
                case Take(input=source) | Spread(input=source):
                    value = source
                case node:
                    return type(node).__name__ == "Softmax"


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
