"""Values behind parameters that keep their values: what they really are, not what theory expects.

Theory foretells what weights make that are drawn from a law. A weight that keeps its values has
none: only a forward pass on real inputs tells what it makes. Where nothing drawn comes before such
weights, what they make is the same in every draw. Where drawn weights do, the middle one of three
draws stands for all: its second moment is taken, and nothing that would be different in the next.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from equipoise.plan.nodes import Gain, Nonlinearity, Opaque, makes, reads
from equipoise.plan.nodes import uses as uses_of
from equipoise.plan.trace import Trace
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Array, Frame, Law

# The draws that stand for all others: what the middle one of them shows is taken.
_SEEDS = (0, 1, 2)
# Second moments that differ more between them are not those of the next draw.
_MOST_SPREAD = 4.0


@dataclass(frozen=True, eq=False)
class Seen:
    """A value as one forward pass made it.

    Attributes:
        mean_square: its second moment, finite.
        share: the part of it that all sites have in common; all rows, where there are no sites.
        rows: the value itself as float64, or an evenly spaced part of its rows; empty where it was
            not asked for.
        spread: the largest over the smallest second moment of the draws that were looked at.
    """

    mean_square: float
    share: float
    rows: Array
    spread: float = 1.0

    def is_typical(self, is_independent: bool) -> bool:
        """Whether the second moment is that of most draws too, as far as a few can tell.

        Args:
            is_independent: whether the value is no product of values that depend on each other:
                powers of normal numbers are now and then far larger than most often.
        """
        return self.spread <= (_MOST_SPREAD if is_independent else math.sqrt(_MOST_SPREAD))


class Draws:
    """Values of the parameters of a plan that is being made.

    Args:
        trace: the model.
        kept: parameters that keep their values.
        laws: laws found so far, with reasons, the first that has a name counts; read again at each
            use.
        frames, arrays: what they refer to, likewise.
        seed: which of many draws.
    """

    def __init__(
        self,
        trace: Trace,
        kept: Set[str],
        laws: tuple[Mapping[str, tuple[Law, str]], ...],
        frames: Mapping[str, Frame],
        arrays: Mapping[str, Array],
        seed: int = _SEEDS[0],
    ) -> None:
        self._another = partial(Draws, trace, kept, laws, frames, arrays)
        self._laws = laws
        self._planned: dict[str, tuple[Law, tuple[int, ...]]] = {}
        self._streams = Streams(seed, frames, arrays, self._planned)
        self._shapes = {p.name: p.shape for p in trace.parameters}
        self._drawn = {
            name
            for node in trace.nodes
            # Gains of the model's own and parts of activations keep their values.
            if not isinstance(node, Gain | Nonlinearity)
            and (not isinstance(node, Opaque) or node.is_linear)
            for name in uses_of(node)
            if name not in kept
        }

    def another(self, seed: int) -> "Draws":
        """Another draw of the same parameters."""
        return self._another(seed)

    def is_open(self, name: str) -> bool:
        """Whether a parameter will have a law that is not known yet."""
        return name in self._drawn and not any(name in found for found in self._laws)

    def draw(self, name: str) -> Array | None:
        """Values of a parameter, None where it has no law."""
        for found in reversed(self._laws):
            self._planned.update((k, (law, self._shapes[k])) for k, (law, _) in found.items())
        if name not in self._planned:
            return None
        law, shape = self._planned[name]
        return draw(law, name, shape, self._streams)


class Observer(Protocol):
    """Runs a model's forward as far as it is asked to.

    Attributes:
        failure: why nothing more can be seen, '' where all can.
    """

    failure: str

    def again(self) -> "Observer":
        """One that begins anew, for another draw."""
        ...

    def look(self, value: int, draws: Draws, with_rows: bool) -> Seen | None:
        """A value of the trace; None where it cannot be computed yet, or not at all.

        Args:
            value: its number.
            draws: values of parameters that are not the model's own.
            with_rows: whether the value itself is wanted.
        """
        ...


class Behind:
    """Which values lie behind parameters that keep their values, and what is seen of them.

    Args:
        trace: the model.
        kept: names of these parameters.
        observer: runs the model; None where there is nothing to run it on.
        draws: values of the other parameters.
    """

    def __init__(
        self, trace: Trace, kept: Set[str], observer: Observer | None, draws: Draws
    ) -> None:
        self._observer, self._draws = observer, draws
        self._others: list[tuple[Observer, Draws]] = []
        self._kept, self._drawn, self._made = set[int](), set[int](), set[int]()
        self._seen: dict[int, Seen] = {}
        for node in trace.nodes if observer is not None else ():
            # The parameters of an activation have been read with it.
            used = () if isinstance(node, Nonlinearity) else uses_of(node)
            sources = reads(node)
            if any(name in kept for name in used):
                self._made.update(makes(node))
            if any(name in kept for name in used) or not self._kept.isdisjoint(sources):
                self._kept.update(makes(node))
            if any(name not in kept for name in used) or not self._drawn.isdisjoint(sources):
                self._drawn.update(makes(node))

    def covers(self, value: int) -> bool:
        """Whether a parameter that keeps its values is among all that a value is made from."""
        return value in self._kept

    def is_made_by_one(self, value: int) -> bool:
        """Whether the operation that makes a value reads such a parameter."""
        return value in self._made

    def is_certain(self, value: int) -> bool:
        """Whether a value is made from such parameters and the inputs alone."""
        return value in self._kept and value not in self._drawn

    def look(self, value: int) -> Seen | None:
        """What is seen of a value; None where nothing is."""
        if self._observer is None or value not in self._kept:
            return None
        if value not in self._seen:
            # Axes and means of a value that depends on a draw would fit no other draw.
            seen = self._observer.look(value, self._draws, self.is_certain(value))
            if seen is None:
                return None
            self._seen[value] = seen if self.is_certain(value) else self._middle(value, seen)
        return self._seen[value]

    def _middle(self, value: int, first: Seen) -> Seen:
        """The middle one of several draws, with how far they lie apart."""
        assert self._observer is not None
        if not self._others:
            self._others = [(self._observer.again(), self._draws.another(s)) for s in _SEEDS[1:]]
        more = (observer.look(value, draws, False) for observer, draws in self._others)
        # What another draw raises is no reason not to believe this one.
        found = sorted([first, *(seen for seen in more if seen)], key=lambda seen: seen.mean_square)
        low, high = found[0].mean_square, found[-1].mean_square
        spread = high / low if low > 0 else 1.0 if high == 0 else math.inf
        return replace(found[(len(found) - 1) // 2], rows=first.rows, spread=spread)
