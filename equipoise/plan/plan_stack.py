"""Laws for one stack: what a scheme, chosen or asked for, makes of it."""

import math
from dataclasses import replace

from equipoise.plan.choose import choose
from equipoise.plan.entry import Inputs
from equipoise.plan.framed_plan import named_choice, plan_framed
from equipoise.plan.independent import laws_apart, plan_apart
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.framed import DEFAULT_BUDGET
from equipoise.schemes.orthogonal import orthogonal
from equipoise.theory.activations import identity

SCHEMES = ("auto", "xavier", "he", "orthogonal", "diagonal_noise", "centred", "mirrored")


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
        return plan_apart(stack, [law], inputs, f"orthogonal, since it is used {uses} times")
    if scheme == "auto":
        choice = choose(stack)
        if choice.scheme == "he":
            laws = laws_apart(stack, "he", math.sqrt(inputs.mean_square))
            planned = plan_apart(stack, laws, inputs, choice.reason)
        else:
            planned = plan_framed(stack, choice, inputs, budget)
        return replace(planned, warning=choice.warning or planned.warning)
    if scheme in ("centred", "mirrored"):
        return plan_framed(stack, named_choice(stack, scheme), inputs, budget)
    return plan_apart(stack, laws_apart(stack, scheme), inputs, f"{scheme}, as asked for")
