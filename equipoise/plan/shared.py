"""Weights that are used several times: one law, by what they mostly read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from equipoise.plan.nodes import Affine, makes, reads
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Orthogonal, Taps
from equipoise.schemes.orthogonal import orthogonal
from equipoise.theory.activations import Activation, identity
from equipoise.theory.oddpart import ActivationClass, classify


def shared_feeds(stacks: Sequence[Stack]) -> dict[str, Activation]:
    """The activation whose values each weight is scaled to, if it is used several times.

    A gate takes a part of the signal at every use, and the weight must make up for that: for the
    activation that most of its uses read, the later one where as many read another. Units that do
    not rest at 0 could not be centred by one bias for all uses; there the weight is an isometry.

    Args:
        stacks: those of a trace; a weight that is used several times is a stack of its own.

    Returns:
        The activation by name of the weight, the identity where nothing is to be made up for.
    """
    read: dict[str, list[Activation]] = {}
    for stack in stacks:
        read.setdefault(stack.affines[0].weight, []).append(stack.entry_activation)
    found: dict[str, Activation] = {}
    for name, feeds in read.items():
        count = Counter(feeds)
        most = max(reversed(feeds), key=count.__getitem__)
        rests = is_gate(most) or most.value_at_zero == 0.0
        found[name] = most if len(feeds) > 1 and rests else identity()
    return found


def shared_law(affine: Affine, feed: Activation) -> Orthogonal | Taps:
    """An orthogonal weight that keeps the RMS of what it reads, through widths that grow too.

    Input and output of a shared weight may be the same units, for which frames make a projection.

    Args:
        affine: one of its uses.
        feed: activation that it is scaled to.
    """
    convolution = affine.convolution
    block = convolution.stride_block
    rows, columns = convolution.block_shape(block, affine.in_size, affine.out_size)
    gain = orthogonal(feed).gain * math.sqrt(max(1.0, rows / columns))
    law = Orthogonal(gain)
    if not convolution.kernel:
        return law
    return Taps(law, block, convolution.groups, convolution.is_transposed)


def is_gate(activation: Activation) -> bool:
    """Whether an activation takes a part of any signal, such as ReLU."""
    return classify(activation).kind is ActivationClass.MIRROR


def beyond_telling(trace: Trace, feeds: Mapping[str, Activation]) -> frozenset[int]:
    """Values behind a second use, in series, of a weight that reads a gate.

    Such uses are no independent draws: what chance does in one of them it does in all, and no
    expectation here provides for that. Where the weight is an isometry, chance does little.

    Args:
        trace: the model.
        feeds: what ``shared_feeds`` found.
    """
    origins: dict[int, int] = {}
    made_by: dict[str, int] = {}
    lost = 0
    found: set[int] = set()
    for node in trace.nodes:
        bits = 0
        for value in reads(node):
            bits |= origins.get(value, 0) | 1 << value
        is_lost = bool(bits & lost)
        if isinstance(node, Affine):
            is_again = bool(bits & made_by.get(node.weight, 0))
            is_lost |= is_again and is_gate(feeds.get(node.weight, identity()))
            made_by[node.weight] = made_by.get(node.weight, 0) | 1 << node.output
        for value in makes(node):
            origins[value] = bits
            if is_lost:
                lost |= 1 << value
                found.add(value)
    return frozenset(found)
