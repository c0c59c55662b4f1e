"""From a trace to a plan: every parameter is assigned a law or left alone with a reason."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from equipoise.errors import PlanError
from equipoise.plan.adapters import Adapters
from equipoise.plan.aim import NOT_FOR_DERIVATIVES, OUTPUT_UNMET, UNMET, Aim
from equipoise.plan.backward import gradients
from equipoise.plan.behind import Behind, Draws, Observer
from equipoise.plan.branch_book import set_exit
from equipoise.plan.branch_plan import BranchLaws
from equipoise.plan.chain import Chain
from equipoise.plan.entry import Inputs
from equipoise.plan.forms import gain_is_known, unfit_forms
from equipoise.plan.fourier import SECOND_MOMENT, bandwidths, fourier_features
from equipoise.plan.independent import plan_apart
from equipoise.plan.law_book import LawBook
from equipoise.plan.levels import Levels
from equipoise.plan.nodes import Affine, Merge, Opaque
from equipoise.plan.nodes import uses as uses_of
from equipoise.plan.odds import Outlook, outlook
from equipoise.plan.offset_plan import offset_for_few
from equipoise.plan.plan import Assignment, Plan, Prediction, Untouched
from equipoise.plan.plan_stack import expected_at_exit, plan_stack
from equipoise.plan.predict import expect, forget_alike
from equipoise.plan.predict_joined import Part, entering, expect_chain
from equipoise.plan.reasons import (
    Remarks,
    unplannable,
    why_untouched,
)
from equipoise.plan.residual_rules import rule_named
from equipoise.plan.scores import HALF, QuietScores
from equipoise.plan.shared import beyond_telling, shared_feeds
from equipoise.plan.stack_plan import Expected
from equipoise.plan.stacks import Stack, find_chains, find_stacks
from equipoise.plan.telling import as_drawn, before_pools, leaving
from equipoise.plan.trace import Trace
from equipoise.plan.vectors import VectorLaws, as_head
from equipoise.schemes.catalogue import parse_scheme
from equipoise.schemes.laws import (
    Array,
    Frame,
    Zero,
)

_NO_AIM = Aim()
_NOTHING_KEPT: Mapping[str, str] = {}
_SHALLOW = 2
_RESET = (Zero(), "starts at 0; its weight keeps its values")


def make_plan(
    trace: Trace,
    scheme: str = "auto",
    samples: Mapping[int, Array] | None = None,
    aim: Aim = _NO_AIM,
    residual: str = "auto",
    kept: Mapping[str, str] = _NOTHING_KEPT,
    observer: Observer | None = None,
) -> Plan:
    """A law for each parameter of a traced model.

    Args:
        trace: the model.
        scheme: name of a scheme, with options in brackets (``schemes.catalogue``).
        samples: values of the model's inputs by value number, shape (rows, ...); what is left out
            is taken to have RMS 1.
        aim: what the model is for; read by ``auto``, and by ``centred``, ``mirrored`` and
            ``shifted`` as far as they leave it open.
        residual: rule for residual branches (``plan.residual_rules``).
        kept: parameters that are to keep their values, with the reason.
        observer: runs the model on real inputs, for what enters behind parameters that keep their
            values; None where there are none to run it on.

    Returns:
        The plan.

    Raises:
        ArgumentError: for an unknown scheme or rule.
        PlanError: if a scheme or rule cannot serve this model, or the inputs are all 0.
    """
    scheme_name = parse_scheme(scheme).name
    rule_named(residual)
    forget_alike()
    parameters = {p.name: p for p in trace.parameters}
    features = fourier_features(trace)
    fixed = bandwidths(features) | unplannable(trace, kept) | unfit_forms(trace)
    adapters = Adapters(trace, frozenset(fixed))
    held = frozenset(fixed) | adapters.weights
    stacks = find_stacks(trace, held)
    feeds = shared_feeds(stacks)
    beyond = beyond_telling(trace, feeds)
    given = [rows for rows in (samples or {}).values() if rows.size]
    if given and not any(rows.any() for rows in given):
        raise PlanError(
            "inputs must not be all 0, got RMS 0. Pass inputs of the scale that the model will be "
            "trained on."
        )
    levels = Levels(trace, samples or {}, frozenset(fixed))
    # Each row meets one of several matrices: that is no second use.
    uses = Counter(n.weight for n in trace.nodes if isinstance(n, Affine) and not n.several)

    laws = dict(adapters.laws)
    frames: dict[str, Frame] = {}
    arrays: dict[str, Array] = {}
    fed: dict[int, str] = {}
    remarks, warnings = Remarks(), Remarks()
    chains = find_chains(trace, held)
    chain_of = {a.output: chain for chain in chains for a in chain.affines}
    parts: dict[int, Part] = {}
    starting = {stack.affines[0].output: stack for stack in stacks}
    vectors = VectorLaws(trace, levels, held, aim)
    draws = Draws(trace, fixed.keys(), (vectors.laws, laws), frames, arrays)
    levels.look_behind(Behind(trace, fixed.keys(), observer, draws))
    forms = {p.name: p.form for p in trace.parameters if p.is_gain_fixed}
    branches = BranchLaws(trace, stacks, residual, scheme_name, held | forms.keys())
    quiet = QuietScores(trace, scheme_name == "auto", held | forms.keys())
    book = LawBook(laws, frames, arrays, starting)
    for node in trace.nodes:
        if isinstance(node, Merge):
            branches.at_sum(node, levels, vectors, parts)
            book.enter(parts)
        if not isinstance(node, Affine):
            vectors.plan(node)
            continue
        stack = starting.get(node.output)
        if stack is None:
            continue
        if stack.affines[0].weight in fixed:
            # Its values are the user's: what it sends on is seen, or not known, but for sines.
            laws.update((a.bias, _RESET) for a in stack.affines if a.bias and a.bias not in fixed)
            for known in features[node.output].outputs if node.output in features else ():
                levels.set_level(known, SECOND_MOMENT)
            continue
        if stack.affines[0].weight in adapters.weights:
            entering_level = levels.of(stack.entry_value)
            levels.set_level(stack.exit_value, adapters.fit(stack.affines[0], entering_level))
            laws.update({a.weight: adapters.laws[a.weight] for a in stack.affines})
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
            # Of rows that are silent no axes can be taken.
            inputs = Inputs(1.0, inputs.rows[:0], inputs.maps[:0])
        elif not levels.is_sure(stack.entry_value):
            remarks.add(where, "what enters may stray from what is planned for; nothing is told")
            is_known = False
        if levels.meets_itself(stack):
            remarks.add(
                where, "reads what its own weight made, turned round; that is not predicted"
            )
            is_known = False
        weight = stack.affines[0].weight
        form = forms.get(weight, "")
        planned = plan_stack(stack, scheme, inputs, uses[weight], aim, form, feeds[weight])
        if scheme == "auto" and not stack.hidden:
            planned = offset_for_few(stack, planned, inputs, branches.begin_at(stack.exit_value))
        if weight in vectors.laws:
            planned = plan_apart(
                stack, [as_head(vectors.laws[weight][0])], inputs, "its weight is an embedding too"
            )
        else:
            planned = quiet.at_stack(stack, branches.at_stack(stack, planned))
        if form and not gain_is_known(stack.affines[0]):
            remarks.add(where, f"{form} divides by a norm of the weight that is not predicted")
            is_known = False
        if is_known and levels.is_seen(stack.entry_value):
            rms = math.sqrt(inputs.mean_square)
            fed[stack.affines[0].output] = (
                f"; fed by parameters that keep their values, at RMS {rms:.3g} as measured"
            )
        if planned.warning:
            # Through a layer or two a signal without a stable level still arrives.
            grave = planned.is_unstable and stack.depth > _SHALLOW
            unmet = UNMET in planned.warning or planned.warning == OUTPUT_UNMET
            (warnings if grave or unmet else remarks).add(where, planned.warning)
        if aim.for_derivatives and scheme_name != "auto":
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
        planned, is_own = as_drawn(stack, planned, laws)
        is_known &= is_own
        expected = expect(stack, planned, inputs) if is_known else _nothing(stack)
        expected = before_pools(stack, inputs, expected)
        told, is_told = expected, is_known
        if is_known and stack.affines[0].output in beyond:
            remarks.add(where, "what chance does in one use of a shared weight it does in all")
            told, is_told = _nothing(stack), False
        leaves, is_sure = leaving(stack, planned, expected, levels.of(stack.entry_value))
        planned = quiet.at_rows(stack, planned)
        parts_of_it, quieter = quiet.levels_of_parts(stack, planned)
        told = expected_at_exit(told, quieter)
        part = Part(planned, inputs, told, is_told, leaves, is_sure)
        parts[stack.affines[0].output] = part
        set_exit(levels, stack, leaves, is_sure)
        for value in parts_of_it:
            levels.set_level(value, (HALF * leaves) ** 2, is_sure)
        branches.at_head(stack, levels)
        book.enter(parts)

    book.silence(branches.silent, residual)
    choices = [branches.choice + "."] if branches.choice else []
    choices += [
        f"{_where(starting[key])}: {part.planned.reason}{fed.get(key, '')}."
        for key, part in parts.items()
    ]
    for where, remark in branches.remarks:
        remarks.add(where, remark)

    choices += vectors.choices
    predictions: dict[int, Prediction] = {}
    outlooks: list[Outlook] = []
    followed: list[Chain] = []
    for chain in chains:
        joined = _joined(chain, parts)
        expected = expect_chain(chain, joined) if joined else _nothing(chain)
        if joined:
            expected = before_pools(chain, joined[0].inputs, expected)
        for place, affine in enumerate(chain.affines):
            if affine.output in branches.silent:
                expected = expected.silent_at(place)
        followed.append(Chain(chain, joined[0] if joined else None, expected))
        if joined:
            outlooks.append(outlook(_where(chain), expected))
        if expected.note:
            remarks.add(_where(chain), expected.note)

    across = gradients(trace, levels, followed)
    for number, chain in enumerate(chains):
        predictions |= _predictions(chain, number, followed[number].expected, across)

    used = {name for node in trace.nodes for name in uses_of(node)}
    assignments, untouched = [], []
    for name, parameter in parameters.items():
        if name in fixed:
            untouched.append(Untouched(name, parameter.shape, fixed[name]))
        elif name in laws or name in vectors.laws:
            # A table that is the head too is drawn as a table, padding and all.
            law, reason = vectors.laws.get(name) or laws[name]
            if parameter.form:
                reason = f"{reason}; written through {parameter.form}"
            assignments.append(Assignment(name, parameter.shape, law, reason))
        else:
            untouched.append(Untouched(name, parameter.shape, why_untouched(name, used)))
    if observer is not None and observer.failure:
        remarks.add(
            "the model",
            f"its operations could not be run one by one ({observer.failure}), so that it is not "
            "known what parameters make that keep their values",
        )
    if trace.why_recorded:
        remarks.add(
            "the model",
            f"export cannot follow its forward ({trace.why_recorded}), so one real forward "
            "was recorded; what is said holds for the branches that these inputs take",
        )
    for node in trace.nodes:
        if isinstance(node, Opaque):
            remarks.add(node.layer or "the model", f"not read, {node.reason}")
    in_order = [predictions[n.output] for n in trace.nodes if isinstance(n, Affine)]
    plan = Plan(
        scheme, tuple(choices), tuple(assignments), tuple(untouched), tuple(frames.values()),
        arrays, tuple(in_order), remarks.notes(), warnings.notes(), tuple(outlooks),
        aim=aim, residual=residual, silent=branches.silent_names(),
    )  # fmt: skip
    plan.verify_complete(trace.parameters)
    return plan


def _where(stack: Stack) -> str:
    first, last = stack.affines[0].layer, stack.affines[-1].layer
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _predictions(
    stack: Stack, number: int, expected: Expected, across: Mapping[int, float]
) -> dict[int, Prediction]:
    """Predictions of a chain by the value that each layer makes."""
    by_layer = zip(
        expected.signal, expected.gradient, expected.log_std, expected.gradient_log_std,
        expected.correlation, expected.correlation_std or (0.0,) * len(stack.affines), strict=True,
    )  # fmt: skip
    return {
        a.output: replace(
            Prediction(a.layer, a.weight, s, g, number, *rest),
            across=across.get(a.output, math.nan),
        )
        for a, (s, g, *rest) in zip(stack.affines, by_layer, strict=True)
    }


def _joined(chain: Stack, parts: Mapping[int, Part]) -> list[Part]:
    """The stacks of a chain that are planned so far, in order."""
    return [parts[a.output] for a in chain.affines if a.output in parts]


def _nothing(stack: Stack) -> Expected:
    return Expected.nothing(len(stack.affines), "")
