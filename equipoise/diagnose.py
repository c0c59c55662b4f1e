"""From measurements to findings: what is wrong, where, and what to do about it. Framework-free."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Plan, Prediction

Severity = Literal["error", "warning", "info"]

# A factor of 1e3 from one end of a network to the other is beyond what Adam's rescaling or any
# single learning rate evens out; 30 slows training visibly.
_SEVERE, _NOTABLE = 1e3, 30.0
_COLLAPSED, _COLLAPSING = 0.999, 0.98
_SATURATED = 0.5
_DEAD = 0.5
# A plan's expectation may be off by this factor beyond three standard deviations of the draw.
_SLACK = 2.0
_START_ANEW = "Initialize with scheme='auto'."


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    Attributes:
        code: stable name of the rule.
        severity: ``error`` (will not train), ``warning`` (trains badly) or ``info``.
        where: name of a layer, parameter or input.
        what: the fact, in words.
        expected: what it should be, '' where the fact is all there is.
        observed: what it is.
        remedy: what to do, one line.
    """

    code: str
    severity: Severity
    where: str
    what: str
    expected: str
    observed: str
    remedy: str

    def __str__(self) -> str:
        held = f" (expected {self.expected}, observed {self.observed})" if self.expected else ""
        return f"{self.severity} {self.code} at {self.where!r}: {self.what}{held}. {self.remedy}"


def diagnose(measurements: Measurements, plan: Plan | None = None) -> tuple[Finding, ...]:
    """Findings of a network at birth, the gravest first.

    Args:
        measurements: one forward and one backward pass.
        plan: what was expected, if the network was planned.

    Returns:
        The findings; empty for a network in balance.
    """
    remedy = _START_ANEW
    if plan is not None and plan.scheme == "auto":
        remedy = "Theory knows no better law for this stack: see the plan's choice and its notes."
    layers = measurements.layers
    output = layers[-1].layer if layers else ""
    findings = [
        *_not_measured(measurements),
        *_numbers(measurements, remedy),
        *_travel("signal", "from", ((x, x.signal) for x in layers), output, remedy),
        *_travel(
            "gradient", "back from", ((x, x.gradient) for x in reversed(layers)), output, remedy
        ),
        *_units(layers, remedy),
        *_correlation(measurements, remedy),
        *_inputs(measurements),
    ]
    if plan is not None:
        findings += [*_against_plan(measurements, plan), *_limits(plan)]
    order = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda f: order[f.severity]))


def _numbers(m: Measurements, remedy: str) -> list[Finding]:
    bad = next((x for x in m.layers if not math.isfinite(x.signal)), None)
    if bad is None and m.output_is_finite:
        return []
    where = bad.layer if bad else "output"
    return [
        Finding("non-finite", "error", where, "nan or infinity in the forward pass",
                "finite numbers", "not finite",
                f"{remedy} Or look for a division or logarithm in forward.")
    ]  # fmt: skip


@dataclass(frozen=True)
class _Stop:
    """A quantity at one layer: RMS over units, and norm up to a constant."""

    layer: str
    rms: float
    norm: float


def _travel(
    quantity: str,
    trip: str,
    seen: Iterable[tuple[LayerMeasurement, float]],
    output: str,
    remedy: str,
) -> list[Finding]:
    """Whether a quantity gets from where it starts to where it ends.

    Where widths change, an isometry changes the RMS and a map that keeps the RMS changes the norm:
    only what changes both by the same large factor is on its way out.

    Args:
        quantity: ``signal`` or ``gradient``.
        trip: where it comes from, in words.
        seen: layer and RMS in the order of the trip.
        output: name of the last layer.
        remedy: for whatever is found.
    """
    stops = [_Stop(x.layer, rms, rms * math.sqrt(x.width)) for x, rms in seen if math.isfinite(rms)]
    if len(stops) < 2:
        return []
    # How loud the output is, is a choice: it is no part of the trip.
    hidden = [stop for stop in stops if stop.layer != output]
    zero = next((stop.layer for stop in stops if stop.rms == 0.0), None)
    if zero is not None:
        return [
            Finding(f"vanished-{quantity}", "error", zero,
                    f"the {quantity} is exactly 0 here and wherever it would go from here",
                    f"a {quantity}", "RMS 0", remedy)
        ]  # fmt: skip
    if len(hidden) < 2:
        return []
    start = hidden[0]
    factors: tuple[tuple[str, Callable[[_Stop], float]], ...] = (
        ("vanishing", lambda s: min(start.rms / s.rms, start.norm / s.norm)),
        ("exploding", lambda s: min(s.rms / start.rms, s.norm / start.norm)),
    )
    findings = []
    for word, factor in factors:
        worst = max(hidden, key=factor)
        if factor(worst) >= _NOTABLE:
            findings.append(
                Finding(f"{word}-{quantity}",
                        "error" if factor(worst) >= _SEVERE else "warning", worst.layer,
                        f"the {quantity} is {word} on its way {trip} {start.layer!r}",
                        f"RMS within a factor {_NOTABLE:g} of {start.rms:.3g}",
                        f"RMS {worst.rms:.3g}", remedy)
            )  # fmt: skip
    return findings


