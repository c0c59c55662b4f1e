"""The chain rule of partial derivatives of any order (Faa di Bruno), as data."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from equipoise.errors import ArgumentError

Orders = tuple[int, ...]
# Beyond, the chain rule has thousands of terms.
_MOST_ORDER = 8


@dataclass(frozen=True)
class Term:
    """One term of the chain rule: count * f^(m) * product of m derivatives of z, m >= 2."""

    place: int
    count: int
    factors: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """What the chain rule needs for one set of partial derivatives.

    Attributes:
        places: of each derivative among the channels; the value is channel 0.
        terms: those of two factors or more; each channel has its derivative times f' besides.
        most: largest number of factors.
    """

    places: Mapping[Orders, int]
    terms: tuple[Term, ...]
    most: int


@lru_cache(maxsize=256)
def chain_rule(wanted: tuple[Orders, ...], directions: int) -> Rule:
    """The chain rule for derivatives of these orders, and those that they are made of.

    Args:
        wanted: order along each direction, of 8 in all at most.
        directions: number of them.

    Returns:
        The rule.

    Raises:
        ArgumentError: for orders that do not fit.

    >>> [(term.count, term.factors) for term in chain_rule(((3,),), 1).terms]
    [(1, (1, 1)), (1, (1, 1, 1)), (3, (1, 2))]
    """
    for orders in wanted:
        fits = len(orders) == directions and all(isinstance(k, int) and k >= 0 for k in orders)
        if not fits or sum(orders) > _MOST_ORDER:
            raise ArgumentError(
                f"wanted must hold the order along each of {directions} directions, not negative "
                f"and {_MOST_ORDER} in all at most, got {orders}. Pass (2, 0) for u_xx of u(x, t)."
            )
    zero = (0,) * directions
    every = {zero}
    for orders in wanted:
        every |= set(_below(orders))
    ordered = sorted(every, key=lambda orders: (sum(orders), orders[::-1]))
    places = {orders: place for place, orders in enumerate(ordered)}
    terms = list[Term]()
    for orders, place in places.items():
        # Factors of a term, as places, and how many partitions give it.
        counts: Counter[tuple[int, ...]] = Counter()
        letters = [axis for axis, k in enumerate(orders) for _ in range(k)]
        for partition in _partitions(letters):
            blocks = (tuple(block.count(a) for a in range(directions)) for block in partition)
            counts[tuple(sorted(places[block] for block in blocks))] += 1
        terms += [Term(place, n, factors) for factors, n in counts.items() if len(factors) > 1]
    most = max((sum(orders) for orders in places), default=0)
    return Rule(places, tuple(terms), most)


def _below(orders: Orders) -> Iterator[Orders]:
    """All orders that are nowhere larger."""
    if not orders:
        yield ()
        return
    for first in range(orders[0] + 1):
        for rest in _below(orders[1:]):
            yield (first, *rest)


def _partitions(letters: list[int]) -> Iterator[list[list[int]]]:
    """All ways to part a list of letters, told apart by their places, into blocks."""
    if not letters:
        yield []
        return
    first, *rest = letters
    for partition in _partitions(rest):
        yield [[first], *partition]
        for i, block in enumerate(partition):
            yield [*partition[:i], [first, *block], *partition[i + 1 :]]
