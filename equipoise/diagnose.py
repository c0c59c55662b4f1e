"""From measurements to findings: what is wrong, where, and what to do about it. Framework-free."""

from collections.abc import Sequence
from dataclasses import replace

from equipoise.measurement import Measurements
from equipoise.plan.plan import Plan
from equipoise.plan.selection import KEPT
from equipoise.plan.stacks import Stack
from equipoise.rules.against_plan import Expectation, against_plan, expected_by_layer, limits
from equipoise.rules.alike import alike
from equipoise.rules.finding import CODES, Finding, Severity
from equipoise.rules.remedy import activation_names, remedies
from equipoise.rules.travel import travels
from equipoise.rules.units import empty_layers, in_units
from equipoise.rules.whole import on_the_whole
from equipoise.rules.zeros import zeros_on_purpose

__all__ = [
    "CODES",
    "Expectation",
    "Finding",
    "Severity",
    "diagnose",
    "expected_by_layer",
]

_CHOSEN = "It keeps its values by choice; what is drawn behind it starts from what it makes."


def diagnose(
    measurements: Measurements, plan: Plan | None = None, stacks: Sequence[Stack] = ()
) -> tuple[Finding, ...]:
    """Findings of a network at birth, the gravest first.

    Args:
        measurements: one forward and one backward pass.
        plan: what was expected, if the network was planned.
        stacks: the stacks of its layers, as far as known; they make the remedies particular.

    Returns:
        The findings; empty for a network in balance.
    """
    remedy = remedies(plan, stacks)
    findings = empty_layers(measurements)
    # A layer without units has no numbers of its own to judge.
    judged = tuple(x for x in measurements.layers if x.entries)
    measurements = replace(measurements, layers=judged)
    zeros = zeros_on_purpose(measurements, stacks, plan)
    findings += [
        *travels(measurements, remedy, zeros),
        *in_units(measurements, activation_names(stacks), remedy, zeros),
        *alike(measurements, remedy, zeros, plan, stacks),
        *on_the_whole(measurements),
    ]
    if plan is not None:
        findings = _without_blame(findings, measurements, plan)
        findings += [*against_plan(measurements, plan), *limits(plan)]
    order = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda f: order[f.severity]))


def _without_blame(
    findings: Sequence[Finding], measurements: Measurements, plan: Plan
) -> list[Finding]:
    """Findings with no warning of a layer that was chosen to stay as it is; errors remain."""
    kept = {u.parameter for u in plan.untouched if u.reason.startswith(KEPT)}
    places = kept | {layer.layer for layer in measurements.layers if layer.weight in kept}
    return [
        replace(f, severity="info", remedy=_CHOSEN)
        if f.severity == "warning" and f.where in places
        else f
        for f in findings
    ]