def _units(layers: Sequence[LayerMeasurement], remedy: str) -> list[Finding]:
    findings = []
    dead = max(layers, key=lambda x: x.dead, default=None)
    if dead is not None and dead.dead >= _DEAD:
        findings.append(
            Finding("dead-units", "error" if dead.dead == 1.0 else "warning", dead.layer,
                    "units give 0 on the whole batch", f"fewer than {_DEAD:.0%} of the units",
                    f"{dead.dead:.0%}", remedy)
        )  # fmt: skip
    flat = max(layers, key=lambda x: x.saturation, default=None)
    if flat is not None and flat.saturation >= _SATURATED:
        findings.append(
            Finding("saturation", "warning", flat.layer,
                    "entries sit where the activation is flat", f"fewer than {_SATURATED:.0%}",
                    f"{flat.saturation:.0%}", remedy)
        )  # fmt: skip
    return findings


def _correlation(m: Measurements, remedy: str) -> list[Finding]:
    """Different inputs that have become one direction carry nothing to tell them apart."""
    last = next((x for x in reversed(m.layers) if math.isfinite(x.correlation)), None)
    start = m.input_correlation
    if last is None or not start < _COLLAPSING or last.correlation < _COLLAPSING:
        return []
    if 1.0 - last.correlation > 0.1 * (1.0 - start):
        return []
    first = next(x for x in m.layers if x.correlation >= _COLLAPSING)
    severity: Severity = "error" if last.correlation >= _COLLAPSED else "warning"
    return [
        Finding("lost-correlation", severity, first.layer,
                "different inputs give nearly the same output from here on",
                f"a mean cosine near that of the inputs, {start:.3f}", f"{last.correlation:.6f}",
                remedy)
    ]  # fmt: skip


def _inputs(m: Measurements) -> list[Finding]:
    spread = math.sqrt(max(0.0, m.input_rms**2 - m.input_mean**2))
    if m.input_rms > 0 and (
        m.input_rms > 30 or m.input_rms < 0.03 or abs(m.input_mean) > 3 * spread
    ):
        return [
            Finding("input-scale", "info", "inputs", "the inputs are far from mean 0 and RMS 1",
                    "mean near 0, RMS near 1", f"mean {m.input_mean:.3g}, RMS {m.input_rms:.3g}",
                    "Standardize them: the first layer trains faster.")
        ]  # fmt: skip
    return []


@dataclass(frozen=True)
class Expectation:
    """What a plan expects of one measured layer; nan where it expects nothing.

    Attributes:
        signal, gradient: RMS, the gradient for the cotangent of the measurement.
        log_std: standard deviation over draws of the log of either, nats.
    """

    signal: float
    gradient: float
    log_std: float


def expected_by_layer(m: Measurements, plan: Plan | None) -> tuple[Expectation, ...]:
    """The plan's expectation for each measured layer, matched by weight and turn of use."""
    waiting: dict[str, list[Prediction]] = {}
    for prediction in plan.predictions if plan else ():
        waiting.setdefault(prediction.weight, []).append(prediction)
    nothing = Prediction("", "", math.nan, math.nan, -1)
    found = [waiting[x.weight].pop(0) if waiting.get(x.weight) else nothing for x in m.layers]
    # Gradients are predicted relative to the last layer of their stack.
    ends = {p.stack: x.gradient for p, x in zip(found, m.layers, strict=True)}
    return tuple(Expectation(p.signal, p.gradient * ends[p.stack], p.log_std) for p in found)


def _against_plan(m: Measurements, plan: Plan) -> list[Finding]:
    """The worst disagreement of signal and of gradient with what the plan expects."""
    worst: dict[str, tuple[float, Finding]] = {}
    for seen, e in zip(m.layers, expected_by_layer(m, plan), strict=True):
        for name, observed, expected in (
            ("signal", seen.signal, e.signal), ("gradient", seen.gradient, e.gradient),
        ):  # fmt: skip
            if not (0 < observed < math.inf and 0 < expected < math.inf):
                continue
            excess = abs(math.log(observed / expected)) - 3 * e.log_std - math.log(_SLACK)
            if excess > worst.get(name, (0.0, None))[0]:
                worst[name] = (excess, Finding(
                    "prediction-missed", "warning", seen.layer,
                    f"the {name} is not what theory expects of this draw",
                    f"RMS {expected:.3g} within a factor {_SLACK * math.exp(3 * e.log_std):.2g}",
                    f"RMS {observed:.3g}",
                    "Check that the inputs are typical and that forward has no hidden scaling.",
                ))  # fmt: skip
    return [finding for _, finding in worst.values()]


def _not_measured(m: Measurements) -> list[Finding]:
    """What was not seen cannot be called in balance."""
    unseen = [x.layer for x in m.layers if math.isnan(x.gradient)]
    if m.layers and not unseen:
        return []
    what = "no linear layer was seen" if not m.layers else "no gradient reaches some layers"
    return [
        Finding("not-measured", "warning", unseen[0] if unseen else "model", what,
                "a signal and a gradient at every layer",
                f"{len(unseen)} of {len(m.layers)} layers without a gradient",
                "Pass the part of the model that is differentiable and made of linear layers.")
    ]  # fmt: skip


def _limits(plan: Plan) -> list[Finding]:
    """What the plan itself says of its limits."""
    remedy = "Predictions end here; the measurements do not."
    return [
        Finding("plan-limit", "info", place, what.rstrip("."), "", "", remedy)
        for place, _, what in (note.partition(": ") for note in plan.notes)
    ]
