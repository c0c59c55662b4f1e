"""Stacks: runs of affine layers whose hidden units nothing else reads or writes.

Only inside a stack may laws couple layers. A stack ends where a value is read twice, at a sum, at
an opaque node, where a reshape changes the feature axis, and at a weight that is used twice.
"""

from collections import Counter
from dataclasses import dataclass

from equipoise.plan.trace import Affine, Dropout, Node, Nonlinearity, Reshape, Trace, readers
from equipoise.theory.activations import Activation, identity


@dataclass(frozen=True)
class Hidden:
    """The units between two affine layers of a stack."""

    space: int
    width: int
    activation: Activation
    dropout: float


@dataclass(frozen=True)
class Stack:
    """Affine layers in a row with the hidden units between them.

    Attributes:
        affines: the layers, at least one.
        hidden: what lies between them, one fewer.
        exit_activation: applied to the output of the last layer, identity where there is none.
        exit_value: number of the value that leaves the stack.
        is_output: whether that value is an output of the model.
        path: the nodes from the entry value to the exit value, in order.
    """

    affines: tuple[Affine, ...]
    hidden: tuple[Hidden, ...]
    exit_activation: Activation
    exit_value: int
    is_output: bool
    path: tuple[Node, ...]

    @property
    def entry_value(self) -> int:
        """Number of the value that enters the stack."""
        return self.affines[0].input

    @property
    def depth(self) -> int:
        """Number of hidden spaces."""
        return len(self.hidden)


def find_stacks(trace: Trace, fixed: frozenset[str] = frozenset()) -> tuple[Stack, ...]:
    """The stacks of a trace, in the order of computation; every affine layer is in one of them.

    Args:
        trace: the model.
        fixed: names of weights that keep their values: each is a stack of its own.

    Returns:
        The stacks.
    """
    reading = readers(trace.nodes)
    uses = Counter(node.weight for node in trace.nodes if isinstance(node, Affine))
    # A weight that stands alone, fixed or used twice, has no partner to be coupled with.
    alone = fixed | {name for name, count in uses.items() if count > 1}
    inside: set[int] = set()
    stacks = []
    for index, node in enumerate(trace.nodes):
        if not isinstance(node, Affine) or index in inside:
            continue
        stacks.append(_follow(node, trace, reading, alone, inside))
    return tuple(stacks)


def _follow(
    first: Affine,
    trace: Trace,
    reading: dict[int, list[Node]],
    alone: frozenset[str] | set[str],
    inside: set[int],
) -> Stack:
    numbers = {id(node): i for i, node in enumerate(trace.nodes)}
    outputs = set(trace.outputs)
    affines, hidden, path = [first], list[Hidden](), list[Node]([first])
    while True:
        activation, dropout, value, walked = _pointwise_path(affines[-1], reading, outputs)
        after = [] if value in outputs else reading.get(value, [])
        following = after[0] if len(after) == 1 else None
        if (
            not isinstance(following, Affine)
            or affines[-1].weight in alone
            or following.weight in alone
            or following.in_space != affines[-1].out_space
        ):
            path += walked
            return Stack(
                tuple(affines), tuple(hidden), activation, value, value in outputs, tuple(path)
            )
        hidden.append(Hidden(following.in_space, following.fan_in, activation, dropout))
        path += [*walked, following]
        affines.append(following)
        inside.add(numbers[id(following)])


def _pointwise_path(
    affine: Affine, reading: dict[int, list[Node]], outputs: set[int]
) -> tuple[Activation, float, int, list[Node]]:
    """Follow a value as long as one pointwise node reads it and its feature axis stays."""
    activation, keep, value = identity(), 1.0, affine.output
    walked: list[Node] = []
    seen_activation = False
    while value not in outputs:
        after = reading.get(value, [])
        if len(after) != 1:
            break
        match after[0]:
            case Nonlinearity() as node if not seen_activation:
                activation, seen_activation = node.activation, True
            case Dropout() as node:
                keep *= 1.0 - node.probability
            case Reshape() as node if node.in_space == node.out_space:
                pass
            case _:
                break
        walked.append(after[0])
        value = node.output
    return activation, 1.0 - keep, value, walked
