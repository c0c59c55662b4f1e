"""What enters each stack: second moments through the whole trace, rows where inputs reach."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.plan.entry import Inputs
from equipoise.plan.moments import Weights, is_told, second_moment, share_of
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
    Softmax,
    Spread,
    Take,
    makes,
    reads,
)
from equipoise.plan.origins import Origin, Origins, are_independent
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array
from equipoise.schemes.sites import Pooling, window_sites


class Levels:
    """Second moment of every value that is known so far, and rows for those the inputs reach.

    Args:
        trace: the model.
        samples: values of its inputs by value number.
        fixed: names of parameters that keep their values.
    """

    def __init__(
        self, trace: Trace, samples: Mapping[int, Array], fixed: frozenset[str] = frozenset()
    ) -> None:
        self._trace, self._fixed = trace, fixed
        self._origins = Origins(trace, fixed)
        self._origin: dict[int, Origin] = {}
        self._doubtful: set[int] = set()
        # Values that are made of a single unit: its rows decide about all that is behind it.
        self._narrow: set[int] = set()
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

    def set_level(self, value: int, mean_square: float, is_sure: bool = True) -> None:
        """Record the second moment that a planned stack gives a value.

        Args:
            value: its number.
            mean_square: the second moment.
            is_sure: whether draws keep to it.
        """
        self._level[value] = mean_square
        if not is_sure:
            self._doubtful.add(value)

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

    def meets_itself(self, stack: Stack) -> bool:
        """Whether what enters a stack was made by its first weight used the other way round.

        Then it is no chance direction for that weight, and its second moment tells nothing.
        """
        self._settle(stack.entry_value)
        first, seen = stack.affines[0], self._origin[stack.entry_value].seen
        return self._origins.is_turned_round(first, seen)

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

    def set_factor(self, parameter: str, mean_square: float) -> None:
        """Record the second moment that a planned gain or offset has."""
        self._factor[parameter] = mean_square

    def is_sure(self, value: int) -> bool:
        """Whether draws keep to the second moment that is told of a value."""
        self._settle(value)
        is_doubtful = value in self._doubtful or value in self._narrow
        return not is_doubtful or self._rows_of(value).size > 0

    def of(self, value: int) -> float:
        """Second moment of a value, nan where it is not known."""
        return self._level_of(value)

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

    def _is_settled(self, value: int) -> bool:
        return value in self._level and value in self._origin

    def _find(self, value: int, node: Node | None) -> None:
        sources = reads(node) if node else ()
        if self._width(value) == 1 or (sources and all(v in self._narrow for v in sources)):
            self._narrow.add(value)
        if node is None:
            self._level.setdefault(value, math.nan)
            self._share[value] = self._share_of_rows(value)
            self._origin[value] = Origin()
            return
        levels = [self._level[v] for v in reads(node)]
        shares = [self._share[v] for v in reads(node)]
        origins = [self._origin[v] for v in reads(node)]
        factor, is_drawn = self._factor_of(node)
        moves = not isinstance(node, Shift) or factor != 0.0
        if value not in self._level:
            # A rough level serves to plan with, where none can be told.
            rough = [0.5 if math.isnan(s) else s for s in shares]
            found = second_moment(node, levels, rough, factor, self._weights(node))
            self._level[value] = self._as_kept(node, found)
            starts_anew = isinstance(node, Norm) and not node.is_tracked
            if not starts_anew and not (
                all(self.is_sure(v) for v in reads(node))
                and (not moves or are_independent(node, origins, is_drawn))
                and is_told(node, levels, shares, self._width(value))
                and self._is_spread_around_0(node, origins)
            ):
                self._doubtful.add(value)
        self._share[value] = share_of(node, levels, shares, self._level[value], self._weights(node))
        if isinstance(node, Norm) and node.kind in ("layer", "group") and not origins[0].is_centred:
            # A mean that units have in common is taken off with that of the row.
            self._share[value] = math.nan
        self._origin[value] = self._origins.of(node, origins, moves)

    def _is_spread_around_0(self, node: Node, origins: Sequence[Origin]) -> bool:
        """Whether a function is given values on both sides of 0, where it is neither odd nor even.

        Of a sum it is enough that one of its terms is. What scores of a softmax have in common says
        nothing of how they differ, so all of them must be.
        """
        match node:
            case Softmax():
                return origins[0].is_centred
            case Nonlinearity(input=source, activation=activation):
                before = self._producer.get(source)
                parts = before.inputs if isinstance(before, Merge) else (source,)
                return activation.parity != "none" or any(self._origin[v].is_centred for v in parts)
            case _:
                return True

    def _as_kept(self, node: Node, level: float) -> float:
        """A level with the gain and offset of a norm where they keep their values."""
        if isinstance(node, Norm):
            gain = node.weight_square if node.weight in self._fixed else 1.0
            return level * gain + (node.bias_square if node.bias in self._fixed else 0.0)
        return level

    def _factor_of(self, node: Node) -> tuple[float, bool]:
        """Second moment of what a gain or shift applies, and whether its sign is that of a draw."""
        if isinstance(node, Gain | Shift) and node.parameter in self._factor:
            return self._factor[node.parameter], node.offset == 0.0
        return getattr(node, "mean_square", math.nan), False

    def _share_of_rows(self, value: int) -> float:
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

    def _width(self, value: int) -> int:
        """Number of units of a value, 0 where it is not known."""
        found = self._trace.values[value] if self._trace.values else None
        return found.shape[found.axis] if found and found.shape else 0

    def _sites(self, value: int, rank: int) -> tuple[int, ...]:
        """Axes of an input that are neither its rows nor its features."""
        if not self._trace.values or rank < 3:
            return ()
        feature = rank + self._trace.values[value].axis
        return tuple(i for i in range(1, rank) if i != feature)

    def _weights(self, node: Node) -> Weights | None:
        """Which factor of a product is made by a softmax, None where neither is."""
        if isinstance(node, Contract):
            for place, value in enumerate(node.inputs):
                softmax = self._softmax(value)
                if softmax and softmax.size:
                    return Weights(place, 1.0 / softmax.size)
        return None

    def _softmax(self, value: int) -> Softmax | None:
        """The softmax that made a value, up to dropout and moves of its entries."""
        while True:
            match self._producer.get(value):
                case Dropout(input=source) | Reshape(input=source) | Permute(input=source):
                    value = source
                case Take(input=source) | Spread(input=source):
                    value = source
                case Softmax() as node:
                    return node
                case _:
                    return None


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
