"""From a trace to a plan: every parameter is assigned a law or left alone with a reason."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from equipoise.errors import PlanError
from equipoise.plan.aim import NOT_FOR_DERIVATIVES, OUTPUT_UNMET, UNMET, Aim
from equipoise.plan.entry import Inputs
from equipoise.plan.levels import Levels
from equipoise.plan.moments import behind, is_steady
from equipoise.plan.nodes import Affine, Gain, Nonlinearity, Opaque, Shift
from equipoise.plan.nodes import uses as uses_of
from equipoise.plan.odds import Outlook, outlook
from equipoise.plan.plan import Assignment, Plan, Prediction, Untouched
from equipoise.plan.plan_stack import at_branch_end, plan_stack
from equipoise.plan.predict import expect
from equipoise.plan.predict_joined import Part, entering, expect_chain
from equipoise.plan.residual import branch_ends
from equipoise.plan.stack_plan import Expected, StackPlan
from equipoise.plan.stacks import Stack, find_chains, find_stacks
from equipoise.plan.trace import Trace
from equipoise.plan.vectors import VectorLaws, is_matrix
from equipoise.schemes.catalogue import parse_scheme
from equipoise.schemes.laws import (
    Array,
    Frame,
    Law,
    OffsetBias,
    SpreadBias,
    Table,
    Taps,
    Turned,
    Zero,
)

_NO_AIM = Aim()
_SHALLOW = 2
# A mean over so many sites at most leaves half of the RMS whatever they are.
_FEW_SITES = 4


def make_plan(
    trace: Trace,
    scheme: str = "auto",
    samples: Mapping[int, Array] | None = None,
    aim: Aim = _NO_AIM,
) -> Plan:
    """A law for each parameter of a traced model.

    Args:
        trace: the model.
        scheme: name of a scheme, with options in brackets (``schemes.catalogue``).
        samples: values of the model's inputs by value number, shape (rows, ...); what is left out
            is taken to have RMS 1.
        aim: what the model is for; read by ``auto``, and by ``centred``, ``mirrored`` and
            ``shifted`` as far as they leave it open.

    Returns:
        The plan.

    Raises:
        ArgumentError: for an unknown scheme.
        PlanError: if a scheme cannot serve a layer of this model, or the inputs are all 0.
    """
    parse_scheme(scheme)
    parameters = {p.name: p for p in trace.parameters}
    fixed = _unplannable(trace)
    stacks = find_stacks(trace, frozenset(fixed))
    given = [rows for rows in (samples or {}).values() if rows.size]
    if given and not any(rows.any() for rows in given):
        raise PlanError(
            "inputs must not be all 0, got RMS 0. Pass inputs of the scale that the model will be "
            "trained on."
        )
    levels = Levels(trace, samples or {}, frozenset(fixed))
    uses = Counter(node.weight for node in trace.nodes if isinstance(node, Affine))

    laws: dict[str, tuple[Law, str]] = {}
    frames: dict[str, Frame] = {}
    arrays: dict[str, Array] = {}
    choices: list[str] = []
    remarks, warnings = _Remarks(), _Remarks()
    chains = find_chains(trace, frozenset(fixed))
    chain_of = {a.output: chain for chain in chains for a in chain.affines}
    parts: dict[int, Part] = {}
    starting = {stack.affines[0].output: stack for stack in stacks}
    vectors = VectorLaws(trace, levels, frozenset(fixed), aim)
    ends = branch_ends(trace) if parse_scheme(scheme).name == "auto" else {}
    for node in trace.nodes:
        if not isinstance(node, Affine):
            vectors.plan(node)
            continue
        stack = starting.get(node.output)
        if stack is None:
            continue
        if stack.affines[0].weight in fixed:
            # Its values are the user's: what it sends on is not known.
            continue
        inputs = levels.at(stack)
        where = _where(stack)
        chain = chain_of[stack.affines[0].output]
        if not inputs.is_known or (stack.is_last and aim.output_rms > 0):
            # Poolings between stacks, and draws before this one, move the level from what is
            # planned for inputs that differ.
            before = _joined(chain, parts)
            inputs = replace(inputs, mean_square=entering(chain, before) or inputs.mean_square)
        is_known = inputs.is_known
        if not is_known:
            remarks.add(where, "the scale of what enters is not known; RMS 1 is assumed")
            inputs = replace(inputs, mean_square=1.0)
        elif not levels.is_sure(stack.entry_value):
            remarks.add(where, "what enters may stray from what is planned for; nothing is told")
            is_known = False
        if levels.meets_itself(stack):
            remarks.add(
                where, "reads what its own weight made, turned round; that is not predicted"
            )
            is_known = False
        planned = plan_stack(stack, scheme, inputs, uses[stack.affines[0].weight], aim)
        end = ends.get(stack.affines[-1].output)
        if end is not None:
            planned = at_branch_end(planned, end, levels.of(end.skip))
        choices.append(f"{where}: {planned.reason}.")
        if planned.warning:
            # Through a layer or two a signal without a stable level still arrives.
            grave = planned.is_unstable and stack.depth > _SHALLOW
            unmet = UNMET in planned.warning or planned.warning == OUTPUT_UNMET
            (warnings if grave or unmet else remarks).add(where, planned.warning)
        if aim.for_derivatives and parse_scheme(scheme).name != "auto":
            warnings.add(where, NOT_FOR_DERIVATIVES)
        if any(h.dropout != h.active_dropout for h in stack.hidden) and scheme == "auto":
            remarks.add(
                where,
                "dropout is off as the model stands; scales are those for training, with it on, "
                "and the signal is quieter until then",
            )
        if stack.keeps_bias:
            remarks.add(where, "a bias keeps its values; what it adds is not predicted")
            is_known = False
        planned, is_own = _as_drawn(stack, planned, laws)
        is_known &= is_own
        expected = expect(stack, planned, inputs) if is_known else _nothing(stack)
        expected = _before_pools(stack, inputs, expected)
        parts[stack.affines[0].output] = Part(planned, inputs, expected, is_known)
        for place, (affine, weight, bias) in enumerate(
            zip(stack.affines, planned.weights, planned.biases, strict=True)
        ):
            law = _turned(weight) if affine.is_turned else weight
            laws.setdefault(affine.weight, (law, _weight_reason(place, stack, planned)))
            if affine.bias:
                laws[affine.bias] = (bias, "centres its layer" if bias != Zero() else "starts at 0")
        frames.update({frame.id: frame for frame in planned.frames})
        arrays.update(planned.arrays)
        is_silent = levels.of(stack.entry_value) == 0.0 and _keeps_silence(stack)
        signal = 0.0 if is_silent else expected.signal[-1]
        # What the scheme aims at serves to plan with, where nothing is predicted.
        level = (signal if signal >= 0 else planned.signal[-1]) ** 2
        function, width = stack.exit_activation, stack.affines[-1].out_size
        levels.set_level(
            stack.exit_value, behind(function, level),
            signal >= 0 and is_steady(function, level, width),
        )  # fmt: skip

    predictions: dict[int, Prediction] = {}
    outlooks: list[Outlook] = []
    for number, chain in enumerate(chains):
        joined = _joined(chain, parts)
        expected = expect_chain(chain, joined) if joined else _nothing(chain)
        if joined:
            expected = _before_pools(chain, joined[0].inputs, expected)
        predictions |= _predictions(chain, number, expected)
        if joined:
            outlooks.append(outlook(_where(chain), expected))
        if expected.note:
            remarks.add(_where(chain), expected.note)

    used = {name for node in trace.nodes for name in uses_of(node)}
    assignments, untouched = [], []
    for name, parameter in parameters.items():
        if name in fixed:
            untouched.append(Untouched(name, parameter.shape, fixed[name]))
        elif name in laws or name in vectors.laws:
            # A table that is the head too is drawn as a table, padding and all.
            law, reason = vectors.laws.get(name) or laws[name]
            assignments.append(Assignment(name, parameter.shape, law, reason))
        else:
            untouched.append(Untouched(name, parameter.shape, _why_untouched(name, used)))
    for node in trace.nodes:
        if isinstance(node, Opaque):
            remarks.add(node.layer or "the model", f"not read, {node.reason}")
    in_order = [predictions[n.output] for n in trace.nodes if isinstance(n, Affine)]
    plan = Plan(
        scheme, tuple(choices), tuple(assignments), tuple(untouched), tuple(frames.values()),
        arrays, tuple(in_order), remarks.notes(), warnings.notes(), tuple(outlooks),
    )  # fmt: skip
    plan.verify_complete(trace.parameters)
    return plan


def _unplannable(trace: Trace) -> dict[str, str]:
    """Parameters that keep their values, with the reason."""
    reasons: dict[str, str] = {}
    shapes = {p.name: p.shape for p in trace.parameters}
    for node in trace.nodes:
        if isinstance(node, Opaque):
            for name in node.parameters:
                if node.is_linear and is_matrix(shapes.get(name, ())):
                    continue
                reasons[name] = f"belongs to {node.layer or 'the model'}: {node.reason}"
        elif isinstance(node, Nonlinearity):
            for name in node.parameters:
                reasons[name] = f"is part of the activation {node.activation}, read as it stands"
        elif isinstance(node, Gain | Shift) and node.is_kept and node.parameter:
            reasons[node.parameter] = "goes through a function first, and is read as it stands"
    gains = {n.parameter for n in trace.nodes if isinstance(n, Gain)}
    for node in trace.nodes:
        if isinstance(node, Shift) and node.parameter and node.parameter in gains:
            reasons[node.parameter] = "is a gain and an offset at once"
    for p in trace.parameters:
        if not p.is_trainable:
            reasons[p.name] = "frozen: requires_grad is False"
        elif 0 in p.shape:
            reasons[p.name] = "has no entries"
    for node in trace.nodes:
        if isinstance(node, Affine) and node.weight in reasons and node.bias:
            reasons.setdefault(node.bias, f"its weight {node.weight!r} keeps its values")
    return reasons


def _turned(law: Law) -> Law:
    """A law for a parameter of shape (in, out); linear layers have a matrix's."""
    assert not isinstance(law, Table | Taps | Turned | OffsetBias | SpreadBias)
    return Turned(law)


