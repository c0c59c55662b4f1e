"""Stacks: runs of affine layers whose hidden units nothing else reads or writes.

Only inside a stack may laws couple layers. A stack ends where a value is read twice, at a sum, at
an opaque node, where a reshape changes the feature axis other than by joining all sites to it, and
at a weight that is used twice. Grouped and transposed convolutions stand alone: a frame of all
channels is no frame of a group's, and a transposed kernel of stride s reaches each site through
other taps than its neighbour. That concerns laws only: a signal goes on from stack to stack, and
a *chain* is what they would be as one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from equipoise.plan.nodes import (
    Affine,
    Dropout,
    Flatten,
    Lookup,
    Node,
    Nonlinearity,
    Opaque,
    Permute,
    Pool,
    Recurrent,
    Reshape,
    makes,
)
from equipoise.plan.trace import Trace, readers
from equipoise.theory.activations import Activation, identity


@dataclass(frozen=True)
class Hidden:
    """The units between two affine layers of a stack.

    Attributes:
        space: id of their space.
        width: how many they are; channels, of a convolution.
        activation: what is applied there.
        dropout: probability of being dropped while training.
        active_dropout: the same as the model now stands; 0 in evaluation.
        sites: sizes of the axes of sites at the activation; () after a linear layer.
        pools: between the activation and the next weight, in order.
        copies: sites that a flatten joins with the channels before the next weight, whose in_size
            is ``width * copies``; 1 elsewhere.
        early_pools: between the previous weight and the activation, in order. Only those that do
            not commute with it: a maximum pool before an increasing activation is one of ``pools``.
    """

    space: int
    width: int
    activation: Activation
    dropout: float = 0.0
    active_dropout: float = 0.0
    sites: tuple[int, ...] = ()
    pools: tuple[Pool, ...] = ()
    copies: int = 1
    early_pools: tuple[Pool, ...] = ()


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
        entry_activation: the last one applied to what enters, identity where there is none.
        is_last: whether what leaves is an output of the model.
    """

    affines: tuple[Affine, ...]
    hidden: tuple[Hidden, ...]
    exit_activation: Activation
    exit_value: int
    can_shift: tuple[bool, ...]
    keeps_bias: bool = False
    entry_activation: Activation = field(default_factory=identity)
    is_last: bool = True

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
    layers = [node for node in trace.nodes if isinstance(node, Affine)]
    # A weight that stands alone has no partner to be coupled with.
    alone = {n.weight for n in layers if n.convolution.groups > 1 or n.convolution.is_transposed}
    # A table is drawn as a table, also where it is a head.
    alone |= {node.weight for node in trace.nodes if isinstance(node, Lookup)}
    # Frames need weights of any scale.
    alone |= {p.name for p in trace.parameters if p.is_gain_fixed}
    return _runs(trace, fixed, _alone(layers, fixed) | alone)


def find_chains(trace: Trace, fixed: frozenset[str] = frozenset()) -> tuple[Stack, ...]:
    """Stacks with nothing between them joined to one, in the order of computation.

    Args:
        trace: the model.
        fixed: as for ``find_stacks``.

    Returns:
        The chains. Each is made of one stack or more; every stack lies in one of them.
    """
    layers = [node for node in trace.nodes if isinstance(node, Affine)]
    return _runs(trace, fixed, _alone(layers, fixed))


def _alone(layers: Sequence[Affine], fixed: frozenset[str]) -> frozenset[str]:
    """Weights whose values are given, that are used several times, or are several matrices."""
    uses = Counter(node.weight for node in layers)
    experts = {node.weight for node in layers if node.several}
    return fixed | experts | {name for name, count in uses.items() if count > 1}


def _runs(trace: Trace, fixed: frozenset[str], alone: frozenset[str]) -> tuple[Stack, ...]:
    reading = readers(trace.nodes)
    layers = [node for node in trace.nodes if isinstance(node, Affine)]
    biases = Counter(node.bias for node in layers if node.bias)
    producers: dict[int, Node] = {v: n for n in trace.nodes for v in makes(n)}
    inside: set[int] = set()
    stacks = []
    for node in layers:
        if node.output in inside:
            continue
        affines, hidden, activation, exit_value = _follow(node, trace, reading, alone)
        inside.update(affine.output for affine in affines)
        stacks.append(
            Stack(
                affines,
                hidden,
                activation,
                exit_value,
                tuple(biases[a.bias] == 1 and a.bias not in fixed for a in affines),
                any(a.bias in fixed for a in affines),
                _applied_last(node.input, producers),
                exit_value in trace.outputs,
            )
        )
    return tuple(stacks)


def _applied_last(value: int, producers: dict[int, Node]) -> Activation:
    """The activation that a value has passed since it was made, identity where there is none."""
    while True:
        match producers.get(value):
            case Nonlinearity(activation=activation):
                return activation
            case Dropout() | Reshape() | Permute() | Pool() | Flatten() as node:
                value = node.input
            case _:
                return identity()


