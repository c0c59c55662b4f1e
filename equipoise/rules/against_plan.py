"""Measurements held against what a plan expects of them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.measurement import Measurements
from equipoise.plan.aim import NOT_FOR_DERIVATIVES
from equipoise.plan.plan import Plan, Prediction
from equipoise.rules.finding import Finding, Severity

# A plan's expectation may be off by this factor beyond three standard deviations of the draw.
_SLACK, _DEVIATIONS = 2.0, 3.0
# Gradients through a whole model are those of second moments, which no draw has to keep.
_SLACK_ACROSS = 3.0
# A mean cosine may be off by this much, and by this many standard deviations of a cosine between
# random directions.
_COSINE_SLACK, _COSINE_DEVIATIONS = 0.15, 3.0
_LIMIT = "The weights are drawn all the same; look at what was measured there."
_UNREAD = "Parameters there keep their values, and expectations end; look at what was measured."
# One layer may consist of many operations that are not read: they are named in one finding.
_OPERATION = re.compile(r"(.+?): not read, operation '(.+?)' of (\S+) is not modelled\.?$")
_INSTEAD = (
    "Use another activation, fewer layers, normalization or skip connections: no choice of weights "
    "mends it."
)
_FOR_DERIVATIVES = "Pass scheme='auto', or leave for_derivatives out."


@dataclass(frozen=True)
class Expectation:
    """What a plan expects of one measured layer; nan where it expects nothing.

    Attributes:
        signal, gradient: RMS, the gradient for the cotangent of the measurement.
        log_std, gradient_log_std: standard deviation over draws of the logs of the two, nats.
        correlation: mean cosine between outputs for different inputs.
        correlation_std: standard deviation over draws of that mean, 0 where it is not known.
        is_across: whether the gradient was followed from the outputs of the model, in second
            moments, and not within one chain of layers.
    """

    signal: float
    gradient: float
    log_std: float = 0.0
    gradient_log_std: float = 0.0
    correlation: float = math.nan
    correlation_std: float = 0.0
    is_across: bool = False


def predictions_by_layer(m: Measurements, plan: Plan | None) -> tuple[Prediction, ...]:
    """The plan's prediction for each measured layer, matched by weight and turn of use.

    A layer of which the plan says nothing gets one of stack -1 that is nan throughout.
    """
    waiting: dict[str, list[Prediction]] = {}
    for prediction in plan.predictions if plan else ():
        waiting.setdefault(prediction.weight, []).append(prediction)
    nothing = Prediction("", "", math.nan, math.nan, -1)
    return tuple(waiting[x.weight].pop(0) if waiting.get(x.weight) else nothing for x in m.layers)


def expected_by_layer(m: Measurements, plan: Plan | None) -> tuple[Expectation, ...]:
    """The plan's expectation for each measured layer, in the units of the measurement.

    Within a chain of layers gradients are expected relative to its last one, as followed layer by
    layer; at that one, and where a chain tells nothing, relative to those of the whole model.
    """
    found = predictions_by_layer(m, plan)
    ends = {p.stack: (i, x.gradient) for i, (p, x) in enumerate(zip(found, m.layers, strict=True))}
    scale, spread = _scale_across(m, found)
    expected = []
    for i, p in enumerate(found):
        last, gradient = ends[p.stack]
        within, across = p.gradient * gradient, p.across * scale
        is_across = math.isfinite(across) and (i == last or not math.isfinite(within))
        expected.append(
            Expectation(
                p.signal,
                across if is_across else within,
                p.log_std,
                spread if is_across else p.gradient_log_std,
                p.correlation,
                p.correlation_std,
                is_across,
            )
        )
    return tuple(expected)


def _scale_across(m: Measurements, found: Sequence[Prediction]) -> tuple[float, float]:
    """What a cotangent of RMS 1 at all outputs is in the measurement, and how far that may stray.

    It strays as all chains together do. nan for gradients of a loss, which need not look at all
    outputs alike.
    """
    begins = {p.stack: p.gradient_log_std for p in reversed(found)}
    spread = math.sqrt(sum(s * s for s in begins.values() if math.isfinite(s)))
    return m.cotangent, spread


def against_plan(m: Measurements, plan: Plan) -> list[Finding]:
    """The worst disagreement of signal, gradient and cosine with what the plan expects."""
    worst: dict[str, tuple[float, Finding]] = {}
    for seen, e in zip(m.layers, expected_by_layer(m, plan), strict=True):
        for name, observed, expected, log_std in (
            ("signal", seen.signal, e.signal, e.log_std),
            ("gradient", seen.gradient, e.gradient, e.gradient_log_std),
        ):
            if not (0 < observed < math.inf and 0 < expected < math.inf):
                continue
            slack = _SLACK_ACROSS if name == "gradient" and e.is_across else _SLACK
            allowed = _DEVIATIONS * log_std + math.log(slack)
            excess = abs(math.log(observed / expected)) - allowed
            if excess > worst.get(name, (0.0, None))[0]:
                factor = math.exp(allowed)
                worst[name] = excess, _missed(
                    seen.layer, name, f"RMS {expected:.3g} within a factor {factor:.2g}",
                    f"RMS {observed:.3g}", "warning",
                )  # fmt: skip
        chance = 1.0 / math.sqrt(max(1, seen.width * seen.sites)) + e.correlation_std
        slack = _COSINE_SLACK + _COSINE_DEVIATIONS * chance
        excess = abs(seen.correlation - e.correlation) - slack
        if excess > worst.get("cosine", (0.0, None))[0]:
            worst["cosine"] = excess, _missed(
                seen.layer, "cosine between inputs", f"{e.correlation:.3f} +- {slack:.2f}",
                f"{seen.correlation:.3f}", "info",
            )  # fmt: skip
    return [finding for _, finding in worst.values()]


def _missed(layer: str, name: str, expected: str, observed: str, severity: Severity) -> Finding:
    return Finding(
        "prediction-missed", severity, layer, f"the {name} is not what theory expects of this draw",
        expected, observed,
        "Check that the inputs are typical and that forward has no hidden scaling.",
    )  # fmt: skip


def limits(plan: Plan) -> list[Finding]:
    """What the plan itself says of its limits."""
    against = [text for text in plan.warnings if NOT_FOR_DERIVATIVES not in text]
    unmet = [text for text in plan.warnings if NOT_FOR_DERIVATIVES in text]
    return [
        *(_said("no-better-law", "warning", text, _INSTEAD) for text in against),
        *(_said("plan-limit", "warning", text, _FOR_DERIVATIVES) for text in unmet),
        *(
            _said("plan-limit", "info", text, _UNREAD if ": not read, " in text else _LIMIT)
            for text in _together(plan.notes)
        ),
    ]


def _together(notes: Sequence[str]) -> list[str]:
    """Notes on the operations of one layer, and of all layers that consist of the same, as one."""
    operations: dict[tuple[str, str], list[str]] = {}
    found: dict[str | tuple[str, str], None] = {}
    for note in notes:
        seen = _OPERATION.match(note)
        if seen is None:
            found[note] = None
            continue
        place, operation, module = seen.groups()
        operations.setdefault((place, module), []).append(repr(operation))
        found[place, module] = None
    return [key if isinstance(key, str) else _of_module(*key, operations[key]) for key in found]


def _of_module(place: str, module: str, operations: Sequence[str]) -> str:
    if len(operations) == 1:
        return f"{place}: not read, operation {operations[0]} of {module} is not modelled."
    named = ", ".join(operations[:3]) + (" and others" if operations[3:] else "")
    return f"{place}: not read, operations {named} of {module} are not modelled."


def _said(code: str, severity: Severity, text: str, remedy: str) -> Finding:
    place, _, what = text.partition(": ")
    return Finding(code, severity, place, what.rstrip("."), "", "", remedy)
