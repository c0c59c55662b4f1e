"""What is wrong with a network as a whole: inputs that become alike, outputs, loss, targets."""

import math

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding, Severity
from equipoise.rules.remedy import Remedy

_COLLAPSED, _COLLAPSING = 0.999, 0.98
# One direction is left where the participation ratio is below the first of these, though inputs and
# widths allow more than the second. Of a layer's units mirrored pairs make half by design.
_ONE_DIRECTION, _SEVERAL, _PAIRED = 1.5, 3.0, 0.5
# Share of the output that differs between inputs, below which float32 tells none apart.
_CONSTANT, _VARIED = 1e-9, 1e-6
# Nats above the loss of a guess.
_ABOVE_CHANCE = 1.0


def on_the_whole(m: Measurements, remedy: Remedy) -> list[Finding]:
    """Findings on what is left of the differences between inputs, on outputs, loss and data."""
    return [
        *_correlation(m, remedy),
        *_rank(m, remedy),
        *_constant(m, remedy),
        *_loss(m),
        *_targets(m),
        *_inputs(m),
    ]


def _correlation(m: Measurements, remedy: Remedy) -> list[Finding]:
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
                remedy(first.layer))
    ]  # fmt: skip


def _rank(m: Measurements, remedy: Remedy) -> list[Finding]:
    hidden = [x for x in m.hidden if math.isfinite(x.rank)]
    if len(hidden) < 2 or hidden[-1].rank >= _ONE_DIRECTION:
        return []
    narrowest = min(hidden, key=_by_directions)
    if min(hidden[0].rank, _PAIRED * narrowest.most_directions) < _SEVERAL:
        return []
    last = hidden[-1]
    first = next(x for x in hidden if x.rank < _ONE_DIRECTION)
    return [
        Finding("rank-collapse", "warning", first.layer,
                "what tells inputs apart has shrunk to one direction at most",
                f"a participation ratio of several: the first layer has {hidden[0].rank:.1f}, and "
                f"{narrowest.layer!r}, the narrowest, {narrowest.most_directions} directions",
                f"{last.rank:.2f}, with {last.directions} of {last.most_directions} directions "
                "above 1e-3 of the largest", remedy(first.layer))
    ]  # fmt: skip


def _by_directions(x: LayerMeasurement) -> int:
    return x.most_directions


def _constant(m: Measurements, remedy: Remedy) -> list[Finding]:
    if not m.layers or not m.output_input_share < _CONSTANT or m.output_rms == 0.0:
        return []
    if not m.layers[0].input_share > _VARIED:
        return []
    return [
        Finding("constant-output", "error", "output", "the output is the same for all inputs",
                "an output that depends on the input",
                f"{m.output_input_share:.1g} of its mean square differs between inputs",
                remedy(m.layers[-1].layer))
    ]  # fmt: skip


def _loss(m: Measurements) -> list[Finding]:
    """A guess that knows nothing loses ln C; logits of variance s^2 lose about s^2 / 2 more."""
    if not m.classes or not m.loss > math.log(m.classes) + _ABOVE_CHANCE or not m.layers:
        return []
    head = m.layers[-1]
    return [
        Finding("loss-above-chance", "warning", head.layer,
                "the loss is worse than that of a guess",
                f"at most ln {m.classes} + {_ABOVE_CHANCE:g} = "
                f"{math.log(m.classes) + _ABOVE_CHANCE:.2f}", f"{m.loss:.3g}",
                f"Multiply weight and bias of {head.layer!r} by "
                f"{1 / max(m.output_rms, 1e-300):.2g}: logits of RMS {m.output_rms:.3g} are "
                "confident of the wrong class. Or check that the targets belong to these inputs.")
    ]  # fmt: skip


def _targets(m: Measurements) -> list[Finding]:
    found = []
    if m.target_problem:
        found.append(
            Finding("targets-out-of-range", "error", "targets", m.target_problem,
                    f"class numbers from 0 to {m.classes - 1}" if m.classes else "finite targets",
                    "no loss can be computed; gradients are of a random cotangent",
                    "Number classes from 0 on, and give the last layer one output for each."
                    if m.classes else "Remove these rows from the data.")
        )  # fmt: skip
    elif _is_far(m.target_rms, m.target_mean):
        found.append(
            Finding("target-scale", "info", "targets", "the targets are far from mean 0 and RMS 1",
                    "mean near 0, RMS near 1",
                    f"mean {m.target_mean:.3g}, RMS {m.target_rms:.3g}",
                    "Standardize them, or put their mean into the last bias and their spread into "
                    "the last weight.")
        )  # fmt: skip
    return found


def _inputs(m: Measurements) -> list[Finding]:
    if not _is_far(m.input_rms, m.input_mean):
        return []
    return [
        Finding("input-scale", "info", "inputs", "the inputs are far from mean 0 and RMS 1",
                "mean near 0, RMS near 1", f"mean {m.input_mean:.3g}, RMS {m.input_rms:.3g}",
                "Standardize them: the first layer trains faster.")
    ]  # fmt: skip


def _is_far(rms: float, mean: float) -> bool:
    """Whether numbers are far from mean 0 and RMS 1; nan and all zeros are not."""
    spread = math.sqrt(max(0.0, rms**2 - mean**2)) if math.isfinite(rms) else math.nan
    return rms > 0 and (rms > 30 or rms < 0.03 or abs(mean) > 3 * spread)
