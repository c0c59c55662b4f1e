"""Laws: how the entries of one parameter are drawn, as small frozen data.

A law holds no tensor and no random state; ``schemes.draw`` makes the numbers. Matrices have shape
(out, in).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.schemes.part_laws import Blocks, Chrono, Each, Rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Zero:
    """Every entry 0."""


@dataclass(frozen=True)
class Constant:
    """Every entry the same."""

    value: float


@dataclass(frozen=True)
class Normal:
    """Independent entries N(mean, std^2)."""

    std: float
    mean: float = 0.0


@dataclass(frozen=True)
class Uniform:
    """Independent entries, uniform on [mean - bound, mean + bound]."""

    bound: float
    mean: float = 0.0


@dataclass(frozen=True)
class TruncatedNormal:
    """Independent entries N(mean, scale^2), given that they lie in [low, high].

    ``scale`` is the standard deviation before the cut; what is left has a smaller one.
    """

    scale: float
    low: float
    high: float
    mean: float = 0.0


@dataclass(frozen=True)
class Sparse:
    """In each column ceil(share * rows) entries are 0, the others N(0, std^2).

    Source: Martens 2010.
    """

    share: float
    std: float


@dataclass(frozen=True)
class Identity:
    """W_ij = gain where i = j, else 0: as many inputs are passed on as there is room for."""

    gain: float = 1.0


@dataclass(frozen=True)
class Directions:
    """Rows of one norm whose directions are spread evenly, each with a random sign.

    Of two inputs the angles are equispaced over a half turn, in random order; of more inputs the
    rows are those of Haar orthogonal matrices; of one input each row is a sign.

    Attributes:
        norm: of the rows.
        scale: name of an array of the plan, a factor for each input, which the rows are multiplied
            by; '' for none. With 1 / the spread of the inputs the directions are even in units of
            these, and so is the norm.
    """

    norm: float
    scale: str = ""


@dataclass(frozen=True)
class Orthogonal:
    """Haar-distributed semi-orthogonal weight times gain: all singular values equal gain."""

    gain: float


@dataclass(frozen=True)
class DiagonalNoise:
    """W = diagonal * D + Z, D_ij = 1 where i = j (mod fan_in), Z_ij independent.

    Attributes:
        diagonal: factor of D.
        noise_std: standard deviation of the entries of Z.
        noise: name of their law in ``theory.noiselaw``.
        parameter: bound of ``truncated_normal`` or degrees of freedom of ``student_t``; 0 for its
            default.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242 (normal), 2509.23085.
    """

    diagonal: float
    noise_std: float
    noise: str = "normal"
    parameter: float = 0.0


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
    """b = level * 1 - W (constant * 1 + centre) + noise for the weight W of the same layer.

    Attributes:
        weight: name of W.
        constant: f(c) where the units that W reads rest at c: 0 for centred units, else the shift.
        centre: name of an array of the plan, the mean of the inputs, which is moved to the origin;
            '' for none. One number for each input, or one for each channel and tap of a kernel.
        level: c at which the units of this layer rest.
        std: of independent normal noise.
    """

    weight: str
    constant: float = 0.0
    centre: str = ""
    level: float = 0.0
    std: float = 0.0


@dataclass(frozen=True)
class SpreadBias:
    """b = (beta, -beta) - W (slope * beta_in, 0): moves the kinks of mirrored pairs apart.

    A pair has the preactivations v + beta and -(v + beta) and passes on slope * (v + beta), of
    which the next bias takes slope * beta away: the map stays linear. beta ~ N(0, std^2) in a
    stream of its own, keyed by the name of the space; a leftover unit has 0.

    Attributes:
        weight: name of W of the same layer.
        space: name of this layer's units, '' where they are not spread.
        std: of beta.
        in_space, in_std: the same for the units that W reads.
        slope: f'(0-) + f'(0+) of the activation between them.
        centre: as in ``OffsetBias``.
    """

    weight: str
    space: str = ""
    std: float = 0.0
    in_space: str = ""
    in_std: float = 0.0
    slope: float = 1.0
    centre: str = ""


@dataclass(frozen=True)
class Paired:
    """Units in pairs around a matrix M of half the size: rows [M; -M], columns [M, -M], or both.

    An odd leftover unit sends nothing and receives a row of the size of the others.

    Attributes:
        matrix: law of M.
        rows: whether outputs are paired.
        columns: whether inputs are paired.

    Source: Balduzzi et al. 2017, arXiv 1702.08591.
    """

    matrix: "Matrix"
    rows: bool = True
    columns: bool = True


@dataclass(frozen=True)
class BestOf:
    """The one of several draws after which the signal's log RMS is nearest to a target.

    The signal is a few Gaussian probes. Where ``previous`` is given they have come through the
    weights before, so that each choice also mends what the earlier ones left over; the weight is
    then drawn alone at the cost of drawing those before it. Measured at width 16, 100 layers
    and slope 0.01: the log norm of fresh inputs strays by 2.98 nats without a choice and by 0.77
    with 4, 16 or 64 draws, what is left being the inputs' own spread; where every weight is chosen
    on probes of its own by 3.0, 2.4 and 2.2, since the direction that reaches it is not known.

    Attributes:
        matrix: law of the candidates.
        draws: how many there are.
        activation: f that follows, as ``schemes.call_text`` writes it.
        target: log RMS of f(W x), averaged over probes, nats.
        previous: name of the weight that sends x, '' where x are the probes themselves.
        feed: what the probes have passed where nothing is previous; they are brought to RMS 1 if
            it is a line on each side of 0.

    Source: sampling as a remedy for narrow networks: arXiv 2602.10949.
    """

    matrix: "Matrix"
    draws: int
    activation: str = "identity"
    target: float = 0.0
    previous: str = ""
    feed: str = "identity"


Matrix = (
    Zero
    | Constant
    | Normal
    | Uniform
    | TruncatedNormal
    | Sparse
    | Identity
    | Directions
    | Orthogonal
    | DiagonalNoise
    | Framed
    | Paired
    | BestOf
)


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


@dataclass(frozen=True)
class Table:
    """Rows of independent entries N(0, std^2), but for one row of zeros that stands for padding.

    Attributes:
        std: of the entries.
        padding: index of the row of zeros, counted from the front.
    """

    std: float
    padding: int


@dataclass(frozen=True)
class Turned:
    """The transpose of what a law draws, for a parameter of shape (in, out).

    Attributes:
        matrix: law of the matrix of shape (out, in).
    """

    matrix: Matrix | Rows


Law = Matrix | Table | Taps | Turned | OffsetBias | SpreadBias | Blocks | Chrono | Each | Rows


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
        is_even: whether every unit has the same share of the columns: rows of equal norm.
    """

    id: str
    size: int
    columns: int
    basis: str = ""
    parent: str = ""
    copies: int = 1
    is_even: bool = False
