"""Schemes that couple the weights of a stack by frames."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.choose import Choice, cannot_be_centred
from equipoise.plan.entry import Inputs, mean_matters, principal_axes
from equipoise.plan.spending import resting_budget
from equipoise.plan.stack_maps import (
    Patches,
    block_of,
    cannot_be_framed,
    first_patches,
    has_maps,
    kernel_point,
    passages,
    remarks,
)
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.framed import framed_stack
from equipoise.schemes.laws import Array, Mirrored, Plain
from equipoise.schemes.maps import Maps, Passage
from equipoise.schemes.sites import central_slices
from equipoise.schemes.space import Entry, Space
from equipoise.theory.derivative_level import with_biases
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

# A step in q that shows how E f0^2 grows, and the exponent up to which rounding is in doubt.
_NUDGE, _STEEPEST = 1.01, 1.001
# Largest second moment of preactivations where the budget was not asked for. Lines have none.
_LOUDEST, _LINE = 1.0, 1e-6
# Where only some columns of the first layer survive, its weight chooses them, with one layer's
# share of the steps. Adam moves what it makes the faster the quieter that is: depth^(-1/4) in
# amplitude is worth .02 on digits through layers of 16 and 4 units.
_QUIET = 0.5
# Nats that one layer may spend where derivatives are what is fitted: about .8 in 30.
_DERIVATIVE_GROWTH = 0.03


def named_choice(stack: Stack, scheme: str) -> Choice:
    """The choice that asking for ``centred`` or ``mirrored`` by name amounts to."""
    reason = f"{scheme}, as asked for"
    apart = cannot_be_framed(stack)
    if apart:
        raise PlanError(
            f"scheme must suit the model, got {scheme!r}: {apart}. Use 'auto' or 'orthogonal'."
        )
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


def plan_framed(
    stack: Stack, choice: Choice, inputs: Inputs, aim: Aim, bias_share: float = 0.0
) -> StackPlan:
    """Laws on frames for a stack, with the layouts that were chosen.

    Levels leave room for biases that bring a share of each layer's energy.
    """
    first, last = stack.affines[0], stack.affines[-1]
    pairs = bool(choice.layouts) and isinstance(choice.layouts[0], Mirrored)
    units = first.out_size // 2 if pairs else first.out_size
    blocks = [block_of(a, units, i == 0) for i, a in enumerate(stack.affines)]
    taps = [math.prod(block) for block in blocks[1:]]
    # A budget for a hundred layers would drive two of them, or a bottleneck, far into saturation.
    # That for derivatives has a limit for each layer, which no slope of an activation moves.
    loudest = math.inf if bias_share or not math.isnan(aim.budget) else _LOUDEST
    spaces = [
        Space(
            f"{a.weight}:out", h.width, h.activation, layout, h.copies * joined, block, shift,
            1.0 - h.dropout, loudest if isinstance(layout, Plain) and _bends(h) else math.inf,
        )
        for a, h, layout, joined, block, shift in zip(
            stack.affines,
            stack.hidden,
            choice.layouts,
            taps,
            blocks[1:],
            stack.can_shift[1:],
            strict=False,
        )
    ]  # fmt: skip
    way = passages(stack, blocks) if has_maps(stack) else ()
    patches = None
    if has_maps(stack):
        patches = first_patches(stack, inputs, blocks[0], way[0].count if way else 1)
    narrowest = min([units, *(space.size * space.copies for space in spaces)])
    entry, arrays = _entry(stack, inputs, units, narrowest, blocks[0], patches)
    maps = _maps(entry, arrays, blocks[0], patches, way) if patches and spaces else None
    is_choosing = narrowest < min(units, entry.size)
    budget = aim.budget_for(entry.participation)
    between = max(1, len(stack.hidden) - 1)
    if math.isnan(aim.budget):
        if bias_share:
            budget = min(budget, _DERIVATIVE_GROWTH * between)
        budget = max(budget, resting_budget(stack, choice.layouts))
    if bias_share:
        budget = with_biases(budget, between, bias_share)
    planned = framed_stack(
        [a.weight for a in stack.affines],
        entry,
        spaces,
        f"{last.weight}:out",
        last.out_size,
        output_rms=aim.exit_rms(last.out_size) if stack.is_last else 1.0,
        budget=budget,
        maps=maps,
        # What a plan for derivatives makes of the first layer has a level of its own.
        first_level=stack.depth**-_QUIET if is_choosing and not aim.for_derivatives else 1.0,
    )
    reason = choice.reason
    if entry.basis:
        reason += f"; the {narrowest} columns that fit follow the inputs' principal axes"
    reason = "; ".join([reason, *remarks(stack, way, patches)])
    unstable = _unstable(spaces, planned.levels)
    return StackPlan(
        planned.weights, planned.biases, planned.signal, planned.gradient, reason,
        planned.log_std, choice.warning or unstable, bool(unstable), planned.frames, arrays,
    )  # fmt: skip


def _bends(hidden: Hidden) -> bool:
    """Whether the level of some units matters: a line has no gradient growth at any."""
    at = statistics(hidden.activation, 1.0)
    return at.centred_energy > 0 and abs(math.log(at.mean_hermite_degree)) > _LINE


def _entry(
    stack: Stack,
    inputs: Inputs,
    units: int,
    narrowest: int,
    block: tuple[int, ...],
    patches: Patches | None,
) -> tuple[Entry, dict[str, Array]]:
    """The entry of a framed stack, with axes and mean where the inputs can settle them."""
    first = stack.affines[0]
    frame = f"{first.weight}:in"
    size = first.in_size * math.prod(block)
    rank = min(size, units)
    rows, mean_square = inputs.rows, inputs.mean_square
    if patches and first.convolution.kernel:
        rows = patches.rows
        mean_square = float(np.mean(np.square(rows)))
        if not patches.is_known:
            rows = np.zeros((0, size))
    found = principal_axes(rows, rank)
    if found is None:
        return Entry(frame, size, mean_square, block=block), {}
    arrays: dict[str, Array] = {}
    centre, basis = "", ""
    spectrum: tuple[float, ...] = ()
    # What one map has at all its sites is its own, and behind a mean over them all there is.
    is_one_map = patches is not None and len(patches.values) == 1
    can_shift = stack.hidden and stack.can_shift[0] and not is_one_map
    if can_shift and mean_matters(found, len(rows)):
        centre = f"{frame}:mean"
        arrays[centre] = kernel_point(first, block, found.mean) if block else found.mean
        mean_square = found.total_variance / size
    # Columns beyond what some later layer holds are lost: the leading axes should not be.
    if stack.hidden and size > min(rank, narrowest) and rank == len(found.axes):
        basis = f"{frame}:axes"
        arrays[basis] = found.axes
        along = found.variances + (0.0 if centre else np.square(found.axes @ found.mean))
        spectrum = tuple(float(v) for v in along)
        mean_square = float(np.mean(along))
    participation = found.participation if centre else found.participation_with_mean
    entry = Entry(frame, size, mean_square, basis, centre, spectrum, participation, block)
    return entry, arrays


def _maps(
    entry: Entry,
    arrays: Mapping[str, Array],
    block: tuple[int, ...],
    patches: Patches,
    way: tuple[Passage, ...],
) -> Maps:
    """The inputs in the columns of the entry's frame."""
    values = patches.values
    if entry.centre:
        mean = arrays[entry.centre]
        kept = mean[(slice(None), *central_slices(mean.shape[1:], block))] if block else mean
        values = values - kept.reshape(1, -1, 1)
    if entry.basis:
        values = np.einsum("kf,rfs->rks", arrays[entry.basis], values)
    return Maps(values, bool(entry.basis), way)


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