def _follow(
    first: Affine,
    trace: Trace,
    reading: dict[int, list[Node]],
    alone: frozenset[str],
) -> tuple[tuple[Affine, ...], tuple[Hidden, ...], Activation, int]:
    """Walk from a layer to the end of its stack."""
    affines, hidden = [first], list[Hidden]()
    while True:
        here = affines[-1]
        path = _Path(here)
        after = path.walk(trace, reading)
        if (
            not isinstance(after, Affine)
            or here.weight in alone
            or after.weight in alone
            or not path.leads_to(after)
        ):
            return tuple(affines), tuple(hidden), path.exit_activation, path.exit_value
        hidden.append(path.hidden(after))
        affines.append(after)


class _Path:
    """What lies behind an affine layer, as long as one node reads it and its units stay."""

    def __init__(self, affine: Affine) -> None:
        self.affine = affine
        self.value = self.exit_value = affine.output
        self.space, self.sites, self.copies = affine.out_space, affine.out_sites, 1
        self.activation: Activation | None = None
        self.exit_activation = identity()
        self.kept = self.active = 1.0
        self.early: list[Pool] = []
        self.late: list[Pool] = []

    def walk(self, trace: Trace, reading: dict[int, list[Node]]) -> Node | None:
        """Go on to the first node that is not part of the path; None where there is not one."""
        while self.value not in trace.outputs:
            after = reading.get(self.value, [])
            if len(after) != 1:
                return None
            node = after[0]
            # Opaque and recurrent nodes have no single ``output`` to go on.
            if isinstance(node, Opaque | Recurrent | Affine) or not self._takes(node, trace):
                return node
            self.value = node.output
            if not self.early and not self.late and self.space == self.affine.out_space:
                self.exit_value = self.value
                self.exit_activation = self.activation or identity()
        return None

    def _takes(self, node: Node, trace: Trace) -> bool:
        """Whether the path goes on through a node."""
        match node:
            case Nonlinearity():
                # Dropout in front of a function is that behind it where the function is a line on
                # each side of 0, and else another thing.
                is_early = self.kept < 1.0 and node.activation.homogeneity != 1.0
                if self.activation is not None or is_early:
                    return False
                self.activation = node.activation
            case Dropout():
                self.kept *= 1.0 - node.probability
                self.active *= 1.0 - node.probability * node.is_active
            case Reshape():
                return node.in_space == node.out_space
            case Permute():
                place = trace.values[node.input].axis % len(node.order)
                others = [axis for axis in node.order if axis != place]
                return others == sorted(others)
            case Flatten():
                if node.in_space != self.space or not self.sites:
                    return False
                self.copies, self.sites, self.space = node.sites, (), node.out_space
            case Pool():
                return self._pools(node)
            case _:
                return False
        return True

    def _pools(self, node: Pool) -> bool:
        if node.in_sites != self.sites:
            # Sites in one axis instead of several: only pooling over all of them is the same.
            if not node.is_global or math.prod(node.in_sites) != math.prod(self.sites):
                return False
            ones = (1,) * len(self.sites)
            node = replace(
                node, window=self.sites, stride=self.sites, in_sites=self.sites, out_sites=ones
            )
        self.sites = node.out_sites
        (self.early if self.activation is None else self.late).append(node)
        return True

    def leads_to(self, affine: Affine) -> bool:
        """Whether a layer reads the units of this path, on the sites where they are."""
        on_sites = not affine.in_sites or affine.in_sites == self.sites
        # A linear layer on maps does not say what sites there are: the convolution behind it does.
        after_linear = not self.affine.out_sites and not self.late and not self.early
        return affine.in_space == self.space and (on_sites or after_linear)

    def hidden(self, following: Affine) -> Hidden:
        """The units on this path."""
        early, late = self.early, self.late
        activation = self.activation or identity()
        # What commutes with the activation is told in the order that is easier to reason about.
        split = len(early)
        while split and (
            self.activation is None
            or (early[split - 1].kind == "maximum" and _is_increasing(activation))
        ):
            split -= 1
        early, late = early[:split], early[split:] + late
        sites = self.affine.out_sites or following.in_sites
        return Hidden(
            self.affine.out_space,
            self.affine.out_size,
            activation,
            1.0 - self.kept,
            1.0 - self.active,
            early[-1].out_sites if early else sites,
            tuple(late),
            self.copies,
            tuple(early),
        )


@lru_cache(maxsize=256)
def _is_increasing(activation: Activation) -> bool:
    """Whether f never falls, on a grid that is finer than any kink or wiggle of known functions."""
    x = np.concatenate([np.linspace(-30.0, 30.0, 60_001), [0.0, *activation.breaks]])
    values = activation.f(np.sort(x))
    return bool(np.all(np.diff(values) >= -1e-12 * np.abs(values[1:])))