def _why_untouched(name: str, used: set[str]) -> str:
    if name in used:
        return "a gain of the model's own, which keeps its values"
    return "no operation of the model uses it"


def _where(stack: Stack) -> str:
    first, last = stack.affines[0].layer, stack.affines[-1].layer
    return f"layer {first}" if first == last else f"layers {first} to {last}"


class _Remarks:
    """What a reader should know: one note for each remark, however many places it concerns."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, None]] = {}

    def add(self, place: str, remark: str) -> None:
        self._places.setdefault(remark, {})[place] = None

    def notes(self) -> tuple[str, ...]:
        found = []
        for remark, places in self._places.items():
            first, *others = places
            more = f" and {len(others)} more" if others else ""
            found.append(f"{first}{more}: {remark}.")
        return tuple(found)


def _predictions(stack: Stack, number: int, expected: Expected) -> dict[int, Prediction]:
    """Predictions of a stack by the value that each layer makes."""
    by_layer = zip(
        expected.signal, expected.gradient, expected.log_std, expected.gradient_log_std,
        expected.correlation, expected.correlation_std or (0.0,) * len(stack.affines), strict=True,
    )  # fmt: skip
    return {
        a.output: Prediction(a.layer, a.weight, s, g, number, *rest)
        for a, (s, g, *rest) in zip(stack.affines, by_layer, strict=True)
    }


def _joined(chain: Stack, parts: Mapping[int, Part]) -> list[Part]:
    """The stacks of a chain that are planned so far, in order."""
    return [parts[a.output] for a in chain.affines if a.output in parts]


def _nothing(stack: Stack) -> Expected:
    return Expected.nothing(len(stack.affines), "")


def _as_drawn(
    stack: Stack, planned: StackPlan, laws: Mapping[str, tuple[Law, str]]
) -> tuple[StackPlan, bool]:
    """A plan with the law that an earlier use of its weight set, and whether it serves this one.

    A law is that of a matrix read one way, straight or turned round. A weight that is used several
    times is a stack of its own.
    """
    first = stack.affines[0]
    if first.weight not in laws:
        return planned, True
    law = laws[first.weight][0]
    if first.is_turned != isinstance(law, Turned):
        return planned, False
    drawn = law.matrix if isinstance(law, Turned) else law
    return replace(planned, weights=(drawn,), expected=None), True


def _before_pools(stack: Stack, inputs: Inputs, expected: Expected) -> Expected:
    """Expectations without signals behind means over many sites, where these are not known.

    How much such a mean leaves depends on how alike sites are.
    """
    if inputs.rows.size or inputs.maps.size:
        return expected
    for place, hidden in enumerate(stack.hidden):
        pools = (*hidden.early_pools, *hidden.pools)
        if any(p.kind == "average" and math.prod(p.window) > _FEW_SITES for p in pools):
            known = expected.signal[: place + 1]
            unknown = (math.nan,) * (len(expected.signal) - len(known))
            return replace(expected, signal=known + unknown)
    return expected


def _keeps_silence(stack: Stack) -> bool:
    """Whether a stack makes nothing of nothing, as long as its biases are 0."""
    functions = [h.activation for h in stack.hidden]
    return all(f.value_at_zero == 0.0 for f in (*functions, stack.exit_activation))


def _weight_reason(place: int, stack: Stack, planned: StackPlan) -> str:
    if stack.depth == 0:
        return planned.reason
    if place == 0:
        return "brings the inputs to the level of the stack"
    if place == stack.depth:
        return "brings the stack to its output scale"
    return f"keeps the signal after {stack.hidden[place - 1].activation}"
