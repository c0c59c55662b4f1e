"""Laws for one stack: what a scheme, chosen or asked for, makes of it."""

import math
from dataclasses import replace

from equipoise.plan.aim import OUTPUT_UNMET, Aim
from equipoise.plan.bent_plan import folds_nothing, plan_bent
from equipoise.plan.choose import Choice, centred_choice, choose
from equipoise.plan.derivative_plan import BIAS_SHARE, for_derivatives, why_not_for_derivatives
from equipoise.plan.entry import Inputs
from equipoise.plan.forms import at_gain_one
from equipoise.plan.framed_plan import named_choice, plan_framed
from equipoise.plan.independent import laws_apart, plan_apart, why_apart
from equipoise.plan.offset_plan import offset_for_few, offsets_apart
from equipoise.plan.resting import elsewhere
from equipoise.plan.shared import shared_law
from equipoise.plan.shifted_plan import (
    directions_of,
    plan_shifted,
    plan_spread,
    spread_for_few,
)
from equipoise.plan.siren_plan import QUIET_FIELD, reads_coordinates, sine_laws, siren_phases
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.catalogue import SCHEMES, Scheme, parse_scheme
from equipoise.schemes.laws import BestOf, Taps
from equipoise.schemes.louder import louder
from equipoise.schemes.siren import sine_frequency
from equipoise.theory.activations import Activation, identity

__all__ = ["SCHEMES", "plan_stack"]

_NO_AIM = Aim()
_LINE = identity()
# Nats that all layers together may lose while the last one changes its sign.
_LOST_TO_A_SIGN = 0.4
_FOLDS_NOTHING = "since pairs would hold one number, and maps of one number do not fold"


def plan_stack(
    stack: Stack,
    scheme: str,
    inputs: Inputs,
    uses: int = 1,
    aim: Aim = _NO_AIM,
    form: str = "",
    feed: Activation = _LINE,
) -> StackPlan:
    """Laws for a stack.

    Args:
        stack: the layers.
        scheme: name of a scheme, with options in brackets (``schemes.catalogue``).
        inputs: what enters.
        uses: how often the model uses the stack's weight.
        feed: activation that a weight which is used several times is scaled to.
        form: what fixes the gain of the stack's one weight at 1, '' where nothing does.
        aim: what the model is for; a budget among the options of the scheme goes before its own.

    Returns:
        Its part of the plan.

    Raises:
        ArgumentError: for a scheme or option that is not known.
        PlanError: if the scheme cannot serve a layer.
    """
    wanted = parse_scheme(scheme)
    if form:
        law = shared_law(stack.affines[0], _LINE)
        reason = f"orthogonal with gain 1, since its {form} leaves no other gain"
        return plan_apart(stack, [at_gain_one(law)], inputs, reason)
    if uses > 1:
        reason = f"orthogonal, since it is shared: one law serves {uses} uses"
        if feed != _LINE:
            reason += f", most of which read {feed}"
        return plan_apart(stack, [shared_law(stack.affines[0], feed)], inputs, reason)
    if wanted.name == "auto":
        return _automatic(stack, inputs, aim)
    if wanted.name in ("centred", "mirrored", "shifted"):
        spent = aim.spending(wanted.number("budget")) if wanted.has("budget") else aim
        if wanted.name == "shifted" and wanted.number("bends") > 0:
            return _bent(stack, wanted.number("bends"), inputs, aim, "as asked for")
        if wanted.name == "shifted":
            return plan_shifted(stack, wanted.number("shift"), inputs, spent)
        if wanted.name == "mirrored" and wanted.number("spread") > 0:
            return plan_spread(stack, wanted.number("spread"), inputs, spent)
        return plan_framed(stack, named_choice(stack, wanted.name), inputs, spent)
    biases = siren_phases(stack) if wanted.name == "siren" else ()
    laws = laws_apart(stack, wanted)
    planned = plan_apart(stack, laws, inputs, why_apart(stack, wanted), biases)
    if stack.is_last and aim.output_rms > 0:
        return _asked_for(planned, aim.output_rms)
    return planned


def _automatic(stack: Stack, inputs: Inputs, aim: Aim) -> StackPlan:
    """The auto rule: exact moments or frames, and what the aim adds."""
    if reads_coordinates(stack):
        return _sines(stack, inputs, aim)
    choice = choose(stack)
    against = why_not_for_derivatives(stack) if aim.for_derivatives else ""
    if aim.for_derivatives and choice.scheme == "framed" and not against:
        planned = for_derivatives(
            stack, plan_framed(stack, choice, inputs, aim, BIAS_SHARE), inputs
        )
    elif choice.scheme == "he":
        planned = _exact_moments(stack, choice, inputs, aim)
    else:
        planned = plan_framed(stack, choice, inputs, aim)
        if not aim.for_derivatives:
            other = elsewhere(stack, planned, inputs)
            if folds_nothing(stack, planned):
                nats = aim.budget_for(directions_of(stack, inputs))
                planned = _bent(stack, nats, inputs, aim, _FOLDS_NOTHING)
            elif other and other.scheme == "shifted":
                planned = plan_shifted(stack, 0.0, inputs, aim, f"since {other.why}")
            elif other:
                planned = plan_framed(stack, centred_choice(stack, other.why), inputs, aim)
            else:
                planned = spread_for_few(stack, planned, inputs)
            planned = offset_for_few(stack, planned, inputs)
    if stack.is_last and aim.purpose:
        planned = replace(planned, reason=f"{planned.reason}; {_outputs(stack, aim)}")
    warning = choice.warning or planned.warning
    if aim.for_derivatives and (against or choice.scheme != "framed"):
        against = against or "no level of its signal is stable in depth"
        warning = warning or f"derivatives are not provided for, since {against}"
    return replace(planned, warning=warning, is_unstable=choice.is_unstable or planned.is_unstable)


