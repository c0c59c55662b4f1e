"""The end of a branch: which weights, gains and norms decide how loud it is where it is added."""

from collections.abc import Callable
from dataclasses import dataclass

from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
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
    Product,
    Reshape,
    Shift,
    Softmax,
    Spread,
    Take,
    reads,
)

Producers = dict[int, Node]

# What may stand between the last weight of a branch and the sum: it keeps or scales a signal.
_PASSED = (Dropout, Reshape, Permute, Flatten, Take, Spread, Shift, Pool)


@dataclass(frozen=True)
class Ends:
    """What ends a branch.

    Attributes:
        affines: its last weights; before a norm, where a norm ends it.
        gains: parameters that multiply it behind those and behind any norm, the last one first.
        norm: the norm that sets its scale, None where there is none.
        bends: functions of entries behind the last weights, but for lines.
        parts: how many ``affines`` are added side by side, those that a gate weighs as one.
    """

    affines: tuple[Affine, ...] = ()
    gains: tuple[Gain, ...] = ()
    norm: Norm | None = None
    bends: tuple[Nonlinearity, ...] = ()
    parts: int = 1


def is_line(node: Node) -> bool:
    """Whether a node multiplies all entries by one number."""
    if not isinstance(node, Nonlinearity):
        return False
    return node.activation.homogeneity == 1.0 and node.activation.parity == "odd"


def walk_back(
    value: int, producer: Producers, source: int, is_inside: Callable[[int], bool]
) -> Ends:
    """What ends a branch.

    Args:
        value: the branch, as it is added.
        producer: the node that makes each value.
        source: value that the branch is made from; nothing before it belongs to the branch.
        is_inside: whether a value is made from the source.

    Returns:
        The ends; nothing where something that was not read ends the branch.
    """
    affines: dict[int, Affine] = {}
    gains: list[Gain] = []
    bends: list[Nonlinearity] = []
    norms: list[Norm] = []
    seen: set[int] = set()
    plain = 0
    # Values to look at, and whether a gate weighs them, or a norm stands behind them.
    waiting = [(value, False, False)]
    while waiting:
        now, is_weighed, is_normed = waiting.pop(0)
        if now == source or now in seen:
            continue
        seen.add(now)
        match producer.get(now):
            case Affine() as node:
                affines[node.output] = node
                plain += not is_weighed
            case Merge(inputs=inputs) | Concat(inputs=inputs):
                waiting += [(v, is_weighed, is_normed) for v in inputs]
            case Gain() as node:
                if node.parameter and not is_normed:
                    gains.append(node)
                waiting.append((node.input, is_weighed, is_normed))
            case Norm() as node:
                if not is_normed:
                    norms.append(node)
                waiting.append((node.input, is_weighed, True))
            case Nonlinearity() as node:
                if not is_line(node) and not is_normed:
                    bends.append(node)
                waiting.append((node.input, is_weighed, is_normed))
            case Product(inputs=inputs):
                waiting.append((_carrier(inputs, producer, is_inside), True, is_normed))
            case Attention(inputs=(_, _, v)) | Contract(inputs=(_, v)):
                waiting.append((v, is_weighed, is_normed))
            case node if isinstance(node, _PASSED):
                waiting.append((node.input, is_weighed, is_normed))
            case _:
                continue
    first = norms[0] if norms else None
    return Ends(tuple(affines.values()), tuple(gains), first, tuple(bends), max(1, plain))


def _carrier(inputs: tuple[int, ...], producer: Producers, is_inside: Callable[[int], bool]) -> int:
    """The factor of a product that carries the signal: made from the source, and no gate's."""
    return min(inputs, key=lambda v: (not is_inside(v), _is_gate(v, producer)))


def _is_gate(value: int, producer: Producers) -> bool:
    """Whether a factor comes out of a function of entries or a softmax, and not of a weight."""
    while True:
        match producer.get(value):
            case node if node is not None and (is_line(node) or isinstance(node, _PASSED)):
                value = reads(node)[0]
            case Softmax() | Nonlinearity():
                return True
            case _:
                return False
