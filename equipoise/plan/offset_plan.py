"""A constant beside few inputs, where units bend about their place of rest.

About 0 tanh and its like are odd, and without biases so is a network of them: f(-x) = -f(x), which
few targets are. Units that are centred, or rest where their function is steepest, are nearly so.
Rectifiers bend at 0 alone, so that without biases all of them bend at the same input. A constant
that enters with the inputs, as loud as they are, ends both.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from equipoise.plan.entry import Inputs
from equipoise.plan.shifted_plan import MOST_DIRECTIONS, directions_of, in_words
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Framed, Law, OffsetBias, Plain, Zero
from equipoise.schemes.louder import louder
from equipoise.theory.rest import rest

# The part of the energy of the layer that its biases have, where a column is left for them: of one
# to ten directions a third to a half is best, less leaves the network odd.
_SHARE = 0.5
# The same of each further layer whose entries are independent: its units bend at 0 anew. Rectifiers
# of width 64 with three hidden layers learn Friedman's function to .983 with it, to .978 with
# biases in the first layer alone and to .952 without any.
_FURTHER = 0.25
_ODD, _AT_ONE = "the network is nearly odd", "all units would bend at one input"


def offset_for_few(
    stack: Stack, planned: StackPlan, inputs: Inputs, feeds_branches: bool = False
) -> StackPlan:
    """The same plan with random biases in one layer, where inputs vary in few directions.

    The layer is the first of the narrowest: biases of a wider one would be lost in part. They are
    as loud as all inputs together where it has more columns than inputs have directions, else as
    one of these. Its weight is quieter by as much, so that every level stays as it was planned.
    A layer that stands alone has them where it reads known inputs and residual branches read it:
    what they make of its outputs bends at one input as a stack would.

    Args:
        stack: the layers.
        planned: their laws on frames.
        inputs: what enters.
        feeds_branches: whether a stream of residual branches begins at what leaves.

    Returns:
        The plan with a constant direction, or as it was where inputs vary in many directions, the
        layer has no bias of its own, or units are pairs or rest on a line.
    """
    if not stack.hidden and not (feeds_branches and len(inputs.rows)):
        return planned
    widths = [h.width for h in stack.hidden] or [stack.affines[0].out_size]
    place = widths.index(min(widths))
    weight, bias = planned.weights[place], planned.biases[place]
    are_plain = all(isinstance(w, Framed) and w.out_layout == Plain() for w in planned.weights)
    has_kernel = any(a.convolution.kernel for a in stack.affines)
    if not are_plain or has_kernel or not stack.can_shift[place] or not _bends(stack, planned):
        return planned
    directions = directions_of(stack, inputs)
    if directions > MOST_DIRECTIONS:
        return planned
    assert isinstance(weight, Framed)
    # Where columns are few, the constant takes the place of one of the directions.
    is_free = directions + 1 <= widths[place]
    share = _SHARE if is_free else 1.0 / (1.0 + directions)
    quieter = math.sqrt(1.0 - share)
    plain = bias if isinstance(bias, OffsetBias) else OffsetBias(stack.affines[place].weight)
    # Where units rest is no part of what moves.
    moving = planned.signal[place] ** 2 - plain.level**2
    std = math.sqrt(share * max(0.0, moving))
    weights: list[Law] = list(planned.weights)
    biases: list[Law] = list(planned.biases)
    weights[place] = replace(weight, scale=quieter * weight.scale)
    biases[place] = replace(plain, std=std)
    gradient = [quieter * g if i < place else g for i, g in enumerate(planned.gradient)]
    return replace(
        planned,
        weights=tuple(weights),
        biases=tuple(biases),
        gradient=tuple(gradient),
        reason=f"{planned.reason}; biases of {'the first layer' if place == 0 else 'one layer'} "
        f"are as loud as {'the inputs' if is_free else 'one direction of the inputs'}, which vary "
        f"in {in_words(directions)}, since without them "
        f"{_ODD if stack.hidden else _AT_ONE}",
    )


def offsets_apart(
    stack: Stack, laws: Sequence[Law], signal: Sequence[float], inputs: Inputs
) -> tuple[list[Law], list[Law], str]:
    """Laws of independent entries with random biases in all hidden layers, for few directions.

    Args:
        stack: the layers.
        laws: of their weights.
        signal: RMS at each, which biases leave as it is; nan where draws stray too far to tell.
        inputs: what enters.

    Returns:
        Laws of weights and of biases, and a clause on them; biases of 0 and '' where inputs vary in
        many directions or are not known, a hidden layer cannot have biases, or the first has no
        known level.
    """
    silent = list[Law](Zero() for _ in laws)
    has_kernel = any(a.convolution.kernel for a in stack.affines)
    can_shift = all(stack.can_shift[:-1]) and not has_kernel
    directions = directions_of(stack, inputs) if len(inputs.rows) else math.inf
    is_known = math.isfinite(signal[0])
    if not stack.hidden or not can_shift or directions > MOST_DIRECTIONS or not is_known:
        return list(laws), silent, ""
    # Exact moments hand the level on, in the mean if not in every draw.
    levels = [signal[0]]
    for rms in signal[1:]:
        levels.append(rms if math.isfinite(rms) else levels[-1])
    shares = [_SHARE, *[_FURTHER] * (stack.depth - 1), 0.0]
    weights = [louder(w, math.sqrt(1.0 - s)) for w, s in zip(laws, shares, strict=True)]
    biases: list[Law] = [
        OffsetBias(a.weight, std=math.sqrt(share) * rms) if share else Zero()
        for a, share, rms in zip(stack.affines, shares, levels, strict=True)
    ]
    return (
        weights,
        biases,
        (
            f"; hidden biases have a share of the energy, {_SHARE:g} in the first layer and "
            f"{_FURTHER:g} in others, since inputs vary in {in_words(directions)} and without "
            f"them {_AT_ONE}"
        ),
    )


def _bends(stack: Stack, planned: StackPlan) -> bool:
    """Whether units bend about where they rest; rectifiers that rest far from 0 do not."""
    for h, bias in zip(stack.hidden, planned.biases, strict=False):
        if not isinstance(bias, OffsetBias | Zero):
            return False
        if isinstance(bias, OffsetBias) and bias.level and rest(h.activation).kind == "line":
            return False
    return True
