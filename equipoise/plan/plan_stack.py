"""Laws for one stack: what a scheme, chosen or asked for, makes of it."""

import math
from dataclasses import replace

from equipoise.plan.aim import Aim
from equipoise.plan.choose import choose
from equipoise.plan.derivative_plan import for_derivatives, why_not_for_derivatives
from equipoise.plan.entry import Inputs
from equipoise.plan.framed_plan import named_choice, plan_framed
from equipoise.plan.independent import laws_apart, plan_apart, why_apart
from equipoise.plan.shifted_plan import plan_shifted, plan_spread
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.catalogue import SCHEMES, Scheme, parse_scheme
from equipoise.schemes.laws import Law, Normal, Taps
from equipoise.schemes.orthogonal import orthogonal
from equipoise.theory.activations import identity

__all__ = ["SCHEMES", "plan_stack"]

_NO_AIM = Aim()


def plan_stack(
    stack: Stack, scheme: str, inputs: Inputs, uses: int = 1, aim: Aim = _NO_AIM
) -> StackPlan:
    """Laws for a stack.

    Args:
        stack: the layers.
        scheme: name of a scheme, with options in brackets (``schemes.catalogue``).
        inputs: what enters.
        uses: how often the model uses the stack's weight.
        aim: what the model is for; a budget among the options of the scheme goes before its own.

    Returns:
        Its part of the plan.

    Raises:
        ArgumentError: for a scheme or option that is not known.
        PlanError: if the scheme cannot serve a layer.
    """
    wanted = parse_scheme(scheme)
    if uses > 1:
        # Its input and output may be the same units, for which frames make a projection.
        law, first = orthogonal(identity()), stack.affines[0].convolution
        at = Taps(law, first.stride_block, first.groups, first.is_transposed)
        reason = f"orthogonal, since it is used {uses} times"
        return plan_apart(stack, [at if first.kernel else law], inputs, reason)
    if wanted.name == "auto":
        return _automatic(stack, inputs, aim)
    if wanted.name in ("centred", "mirrored", "shifted"):
        spent = aim.spending(wanted.number("budget")) if wanted.has("budget") else aim
        if wanted.name == "shifted":
            return plan_shifted(stack, wanted.number("shift"), inputs, spent)
        if wanted.name == "mirrored" and wanted.number("spread") > 0:
            return plan_spread(stack, wanted.number("spread"), inputs, spent)
        return plan_framed(stack, named_choice(stack, wanted.name), inputs, spent)
    return plan_apart(stack, laws_apart(stack, wanted), inputs, why_apart(stack, wanted))


def _automatic(stack: Stack, inputs: Inputs, aim: Aim) -> StackPlan:
    """The auto rule: exact moments or frames, and what the aim adds."""
    choice = choose(stack)
    if choice.scheme == "he":
        laws = laws_apart(stack, Scheme("he"), math.sqrt(inputs.mean_square))
        if stack.is_last:
            laws[-1] = _scaled(laws[-1], aim.exit_rms(stack.affines[-1].out_size))
        planned = plan_apart(stack, laws, inputs, choice.reason)
        if stack.is_last and aim.output_rms > 0 and planned.signal[-1] > 0:
            # Poolings, paddings and finite widths move the scale that moments give.
            laws[-1] = _scaled(laws[-1], aim.output_rms / planned.signal[-1])
            planned = plan_apart(stack, laws, inputs, choice.reason)
    else:
        planned = plan_framed(stack, choice, inputs, aim)
    warning = choice.warning or planned.warning
    if aim.for_derivatives:
        against = why_not_for_derivatives(stack)
        if choice.scheme == "framed" and not against:
            planned = for_derivatives(stack, planned, inputs)
        else:
            against = against or "no level of its signal is stable in depth"
            warning = warning or f"derivatives are not provided for, since {against}"
    return replace(planned, warning=warning, is_unstable=choice.is_unstable or planned.is_unstable)


def _scaled(law: Law, factor: float) -> Law:
    """A law of independent entries, louder by a factor."""
    return replace(law, std=law.std * factor) if isinstance(law, Normal) else law
