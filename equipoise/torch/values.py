"""Values of a trace while it is read: their shapes, the space of each axis, the feature axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from equipoise.plan.nodes import (
    Affine,
    Constant,
    Flatten,
    Node,
    Opaque,
    Recurrent,
    Reshape,
    makes,
    reads,
)
from equipoise.plan.trace import Spaces, Value
from equipoise.torch.axes import joined_axis, kept_axes


@dataclass(eq=False)
class Held:
    """A value under construction.

    Attributes:
        number: its place in the trace.
        shape: its shape.
        spaces: of each axis, before they are compacted.
        axis: the feature axis, counted from the end.
        is_presumed: whether nothing has said yet that it is this axis.
        like: the value of the same shape that it was made from, None where there is none.
    """

    number: int
    shape: tuple[int, ...]
    spaces: tuple[int, ...]
    axis: int = -1
    is_presumed: bool = True
    like: "Held | None" = None

    @property
    def place(self) -> int:
        """The feature axis, counted from the front."""
        return len(self.shape) + self.axis

    @property
    def space(self) -> int:
        """Space of the feature axis."""
        return self.spaces[self.axis]

    @property
    def site_axes(self) -> tuple[int, ...]:
        """Axes of sites, from the front: those behind the feature axis, else all but the batch."""
        if self.axis < -1:
            return tuple(range(self.place + 1, len(self.shape)))
        return tuple(range(1, self.place))

    def settle(self, axis: int) -> None:
        """Say which axis holds the features, where that was only presumed."""
        held: Held | None = self
        while held is not None and held.is_presumed:
            held.axis, held.is_presumed, held = axis, False, held.like


class Values:
    """All values of a trace and their spaces."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.spaces = Spaces()

    def new(self, shape: Sequence[int], spaces: Mapping[int, int], axis: int | None = None) -> Held:
        """A value with the spaces given for some of its axes, by place, and new ones for others.

        Args:
            shape: its shape.
            spaces: place of an axis, from the front, to its space.
            axis: its feature axis, counted from the end; the last one is presumed where None.
        """
        found = tuple(
            spaces[i] if i in spaces else self.spaces.new(size) for i, size in enumerate(shape)
        )
        # A scalar has no axis: one space stands for its single unit.
        found = found or (self.spaces.new(1),)
        made = Held(len(self.held), tuple(shape), found, -1 if axis is None else axis, axis is None)
        self.held.append(made)
        return made

    def same(self, source: Held) -> Held:
        """A value whose axes are those of another one."""
        made = replace(source, number=len(self.held), like=source)
        self.held.append(made)
        return made

    def joined(self, shape: Sequence[int], parts: Sequence[Held]) -> Held:
        """What a pointwise operation makes of values: axes of equal size, from the end, are tied.

        An axis of size 1 that is broadcast ties nothing.
        """
        spaces: dict[int, int] = {}
        for part in parts:
            for back, size in enumerate(reversed(part.shape), start=1):
                place = len(shape) - back
                if size == shape[place]:
                    self.spaces.join(
                        spaces.setdefault(place, part.spaces[-back]), part.spaces[-back]
                    )
        whole = [part for part in parts if part.shape == tuple(shape)]
        settled = [part for part in whole if not part.is_presumed]
        made = self.new(shape, spaces, settled[0].axis if settled else None)
        if whole and not settled:
            made.like = whole[0]
        return made

    def unread(self, shape: Sequence[int], source: Held | None, keeps_channels: bool) -> Held:
        """What an operation makes that was not read.

        Args:
            shape: its shape.
            source: its first operand; a result of as many axes has its features where that has.
            keeps_channels: whether it works on the sites of each channel alone.
        """
        if source is None or source.is_presumed or len(source.shape) != len(shape):
            return self.new(shape, {})
        spaces = dict(enumerate(source.spaces[: source.place + 1])) if keeps_channels else {}
        return self.new(shape, spaces, source.axis)

    def reshaped(self, source: Held, shape: tuple[int, ...]) -> tuple[Held, Flatten | Reshape]:
        """The value that a reshape makes, and the node."""
        kept = kept_axes(source.shape, shape)
        axis: int | None = None
        spaces = {new: source.spaces[old] for new, old in kept.items()}
        found = joined_axis(source.shape, shape, source.place) if source.shape and shape else None
        sites = 1
        if found is not None and (found[1] == 1 or found[0] not in kept):
            place, sites = found
            axis = None if source.is_presumed else place - len(shape)
            if sites == 1:
                spaces[place] = source.space
        made = self.new(shape, spaces, axis)
        if sites > 1:
            return made, Flatten(source.number, made.number, source.space, made.space, sites)
        size = shape[made.axis] if shape else 1
        return made, Reshape(source.number, made.number, source.space, made.space, size)

    def permuted(self, source: Held, order: tuple[int, ...]) -> Held:
        """The value that a permutation makes."""
        shape = tuple(source.shape[i] for i in order)
        spaces = {new: source.spaces[old] for new, old in enumerate(order)}
        axis = order.index(source.place) - len(order)
        return self.new(shape, spaces, None if source.is_presumed else axis)

    def compact(self) -> tuple[dict[int, int], tuple[int, ...], tuple[Value, ...]]:
        """Final numbers of spaces, their sizes, and the values."""
        number, sizes = self.spaces.compact()
        return (
            number,
            sizes,
            tuple(
                Value(v.shape, tuple(number[s] for s in v.spaces if v.shape), v.axis)
                for v in self.held
            ),
        )


def renumbered(node: Node, number: Mapping[int, int], held: Sequence[Held]) -> Node:
    """A node with the final numbers of its spaces."""
    match node:
        case Affine():
            return replace(node, in_space=number[node.in_space], out_space=number[node.out_space])
        case Reshape() | Flatten():
            before, after = held[node.input], held[node.output]
            return replace(node, in_space=number[before.space], out_space=number[after.space])
        case Opaque() | Constant():
            return node
        case Recurrent():
            return replace(node, space=number[held[node.outputs[0]].space])
        case _:
            return replace(node, space=number[held[node.output].space])


def without_dead_ends(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[Node, ...]:
    """The nodes without those that nothing comes of: asserts and logging would end stacks.

    Affine layers stay, since a model may hand their results out in ways that are not seen.
    """
    alive: set[int] = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if isinstance(node, Affine) or alive.intersection(makes(node)):
            kept.append(node)
            alive.update(reads(node))
    return tuple(reversed(kept))
