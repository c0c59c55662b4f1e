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
    """The units between two affine layers of a stack.

    Attributes:
        space: id of their space.
        width: how many they are.
        activation: what is applied there.
        dropout: probability of being dropped while training.
        active_dropout: the same as the model now stands; 0 in evaluation.
    """

    space: int
    width: int
    activation: Activation
    dropout: float = 0.0
    active_dropout: float = 0.0


@dataclass(frozen=True)
class Stack:
    """Affine layers in a row with the hidden units between them.

    Attributes:
        affines: the layers, at least one.
        hidden: what lies between them, one fewer.
        exit_activation: applied to the output of the last layer, identity where there is none.
        exit_value: number of the value that leaves the stack.
        can_shift: for each layer, whether it has a bias of its own that may be drawn.
        keeps_bias: whether some layer has a bias whose values stay as they are.
    """

    affines: tuple[Affine, ...]
    hidden: tuple[Hidden, ...]
    exit_activation: Activation
    exit_value: int
    can_shift: tuple[bool, ...]
    keeps_bias: bool = False

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
    layers = [node for node in trace.nodes if isinstance(node, Affine)]
    uses = Counter(node.weight for node in layers)
    biases = Counter(node.bias for node in layers if node.bias)
    # A weight that stands alone, fixed or used twice, has no partner to be coupled with.
    alone = fixed | {name for name, count in uses.items() if count > 1}
    inside: set[int] = set()
    stacks = []
    for node in layers:
        if node.output in inside:
            continue
        affines, hidden, activation, exit_value = _follow(node, reading, alone, set(trace.outputs))
        inside.update(affine.output for affine in affines)
        stacks.append(
            Stack(
                affines,
                hidden,
                activation,
                exit_value,
                tuple(biases[a.bias] == 1 and a.bias not in fixed for a in affines),
                any(a.bias in fixed for a in affines),
            )
        )
    return tuple(stacks)


def _follow(
    first: Affine,
    reading: dict[int, list[Node]],
    alone: frozenset[str],
    outputs: set[int],
) -> tuple[tuple[Affine, ...], tuple[Hidden, ...], Activation, int]:
    """Walk from a layer to the end of its stack."""
    affines, hidden = [first], list[Hidden]()
    while True:
        here = affines[-1]
        activation, kept, active, value = _pointwise_path(here, reading, outputs)
        after = [] if value in outputs else reading.get(value, [])
        following = after[0] if len(after) == 1 else None
        if (
            not isinstance(following, Affine)
            or here.weight in alone
            or following.weight in alone
            or following.in_space != here.out_space
        ):
            return tuple(affines), tuple(hidden), activation, value
        hidden.append(
            Hidden(following.in_space, following.in_size, activation, 1.0 - kept, 1.0 - active)
        )
        affines.append(following)


def _pointwise_path(
    affine: Affine, reading: dict[int, list[Node]], outputs: set[int]
) -> tuple[Activation, float, float, int]:
    """Follow a value as long as one pointwise node reads it and its feature axis stays.

    Returns the activation, the shares of entries that dropout keeps in training and now, and the
    value where the path ends.
    """
    activation, kept, active, value = identity(), 1.0, 1.0, affine.output
    seen_activation = False
    while value not in outputs:
        after = reading.get(value, [])
        if len(after) != 1:
            break
        match after[0]:
            case Nonlinearity() as node if not seen_activation:
                activation, seen_activation = node.activation, True
            case Dropout() as node:
                kept *= 1.0 - node.probability
                active *= 1.0 - node.probability * node.is_active
            case Reshape() as node if node.in_space == node.out_space:
                pass
            case _:
                break
        value = node.output
    return activation, kept, active, value