def _bent(stack: Stack, nats: float, inputs: Inputs, aim: Aim, why: str) -> StackPlan:
    """Rectifiers that bend at birth, with outputs whose sign the last layer alone unlearns.

    A narrow stack is nearly one line, whose sign is wrong for half of all draws. Adam moves all
    weights at one rate: until a last weight of size e has crossed 0 the other L layers have shrunk
    the product by exp(-L e), and near 0 no layer has a gradient that would bring it back.
    """
    planned = plan_bent(stack, nats, inputs, aim, why)
    if not stack.is_last or not math.isnan(aim.output_rms):
        return planned
    quiet = min(1.0, _LOST_TO_A_SIGN / stack.depth)
    said = f"; outputs at RMS {quiet:.2g}, so that the last layer alone can turn their sign"
    return replace(at_exit(planned, quiet), reason=planned.reason + said)


def _sines(stack: Stack, inputs: Inputs, aim: Aim) -> StackPlan:
    """Sines on coordinates: the first layer as published, the others in balance."""
    frequency = sine_frequency(stack.hidden[0].activation)
    reason = (
        f"the published first layer of sines on coordinates, since the factor {frequency:g} before "
        f"a sine of {stack.affines[0].in_size} inputs says which frequencies the task has, and "
        "balance does not; orthogonal behind it, with numbers of variance 1 before each sine"
    )
    rms = 1.0
    if stack.is_last:
        is_told = not math.isnan(aim.output_rms)
        rms = aim.exit_rms(stack.affines[-1].out_size) if is_told else QUIET_FIELD
        reason += f", and outputs at RMS {rms:.3g}"
    weights, biases = sine_laws(stack, rms)
    return plan_apart(stack, weights, inputs, reason, biases)


def _exact_moments(stack: Stack, choice: Choice, inputs: Inputs, aim: Aim) -> StackPlan:
    """Independent entries that keep second moments while training, and the scale of the outputs."""
    laws = laws_apart(stack, Scheme("he"), math.sqrt(inputs.mean_square))
    for i, hidden in enumerate(stack.hidden, 1):
        # Dropout divides what it keeps by its share: second moments grow by as much.
        laws[i] = (
            louder(laws[i], math.sqrt(1.0 - hidden.dropout)) if hidden.dropout < 1 else laws[i]
        )
    wanted = aim.exit_rms(stack.affines[-1].out_size)
    if stack.is_last:
        laws[-1] = louder(laws[-1], wanted)
    planned = plan_apart(stack, laws, inputs, choice.reason)
    weights, biases, said = offsets_apart(stack, laws, planned.signal, inputs)
    if said:
        planned = plan_apart(stack, weights, inputs, choice.reason + said, biases)
    as_trained = all(h.dropout == h.active_dropout for h in stack.hidden)
    if stack.is_last and as_trained and planned.signal[-1] > 0:
        # Poolings, paddings and finite widths move the scale that moments give.
        return at_exit(planned, wanted / planned.signal[-1])
    return planned


def _asked_for(planned: StackPlan, output_rms: float) -> StackPlan:
    """The plan of a published scheme with its last weight at the output scale asked for."""
    last = planned.weights[-1]
    is_chosen = isinstance(last.matrix if isinstance(last, Taps) else last, BestOf)
    if is_chosen or not planned.signal[-1] > 0:
        return replace(planned, warning=planned.warning or OUTPUT_UNMET)
    found = at_exit(planned, output_rms / planned.signal[-1])
    reason = f"{planned.reason}; the last weight is scaled to outputs of RMS {output_rms:.4g}"
    return replace(found, reason=reason)


def at_exit(planned: StackPlan, factor: float) -> StackPlan:
    """The same plan with a last weight that is larger by a factor."""
    expected = planned.expected
    return replace(
        planned,
        weights=(*planned.weights[:-1], louder(planned.weights[-1], factor)),
        signal=_last_times(planned.signal, factor),
        gradient=_others_times(planned.gradient, factor),
        expected=expected_at_exit(expected, factor) if expected else None,
    )


def expected_at_exit(expected: Expected, factor: float) -> Expected:
    """What is expected of a stack whose last weight is larger by a factor."""
    return replace(
        expected,
        signal=_last_times(expected.signal, factor),
        gradient=_others_times(expected.gradient, factor),
        at_exit=expected.at_exit * factor,
        at_entry=expected.at_entry * factor,
    )


def _last_times(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return (*values[:-1], values[-1] * factor)


def _others_times(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return (*(value * factor for value in values[:-1]), values[-1])


def _outputs(stack: Stack, aim: Aim) -> str:
    """What the outputs start as, for the purpose that was told."""
    count = stack.affines[-1].out_size
    rms = aim.exit_rms(count)
    if aim.purpose == "classification" and count > 1:
        return (
            f"logits start at RMS {rms:.4g}, which begins the cross-entropy up to "
            f"{rms * rms / 2:.2g} above ln {count} = {math.log(count):.3g}"
        )
    return f"outputs start at RMS {rms:.4g}"
