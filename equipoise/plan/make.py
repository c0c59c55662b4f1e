"""From a trace to a plan: every parameter is assigned a law or left alone with a reason."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise import _checks
from equipoise.errors import PlanError
from equipoise.plan import predict as prediction
from equipoise.plan.choose import Choice, choose
from equipoise.plan.entry import Inputs, Levels, mean_matters, principal_axes
from equipoise.plan.plan import Assignment, Plan, Prediction, Untouched
from equipoise.plan.stacks import Stack, find_stacks
from equipoise.plan.trace import Affine, Nonlinearity, Opaque, Trace
from equipoise.schemes.diagonal_noise import diagonal_noise
from equipoise.schemes.fans import Fans
from equipoise.schemes.framed import Entry, Space, framed_stack
from equipoise.schemes.laws import Array, Frame, Law, Mirrored, Plain, Zero
from equipoise.schemes.orthogonal import orthogonal
from equipoise.schemes.variance import he, xavier
from equipoise.theory.activations import identity
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

SCHEMES = ("auto", "xavier", "he", "orthogonal", "diagonal_noise", "centred", "mirrored")


@dataclass(frozen=True)
class _StackPlan:
    """What one stack contributes to the plan."""

    weights: tuple[Law, ...]
    biases: tuple[Law, ...]
    signal: tuple[float, ...]
    gradient: tuple[float, ...]
    reason: str
    log_std: float
    warning: str = ""
    frames: tuple[Frame, ...] = ()
    arrays: Mapping[str, Array] | None = None


def make_plan(
    trace: Trace, scheme: str = "auto", samples: Mapping[int, Array] | None = None
) -> Plan:
    """A law for each parameter of a traced model.

    Args:
        trace: the model.
        scheme: one of ``SCHEMES``.
        samples: values of the model's inputs by value number, shape (rows, ...); what is left out
            is taken to have RMS 1.

    Returns:
        The plan.

    Raises:
        ArgumentError: for an unknown scheme.
        PlanError: if a scheme cannot serve a layer of this model, or the inputs are all 0.
    """
    _checks.one_of("scheme", scheme, SCHEMES)
    parameters = {p.name: p for p in trace.parameters}
    fixed = _unplannable(trace)
    stacks = find_stacks(trace, frozenset(fixed))
    levels = Levels(trace, samples or {})
    uses = Counter(node.weight for node in trace.nodes if isinstance(node, Affine))

    laws: dict[str, tuple[Law, str]] = {}
    frames: dict[str, Frame] = {}
    arrays: dict[str, Array] = {}
    choices: list[str] = []
    notes: list[str] = []
    predictions: list[Prediction] = []
    for number, stack in enumerate(stacks):
        if stack.affines[0].weight in fixed:
            # Its values are the user's: what it sends on is not known.
            predictions += [Prediction(a.layer, math.nan, math.nan, number) for a in stack.affines]
            continue
        inputs = levels.at(stack)
        where = _where(stack)
        if not inputs.is_known:
            if inputs.mean_square == 0.0:
                raise PlanError(
                    f"inputs of {stack.affines[0].layer!r} must not be all 0, got RMS 0. "
                    "Pass inputs of the scale that the model will be trained on."
                )
            notes.append(f"{where}: the scale of what enters is not known; RMS 1 is assumed.")
            inputs = replace(inputs, mean_square=1.0)
        planned = _plan_stack(stack, scheme, inputs, uses[stack.affines[0].weight])
        choices.append(f"{where}: {planned.reason}.")
        if planned.warning:
            notes.append(f"{where}: {planned.warning}.")
        for place, (affine, weight, bias) in enumerate(
            zip(stack.affines, planned.weights, planned.biases, strict=True)
        ):
            laws[affine.weight] = (weight, _weight_reason(place, stack, planned))
            if affine.bias:
                laws[affine.bias] = (bias, "centres its layer" if bias != Zero() else "starts at 0")
        frames.update({frame.id: frame for frame in planned.frames})
        arrays.update(planned.arrays or {})
        predictions += [
            Prediction(a.layer, s, g, number, planned.log_std)
            for a, s, g in zip(stack.affines, planned.signal, planned.gradient, strict=True)
        ]
        levels.set_level(stack.exit_value, _exit_level(stack, planned.signal[-1]))

    assignments, untouched = [], []
    for name, parameter in parameters.items():
        if name in fixed:
            untouched.append(Untouched(name, parameter.shape, fixed[name]))
        elif name in laws:
            law, reason = laws[name]
            assignments.append(Assignment(name, parameter.shape, law, reason))
        else:
            untouched.append(Untouched(name, parameter.shape, "no operation of the model uses it"))
    notes += _not_read(trace)
    plan = Plan(
        scheme, tuple(choices), tuple(assignments), tuple(untouched), tuple(frames.values()),
        arrays, tuple(predictions), tuple(notes),
    )  # fmt: skip
    plan.verify_complete(trace.parameters)
    return plan


def _unplannable(trace: Trace) -> dict[str, str]:
    """Parameters that keep their values, with the reason."""
    reasons: dict[str, str] = {}
    for node in trace.nodes:
        if isinstance(node, Opaque):
            for name in node.parameters:
                reasons[name] = f"belongs to {node.layer or 'the model'}: {node.reason}"
        elif isinstance(node, Nonlinearity):
            for name in node.parameters:
                reasons[name] = f"is part of the activation {node.activation}, read as it stands"
    for p in trace.parameters:
        if not p.is_trainable:
            reasons[p.name] = "frozen: requires_grad is False"
        elif 0 in p.shape:
            reasons[p.name] = "has no entries"
    for node in trace.nodes:
        if isinstance(node, Affine) and node.weight in reasons and node.bias:
            reasons.setdefault(node.bias, f"its weight {node.weight!r} keeps its values")
    return reasons


def _where(stack: Stack) -> str:
    first, last = stack.affines[0].layer, stack.affines[-1].layer
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _not_read(trace: Trace) -> list[str]:
    """One note for each reason, however many layers it concerns."""
    layers: dict[str, dict[str, None]] = {}
    for node in trace.nodes:
        if isinstance(node, Opaque):
            layers.setdefault(node.reason, {})[node.layer or "the model"] = None
    notes = []
    for reason, names in layers.items():
        first, *others = names
        more = f" and {len(others)} more" if others else ""
        notes.append(f"{first}{more}: not read, {reason}.")
    return notes


def _exit_level(stack: Stack, signal: float) -> float:
    if not signal > 0:
        return math.nan
    return statistics(stack.exit_activation, signal**2).second_moment


def _plan_stack(stack: Stack, scheme: str, inputs: Inputs, shared: int) -> _StackPlan:
    if shared > 1:
        # Its input and output may be the same units, for which frames make a projection.
        law = orthogonal(identity())
        planned = _independent(stack, [law], inputs, f"orthogonal, since it is used {shared} times")
        return planned
    if scheme == "auto":
        choice = choose(stack)
        if choice.scheme == "he":
            rms = math.sqrt(inputs.mean_square)
            planned = _independent(stack, _each_he(stack, rms), inputs, choice.reason)
        else:
            planned = _framed(stack, choice, inputs)
        return replace(planned, warning=choice.warning)
    if scheme in ("centred", "mirrored"):
        return _framed(stack, _named_choice(stack, scheme), inputs)
    return _independent(stack, _each(stack, scheme), inputs, f"{scheme}, as asked for")


def _named_choice(stack: Stack, scheme: str) -> Choice:
    reason = f"{scheme}, as asked for"
    if scheme == "centred":
        return Choice("framed", tuple(Plain() for _ in stack.hidden), reason)
    for affine, h in zip(stack.affines, stack.hidden, strict=False):
        if h.width < 2:
            raise PlanError(
                f"layer {affine.layer!r} must have at least 2 units to be mirrored, got {h.width}. "
                "Use scheme='auto' or 'centred'."
            )
        if classify(h.activation).kind in (ActivationClass.CENTRE, ActivationClass.LINEAR):
            reason += f", although the pairs of {h.activation} will never part in training"
            break
    return Choice("framed", tuple(Mirrored() for _ in stack.hidden), reason)


def _each(stack: Stack, scheme: str) -> list[Law]:
    feeds = [identity(), *(h.activation for h in stack.hidden)]
    laws: list[Law] = []
    for affine, feed, follow in zip(stack.affines, feeds, [*feeds[1:], identity()], strict=True):
        fans = Fans(affine.fan_in, affine.fan_out)
        if scheme == "xavier":
            laws.append(xavier(fans))
        elif scheme == "orthogonal":
            laws.append(orthogonal(feed))
        elif scheme == "diagonal_noise":
            laws.append(diagonal_noise(fans, follow))
        else:
            laws.append(he(fans, feed))
    return laws


def _each_he(stack: Stack, input_rms: float) -> list[Law]:
    fans = [Fans(a.fan_in, a.fan_out) for a in stack.affines]
    return [
        he(fans[0], identity(), input_rms),
        *(he(f, h.activation) for f, h in zip(fans[1:], stack.hidden, strict=True)),
    ]


def _independent(stack: Stack, laws: Sequence[Law], inputs: Inputs, reason: str) -> _StackPlan:
    expected = prediction.predict(stack, laws, inputs.mean_square)
    return _StackPlan(
        tuple(laws), tuple(Zero() for _ in laws), expected.signal, expected.gradient, reason,
        expected.log_std,
    )  # fmt: skip


def _framed(stack: Stack, choice: Choice, inputs: Inputs) -> _StackPlan:
    first = stack.affines[0]
    spaces = [
        Space(f"{a.weight}:out", h.width, h.activation, layout)
        for a, h, layout in zip(stack.affines, stack.hidden, choice.layouts, strict=False)
    ]
    entry, arrays = _entry(first, inputs, spaces[0].size if spaces else 0)
    planned = framed_stack(
        [a.weight for a in stack.affines],
        entry,
        spaces,
        f"{stack.affines[-1].weight}:out",
        stack.affines[-1].fan_out,
    )
    reason = choice.reason
    if entry.basis:
        reason += f"; the {spaces[0].size} columns that fit follow the inputs' principal axes"
    return _StackPlan(
        planned.weights, planned.biases, planned.signal, planned.gradient, reason,
        planned.log_std, frames=planned.frames, arrays=arrays,
    )  # fmt: skip


def _entry(first: Affine, inputs: Inputs, units: int) -> tuple[Entry, dict[str, Array]]:
    """The entry of a framed stack, with axes and mean where the inputs can settle them."""
    frame = f"{first.weight}:in"
    rank = min(first.fan_in, units)
    plain = Entry(frame, first.fan_in, inputs.mean_square)
    found = principal_axes(inputs.rows, rank) if rank else None
    if found is None:
        return plain, {}
    centre = mean_matters(found, len(inputs.rows)) and bool(first.bias)
    basis = first.fan_in > rank
    arrays: dict[str, Array] = {}
    if centre:
        arrays[f"{frame}:mean"] = found.mean
    if not basis:
        mean_square = found.total_variance / first.fan_in if centre else inputs.mean_square
        return Entry(
            frame, first.fan_in, mean_square, "", f"{frame}:mean" if centre else ""
        ), arrays
    arrays[f"{frame}:axes"] = found.axes
    along = found.variances + (0.0 if centre else np.square(found.axes @ found.mean))
    spectrum = tuple(float(v) for v in along)
    entry = Entry(
        frame, first.fan_in, float(np.mean(along)), f"{frame}:axes",
        f"{frame}:mean" if centre else "", spectrum,
    )  # fmt: skip
    return entry, arrays


def _weight_reason(place: int, stack: Stack, planned: _StackPlan) -> str:
    if stack.depth == 0:
        return planned.reason
    if place == 0:
        return "brings the inputs to the level of the stack"
    if place == stack.depth:
        return "brings the stack to its output scale"
    return f"keeps the signal after {stack.hidden[place - 1].activation}"
