"""Laws for one stack: what a scheme, chosen or asked for, makes of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan import predict as prediction
from equipoise.plan.choose import Choice, cannot_be_centred, choose
from equipoise.plan.entry import Inputs, mean_matters, principal_axes
from equipoise.plan.stacks import Stack
from equipoise.schemes.diagonal_noise import diagonal_noise
from equipoise.schemes.fans import Fans
from equipoise.schemes.framed import DEFAULT_BUDGET, Entry, Space, framed_stack
from equipoise.schemes.laws import Array, Frame, Law, Mirrored, Plain, Zero
from equipoise.schemes.orthogonal import orthogonal
from equipoise.schemes.variance import he, xavier
from equipoise.theory.activations import identity
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

SCHEMES = ("auto", "xavier", "he", "orthogonal", "diagonal_noise", "centred", "mirrored")
# A step in q that shows how E f0^2 grows, and the exponent up to which rounding is in doubt.
_NUDGE, _STEEPEST = 1.01, 1.001


@dataclass(frozen=True)
class StackPlan:
    """What one stack contributes to a plan.

    Attributes:
        weights, biases: laws, layer by layer.
        signal, gradient: expected RMS at the output of each layer, the latter relative to the last.
        reason: what was chosen and why.
        log_std: how far a draw strays from what is expected, nats.
        warning: what theory says against any scheme here, or ''.
        frames, arrays: what the laws refer to.
    """

    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    reason: str
    log_std: float
    warning: str = ""
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)


def plan_stack(
    stack: Stack, scheme: str, inputs: Inputs, uses: int = 1, budget: float = DEFAULT_BUDGET
) -> StackPlan:
    """Laws for a stack.

    Args:
        stack: the layers.
        scheme: one of ``SCHEMES``.
        inputs: what enters.
        uses: how often the model uses the stack's weight.
        budget: nats of gradient growth that framed stacks may spend.

    Returns:
        Its part of the plan.

    Raises:
        PlanError: if the scheme cannot serve a layer.
    """
    if uses > 1:
        # Its input and output may be the same units, for which frames make a projection.
        law = orthogonal(identity())
        return _independent(stack, [law], inputs, f"orthogonal, since it is used {uses} times")
    if scheme == "auto":
        choice = choose(stack)
        if choice.scheme == "he":
            laws = _each(stack, "he", math.sqrt(inputs.mean_square))
            planned = _independent(stack, laws, inputs, choice.reason)
        else:
            planned = _framed(stack, choice, inputs, budget)
        return replace(planned, warning=choice.warning or planned.warning)
    if scheme in ("centred", "mirrored"):
        return _framed(stack, _named_choice(stack, scheme), inputs, budget)
    return _independent(stack, _each(stack, scheme), inputs, f"{scheme}, as asked for")


def _named_choice(stack: Stack, scheme: str) -> Choice:
    reason = f"{scheme}, as asked for"
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        found = classify(h.activation)
        if h.activation.jumps or (scheme == "mirrored" and math.isnan(found.odd_nonlinearity)):
            why = "jumps" if h.activation.jumps else "has no odd part"
            raise PlanError(
                f"activation behind layer {affine.layer!r} must suit {scheme!r}, got "
                f"{h.activation}, which {why}. Use scheme='auto'."
            )
    if scheme == "centred":
        fixed = cannot_be_centred(stack, [Plain()] * stack.depth)
        if fixed:
            raise PlanError(f"scheme must suit the model, got 'centred': {fixed}. Use 'auto'.")
        return Choice("framed", tuple(Plain() for _ in stack.hidden), reason)
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        if h.width < 2:
            raise PlanError(
                f"layer {affine.layer!r} must have at least 2 units to be mirrored, got {h.width}. "
                "Use scheme='auto' or 'centred'."
            )
    tied = (ActivationClass.CENTRE, ActivationClass.LINEAR)
    for h in stack.hidden:
        if classify(h.activation).kind in tied:
            reason += f", although pairs of {h.activation} hardly part in training"
            break
    return Choice("framed", tuple(Mirrored() for _ in stack.hidden), reason)


def _each(stack: Stack, scheme: str, input_rms: float = 1.0) -> list[Law]:
    feeds = [identity(), *(h.activation for h in stack.hidden)]
    laws: list[Law] = []
    for affine, feed, follow in zip(stack.affines, feeds, [*feeds[1:], identity()], strict=True):
        fans = Fans(affine.fan_in, affine.fan_out)
        try:
            match scheme:
                case "xavier":
                    laws.append(xavier(fans))
                case "orthogonal":
                    laws.append(orthogonal(feed))
                case "diagonal_noise":
                    laws.append(diagonal_noise(fans, follow))
                case _:
                    laws.append(he(fans, feed, input_rms if not laws else 1.0))
        except ArgumentError as error:
            raise PlanError(f"layer {affine.layer!r}: {error}") from error
    return laws


def _independent(stack: Stack, laws: Sequence[Law], inputs: Inputs, reason: str) -> StackPlan:
    expected = prediction.predict(stack, laws, inputs.mean_square)
    return StackPlan(
        tuple(laws), tuple(Zero() for _ in laws), expected.signal, expected.gradient, reason,
        expected.log_std,
    )  # fmt: skip


def _framed(stack: Stack, choice: Choice, inputs: Inputs, budget: float) -> StackPlan:
    spaces = [
        Space(f"{a.weight}:out", h.width, h.activation, layout)
        for a, h, layout in zip(stack.affines, stack.hidden, choice.layouts, strict=False)
    ]
    entry, arrays = _entry(stack, inputs, spaces[0].size if spaces else stack.affines[-1].fan_out)
    planned = framed_stack(
        [a.weight for a in stack.affines],
        entry,
        spaces,
        f"{stack.affines[-1].weight}:out",
        stack.affines[-1].fan_out,
        budget=budget,
    )
    reason = choice.reason
    if entry.basis:
        reason += f"; the {spaces[0].size} columns that fit follow the inputs' principal axes"
    return StackPlan(
        planned.weights, planned.biases, planned.signal, planned.gradient, reason,
        planned.log_std, choice.warning or _unstable(spaces, planned.levels), planned.frames,
        arrays,
    )  # fmt: skip


def _entry(stack: Stack, inputs: Inputs, units: int) -> tuple[Entry, dict[str, Array]]:
    """The entry of a framed stack, with axes and mean where the inputs can settle them."""
    first = stack.affines[0]
    frame = f"{first.weight}:in"
    rank = min(first.fan_in, units)
    found = principal_axes(inputs.rows, rank)
    if found is None:
        return Entry(frame, first.fan_in, inputs.mean_square), {}
    arrays: dict[str, Array] = {}
    mean_square, centre, basis = inputs.mean_square, "", ""
    spectrum: tuple[float, ...] = ()
    if stack.hidden and stack.can_shift[0] and mean_matters(found, len(inputs.rows)):
        centre = f"{frame}:mean"
        arrays[centre] = found.mean
        mean_square = found.total_variance / first.fan_in
    if stack.hidden and first.fan_in > rank == len(found.axes):
        basis = f"{frame}:axes"
        arrays[basis] = found.axes
        along = found.variances + (0.0 if centre else np.square(found.axes @ found.mean))
        spectrum = tuple(float(v) for v in along)
        mean_square = float(np.mean(along))
    participation = found.participation if centre else found.participation_with_mean
    entry = Entry(frame, first.fan_in, mean_square, basis, centre, spectrum, participation)
    return entry, arrays


def _unstable(spaces: Sequence[Space], levels: Sequence[float]) -> str:
    """What theory says where a signal above its fixed point leaves it for good, or ''.

    There E f0^2 grows faster than q: the function bends away from the line through 0.
    """
    for function, q in dict.fromkeys(
        (space.function, float(f"{q:.6e}")) for space, q in zip(spaces, levels, strict=True)
    ):
        now, more = statistics(function, q), statistics(function, _NUDGE * q)
        if not now.centred_energy > 0:
            continue
        growth = math.log(more.centred_energy / now.centred_energy) / math.log(_NUDGE)
        if growth > _STEEPEST:
            return f"{function} grows faster than a line: no level of the signal is stable in depth"
    return ""
