"""Stacks on telescoping frames: centred depth-aware orthogonal, and mirrored.

A hidden space is either plain, with its units centred at f(0), or mirrored, with units in pairs
(v, -v) that together compute the odd part of f. The gains of all weights are solved together.

A convolution reads a block of taps around the centre of its kernel: one tap where it does not
stride, so that at birth each site is a dense network; as many as the stride is long otherwise, so
that every site is read once. Such a patch, and a flattened map, have a frame that stays inside what
the channels carry. A mirrored layout survives, since channels come first in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.laws import Frame, Framed, Layout, Mirrored, OffsetBias, Plain, Taps, Zero
from equipoise.schemes.maps import Maps
from equipoise.schemes.space import Entry, Space
from equipoise.schemes.walk import walk
from equipoise.theory.columns import Columns
from equipoise.theory.hermite import statistics
from equipoise.theory.structured import BalancedStack, HiddenLayer, balance

__all__ = ["DEFAULT_BUDGET", "Entry", "FramedStack", "Space", "framed_stack"]

# Nats of growth of the mean-square gradient over a whole stack. Digits through 50 and 100 layers of
# tanh are learnt alike from 0.05 to 1.2 (benchmarks/budget.py); 2.4 costs one to two percent.
DEFAULT_BUDGET = 0.3
# Outputs that are made alike, and columns up to which that is worth factorizations: Haar rows of
# more have nearly one norm anyway.
_MOST_EVEN, _FEW_COLUMNS = 1024, 64


@dataclass(frozen=True)
class FramedStack:
    """Laws for all weights and biases of a stack, in order, and what they lead to."""

    weights: tuple[Framed | Taps, ...]
    biases: tuple[OffsetBias | Zero, ...]
    frames: tuple[Frame, ...]
    balanced: BalancedStack | None
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    log_std: float

    @property
    def levels(self) -> tuple[float, ...]:
        """Second moment at each hidden space."""
        return self.balanced.q if self.balanced else ()


def framed_stack(
    weight_names: Sequence[str],
    entry: Entry,
    spaces: Sequence[Space],
    exit_frame: str,
    fan_out: int,
    output_rms: float = 1.0,
    budget: float = DEFAULT_BUDGET,
    maps: Maps | None = None,
    first_level: float = 1.0,
) -> FramedStack:
    """Laws of a stack whose signal neither fades nor grows and whose gradient grows by exp(budget).

    The first weight brings the inputs to the fixed point of the signal (quiet entry), the last
    brings the output to ``output_rms`` (loud exit).

    Args:
        weight_names: names of the weights, one more than there are spaces.
        entry: what enters.
        spaces: hidden spaces in order.
        exit_frame: name for the frame of the outputs.
        fan_out: number of outputs.
        output_rms: RMS wanted of the outputs.
        budget: nats of mean-square gradient growth.
        maps: a sample of inputs with the poolings and windows between the weights. Where it is
            left out all sites are taken to be as loud as each other and nothing is pooled.
        first_level: second moment at the first hidden layer over what it would be
            (``theory.structured.balance``).

    Returns:
        The laws, the frames, the expected RMS of each weight's output (``signal``) and the RMS
        gradient there relative to the last (``gradient``), and how far a draw strays (``log_std``:
        Var log |J v|^2 = 20 B / n for Haar weights and odd cubic functions, of which 12 are the
        layers' own noise and 8 come from the wandering level, ``theory.fluctuation``).

    Raises:
        ArgumentError: if the counts do not fit or a mirrored space has fewer than 2 units.
    """
    if len(weight_names) != len(spaces) + 1:
        raise ArgumentError(
            f"weight_names must hold {len(spaces) + 1} names, got {len(weight_names)}. "
            "There is one weight more than there are hidden spaces."
        )
    for space in spaces:
        _checks.at_least(f"number of units or pairs of {space.frame!r}", space.size, 1)
    _checks.positive("output_rms", output_rms)
    _checks.positive("mean_square", entry.mean_square, "Give inputs that are not all 0.")

    columns = _columns(entry, spaces, fan_out)
    ranks = columns.kept
    sizes = [entry.size, *(space.size for space in spaces), fan_out]
    names = [entry.frame, *(space.frame for space in spaces), exit_frame]
    used = [max(a, b) for a, b in pairwise([0, *ranks, 0])]
    used[1:-1] = [max(a, b) for a, b in zip(ranks[:-1], columns.read[1:], strict=True)]
    frames = [
        Frame(name, size, count, entry.basis if i == 0 else "")
        for i, (name, size, count) in enumerate(zip(names, sizes, used, strict=True))
    ]
    # Of more outputs than columns some would start out of reach of the signal.
    is_even = bool(spaces) and ranks[-1] < fan_out <= _MOST_EVEN and ranks[-1] <= _FEW_COLUMNS
    frames[-1] = replace(frames[-1], is_even=is_even)
    # What a weight reads where it joins sites: the same units at each of them.
    sources = names[:-1]
    for i, space in enumerate(spaces, 1):
        if space.copies > 1:
            sources[i] = f"{space.frame}:joined"
            size = space.size * space.copies
            frames[i] = replace(frames[i], columns=columns.read[i])
            frames.append(Frame(sources[i], size, ranks[i], "", space.frame, space.copies))

    found = _expected(entry, spaces, columns, fan_out, output_rms, budget, maps, first_level)
    layouts: list[Layout] = [Plain(), *(space.layout for space in spaces), Plain()]
    matrices = [
        Framed(names[i + 1], sources[i], ranks[i], found.scales[i], layouts[i + 1], layouts[i])
        for i in range(len(ranks))
    ]
    blocks = [entry.block, *(space.block for space in spaces)]
    weights = tuple(
        Taps(matrix, block) if block else matrix
        for matrix, block in zip(matrices, blocks, strict=True)
    )
    biases: list[OffsetBias | Zero] = []
    for i, (name, offset) in enumerate(zip(weight_names, (0.0, *found.offsets), strict=True)):
        centre = entry.centre if i == 0 else ""
        biases.append(OffsetBias(name, offset, centre) if offset or centre else Zero())
    growth = found.balanced.gradient_log_growth if found.balanced else 0.0
    narrowest = min((space.size for space in spaces), default=1)
    # What comes behind joined sites is counted there.
    joined = next((i for i, m in enumerate(columns.copies) if m > 1), len(ranks))
    chance = 20 * max(growth, 0.0) / narrowest + entry.log_variance(min(ranks[:joined]))
    log_std = math.sqrt(chance + found.log_variance) / 2
    return FramedStack(
        weights, tuple(biases), tuple(frames), found.balanced, found.signal, found.gradient, log_std
    )


@dataclass(frozen=True)
class _Expected:
    """Scale of each weight, and the RMS of signal and gradient at its output."""

    balanced: BalancedStack | None
    scales: tuple[float, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    offsets: tuple[float, ...]
    log_variance: float = 0.0


def _columns(entry: Entry, spaces: Sequence[Space], fan_out: int) -> Columns:
    if not spaces:
        # One weight alone: nothing is ordered, nothing joined.
        rank = min(entry.size, fan_out)
        return Columns((rank,), (rank,), (rank,), (1.0,), (rank,), rank, (1,))
    return Columns.of(
        [space.size for space in spaces],
        entry.size,
        fan_out,
        entry.spectrum,
        [space.copies for space in spaces],
    )


def _expected(
    entry: Entry,
    spaces: Sequence[Space],
    columns: Columns,
    fan_out: int,
    output_rms: float,
    budget: float,
    maps: Maps | None,
    first_level: float,
) -> _Expected:
    if not spaces:
        arriving = entry.mean_square * columns.kept[0] / fan_out
        scale = output_rms / math.sqrt(arriving)
        return _Expected(None, (scale,), (output_rms,), (1.0,), ())

    layers = [
        HiddenLayer(
            space.size, space.function, space.copies, kept=space.kept, loudest=space.loudest
        )
        for space in spaces
    ]
    if maps:
        balanced, is_centred = _balance_maps(
            layers, entry, spaces, fan_out, budget, maps, first_level
        )
        found = walk(maps, spaces, balanced, columns, fan_out, output_rms, is_centred)
        return _Expected(
            balanced, found.scales, found.signal, found.gradient, found.offsets, found.log_variance
        )
    balanced = balance(layers, entry.size, fan_out, budget, entry.spectrum, first_level)
    surviving = columns.surviving
    unit = sum(entry.spectrum[:surviving]) / surviving if entry.spectrum else entry.mean_square
    quiet = first_level if len(layers) > 1 else 1.0
    first = math.sqrt(quiet * balanced.column_energy / unit)
    last = output_rms * math.sqrt(fan_out / balanced.exit_energy)
    scales = (first, *balanced.gains[:-1], last)

    signal = (*(math.sqrt(q) for q in balanced.q), output_rms)
    arriving = last**2 * columns.kept[-1]
    gradient = []
    for i, (space, q) in enumerate(zip(spaces, balanced.q, strict=True)):
        # Cotangents are summed over the sites that are joined further on.
        sites = math.prod(after.copies for after in spaces[i:])
        mean_square = arriving * math.exp(balanced.cotangent_log[i]) / space.size / sites
        if isinstance(space.layout, Mirrored):
            # A pair's cotangent is shared out over its two units by their own slopes.
            own = statistics(space.activation, q).slope_energy
            mean_square *= own / statistics(space.function, q).slope_energy
        gradient.append(math.sqrt(mean_square))
    offsets = tuple(
        space.activation.value_at_zero if isinstance(space.layout, Plain) else 0.0
        for space in spaces
    )
    return _Expected(balanced, scales, signal, (*gradient, 1.0), offsets)


def _balance_maps(
    layers: Sequence[HiddenLayer],
    entry: Entry,
    spaces: Sequence[Space],
    fan_out: int,
    budget: float,
    maps: Maps,
    first_level: float,
) -> tuple[BalancedStack, bool]:
    """Gains and levels, and whether biases take E f away and not only f(0).

    An average over sites keeps what is alike everywhere, the mean of functions such as ELU, and
    little of what differs. Without that mean SELU, which is kinked, overspends at every level.
    """
    if any(pool.kind == "average" for passage in maps.passages for pool in passage.late):
        centred = [
            replace(layer, is_centred=space.can_shift and isinstance(space.layout, Plain))
            for layer, space in zip(layers, spaces, strict=True)
        ]
        found = balance(centred, entry.size, fan_out, budget, entry.spectrum, first_level)
        if found.reached:
            return found, True
    return balance(layers, entry.size, fan_out, budget, entry.spectrum, first_level), False
