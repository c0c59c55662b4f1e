"""Laws: how the entries of one parameter are drawn, as small frozen data.

A law holds no tensor and no random state; ``schemes.draw`` makes the numbers. Matrices have shape
(out, in).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Zero:
    """Every entry 0."""


@dataclass(frozen=True)
class Normal:
    """Independent entries N(0, std^2)."""

    std: float


@dataclass(frozen=True)
class Uniform:
    """Independent entries, uniform on [-bound, bound]."""

    bound: float


@dataclass(frozen=True)
class Orthogonal:
    """Haar-distributed semi-orthogonal weight times gain: all singular values equal gain."""

    gain: float


@dataclass(frozen=True)
class DiagonalNoise:
    """W = diagonal * D + Z, D_ij = 1 where i = j (mod fan_in), Z_ij ~ N(0, noise_std^2).

    Source: arXiv 2410.02242.
    """

    diagonal: float
    noise_std: float


@dataclass(frozen=True)
class Plain:
    """Each unit stands for itself."""


@dataclass(frozen=True)
class Mirrored:
    """Units i and i + n // 2 are a pair with opposite preactivations; an odd last unit is left."""


Layout = Plain | Mirrored


@dataclass(frozen=True)
class Framed:
    """W = scale * V_out[:, :rank] V_in[:, :rank]^T on the frames of two spaces of units.

    A mirrored output space repeats the rows with the opposite sign, a mirrored input space the
    columns. An odd leftover unit receives a random row of the same norm and sends nothing.
    """

    out_frame: str
    in_frame: str
    rank: int
    scale: float
    out_layout: Layout = Plain()
    in_layout: Layout = Plain()


@dataclass(frozen=True)
class OffsetBias:
    """b = -W (constant * 1 + centre) for the weight W of the same layer.

    ``constant`` is the value f(0) at which centred units rest; ``centre`` names an array of the
    plan, the mean of the inputs, which is moved to the origin. Either may be absent (0 and '').
    """

    weight: str
    constant: float = 0.0
    centre: str = ""


Matrix = Zero | Normal | Uniform | Orthogonal | DiagonalNoise | Framed


@dataclass(frozen=True)
class Taps:
    """A convolution kernel that is 0 but for a block of taps around its centre.

    In each group the block is one matrix of shape (out / groups, in / groups * taps of the block),
    its columns in the order (channel, tap); of a transposed convolution it is the matrix of shape
    (out / groups * taps, in / groups). A block of one tap makes each site a dense network; a block
    as large as the stride reads every input site once.

    Attributes:
        matrix: its law; each group draws its own.
        block: number of taps along each axis.
        groups: number of groups of channels.
        is_transposed: whether the parameter has shape (in, out / groups, *kernel).

    Source: Xiao et al. 2018, arXiv 1806.05393 (one tap, orthogonal).
    """

    matrix: Matrix
    block: tuple[int, ...]
    groups: int = 1
    is_transposed: bool = False


Law = Matrix | Taps | OffsetBias


@dataclass(frozen=True)
class Frame:
    """Orthonormal columns in one space of units, shared by every weight that touches it.

    Attributes:
        id: name of the space.
        size: number of units, or of pairs in a mirrored space.
        columns: number of columns that are used, at most ``size``.
        basis: name of an array of the plan whose rows the columns follow in order, or '' for a
            Haar-distributed frame.
        parent: id of the frame of the channels, where this space joins ``copies`` sites of each:
            the columns are then a Haar mixture of the parent's columns at every site, so that
            what the parent carries is all that is read. '' elsewhere.
        copies: number of sites that are joined, unit = channel * copies + site.
    """

    id: str
    size: int
    columns: int
    basis: str = ""
    parent: str = ""
    copies: int = 1
