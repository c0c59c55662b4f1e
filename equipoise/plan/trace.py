"""A Trace: what a model computes, as far as initialization must know, with no framework in it.

Values are numbered; nodes read and make them. Every axis of a value has a space, which says what
its entries index: values joined by pointwise operations share spaces axis by axis, and so do the
values that one weight reads or makes. One axis of a value is its feature axis: the one that the
affine layer made which it comes from, wherever a permutation has moved it since. Axes are counted
from the end, so a batch axis in front changes nothing. What cannot be read is an ``Opaque`` node
with its reason; nothing is guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.plan.nodes import Node, reads


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model.

    Attributes:
        name: its first name in the model.
        shape: its shape.
        dtype: name of its element type, such as ``float32``.
        is_trainable: whether gradients are asked for.
        aliases: further names of the same tensor.
        form: what computes it from parameters of its own, such as ``weight_norm``; '' for a plain
            parameter.
        is_gain_fixed: whether its form leaves only its direction to be chosen, with singular
            values of at most 1.
        kept: why it cannot be written, '' where it can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_trainable: bool = True
    aliases: tuple[str, ...] = ()
    form: str = ""
    is_gain_fixed: bool = False
    kept: str = ""


@dataclass(frozen=True)
class Value:
    """One tensor of the computation.

    Attributes:
        shape: its shape on the inputs that were traced.
        spaces: space id of each axis.
        axis: the feature axis, counted from the end. The last one is presumed for an input of the
            model, or what an opaque node made, that no affine layer or pooling reads.
    """

    shape: tuple[int, ...]
    spaces: tuple[int, ...]
    axis: int = -1

    @property
    def space(self) -> int:
        """Space of the feature axis; -1 for a scalar, which has none."""
        return self.spaces[self.axis] if self.spaces else -1


@dataclass(frozen=True)
class Trace:
    """A model as nodes in the order of computation.

    Attributes:
        nodes: in topological order.
        inputs: value numbers of the model's floating-point inputs.
        outputs: value numbers of its outputs.
        sizes: number of units of each space, by space id.
        parameters: every parameter of the model once.
        values: shape and spaces of every value, by its number; () in a trace made by hand.
        why_recorded: why one real forward was recorded, of which only the branches taken are seen;
            '' where the trace holds for all inputs of these shapes.
        score_rows: of layers that make values of attention beside its queries or keys, by the
            number of what they make: ranges of the rows that make queries and keys.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    values: tuple[Value, ...] = ()
    why_recorded: str = ""
    score_rows: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()


class Spaces:
    """Union-find over axes while a trace is being made."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []

    def new(self, size: int) -> int:
        """A space of its own for an axis of ``size`` units."""
        self._parent.append(len(self._parent))
        self._size.append(size)
        return len(self._parent) - 1

    def find(self, space: int) -> int:
        """The representative of a space."""
        while self._parent[space] != space:
            self._parent[space] = self._parent[self._parent[space]]
            space = self._parent[space]
        return space

    def join(self, first: int, second: int) -> None:
        """Say that two axes index the same units; a broadcast axis of 1 joins nothing."""
        a, b = self.find(first), self.find(second)
        if a != b and self._size[a] == self._size[b]:
            self._parent[max(a, b)] = min(a, b)

    def compact(self) -> tuple[dict[int, int], tuple[int, ...]]:
        """Numbers 0, 1, ... for the representatives, and their sizes."""
        roots = sorted({self.find(s) for s in range(len(self._parent))})
        number = {root: i for i, root in enumerate(roots)}
        return (
            {s: number[self.find(s)] for s in range(len(self._parent))},
            tuple(self._size[root] for root in roots),
        )


def readers(nodes: Sequence[Node]) -> dict[int, list[Node]]:
    """The nodes that read each value."""
    result: dict[int, list[Node]] = {}
    for node in nodes:
        for value in reads(node):
            result.setdefault(value, []).append(node)
    return result
