"""Which weights a value is made by, and whether it changes its sign with them.

A weight's law is the same for W and -W. So the product of two values averages to 0 over draws where
one of them flips with a weight and the other does not, and the square of a value that all goes
through a weight is independent of all that this weight has no part in. Nothing else about laws is
used here. Units of one weight that are taken apart (the parts of a fused projection) count as made
by weights of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_, xor

from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Constant,
    Contract,
    Lookup,
    Merge,
    Node,
    Nonlinearity,
    Norm,
    Opaque,
    Pool,
    Product,
    Recurrent,
    Shift,
    Softmax,
    Spread,
    Take,
    uses,
)
from equipoise.plan.trace import Trace


@dataclass(frozen=True)
class Origin:
    """Sets of weights, each as the bits of a number.

    Attributes:
        odd: those that the value changes its sign with.
        mixed: those that it changes with in another way.
        through: those that all of it goes through.
        seen: all that it is made by.
        is_centred: whether each of its terms changes its sign with some weight, so that units have
            no mean in common.
    """

    odd: int = 0
    mixed: int = 0
    through: int = 0
    seen: int = 0
    is_centred: bool = False

    def is_uncorrelated_with(self, other: "Origin") -> bool:
        """Whether the product with another value averages to 0 over draws."""
        return bool((self.odd ^ other.odd) & ~(self.mixed | other.mixed))

    def is_apart_from(self, other: "Origin") -> bool:
        """Whether squares of the two are independent."""
        return bool(self.through & ~other.seen or other.through & ~self.seen)


_NOTHING = Origin()


class Origins:
    """Finds the origin of each value from those of what it is made of.

    Args:
        trace: the model.
        fixed: names of parameters that keep their values, whose signs are no matter of chance.
    """

    def __init__(self, trace: Trace, fixed: frozenset[str]) -> None:
        self._trace, self._fixed = trace, fixed
        self._bits: dict[object, int] = {}
        self._site_spaces = site_spaces(trace)

    def of(self, node: Node, sources: Sequence[Origin], moves: bool = True) -> Origin:
        """Origin of what a node makes.

        Args:
            node: the node.
            sources: origins of what it reads.
            moves: whether a shift adds anything to its value.
        """
        first = sources[0] if sources else _NOTHING
        match node:
            case Affine(weight=name, is_turned=is_turned):
                made = self._made_by(name, first)
                return replace(made, seen=made.seen | self._bit((name, is_turned)))
            case Lookup(weight=name):
                return self._made_by(name, first)
            case Nonlinearity(activation=activation):
                return first if activation.parity == "odd" else _bent(first, activation.parity)
            case Norm(kind=kind, is_tracked=False) if kind != "rms":
                # Units are on both sides of 0 behind it.
                return replace(first, is_centred=True)
            case Pool(kind="maximum") | Softmax():
                return _bent(first)
            case Shift(parameter=name) if moves:
                bit = self._bit(name) if name and name not in self._fixed else 0
                return replace(_bent(first), seen=first.seen | bit)
            case Merge():
                return _together(sources)
            case Concat():
                return self._joined(node, sources)
            case Product() | Contract():
                return _multiplied(sources)
            case Attention():
                query, key, value = sources
                weights = _bent(_multiplied([query, key]))
                return replace(_multiplied([weights, value]), through=value.through)
            case Take():
                return self._taken(node, first)
            case Opaque(parameters=names):
                bits = reduce(or_, (self._bit(name) for name in names), 0)
                made = _bent(_together(sources)) if sources else _NOTHING
                return replace(made, seen=made.seen | bits)
            case Recurrent():
                bits = reduce(or_, (self._bit(name) for name in uses(node)), 0)
                made = _bent(first)
                return replace(made, seen=made.seen | bits, is_centred=node.kind != "relu")
            case Constant():
                return _NOTHING
            case _:
                return first

    def is_turned_round(self, layer: Affine, seen: int) -> bool:
        """Whether among the weights of a value is that of a layer, with in- and outputs swapped."""
        return bool(seen & self._bit((layer.weight, not layer.is_turned)))

    def _bit(self, tag: object) -> int:
        return 1 << self._bits.setdefault(tag, len(self._bits))

    def _made_by(self, name: str, source: Origin) -> Origin:
        if name in self._fixed:
            return source
        bit = self._bit(name)
        return Origin(
            (source.odd ^ bit) & ~source.mixed, source.mixed, source.through | bit,
            source.seen | bit, True,
        )  # fmt: skip

    def _taken(self, node: Take, source: Origin) -> Origin:
        """Other units are made by other rows of a weight; other sites are made by the same."""
        values = self._trace.values
        if not node.axis or not values or not source.through:
            return source
        spaces = values[node.input].spaces
        if spaces[node.axis] in self._site_spaces:
            return source
        bit = self._bit(("part", node.output))
        return replace(
            source,
            odd=source.odd ^ bit,
            through=source.through | bit,
            seen=source.seen | bit,
        )

    def _joined(self, node: Concat, sources: Sequence[Origin]) -> Origin:
        """What is joined on the axis of its units stands beside other units than before."""
        made = _together(sources)
        values = self._trace.values
        if not values or not made.through:
            return made
        if values[node.output].spaces[node.axis] in self._site_spaces:
            return made
        bit = self._bit(("joined", node.inputs))
        return replace(made, odd=made.odd ^ bit, through=made.through | bit, seen=made.seen | bit)


def _bent(source: Origin, parity: str = "none") -> Origin:
    """Behind a function that is not odd; an even one does not see the sign at all."""
    mixed = source.mixed | (source.odd if parity == "none" else 0)
    return replace(source, odd=0, mixed=mixed, is_centred=False)


def _together(sources: Sequence[Origin]) -> Origin:
    """A sum, and whatever else is odd in all of its terms at once."""
    some = reduce(or_, (s.odd for s in sources), 0)
    mixed = reduce(or_, (s.mixed for s in sources), 0)
    common = reduce(and_, (s.odd for s in sources)) & ~mixed
    return Origin(
        common,
        mixed | (some & ~common),
        reduce(and_, (s.through for s in sources)),
        reduce(or_, (s.seen for s in sources), 0),
        all(s.is_centred for s in sources),
    )


def _multiplied(sources: Sequence[Origin]) -> Origin:
    mixed = reduce(or_, (s.mixed for s in sources), 0)
    return Origin(
        reduce(xor, (s.odd for s in sources), 0) & ~mixed,
        mixed,
        reduce(or_, (s.through for s in sources), 0),
        reduce(or_, (s.seen for s in sources), 0),
        any(s.is_centred for s in sources),
    )


def site_spaces(trace: Trace) -> frozenset[int]:
    """Spaces of axes along which one weight is used again and again."""
    found: set[int] = set()
    if trace.values:
        for value in trace.inputs:
            given = trace.values[value]
            found.update(
                s for i, s in enumerate(given.spaces) if i != len(given.spaces) + given.axis
            )
        for node in trace.nodes:
            if isinstance(node, Affine | Lookup):
                made = trace.values[node.output]
                found.update(
                    s for i, s in enumerate(made.spaces) if i != len(made.spaces) + made.axis
                )
    return frozenset(found)


def are_independent(node: Node, origins: Sequence[Origin], is_random: bool = False) -> bool:
    """Whether second moments of what a node reads tell that of what it makes.

    Args:
        node: a sum, shift or product; of anything else the answer is yes.
        origins: of what it reads.
        is_random: whether what a shift adds has a sign of chance.
    """
    pairs = [(a, b) for i, a in enumerate(origins) for b in origins[i + 1 :]]
    match node:
        case Merge():
            return all(a.is_uncorrelated_with(b) for a, b in pairs)
        case Shift():
            return is_random or bool(origins[0].odd)
        case Product() | Contract():
            return all(a.is_apart_from(b) or not (a.seen and b.seen) for a, b in pairs)
        case _:
            return True


def is_spread_around_0(
    node: Node, producer: Mapping[int, Node], origins: Mapping[int, Origin]
) -> bool:
    """Whether a function is given values on both sides of 0, where it is neither odd nor even.

    Of a sum it is enough that one of its terms is. What scores of a softmax have in common says
    nothing of how they differ, so all of them must be.
    """
    match node:
        case Softmax(input=source):
            return origins[source].is_centred
        case Nonlinearity(input=source, activation=activation):
            before = producer.get(source)
            parts = before.inputs if isinstance(before, Merge) else (source,)
            return activation.parity != "none" or any(origins[v].is_centred for v in parts)
        case _:
            return True


def copied_spaces(trace: Trace) -> frozenset[int]:
    """Spaces of axes along which values were copied."""
    found: set[int] = set()
    for node in trace.nodes if trace.values else ():
        if isinstance(node, Spread):
            made, given = trace.values[node.output], trace.values[node.input]
            # Of an axis that is made longer only neighbours are alike.
            sizes = [1] * (len(made.shape) - len(given.shape)) + list(given.shape)
            pairs = zip(made.spaces, made.shape, sizes, strict=True)
            found.update(s for s, after, before in pairs if before == 1 < after)
    return frozenset(found)


def averages_copies(node: Node, trace: Trace, copied: frozenset[int]) -> bool:
    """Whether a mean is one over copies, of which nothing is lost: shares do not tell that."""
    if not (isinstance(node, Pool) and copied):
        return False
    gone = set(trace.values[node.input].spaces) - set(trace.values[node.output].spaces)
    return not copied.isdisjoint(gone)


def has_own_mean(node: Node, producer: Mapping[int, Node]) -> bool:
    """Whether a sum is of a value and its own mean, as a difference from that mean is."""
    if not isinstance(node, Merge):
        return False
    made = [producer.get(v) for v in node.inputs]
    return any(isinstance(m, Pool) and m.input in node.inputs for m in made)


def is_rearranged(node: Node, trace: Trace) -> bool:
    """Whether what were sites are units of a value: windows made anew, or a weight over sites.

    Sites of it are then what were units, or are made by other rows of the weight: drawn units
    around 0 have nothing in common.
    """
    if not trace.values:
        return False
    match node:
        case Take(input=source, output=made):
            return set(trace.values[source].spaces).isdisjoint(trace.values[made].spaces)
        case Affine(input=source, in_space=read):
            return trace.values[source].space != read
        case _:
            return False


def is_mostly_silent(node: Node, producer: Mapping[int, Node]) -> bool:
    """Whether more than half of the entries of a value are 0 for good, as of a wide padding.

    What is left is loud where it is, and no second moment of all of them tells how it bends.
    """
    if not isinstance(node, Concat):
        return False
    silent = 0
    for value, size in zip(node.inputs, node.sizes, strict=True):
        made = producer.get(value)
        silent += size * (isinstance(made, Constant) and made.mean_square == 0.0)
    return 2 * silent > sum(node.sizes)


def is_decided(node: Node, levels: Sequence[float], few: Sequence[bool]) -> bool:
    """Whether what a node makes is a matter of few numbers, as some of what it reads is.

    Args:
        node: the node.
        levels: second moments of what it reads.
        few: which of them are.
    """
    if isinstance(node, Merge) and any(few):
        # The larger part of a sum decides.
        return 2 * sum(q for q, is_few in zip(levels, few, strict=True) if is_few) > sum(levels)
    return bool(few) and all(few)
