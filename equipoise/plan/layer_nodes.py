"""Nodes of plain networks: layers, functions of entries, poolings, and axes that move.

Values and spaces are numbers (``plan.trace``); axes are counted from the end.
"""

import math
from dataclasses import dataclass

from equipoise.schemes.convolution import DENSE, Convolution
from equipoise.schemes.fans import Fans
from equipoise.theory.activations import Activation


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
        is_turned: whether the parameter has shape (in, out), the other way round.
        several: how many such matrices stand in the parameter, along its first axis, of which each
            row of the input meets one; 0 where it is one matrix.
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
    is_turned: bool = False
    several: int = 0

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
    """The sum of values of one shape.

    Attributes:
        inputs: value numbers.
        output: value number.
        space: of the feature axis.
        minus: places of the inputs that are taken off.
    """

    inputs: tuple[int, ...]
    output: int
    space: int
    minus: tuple[int, ...] = ()

    @property
    def signs(self) -> tuple[int, ...]:
        """1 or -1 for each input."""
        return tuple(-1 if i in self.minus else 1 for i in range(len(self.inputs)))


@dataclass(frozen=True)
class Opaque:
    """Something that was not read: predictions end here.

    Attributes:
        layer: name of the module it belongs to.
        reason: why it was not read.
        parameters: the parameters it uses.
        inputs, outputs: value numbers.
        is_linear: whether it is a product of matrices or a convolution all the same.
        fan_in: number of products that one of its outputs adds up, 0 where only the shape of its
            parameters tells.
    """

    layer: str
    reason: str
    parameters: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_linear: bool = False
    fan_in: int = 0
