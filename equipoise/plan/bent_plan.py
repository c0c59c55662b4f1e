"""Narrow stacks of rectifiers that bend at birth: kinks among the inputs, as many as a budget buys.

A stack whose units rest far above 0 is a line for every input, and must first learn to bend. One
whose units rest where kinks cut off the tails of the inputs bends at once, in every layer at
another place, and each kink costs a little of the linear signal. Where the gain makes up for what
is cut off, the signal has a stable level at which it meets the kinks in every layer; the growth of
the mean-square gradient, as for every other function, is what is spent.
"""

import math
from dataclasses import replace

from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.choose import Choice
from equipoise.plan.entry import Inputs
from equipoise.plan.framed_plan import plan_framed
from equipoise.plan.resting import are_pairs_that_can_move
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Law, OffsetBias, Plain
from equipoise.schemes.louder import louder
from equipoise.theory.activations import linear
from equipoise.theory.rest import rest
from equipoise.theory.shift import bend_for_growth


def folds_nothing(stack: Stack, planned: StackPlan) -> bool:
    """Whether mirrored pairs would leave a stack of lines with a layer that holds one number.

    What passes such a layer is one number, and a pair around it makes a map of that number that
    rises or falls throughout, since both of its slopes have the sign of the weight. A chain of such
    maps folds only once a weight of size 1 has changed its sign.

    Args:
        stack: the layers.
        planned: their laws on frames.

    Returns:
        Whether that is so, and every layer has a bias of its own to shift its units.
    """
    are_lines = all(rest(h.activation).kind == "line" for h in stack.hidden)
    # Ranks would not do: those of one input are 1 however many pairs read it.
    is_narrow = any(h.width // 2 == 1 for h in stack.hidden)
    return is_narrow and are_lines and are_pairs_that_can_move(stack, planned)


def plan_bent(
    stack: Stack, nats: float, inputs: Inputs, aim: Aim, why: str = "as asked for"
) -> StackPlan:
    """Laws for rectifiers that rest at c RMS above 0, centred at their mean: b = c - W E f(c + v).

    Weights are orthogonal on frames times 1 / std f(c + v), and c is where each layer spends its
    part of the nats.

    Args:
        stack: dense layers of functions that are lines above 0.
        nats: of growth of the mean-square gradient over the stack, positive.
        inputs: what enters.
        aim: what the plan is for.
        why: the stack is to bend, for the reason of the plan.

    Returns:
        Its part of the plan.

    Raises:
        PlanError: naming the layer or activation that cannot be bent.
    """
    for affine, can_shift in zip(stack.affines, stack.can_shift, strict=True):
        if affine.convolution.kernel or (stack.hidden and not can_shift):
            raise PlanError(
                f"layer {affine.layer!r} must be linear with a bias of its own for bends, got "
                "another. Use scheme='auto'."
            )
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        if rest(h.activation).kind != "line":
            raise PlanError(
                f"activation behind layer {affine.layer!r} must be a line above 0 for bends, got "
                f"{h.activation}. Use 'shifted' without bends."
            )
    slopes = [rest(h.activation).slope for h in stack.hidden]
    lines = tuple(
        replace(h, activation=linear(s)) for h, s in zip(stack.hidden, slopes, strict=True)
    )
    choice = Choice("framed", tuple(Plain() for _ in stack.hidden), "")
    planned = plan_framed(replace(stack, hidden=lines), choice, inputs, aim)
    bends = [bend_for_growth(h.activation, nats / stack.depth) for h in stack.hidden]
    weights: list[Law] = [planned.weights[0]]
    for law, one, slope in zip(planned.weights[1:], bends, slopes, strict=True):
        # The plan of lines divides by their slope, and rectifiers pass on less.
        weights.append(louder(law, slope / one.std))
    scales = planned.signal[:-1]
    passed = [0.0, *(one.mean * rms for one, rms in zip(bends, scales, strict=True))]
    levels = [*(one.shift * rms for one, rms in zip(bends, scales, strict=True)), 0.0]
    biases: list[Law] = [
        OffsetBias(affine.weight, value, law.centre if isinstance(law, OffsetBias) else "", level)
        for affine, law, value, level in zip(
            stack.affines, planned.biases, passed, levels, strict=True
        )
    ]
    behind = [math.fsum(one.growth / 2 for one in bends[i:]) for i in range(stack.depth + 1)]
    kinds = dict.fromkeys(f"{one.shift:.3g}" for one in bends)
    spent = math.fsum(one.growth for one in bends)
    return replace(
        planned,
        weights=tuple(weights),
        biases=tuple(biases),
        signal=(*(math.hypot(s, c) for s, c in zip(scales, levels, strict=False)),
                planned.signal[-1]),
        gradient=tuple(g * math.exp(b) for g, b in zip(planned.gradient, behind, strict=True)),
        reason=f"shifted, {why}: units rest {', '.join(kinds)} RMS above 0, where kinks among the "
        f"inputs spend {spent:.3g} nats of gradient growth",
    )  # fmt: skip
