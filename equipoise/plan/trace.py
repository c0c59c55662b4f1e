"""A Trace: what a model computes, as far as initialization must know, with no framework in it.

Values are numbered; nodes read and make them. Spaces say which feature axes are the same units:
values joined by pointwise operations share one, and so do the axes of every weight that touches
them. What cannot be read is an ``Opaque`` node with its reason; nothing is guessed.
"""

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
class Affine:
    """y = x W^T + b on the feature axis: a linear map at each site, or a convolution over sites.

    Attributes:
        layer: name of the module, or of the weight where there is none.
        weight: parameter name of W.
        bias: parameter name of b, or ''.
        input, output: value numbers.
        in_space, out_space: space ids of the two feature axes (channels, of a convolution).
        in_size, out_size: sizes of these axes.
        convolution: how sites are joined; ``DENSE`` for a linear layer.
        in_sites, out_sites: sizes of the axes that a convolution runs over; () for a linear layer.
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
    """y = f(x), entry by entry; ``parameters`` are one-entry parameters inside f."""

    layer: str
    activation: Activation
    input: int
    output: int
    space: int
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reshape:
    """The same entries in the same order under another shape; the last axis is ``out_space``."""

    input: int
    output: int
    in_space: int
    out_space: int
    out_size: int


@dataclass(frozen=True)
class Dropout:
    """Entries set to 0 with probability p, the others divided by 1 - p, while it is active."""

    layer: str
    probability: float
    is_active: bool
    input: int
    output: int
    space: int


@dataclass(frozen=True)
class Merge:
    """The sum of values that live in one space."""

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


Node = Affine | Nonlinearity | Pool | Flatten | Reshape | Dropout | Merge | Opaque


@dataclass(frozen=True)
class Trace:
    """A model as nodes in the order of computation.

    Attributes:
        nodes: in topological order.
        inputs: value numbers of the model's floating-point inputs.
        outputs: value numbers of its outputs.
        sizes: number of units of each space, by space id.
        parameters: every parameter of the model once.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: tuple[int, ...]
    parameters: tuple[Parameter, ...]


class Spaces:
    """Union-find over feature axes while a trace is being made."""

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
