"""Sites: which sites of a map each site of the next one reads, by convolution or pooling.

Sites are numbered row by row. A window is a table of numbers, so borders, strides, dilation and
every padding mode are one gathering.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.schemes.convolution import Convolution
from equipoise.schemes.laws import Array

_NOTHING = -1


@dataclass(frozen=True, eq=False)
class Sites:
    """The sites that each site of the next map reads.

    Attributes:
        count: number of sites of the map that is read.
        index: their numbers, shape (sites of the next map, window); -1 where padding is read.
    """

    count: int
    index: NDArray[np.int64]

    @property
    def width(self) -> int:
        """Number of sites in a window."""
        return int(self.index.shape[1])

    @property
    def is_identity(self) -> bool:
        """Whether each site reads itself and nothing else."""
        return bool(self.index.shape == (self.count, 1)
                    and (self.index[:, 0] == np.arange(self.count)).all())  # fmt: skip

    @property
    def unread(self) -> int:
        """Number of sites that nothing reads."""
        return self.count - len(np.unique(self.index[self.index >= 0]))

    @property
    def reads_padding(self) -> bool:
        """Whether some site reads what padding adds."""
        return bool((self.index == _NOTHING).any())

    def windows(self, maps: Array, padding: float = 0.0) -> Array:
        """What is read: shape (rows, channels, sites, window) for maps (rows, channels, sites)."""
        edge = np.full((*maps.shape[:2], 1), padding)
        return np.concatenate([maps, edge], axis=2)[:, :, self.index]

    def joined(self, maps: Array) -> Array:
        """Windows as features in the order (channel, tap): (rows, channels * window, sites)."""
        read = np.moveaxis(self.windows(maps), 3, 2)
        return read.reshape(len(maps), -1, len(self.index))

    def returned(self, totals: Array, shares: Array | float) -> Array:
        """Send totals (rows, sites of the next map) back by shares that broadcast to the table."""
        parts = totals.T[:, None] * np.broadcast_to(shares, self.index.shape)[:, :, None]
        found = np.zeros((self.count + 1, len(totals)))
        np.add.at(found, self.index, parts)
        return found[:-1].T


@dataclass(frozen=True, eq=False)
class Pooling:
    """One pooling as a table.

    Attributes:
        kind: ``average`` or ``maximum``.
        sites: its windows.
        counts_padding: whether an average divides by the whole window where padding is read.
    """

    kind: str
    sites: Sites
    counts_padding: bool = True

    @property
    def shares(self) -> Array:
        """Weight of each site in its window, shape (sites, window): that of an average."""
        real = self.sites.index != _NOTHING
        size = np.full(len(real), real.shape[1]) if self.counts_padding else real.sum(axis=1)
        return np.where(real, 1.0 / np.maximum(size, 1)[:, None], 0.0)

    def pooled(self, maps: Array) -> Array:
        """The pooled maps, shape (rows, channels, sites of the next map).

        >>> rows = window_sites((4,), (2,), (2,), (2,))
        >>> Pooling("average", rows).pooled(np.array([[[1.0, 3.0, 5.0, 7.0]]]))
        array([[[2., 6.]]])
        """
        if self.kind == "maximum":
            return np.asarray(self.sites.windows(maps, -math.inf).max(axis=3))
        return np.asarray(np.einsum("rcsw,sw->rcs", self.sites.windows(maps), self.shares))

    def returned(self, totals: Array) -> Array:
        """Mean-square cotangents at the sites that are pooled, for those of independent windows.

        An average sends back share * c, so share^2 of the energy; a maximum sends all of it to one
        site, any of the window with equal chance.
        """
        if self.kind == "average":
            return self.sites.returned(totals, self.shares**2)
        real = self.sites.index != _NOTHING
        return self.sites.returned(totals, real / np.maximum(real.sum(axis=1), 1)[:, None])


def window_sites(
    in_sites: Sequence[int],
    out_sites: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int] = (),
    dilation: Sequence[int] = (),
    first: Sequence[int] = (),
    mode: str = "zeros",
) -> Sites:
    """The table of a window that moves over a map.

    Args:
        in_sites: sizes of the axes of the map that is read.
        out_sites: those of the next map.
        window: number of sites read along each axis.
        stride: step along each axis.
        before: sites of padding in front of each axis; none where left out.
        dilation: distance of the sites of a window along each axis; 1 where left out.
        first: first tap of a larger kernel that the window holds; 0 where left out.
        mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.

    Returns:
        The table.

    >>> window_sites((4,), (2,), (2,), (2,)).index.tolist()
    [[0, 1], [2, 3]]
    >>> window_sites((3,), (3,), (3,), (1,), (1,)).index.tolist()
    [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]
    """
    axes = len(in_sites)
    before, dilation, first = (
        tuple(before) or (0,) * axes, tuple(dilation) or (1,) * axes, tuple(first) or (0,) * axes,
    )  # fmt: skip
    number = np.zeros((1, 1), dtype=np.int64)
    inside = np.ones((1, 1), dtype=bool)
    for a, size in enumerate(in_sites):
        taps = (np.arange(window[a]) + first[a]) * dilation[a]
        place = np.arange(out_sites[a])[:, None] * stride[a] - before[a] + taps
        match mode:
            case "circular":
                place = place % size
            case "replicate":
                place = np.clip(place, 0, size - 1)
            case "reflect" if size > 1:
                place = size - 1 - abs(place % (2 * size - 2) - (size - 1))
            case _:
                pass
        real = (place >= 0) & (place < size)
        shape = (len(number) * len(place), number.shape[1] * place.shape[1])
        number = (number[:, None, :, None] * size + place[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & real[None, :, None, :]).reshape(shape)
    return Sites(math.prod(in_sites), np.where(inside, number, _NOTHING))


def central_slices(kernel: Sequence[int], block: Sequence[int]) -> tuple[slice, ...]:
    """Where a block of taps around the centre of a kernel lies (``laws.Taps``).

    >>> central_slices((3, 4), (1, 2))
    (slice(1, 2, None), slice(1, 3, None))
    """
    starts = [(k - b + 1) // 2 for k, b in zip(kernel, block, strict=True)]
    return tuple(slice(at, at + b) for at, b in zip(starts, block, strict=True))


def block_sites(
    convolution: Convolution,
    block: Sequence[int],
    in_sites: Sequence[int],
    out_sites: Sequence[int],
) -> Sites:
    """The sites that a block of taps around the centre of a kernel reads.

    Args:
        convolution: the geometry, not transposed.
        block: number of taps along each axis.
        in_sites: sizes of the axes of the map that is read.
        out_sites: those of the next map.

    Returns:
        The table; a linear layer reads each site itself.

    >>> block_sites(Convolution((3,), (2,), ((1, 1),), (1,)), (2,), (4,), (2,)).index.tolist()
    [[0, 1], [2, 3]]
    """
    if not convolution.kernel:
        return Sites(1, np.zeros((1, 1), dtype=np.int64))
    stride = convolution.stride or (1,) * len(convolution.kernel)
    padding = convolution.padding or ((0, 0),) * len(convolution.kernel)
    return window_sites(
        in_sites,
        out_sites,
        block,
        stride,
        [before for before, _ in padding],
        convolution.dilation,
        [part.start for part in central_slices(convolution.kernel, block)],
        convolution.padding_mode,
    )
