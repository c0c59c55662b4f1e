"""Values given by the inputs that another value is made of, and how uneven they are."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from equipoise.plan.moments import averaging, behind
from equipoise.plan.nodes import (
    Affine,
    Attention,
    Contract,
    Lookup,
    Node,
    Nonlinearity,
    Norm,
    reads,
)
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Array

# Factor by which uneven rows may move a level that is told for even ones.
_MOST_MOVED = 2.0
# Below this power it takes k = 1,000: lines and gates are not looked into.
_HARDLY_MOVED = 0.1


def rows_behind(
    value: int,
    producer: Mapping[int, Node],
    rows_of: Callable[[int], Array],
    through_layers: bool = False,
) -> Iterator[tuple[int, Array, int]]:
    """Values that are known row by row, from which a value is made with no norm in between.

    Args:
        value: its number.
        producer: the node that makes each value.
        rows_of: a value on the inputs given; empty where weights come before it.
        through_layers: whether to go on before layers.

    Yields:
        Number and rows of each of them, and the number of what is made of it on the way; -1 where
        that is nothing.
    """
    waiting, seen = [(value, -1)], set[int]()
    while waiting:
        top, made = waiting.pop()
        node = producer.get(top)
        if top in seen or isinstance(node, Norm | Lookup):
            continue
        seen.add(top)
        if (rows := rows_of(top)).size:
            yield top, rows, made
        elif node and (through_layers or not isinstance(node, Affine)):
            waiting += [(v, top) for v in _made_of(node, producer)]


def moves_uneven_rows(
    node: Node,
    levels: Sequence[float],
    trace: Trace,
    producer: Mapping[int, Node],
    rows_of: Callable[[int], Array],
) -> bool:
    """Whether a function of a sum of inputs has another level, since some rows are far louder.

    Where the level behind f grows as q^p, sites of energies s, E s^2 / (E s)^2 = k, leave behind f
    about k^(p (p - 1) / 2) times what even ones do.

    Args:
        node: what makes the value.
        levels: second moments of what it reads.
        trace: the model.
        producer: the node that makes each value.
        rows_of: a value on the inputs given; empty where weights come before it.
    """
    if not isinstance(node, Nonlinearity) or not 0 < levels[0] < math.inf:
        return False
    level = levels[0]
    found, doubled = behind(node.activation, level), behind(node.activation, 2.0 * level)
    power = math.log2(doubled / found) if found > 0 and doubled > 0 else 0.0
    moved = abs(power * (power - 1.0) / 2.0)
    if moved < _HARDLY_MOVED:
        return False
    most = 1.0
    for value, given, _ in rows_behind(node.input, producer, rows_of, through_layers=True):
        energy = np.mean(np.square(given), axis=trace.values[value].axis if trace.values else -1)
        if energy.any():
            most = max(most, float(np.mean(np.square(energy)) / np.mean(energy) ** 2))
    return bool(most**moved > _MOST_MOVED)


def _made_of(node: Node, producer: Mapping[int, Node]) -> tuple[int, ...]:
    """What a node reads, but for what only weighs it: tables of positions may be 0."""
    if isinstance(node, Attention):
        return node.inputs[2:]
    weights = averaging(node, producer)
    if weights is not None and isinstance(node, Contract):
        return (node.inputs[1 - weights.place],)
    return reads(node)
