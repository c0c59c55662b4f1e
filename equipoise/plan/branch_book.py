"""Where laws stand that residual branches change once they are planned, and how to find them."""

from collections.abc import MutableMapping
from dataclasses import dataclass

from equipoise.plan.levels import Levels
from equipoise.plan.moments import behind
from equipoise.plan.nodes import Affine, Gain, Norm, makes, reads
from equipoise.plan.predict_joined import Part
from equipoise.plan.residual import Branch
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.plan.vectors import VectorLaws


@dataclass(frozen=True)
class Book:
    """Where laws stand that a branch may change.

    Attributes:
        levels: second moments.
        vectors: laws of gains.
        parts: stacks as they are planned, by the value that their first layer makes.
    """

    levels: Levels
    vectors: VectorLaws
    parts: MutableMapping[int, Part]


def set_exit(levels: Levels, stack: Stack, signal: float, is_sure: bool = True) -> tuple[int, ...]:
    """Let levels know the RMS that the last layer of a stack makes, and what leaves the stack."""
    level = signal * signal
    levels.set_level(stack.affines[-1].output, level, is_sure)
    levels.set_level(stack.exit_value, behind(stack.exit_activation, level), is_sure)
    return stack.affines[-1].output, stack.exit_value


def gain_name(gain: Gain | Norm) -> str:
    """Name of the parameter of a gain, its own or a norm's."""
    return gain.parameter if isinstance(gain, Gain) else gain.weight


def layer_of(branch: Branch) -> str:
    """Place of a branch in words: the layer that ends it."""
    last = branch.ends.affines
    return f"layer {last[0].layer}" if last else "a residual branch"


def heads_of(trace: Trace) -> frozenset[int]:
    """Outputs of the layers that make the outputs of the model."""
    producer = {v: n for n in trace.nodes for v in makes(n)}
    found = set()
    for value in trace.outputs:
        while (node := producer.get(value)) is not None and len(reads(node)) == 1:
            if isinstance(node, Affine):
                found.add(node.output)
                break
            value = reads(node)[0]
    return frozenset(found)
