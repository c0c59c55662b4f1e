"""Stacks on frames whose units are moved apart: kinks of pairs spread, or all worked far from 0.

Both leave the map of the stack as it is, linear at birth, and change what biases do: one keeps the
units of a pair from bending at the same input, the other keeps every unit from bending at all.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.choose import Choice
from equipoise.plan.entry import Inputs, principal_axes
from equipoise.plan.framed_plan import named_choice, plan_framed
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Framed, Law, Mirrored, OffsetBias, Plain, SpreadBias
from equipoise.schemes.louder import louder
from equipoise.theory.activations import linear
from equipoise.theory.oddpart import affine_departure, mirrored_pair
from equipoise.theory.rest import Rest, rest
from equipoise.theory.sharpness import sharp_level
from equipoise.theory.shift import departure, shift_for_departure, shifted

# One input in ten leaves the linear range of some unit where no shift is given.
_LEAVING = 0.1
# In more directions than these inputs are told apart as well where all kinks meet at one point.
MOST_DIRECTIONS = 12.0
# Sharpness of a bend (``theory.sharpness``) that inputs of one direction want: a network of 30
# softplus layers learns a fast sine at one rate in four at RMS 1, where that is .35, and at all
# of them at RMS 3.4. Of d directions it is as much less as kinks are closer, 1 / sqrt(d): inputs of
# eight directions are learnt better from quiet signals.
_SHARP = 0.7


def plan_shifted(
    stack: Stack, shift: float, inputs: Inputs, aim: Aim, why: str = "as asked for"
) -> StackPlan:
    """Laws for units that rest at c, away from 0: b_l = c - W_l f(c).

    Where f is a line above 0, W_l = O_l / f'(c): the stack is exactly linear, at full rank, for
    every input whose preactivations stay above 0. Other functions rest where they are steepest
    (``theory.rest``), and weights have the gain of a centred stack of f(c + v) - f(c).

    Args:
        stack: dense layers.
        shift: c in RMS of v, the part of the preactivation that moves, for lines; 0 for the one at
            which one input in ten leaves the linear range.
        inputs: what enters.
        aim: what the plan is for; a line spends nothing of its budget.
        why: the units are to be shifted, for the reason of the plan.

    Returns:
        Its part of the plan.

    Raises:
        PlanError: naming the layer or activation that cannot be shifted.
    """
    _refuse_maps(stack, "shifted")
    rests = [rest(h.activation) for h in stack.hidden]
    for affine, h, found in zip(stack.affines, stack.hidden, rests, strict=False):
        if found.kind == "none" or (found.kind == "steepest" and found.place == 0.0):
            raise PlanError(
                f"activation behind layer {affine.layer!r} must be a line above 0, or steepest at "
                f"another place than 0, to be shifted, got {h.activation}. Use scheme='auto'."
            )
    if shift and rests and not any(r.kind == "line" for r in rests):
        f = stack.hidden[0].activation
        raise PlanError(
            f"shift must serve functions that are a line above 0, got {shift:g} for {f} behind "
            f"layer {stack.affines[0].layer!r}, whose units rest at {rests[0].place:.3g}. Leave it "
            "out."
        )
    narrowest = min((h.width for h in stack.hidden), default=1)
    far = shift or shift_for_departure(_LEAVING, narrowest, max(1, stack.depth))
    seen = tuple(
        linear(r.slope) if r.kind == "line" else shifted(h.activation, r.place)
        for h, r in zip(stack.hidden, rests, strict=True)
    )
    moved = replace(
        stack,
        hidden=tuple(replace(h, activation=f) for h, f in zip(stack.hidden, seen, strict=True)),
    )
    choice = Choice("framed", tuple(Plain() for _ in stack.hidden), "")
    planned = plan_framed(moved, choice, inputs, aim)
    levels = [
        far * rms if r.kind == "line" else r.place
        for rms, r in zip(planned.signal, rests, strict=False)
    ]
    passed = [0.0]
    for h, c in zip(stack.hidden, levels, strict=True):
        passed.append(float(h.activation.f(np.full(1, c))[0]))
    biases: list[Law] = []
    for affine, law, value, level in zip(
        stack.affines, planned.biases, passed, [*levels, 0.0], strict=True
    ):
        centre = law.centre if isinstance(law, OffsetBias) else ""
        biases.append(OffsetBias(affine.weight, value, centre, level))
    return replace(
        planned,
        biases=tuple(biases),
        signal=(*(math.hypot(s, c) for s, c in zip(planned.signal, levels, strict=False)),
                planned.signal[-1]),
        reason=f"shifted, {why}: {_where_they_rest(stack, rests, far)}",
    )  # fmt: skip


def _where_they_rest(stack: Stack, rests: Sequence[Rest], far: float) -> str:
    """Where the units of a shifted stack rest, in words."""
    said = []
    narrowest = min((h.width for h in stack.hidden), default=1)
    if not rests or any(r.kind == "line" for r in rests):
        chance = departure(far, narrowest, max(1, stack.depth)).stack
        said.append(
            f"units rest {far:.3g} RMS above 0, which {chance:.1%} of Gaussian inputs leave "
            "somewhere"
        )
    others = {h.activation: r for h, r in zip(stack.hidden, rests, strict=True) if r.kind != "line"}
    for f, r in others.items():
        how = "is steepest" if r.kind == "steepest" else "hardly bends"
        said.append(f"units of {f} rest at {r.place:.3g}, where it {how}")
    return "; ".join(said)


def directions_of(stack: Stack, inputs: Inputs) -> float:
    """Number of directions in which inputs vary, that of the features where it is not known."""
    axes = principal_axes(inputs.rows, 1)
    size = float(stack.affines[0].in_size)
    return min(size, axes.participation) if axes is not None else size


def in_words(directions: float) -> str:
    """A number of directions.

    >>> in_words(1.0), in_words(2.34)
    ('1 direction', '2.3 directions')
    """
    return f"{directions:.2g} direction{'s' * (directions != 1)}"


def plan_spread(stack: Stack, spread: float, inputs: Inputs, aim: Aim) -> StackPlan:
    """Mirrored pairs whose preactivations are v + beta and -(v + beta), beta ~ N(0, (t rms v)^2).

    The next bias takes O beta away, so that the map stays linear while kinks lie apart.

    Args:
        stack: dense layers with activations whose odd part is exactly a line.
        spread: t, positive.
        inputs: what enters.
        aim: what the plan is for.

    Returns:
        Its part of the plan.

    Raises:
        PlanError: naming the layer or activation whose pairs cannot be spread.
    """
    _refuse_maps(stack, "mirrored(spread=...)")
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        if not is_line(h):
            raise PlanError(
                f"activation behind layer {affine.layer!r} must have an odd part that is a line "
                f"for its kinks to be spread, got {h.activation}. Use 'mirrored' without spread."
            )
    planned = plan_framed(stack, named_choice(stack, "mirrored"), inputs, aim)
    return _spread(stack, planned, spread, "")


def spread_for_few(stack: Stack, planned: StackPlan, inputs: Inputs) -> StackPlan:
    """The same plan with the kinks of its mirrored pairs apart, where inputs ask for it.

    Without biases all kinks meet at one point: a network of rectifiers is homogeneous there, and
    of one input it bends nowhere else. In many directions planes through one point tell inputs
    apart as well as others; in d of them kinks are spread by 1 / sqrt(d) RMS.

    Args:
        stack: the layers.
        planned: their laws on frames.
        inputs: what enters.

    Returns:
        The plan with spread kinks, or as it was where inputs vary in many directions, a layer has
        no bias of its own, or pairs would not stay lines.
    """
    are_pairs = [
        isinstance(weight, Framed) and isinstance(weight.out_layout, Mirrored)
        for weight in planned.weights[:-1]
    ]
    can_move = all(stack.can_shift) and not any(a.convolution.kernel for a in stack.affines)
    are_lines = all(is_line(h) for h in stack.hidden)
    if not stack.hidden or not can_move or not all(are_pairs) or not are_lines:
        return planned
    directions = directions_of(stack, inputs)
    if directions > MOST_DIRECTIONS:
        return planned
    spread = 1.0 / math.sqrt(max(1.0, directions))
    planned = _sharpened(stack, planned, _SHARP * spread)
    why = f", since inputs vary in {in_words(directions)}"
    return _spread(stack, planned, spread, why)


def _sharpened(stack: Stack, planned: StackPlan, wanted: float) -> StackPlan:
    """The plan with signals at which bends are as sharp as is wanted; pairs are lines at any."""
    loudest = max(planned.signal[:-1])
    level = max(sharp_level(h.activation, wanted, loudest) for h in stack.hidden)
    if level == loudest:
        return planned
    factor = level / loudest
    return replace(
        planned,
        weights=(louder(planned.weights[0], factor), *planned.weights[1:-1],
                 louder(planned.weights[-1], 1.0 / factor)),
        signal=(*(factor * rms for rms in planned.signal[:-1]), planned.signal[-1]),
        gradient=(*(g / factor for g in planned.gradient[:-1]), planned.gradient[-1]),
        reason=f"{planned.reason}; signals at RMS {level:.3g}, where bends are sharp",
    )  # fmt: skip


def _spread(stack: Stack, planned: StackPlan, spread: float, why: str) -> StackPlan:
    biases: list[Law] = []
    signal = []
    before, before_std, slope = "", 0.0, 1.0
    for i, (affine, weight, law, rms) in enumerate(
        zip(stack.affines, planned.weights, planned.biases, planned.signal, strict=True)
    ):
        is_pair = isinstance(weight, Framed) and isinstance(weight.out_layout, Mirrored)
        std = spread * rms if is_pair else 0.0
        space = f"{affine.weight}:out" if is_pair else ""
        centre = law.centre if isinstance(law, OffsetBias) else ""
        biases.append(SpreadBias(affine.weight, space, std, before, before_std, slope, centre))
        signal.append(math.hypot(rms, std))
        before, before_std = space, std
        if i < stack.depth:
            f = stack.hidden[i].activation
            slope = f.slope_left + f.slope_right
    return replace(
        planned,
        biases=tuple(biases),
        signal=tuple(signal),
        reason=f"{planned.reason}; kinks of pairs are spread by {spread:.3g} RMS{why}",
    )


def is_line(h: Hidden) -> bool:
    """Whether a pair of such units is exactly a line."""
    return affine_departure(mirrored_pair(h.activation)) == 0.0


def _refuse_maps(stack: Stack, scheme: str) -> None:
    """Biases move units alike at all sites, and only where every layer has one."""
    for affine, can_shift in zip(stack.affines, stack.can_shift, strict=True):
        if affine.convolution.kernel:
            raise PlanError(
                f"layer {affine.layer!r} must be linear for scheme {scheme!r}, got a convolution. "
                "Use scheme='auto' or 'mirrored'."
            )
        if stack.hidden and not can_shift:
            raise PlanError(
                f"layer {affine.layer!r} must have a bias of its own for scheme {scheme!r}, got "
                "none that may be drawn. Add one or use scheme='auto'."
            )
