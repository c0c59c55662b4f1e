"""Schemes that couple the weights of a stack by frames."""

import math
from collections.abc import Sequence

import numpy as np

from equipoise.errors import PlanError
from equipoise.plan.choose import Choice, cannot_be_centred
from equipoise.plan.entry import Inputs, mean_matters, principal_axes
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.framed import Entry, Space, framed_stack
from equipoise.schemes.laws import Array, Mirrored, Plain
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

# A step in q that shows how E f0^2 grows, and the exponent up to which rounding is in doubt.
_NUDGE, _STEEPEST = 1.01, 1.001


def named_choice(stack: Stack, scheme: str) -> Choice:
    """The choice that asking for ``centred`` or ``mirrored`` by name amounts to."""
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


def plan_framed(stack: Stack, choice: Choice, inputs: Inputs, budget: float) -> StackPlan:
    """Laws on frames for a stack, with the layouts that were chosen."""
    spaces = [
        Space(f"{a.weight}:out", h.width, h.activation, layout)
        for a, h, layout in zip(stack.affines, stack.hidden, choice.layouts, strict=False)
    ]
    entry, arrays = _entry(stack, inputs, spaces[0].size if spaces else stack.affines[-1].out_size)
    planned = framed_stack(
        [a.weight for a in stack.affines],
        entry,
        spaces,
        f"{stack.affines[-1].weight}:out",
        stack.affines[-1].out_size,
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
    rank = min(first.in_size, units)
    found = principal_axes(inputs.rows, rank)
    if found is None:
        return Entry(frame, first.in_size, inputs.mean_square), {}
    arrays: dict[str, Array] = {}
    mean_square, centre, basis = inputs.mean_square, "", ""
    spectrum: tuple[float, ...] = ()
    if stack.hidden and stack.can_shift[0] and mean_matters(found, len(inputs.rows)):
        centre = f"{frame}:mean"
        arrays[centre] = found.mean
        mean_square = found.total_variance / first.in_size
    if stack.hidden and first.in_size > rank == len(found.axes):
        basis = f"{frame}:axes"
        arrays[basis] = found.axes
        along = found.variances + (0.0 if centre else np.square(found.axes @ found.mean))
        spectrum = tuple(float(v) for v in along)
        mean_square = float(np.mean(along))
    participation = found.participation if centre else found.participation_with_mean
    entry = Entry(frame, first.in_size, mean_square, basis, centre, spectrum, participation)
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
