"""Values behind parameters that keep their values: what they really are, not what theory expects.

Theory foretells what weights make that are drawn from a law. A weight that keeps its values has
none: only a forward pass on real inputs tells what it makes. Where nothing drawn comes before such
weights, what they make is the same in every draw. Where drawn weights do, one draw of these stands
for all: its second moment is taken, and nothing that would be different in the next one.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from equipoise.plan.nodes import Gain, Nonlinearity, Opaque, makes, reads
from equipoise.plan.nodes import uses as uses_of
from equipoise.plan.trace import Trace
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Array, Frame, Law

# The draw that stands for all others.
_SEED = 0
# A second moment of this relative variance is more than a factor 2 off in one draw of ten.
_MOST_FEWNESS = 0.3


@dataclass(frozen=True, eq=False)
class Seen:
    """A value as one forward pass made it.

    Attributes:
        mean_square: its second moment, finite.
        share: the part of it that all sites have in common; all rows, where there are no sites.
        rows: the value itself as float64, or an evenly spaced part of its rows; empty where it was
            not asked for.
        fewness: relative variance of the second moment, were all numbers drawn apart from each
            other: near 1 where one of them makes up all of it.
    """

    mean_square: float
    share: float
    rows: Array
    fewness: float = 0.0

    def is_typical(self, is_independent: bool) -> bool:
        """Whether the second moment is that of most draws too, as far as one draw can tell.

        Args:
            is_independent: whether the value is no product of values that depend on each other:
                powers of normal numbers are now and then far larger than most often.
        """
        return self.fewness <= (_MOST_FEWNESS if is_independent else _MOST_FEWNESS / 4)


class Draws:
    """Values of the parameters of a plan that is being made.

    Args:
        trace: the model.
        kept: parameters that keep their values.
        laws: laws found so far, with reasons, the first that has a name counts; read again at each
            use.
        frames, arrays: what they refer to, likewise.
    """

    def __init__(
        self,
        trace: Trace,
        kept: Set[str],
        laws: tuple[Mapping[str, tuple[Law, str]], ...],
        frames: Mapping[str, Frame],
        arrays: Mapping[str, Array],
    ) -> None:
        self._laws = laws
        self._planned: dict[str, tuple[Law, tuple[int, ...]]] = {}
        self._streams = Streams(_SEED, frames, arrays, self._planned)
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
            self._seen[value] = seen
        return self._seen[value]
