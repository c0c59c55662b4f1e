"""What a sample of maps becomes in a stack on frames: energies site by site, forward and back.

Dense stacks are followed by the energy of columns alone (``theory.structured``). Maps need more: a
pool keeps as much energy as neighbouring sites are alike, borders are quieter than the middle, and
a level above or below the fixed point returns to it at each site. So the inputs themselves are
followed in the columns of the frames. At birth a stack is linear there up to a bend, whose energy
is counted to the direction that it came from: what leaves the linear part at two sites is nearly as
alike as what stays. A maximum is not linear; it is taken of drawn units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.schemes.draw import semi_orthogonal
from equipoise.schemes.laws import Array, Mirrored, Plain
from equipoise.schemes.maps import FrameColumns, Maps, Passage, loudness, pooled
from equipoise.schemes.sites import Pooling
from equipoise.schemes.space import Space, caught_log_variance
from equipoise.theory.activations import Activation
from equipoise.theory.columns import Columns
from equipoise.theory.hermite import statistics
from equipoise.theory.structured import BalancedStack

# A maximum is averaged over this many drawn frames.
_DRAWS = 16
# Levels this many factors of 2 below the loudest site count as so many.
_OCTAVES = 30
_ROUNDING = 1e-20
# Share of the energy that an average of independent sites leaves, below which sites cancel.
_LEAST_LEFT = 0.03


@dataclass(frozen=True)
class Walk:
    """Scales and expectations of a stack of maps.

    Attributes:
        scales: of each weight.
        signal: RMS of each weight's output, over rows, units and sites.
        gradient: RMS there relative to the last.
        offsets: value at which the units that each weight reads rest, by hidden space.
        log_variance: variance of the log energy that the joined frames catch.
    """

    scales: tuple[float, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    offsets: tuple[float, ...]
    log_variance: float


@dataclass(frozen=True, eq=False)
class _Slopes:
    """What an activation does to mean-square cotangents at each site, shape (rows, sites).

    Attributes:
        column: factor for one column of the frame.
        unit: what one unit has of it: 1, or its share in a mirrored pair.
    """

    column: Array
    unit: Array

    def over(self, nominal: float) -> "_Slopes":
        """Relative to the factor that the balanced stack has counted already."""
        return _Slopes(self.column / nominal, self.unit)


def walk(
    maps: Maps,
    spaces: Sequence[Space],
    balanced: BalancedStack,
    columns: Columns,
    fan_out: int,
    output_rms: float,
    is_centred: bool,
) -> Walk:
    """Send maps through a balanced stack and cotangents back.

    Args:
        maps: the sample and the way.
        spaces: hidden spaces, at least one.
        balanced: their gains and levels.
        columns: their columns.
        fan_out: number of outputs (at each site).
        output_rms: RMS wanted of the outputs.
        is_centred: whether biases take the mean of each activation away, and not only f(0).

    Returns:
        Scales, RMS values and offsets.
    """
    state = FrameColumns(maps.values, np.ones((len(maps.values), maps.values.shape[2])),
                   maps.is_ordered, maps.values.shape[1])  # fmt: skip
    state.keep(columns.kept[0])
    first = math.sqrt(balanced.q[0] * spaces[0].size / _mean(state.energy()))
    state.scale(first)
    scales, signal, offsets = [first], list[float](), list[float]()
    slopes: list[_Slopes] = []
    log_variance = 0.0
    for weight, (space, passage) in enumerate(zip(spaces, maps.passages, strict=True), 1):
        read, kept, taps = columns.read[weight], columns.kept[weight], passage.reads.width
        nominal = statistics(space.function, _rounded(balanced.q[weight - 1])).slope_energy
        if passage.early and not passage.has_maximum:
            # The activation, not the pool before it, should meet the level of the stack.
            before = state.energy()
            _average(state, passage.early)
            louder = math.sqrt(loudness(before) / loudness(state.energy()))
            state.scale(louder)
            scales[-1] *= louder
            signal.append(louder * math.sqrt(_mean(before) / space.size))
        else:
            signal.append(math.sqrt(_mean(state.energy()) / space.size))
        offset = space.activation.value_at_zero if isinstance(space.layout, Plain) else 0.0
        if passage.has_maximum:
            wanted = loudness(state.energy()) / max(read, state.columns)
            shift, slope = _largest(state, space, passage, read)
        else:
            shift, slope = _bend(state, space, read, is_centred and space.can_shift)
            wanted = balanced.gains[weight - 1] ** 2 * loudness(state.energy()) / read
            _average(state, passage.late)
        slopes.append(slope.over(nominal))
        if not passage.reads.is_identity:
            state.replace(passage.reads.joined(state.fixed()))
        if taps > 1:
            state.columns, state.is_ordered = read * taps, False
            state.common *= taps
            log_variance += caught_log_variance(read * taps, kept, state.participation())
        state.keep(kept)
        if weight == len(spaces):
            scale = output_rms * math.sqrt(fan_out / _mean(state.energy()))
        elif passage.is_pointwise:
            scale = balanced.gains[weight - 1]
        else:
            # What a pool or a crop takes away the next weight makes up for.
            scale = math.sqrt(wanted * kept / loudness(state.energy()))
        state.scale(scale)
        scales.append(scale)
        offsets.append(offset + shift)
    gradient = _gradient(maps.passages, spaces, balanced, columns, scales, slopes)
    return Walk(
        tuple(scales), (*signal, output_rms), (*gradient, 1.0), tuple(offsets), log_variance
    )


def _bend(
    state: FrameColumns, space: Space, read: int, is_centred: bool
) -> tuple[float, "_Slopes"]:
    """Send the state through an activation, site by site, and keep the columns that are read.

    What the mean of a function such as ELU adds is alike at all sites and in all rows, and would
    drown what differs where sites are averaged. It is returned if the next bias takes it away.
    """
    q = state.energy() / space.size
    function, own = _table(space.function, q), _table(space.activation, q)
    # Units of a vector of given energy are less than Gaussian: where the bend is odd, to first
    # order as if q were n / (n + 2) of what it is. Even bends do not show it (measured).
    is_odd = bool((np.square(function.mean) < _ROUNDING * q).all())
    bent = _table(space.function, q * space.size / (space.size + 2)) if is_odd else function
    linear = bent.linear**2
    spread = np.maximum(bent.centred - linear - bent.mean**2 / bent.q, 0.0)
    state.keep(read)
    varied = state.energy() - state.common
    # What leaves the linear part goes to all columns alike, in proportion at each site.
    state.factor = state.factor * np.sqrt(
        linear + read * spread * q / np.maximum(varied, np.finfo(float).tiny)
    )
    mean = 0.0 if is_odd or isinstance(space.layout, Mirrored) else _mean(function.mean)
    shift = mean if is_centred else 0.0
    state.common = state.common * float(linear.mean()) + read * (mean - shift) ** 2
    if isinstance(space.layout, Mirrored):
        return shift, _Slopes(bent.slope, own.slope / function.slope)
    return shift, _Slopes(bent.slope, np.ones_like(q))


def _average(state: FrameColumns, pools: Sequence[Pooling]) -> None:
    """Send the state through poolings that average.

    Sites may cancel: images whose mean is 0 leave nothing behind a global average. No weight could
    make up for that, so some of what independent sites would leave is taken to remain.
    """
    least = _LEAST_LEFT * _mean(state.energy())
    for pool in pools:
        state.replace(pool.pooled(state.fixed()))
        least *= float(np.square(pool.shares).sum(axis=1).mean())
    if pools:
        state.common += max(0.0, least - _mean(state.energy()))


def _largest(
    state: FrameColumns, space: Space, passage: Passage, read: int
) -> tuple[float, _Slopes]:
    """Send the state through an activation and poolings of which some take the largest.

    That depends on the units, not on the columns alone: frames are drawn, the rows shared out
    among them, and the outcome is written in columns again. A mirrored pair gives
    max f(v) - max f(-v), which is odd; plain units get a mean, which is returned.
    """
    rng = np.random.Generator(np.random.Philox(0))
    size, is_mirrored = space.size, isinstance(space.layout, Mirrored)
    found, slopes = list[tuple[Array, Array]](), list[Array]()
    for part in np.array_split(state.fixed(), min(_DRAWS, len(state.values))):
        rows = part
        if part.shape[1] > state.columns:
            # The values were made as quiet as what a frame catches of them.
            mixture = _haar(rng, part.shape[1], state.columns) * math.sqrt(
                part.shape[1] / state.columns
            )
            rows = np.einsum("rcs,ck->rks", part, mixture)
        frame = _haar(rng, size, size)
        rows = rows + math.sqrt(state.common) * _haar(rng, rows.shape[1], 1)
        units = np.einsum("uc,rcs->rus", frame[:, : rows.shape[1]], rows)
        if is_mirrored:
            units = np.concatenate([units, -units], axis=1)
        units = pooled(units, passage.early)
        only_largest = all(pool.kind == "maximum" for pool in passage.late)
        decisive = pooled(units, passage.late) if only_largest else units
        slopes.append(np.square(space.activation.df(decisive)).mean(axis=(1, 2)))
        active = pooled(space.activation.f(units), passage.late)
        if is_mirrored:
            active = active[:, :size] - active[:, size:]
        found.append((frame, active))
    zero = 0.0 if is_mirrored else space.activation.value_at_zero
    mean = float(np.mean([active.mean() for _, active in found])) - zero
    # A single number is not told from its mean.
    is_one = sum(active.size for _, active in found) == 1
    shift = mean if space.can_shift and not is_mirrored and not is_one else 0.0
    state.replace(np.concatenate([
        np.einsum("uc,rus->rcs", frame[:, :read], active - zero - shift) for frame, active in found
    ]))  # fmt: skip
    state.columns, state.common = read, 0.0
    # Both units of a pair hand their cotangent down, to sites of their own.
    column = np.concatenate(slopes)[:, None] * (2.0 if is_mirrored else 1.0)
    return shift, _Slopes(column, np.full_like(column, 0.5 if is_mirrored else 1.0))


def _gradient(
    passages: Sequence[Passage],
    spaces: Sequence[Space],
    balanced: BalancedStack,
    columns: Columns,
    scales: Sequence[float],
    slopes: Sequence[_Slopes],
) -> list[float]:
    """RMS gradient at the output of each weight but the last, relative to the last."""
    rows = max(len(slope.column) for slope in slopes)
    totals = np.full(
        (rows, len(passages[-1].reads.index)), scales[-1] ** 2 * columns.kept[-1]
    )  # fmt: skip
    logs = (*balanced.cotangent_log, 0.0)
    found = []
    for i in range(len(spaces) - 1, -1, -1):
        passage, slope = passages[i], slopes[i]
        if i < len(spaces) - 1:
            totals = totals * (scales[i + 1] / balanced.gains[i]) ** 2
        if not passage.reads.is_identity:
            totals = passage.reads.returned(totals, 1.0 / passage.reads.width)
        for pool in reversed(passage.late):
            totals = pool.returned(totals)
        totals = totals * slope.column * math.exp(logs[i] - logs[i + 1])
        own = totals * slope.unit
        for pool in reversed(passage.early):
            totals, own = pool.returned(totals), pool.returned(own)
        found.append(math.sqrt(_mean(own) / spaces[i].size))
    return found[::-1]


def _haar(rng: np.random.Generator, size: int, count: int) -> Array:
    return semi_orthogonal(rng.standard_normal((size, count)), (size, count))


def _mean(energy: Array) -> float:
    return float(energy.mean())


@dataclass(frozen=True, eq=False)
class _Table:
    """Statistics of an activation at the levels of all sites; ``centred`` is E f0^2 / q."""

    q: Array
    mean: Array
    linear: Array
    centred: Array
    slope: Array


def _table(activation: Activation, q: Array) -> _Table:
    """Statistics between levels a factor 2 apart, by straight lines in log q."""
    loudest = float(q.max())
    q = np.maximum(q, loudest * 2.0**-_OCTAVES) if loudest > 0 else np.ones_like(q)
    octave = np.log2(q)
    low, high = math.floor(octave.min()), math.ceil(octave.max())
    grid = np.arange(low, high + 1)
    at = [statistics(activation, 2.0**k) for k in grid]
    linear = np.interp(octave, grid, [s.linear for s in at])
    centred = np.interp(octave, grid, [s.centred_energy / s.q for s in at])
    slope = np.interp(octave, grid, [s.slope_energy for s in at])
    # The mean of f0 grows like q.
    mean = np.interp(octave, grid, [(s.mean - activation.value_at_zero) / s.q for s in at])
    return _Table(q, mean * q, linear, centred, slope)


def _rounded(q: float) -> float:
    return float(f"{q:.12e}")
