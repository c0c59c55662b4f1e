"""A Trace: what a model computes, as far as initialization must know, with no framework in it.

Values are numbered; nodes read and make them. Every axis of a value has a space, which says what
its entries index: values joined by pointwise operations share spaces axis by axis, and so do the
values that one weight reads or makes. One axis of a value is its feature axis: the one that the
affine layer made which it comes from, wherever a permutation has moved it since. Axes are counted
from the end, so a batch axis in front changes nothing. What cannot be read is an ``Opaque`` node
with its reason; nothing is guessed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.schemes.convolution import DENSE, Convolution
from equipoise.schemes.fans import Fans
from equipoise.theory.activations import Activation


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model.

    Attributes:
        name: its first name in the model.
        shape: its shape.
        dtype: name of its element type, such as ``float32``.
        is_trainable: whether gradients are asked for.
        aliases: further names of the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_trainable: bool = True
    aliases: tuple[str, ...] = ()


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
class Affine:
    """y = x W^T + b on the feature axis: a linear map at each site, or a convolution over sites.

    An array x of the input becomes rows of features by
    ``np.moveaxis(x, affine.axis, -1).reshape(-1, affine.in_size)``, one row for each site.

    Attributes:
        layer: name of the module, or of the weight where there is none.
        weight: parameter name of W.
        bias: parameter name of b, or ''.
        input, output: value numbers.
        in_space, out_space: space ids of the two feature axes (channels, of a convolution).
        in_size, out_size: sizes of these axes.
        convolution: how sites are joined; ``DENSE`` for a linear layer.
        in_sites, out_sites: sizes of the axes that a convolution runs over, before any padding; ()
            for a linear layer. A transposed convolution has as its padding the sites that are cut
            off, fewer at the end by torch's ``output_padding``.
        axis: position of the feature axis in input and output alike, counted from the end: -1 for
            a linear layer, -3 for a convolution over two axes.
    """

    layer: str
    weight: str
    bias: str
    input: int
    output: int
    in_space: int
    out_space: int
    in_size: int
    out_size: int
    convolution: Convolution = DENSE
    in_sites: tuple[int, ...] = ()
    out_sites: tuple[int, ...] = ()
    axis: int = -1

    @property
    def fans(self) -> Fans:
        """How many numbers a unit reads, and how many read it."""
        return self.convolution.fans(self.in_size, self.out_size)


@dataclass(frozen=True)
class Pool:
    """Average or maximum over windows of sites, channel by channel.

    Attributes:
        layer: name of the module, or ''.
        kind: ``average`` or ``maximum``.
        window: number of sites along each axis; all of them where pooling is global.
        stride: step along each axis.
        input, output: value numbers.
        space: of the channels.
        in_sites, out_sites: sizes of the axes that are pooled.
        padding: sites of nothing added at both ends of each axis.
        counts_padding: whether an average divides by the whole window at the border.
        dilation: distance of the sites of a window along each axis; () where it is 1.
        axes: the axes that are pooled, counted from the end; () for the last ones.
    """

    layer: str
    kind: str
    window: tuple[int, ...]
    stride: tuple[int, ...]
    input: int
    output: int
    space: int
    in_sites: tuple[int, ...]
    out_sites: tuple[int, ...]
    padding: tuple[int, ...] = ()
    counts_padding: bool = True
    dilation: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()

    @property
    def is_global(self) -> bool:
        """Whether one window holds all sites."""
        return self.window == self.in_sites and math.prod(self.out_sites) == 1


@dataclass(frozen=True)
class Flatten:
    """Channels and sites become one feature axis: unit = channel * sites + site.

    Attributes:
        input, output: value numbers.
        in_space: of the channels.
        out_space: of the joined axis.
        sites: number of sites of each channel.
    """

    input: int
    output: int
    in_space: int
    out_space: int
    sites: int


@dataclass(frozen=True)
class Nonlinearity:
    """y = f(x), entry by entry.

    ``space`` is that of the feature axis; ``parameters`` are one-entry parameters inside f.
    """

    layer: str
    activation: Activation
    input: int
    output: int
    space: int
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reshape:
    """The same entries in the same order under another shape, which ``Trace.values`` holds.

    Attributes:
        input, output: value numbers.
        in_space, out_space: of the two feature axes; equal where the reshape keeps that axis.
        out_size: size of the feature axis of the output; its last axis where none was kept.
    """

    input: int
    output: int
    in_space: int
    out_space: int
    out_size: int


@dataclass(frozen=True)
class Permute:
    """The same entries with the axes in another order.

    Attributes:
        input, output: value numbers.
        space: of the feature axis, which keeps its units and may change its place.
        order: for each axis of the output, the axis of the input that it was, from the front.
    """

    input: int
    output: int
    space: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class Dropout:
    """Entries set to 0 with probability p, the others divided by 1 - p, while it is active.

    Whole channels fall together in the kinds for convolutions. ``space`` is that of the feature
    axis.
    """

    layer: str
    probability: float
    is_active: bool
    input: int
    output: int
    space: int


@dataclass(frozen=True)
class Merge:
    """The sum of values of one shape; ``space`` is that of their feature axis."""

    inputs: tuple[int, ...]
    output: int
    space: int


@dataclass(frozen=True)
class Opaque:
    """Something that was not read: predictions end here.

    Attributes:
        layer: name of the module it belongs to.
        reason: why it was not read.
        parameters: the parameters it uses.
        inputs, outputs: value numbers.
    """

    layer: str
    reason: str
    parameters: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


Node = Affine | Nonlinearity | Pool | Flatten | Reshape | Permute | Dropout | Merge | Opaque


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
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    values: tuple[Value, ...] = ()


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
        read = node.inputs if isinstance(node, Merge | Opaque) else (node.input,)
        for value in read:
            result.setdefault(value, []).append(node)
    return result
