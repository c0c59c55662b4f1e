"""Stacks on telescoping frames: centred depth-aware orthogonal, and mirrored.

A hidden space is either plain, with its units centred at f(0), or mirrored, with units in pairs
(v, -v) that together compute the odd part of f. The gains of all weights are solved together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy.special import polygamma

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.laws import Frame, Framed, Layout, Mirrored, OffsetBias, Plain, Zero
from equipoise.theory.activations import Activation, linear
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import affine_departure, mirrored_pair
from equipoise.theory.structured import BalancedStack, HiddenLayer, balance

# Nats of growth of the mean-square gradient over a whole stack. Digits through 50 and 100 layers of
# tanh are learnt alike from 0.05 to 1.2 (benchmarks/budget.py); 2.4 costs one to two percent.
DEFAULT_BUDGET = 0.3


@dataclass(frozen=True)
class Space:
    """The units between two weights of a stack.

    Attributes:
        frame: name for the frame of the space.
        width: number of units.
        activation: what is applied there.
        layout: plain or mirrored.
    """

    frame: str
    width: int
    activation: Activation
    layout: Layout

    @property
    def size(self) -> int:
        """Number of units that have a frame of their own: pairs where mirrored."""
        return self.width // 2 if isinstance(self.layout, Mirrored) else self.width

    @property
    def function(self) -> Activation:
        """What one column of the frame sees: f, or f(v) - f(-v)."""
        if isinstance(self.layout, Plain):
            return self.activation
        pair = mirrored_pair(self.activation)
        # Gates x g(x) with g(x) + g(-x) = 1 leave rounding only: the exact line has no spurious
        # gradient growth to be budgeted.
        return linear(pair.slope) if affine_departure(pair) == 0.0 else pair


@dataclass(frozen=True)
class Entry:
    """What enters a stack.

    Attributes:
        frame: name for the frame of the inputs.
        size: number of inputs.
        mean_square: second moment per input (per kept axis and centred, if those are given).
        basis: name of the array of principal axes, or '' for a Haar frame.
        centre: name of the array of input means, or ''.
        spectrum: second moment along each axis of the basis, or empty for equal ones.
        participation: effective number of directions in which the inputs vary, 0 for ``size``.
    """

    frame: str
    size: int
    mean_square: float
    basis: str = ""
    centre: str = ""
    spectrum: tuple[float, ...] = ()
    participation: float = 0.0

    def log_variance(self, rank: int) -> float:
        """Variance of the log energy that a Haar frame of some rank catches of these inputs.

        For covariance eigenvalues l the energy has relative variance
        (2 / k) (1 - k / n) (sum l^2 / (sum l)^2 - 1 / n) and is nearly a scaled chi-squared; inputs
        that vary alike in all directions always give the same.
        """
        uneven = 1.0 / (self.participation or self.size) - 1.0 / self.size
        relative = 2.0 / rank * (1.0 - rank / self.size) * uneven
        if self.basis or relative <= 0.0:
            return 0.0
        return float(polygamma(1, 1.0 / relative))


@dataclass(frozen=True)
class FramedStack:
    """Laws for all weights and biases of a stack, in order, and what they lead to."""

    weights: tuple[Framed, ...]
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

    sizes = [entry.size, *(space.size for space in spaces), fan_out]
    ranks = [min(a, b) for a, b in pairwise(sizes)]
    names = [entry.frame, *(space.frame for space in spaces), exit_frame]
    layouts: list[Layout] = [Plain(), *(space.layout for space in spaces), Plain()]
    frames = tuple(
        Frame(name, size, max(ranks[max(i - 1, 0) : i + 1]), entry.basis if i == 0 else "")
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    )

    balanced, scales, signal, gradient = _scales(entry, spaces, ranks, fan_out, output_rms, budget)
    weights = tuple(
        Framed(names[i + 1], names[i], ranks[i], scales[i], layouts[i + 1], layouts[i])
        for i in range(len(ranks))
    )
    offsets = [0.0, *(
        space.activation.value_at_zero if isinstance(space.layout, Plain) else 0.0
        for space in spaces
    )]  # fmt: skip
    biases: list[OffsetBias | Zero] = []
    for i, (name, offset) in enumerate(zip(weight_names, offsets, strict=True)):
        centre = entry.centre if i == 0 else ""
        biases.append(OffsetBias(name, offset, centre) if offset or centre else Zero())
    growth = balanced.gradient_log_growth if balanced else 0.0
    narrowest = min((space.size for space in spaces), default=1)
    chance = 20 * max(growth, 0.0) / narrowest + entry.log_variance(min(ranks))
    log_std = math.sqrt(chance) / 2
    return FramedStack(weights, tuple(biases), frames, balanced, signal, gradient, log_std)


def _scales(
    entry: Entry,
    spaces: Sequence[Space],
    ranks: Sequence[int],
    fan_out: int,
    output_rms: float,
    budget: float,
) -> tuple[BalancedStack | None, list[float], tuple[float, ...], tuple[float, ...]]:
    """Scale of each weight, and the RMS of signal and gradient at its output."""
    if not spaces:
        arriving = entry.mean_square * ranks[0] / fan_out
        return None, [output_rms / math.sqrt(arriving)], (output_rms,), (1.0,)

    layers = [HiddenLayer(space.size, space.function) for space in spaces]
    balanced = balance(layers, entry.size, fan_out, budget, entry.spectrum)
    surviving = min(ranks[0], *(space.size for space in spaces))
    unit = sum(entry.spectrum[:surviving]) / surviving if entry.spectrum else entry.mean_square
    first = math.sqrt(balanced.column_energy / unit)
    last = output_rms * math.sqrt(fan_out / balanced.exit_energy)
    scales = [first, *balanced.gains[:-1], last]

    signal = (*(math.sqrt(q) for q in balanced.q), output_rms)
    arriving = last**2 * ranks[-1]
    gradient = []
    for space, q, log_total in zip(spaces, balanced.q, balanced.cotangent_log, strict=True):
        mean_square = arriving * math.exp(log_total) / space.size
        if isinstance(space.layout, Mirrored):
            # A pair's cotangent is shared out over its two units by their own slopes.
            own = statistics(space.activation, q).slope_energy
            mean_square *= own / statistics(space.function, q).slope_energy
        gradient.append(math.sqrt(mean_square))
    return balanced, scales, signal, (*gradient, 1.0)
