"""What enters each stack: second moments through the whole trace, rows where inputs reach."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from equipoise.plan.behind import Behind, Seen
from equipoise.plan.covariance import Covariances, normal_moments
from equipoise.plan.entry import Inputs
from equipoise.plan.moments import Weights, averaging, second_moment, share_of
from equipoise.plan.nodes import (
    Affine,
    Concat,
    Dropout,
    Gain,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Opaque,
    Reshape,
    Shift,
    Take,
    makes,
    reads,
)
from equipoise.plan.origins import (
    Origin,
    Origins,
    are_independent,
    averages_copies,
    copied_spaces,
    has_own_mean,
    is_decided,
    is_mostly_silent,
    is_rearranged,
    is_spread_around_0,
)
from equipoise.plan.rows import Rows, entering
from equipoise.plan.rows_behind import moves_uneven_rows
from equipoise.plan.stacks import Stack
from equipoise.plan.steady import is_told
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array

# Fewer units make what one draw shows another thing in the next: those of an operation that was
# not read, and of a weight that keeps its values.
_FEW_UNITS, _FEWEST_UNITS = 16, 4
# Part of a second moment that may be another one in another draw.
_LITTLE = 0.1
# A mean square below this share of the second moment is that of rounding, or of few draws.
_SMALL = 1e-4


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
        self._straying: dict[int, float] = {}
        # Values made of a single unit, or few sites: its rows decide about all that is behind it.
        self._narrow: set[int] = set()
        self._producer: dict[int, Node] = {}
        for node in trace.nodes:
            for value in makes(node):
                self._producer[value] = node
        self._rows = Rows(trace, samples, self._looked_at)
        self._level: dict[int, float] = {
            value: float(np.mean(np.square(rows))) if rows.size else math.nan
            for value, rows in samples.items()
        }
        self._share: dict[int, float] = {}
        self._common: dict[int, float] = {}
        self._factor: dict[str, float] = {}
        self._behind: Behind | None = None
        self._seen: set[int] = set()
        # A weight that is used again makes what it made before, in part.
        counts = Counter(n.weight for n in trace.nodes if isinstance(n, Affine) and not n.several)
        self._reused = any(count > 1 for count in counts.values())
        self._together = Covariances()
        self._copied = copied_spaces(trace)
        # Values whose second moment was planned, and not found.
        self._planned: set[int] = set(self._level)

    def look_behind(self, behind: Behind) -> None:
        """Take what is seen behind parameters that keep their values, where it can be had."""
        self._behind = behind

    def set_level(self, value: int, mean_square: float, is_sure: bool = True) -> None:
        """Record the second moment that a planned stack gives a value.

        Args:
            value: its number.
            mean_square: the second moment.
            is_sure: whether draws keep to it.
        """
        if math.isnan(mean_square) and self._behind is not None and self._behind.covers(value):
            return
        self._level[value] = mean_square
        (self._doubtful.discard if is_sure else self._doubtful.add)(value)
        self._planned.add(value)
        self._share.pop(value, None)
        self._together.forget(value)

    def forget(self, values: Iterable[int]) -> None:
        """Find values anew, since something that they are made from has changed."""
        for value in values:
            if value not in self._planned:
                self._level.pop(value, None)
                self._doubtful.discard(value)
            self._share.pop(value, None)
            self._together.forget(value)

    def is_seen(self, value: int) -> bool:
        """Whether a value was looked at, rather than foretold."""
        return value in self._seen

    def at(self, stack: Stack) -> Inputs:
        """What enters a stack."""
        first = stack.affines[0]
        entry, values = stack.entry_value, self._rows.of(stack.entry_value)
        if not values.size:
            nothing, common = np.zeros((0, first.in_size)), self._common_to_rows(entry)
            return Inputs(self.of(entry), nothing, share=common, mean=self.mean(entry))
        return entering(first, values, bool(self._trace.values))

    def meets_itself(self, stack: Stack) -> bool:
        """Whether what enters a stack was made by its first weight used the other way round.

        Then it is no chance direction for that weight, and its second moment tells nothing.
        """
        self._settle(stack.entry_value)
        first, seen = stack.affines[0], self._origin[stack.entry_value].seen
        return self._origins.is_turned_round(first, seen)

    def _looked_at(self, value: int) -> Array | None:
        is_certain = self._behind is not None and self._behind.is_certain(value)
        seen = self._look(value) if is_certain else None
        return None if seen is None else seen.rows

    def set_factor(self, parameter: str, mean_square: float) -> None:
        """Record the second moment that a planned gain or offset has."""
        self._factor[parameter] = mean_square

    def set_shares(self, value: int, sites: float, rows: float) -> None:
        """Record the parts of a second moment that sites, and all rows, have in common."""
        self._share[value], self._common[value] = sites, rows

    def _common_to_rows(self, value: int) -> float:
        """Part of a second moment that all rows have in common, 0 where it is not known."""
        while value not in self._common:
            match self._producer.get(value):
                case Dropout(input=source) | Reshape(input=source) | Take(input=source):
                    value = source
                case _:
                    return 0.0
        return self._common[value]

    def is_sure(self, value: int) -> bool:
        """Whether draws keep to the second moment that is told of a value."""
        self._settle(value)
        is_doubtful = value in self._doubtful or value in self._narrow
        return not is_doubtful or self._rows.of(value).size > 0

    def of(self, value: int) -> float:
        """Second moment of a value, nan where it is not known."""
        self._settle(value)
        return self._level[value]

    def mean(self, value: int) -> float:
        """Mean of a value over units and inputs, 0 where it is not known."""
        self._settle(value)
        return self._together.mean(value)

    def share(self, value: int) -> float:
        """Part of a value's second moment that all its sites have in common, nan if not known."""
        self._settle(value)
        return self._share[value]

    def rows(self, value: int) -> Array:
        """A value on the inputs given; empty where weights come before it."""
        return self._rows.of(value)

    def _settle(self, value: int) -> None:
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
        if self._behind is None or (seen := self._behind.look(value)) is None:
            return None
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
        known = value in self._level and value in self._share and value in self._origin
        return known and self._together.knows(value)

    def _find(self, value: int, node: Node | None) -> None:
        if node is None:
            self._level.setdefault(value, math.nan)
            self._share.setdefault(value, self._rows.share(value))
            self._origin[value] = Origin()
            rows, level = self._rows.known(value), self._level[value]
            self._together.begin(value, float(rows.mean()) if rows.size else 0.0, level)
            return
        levels = [self._level[v] for v in reads(node)]
        origins = [self._origin[v] for v in reads(node)]
        seen = self._look(value) if self._must_look(value, reads(node)) else None
        starts_anew = isinstance(node, Norm) and not node.is_tracked
        if seen is not None:
            self._level[value] = seen.mean_square
            self._share.setdefault(value, seen.share)
            is_typical = seen.is_typical(are_independent(node, origins))
            keeps = is_typical and self._keeps_to_levels(value, node, levels)
            is_doubted = self._is_of_few(value, node) or not (starts_anew or keeps)
            if is_doubted and not self._rows.of(value).size:
                self._doubtful.add(value)
        shares = [self._share[v] for v in reads(node)]
        factor, is_drawn = self.factor_of(node)
        moves = not isinstance(node, Shift) or factor != 0.0
        weights = averaging(node, self._producer)
        if value not in self._level:
            # A rough level serves to plan with, where none can be told.
            rough = [0.5 if math.isnan(s) else s for s in shares]
            self._level[value] = self._second_moment(node, levels, rough, factor, weights)
            if not starts_anew and not (
                self._keeps_to_levels(value, node, levels)
                and (not moves or self._is_followed(node, origins, is_drawn))
                and is_told(node, levels, shares, self._width(value), weights)
                and is_spread_around_0(node, self._producer, self._origin)
                and not averages_copies(node, self._trace, self._copied)
                and not moves_uneven_rows(node, levels, self._trace, self._producer, self.rows)
            ):
                self._doubtful.add(value)
        if value not in self._share:
            self._share[value] = share_of(node, levels, shares, self._level[value], weights)
            is_rowwise = isinstance(node, Norm) and node.kind in ("layer", "group")
            is_turned = is_rearranged(node, self._trace)
            is_other = is_turned or has_own_mean(node, self._producer)
            if is_other or (is_rowwise and not origins[0].is_centred):
                # A mean that units have in common is taken off with that of the row.
                self._share[value] = math.nan
        self._origin[value] = origin = self._origins.of(node, origins, moves)
        # An input of one feature is no matter of draws, whatever divides it by its size.
        is_given = origin.seen or (starts_anew and self._rows.of(reads(node)[0]).size > 0)
        is_single = self._width(value) == 1 and is_given
        narrow = [v in self._narrow for v in reads(node)]
        is_few = is_mostly_silent(node, self._producer) or is_decided(node, levels, narrow)
        if is_single or is_few:
            self._narrow.add(value)
        self._together.add(value, node, self._level[value], factor)

    def _is_of_few(self, value: int, node: Node) -> bool:
        width = min(self._width(v) for v in (value, *reads(node)))
        return width < (_FEW_UNITS if isinstance(node, Opaque) else _FEWEST_UNITS)

    def _keeps_to_levels(self, value: int, node: Node, levels: Sequence[float]) -> bool:
        """Whether draws keep to the second moments that a node reads, up to a small part of a sum.

        What is small in one sum may be large in many of them: the part is taken note of.
        """
        parts = [self._straying.get(v, 0.0) if self.is_sure(v) else 1.0 for v in reads(node)]
        part, total = max(parts, default=0.0), sum(levels)
        if isinstance(node, Merge) and 0 < total < math.inf:
            part = sum(p * q for p, q in zip(parts, levels, strict=True)) / total
        self._straying[value] = part
        return part <= _LITTLE

    def _is_followed(self, node: Node, origins: Sequence[Origin], is_drawn: bool) -> bool:
        """Whether the terms of a sum are independent, or the covariances known that they have."""
        if isinstance(node, Merge) and not self._reused:
            return True
        return are_independent(node, origins, is_drawn)

    def _second_moment(
        self,
        node: Node,
        levels: Sequence[float],
        shares: Sequence[float],
        factor: float,
        weights: Weights | None,
    ) -> float:
        match node:
            case Merge():
                return self._together.second_moment_of_sum(node)
            case Nonlinearity() if isinstance(whole := self._producer.get(node.input), Concat):
                # Parts that are not alike, each as it is.
                sizes = {v: n for v, n in zip(whole.inputs, whole.sizes, strict=True) if n}
                parts = (replace(node, input=v) for v in sizes)
                made = [self._second_moment(p, [self.of(p.input)], [], 1.0, None) for p in parts]
                return float(np.average(made, weights=list(sizes.values()))) if sizes else math.nan
            case Nonlinearity(activation=f, input=source) if levels[0] > 0:
                mean = self._together.mean(source)
                if mean * mean > _SMALL * levels[0]:
                    return normal_moments(f, levels[0], mean)[2]
            case Norm():
                return self._as_kept(node, second_moment(node, levels, shares, factor), factor)
        return second_moment(node, levels, shares, factor, weights)

    def _as_kept(self, node: Norm, level: float, factor: float) -> float:
        """A level with the gain of a norm, and with its offset where that keeps its values."""
        return level * factor + (node.bias_square if node.bias in self._fixed else 0.0)

    def factor_of(self, node: Node) -> tuple[float, bool]:
        """Second moment of what a node applies, and whether its sign is that of a draw."""
        match node:
            case Gain(parameter=name) | Shift(parameter=name) if name in self._factor:
                return self._factor[name], node.offset == 0.0
            case Norm(weight=name):
                kept = node.weight_square if name in self._fixed else 1.0
                return self._factor.get(name, kept), False
            case _:
                return getattr(node, "mean_square", math.nan), False

    def _width(self, value: int) -> int:
        """Number of units of a value, 0 where it is not known."""
        found = self._trace.values[value] if self._trace.values else None
        return found.shape[found.axis] if found and found.shape else 0
