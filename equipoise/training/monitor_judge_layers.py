"""What is wrong in layers while they train, from what steps that are looked at closely show."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from equipoise.drift import fit_drift
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding
from equipoise.rules.travel import travels
from equipoise.rules.units import in_units, tells_units
from equipoise.rules.zeros import Zeros
from equipoise.training.monitor_limits import (
    DEAD,
    DRIFT,
    DRIFT_ERRORS,
    DRIFT_READINGS,
    DYING_RISE,
    LOUD_LOGIT,
    LOW_ENTROPY,
    PERSISTS,
    SILENT_LOOKS,
)
from equipoise.training.monitor_row import Reading

_TRAVELS = ("vanishing-signal", "exploding-signal", "vanishing-gradient", "exploding-gradient")
_STOPS = ("vanished-signal", "vanished-gradient")
_UNITS = ("dead-units", "saturation")
_CURES = {
    "vanishing": "Normalize between these layers or add skips; what starts in balance "
    "(equipoise.torch.initialize) has no need of it.",
    "exploding": "Lower the learning rate or normalize between these layers, and start in balance "
    "(equipoise.torch.initialize).",
    "vanished": "Look for dead units, a detach or weights of 0 there.",
    # Measured by ``benchmarks/dying_relu.py``.
    "dead": "Go on from an earlier checkpoint with a learning rate ten times lower; a clip "
    "(GlobalNorm) helps less. A slope below 0 (LeakyReLU) and a bias of 0 at {0!r} do not stop it.",
    "born": "These units were silent before the first step: set the bias of {0!r} to 0, or start "
    "in balance (equipoise.torch.initialize). A lower rate, a clip or a slope of 0.01 below 0 "
    "(LeakyReLU) leaves them as they are.",
    "saturation": "Lower the learning rate, shrink the weight of {0!r}, or normalize in front of "
    "its activation.",
}  # fmt: skip
_SURE = (
    "If targets lie at its limits the model has grown sure, and the loss is best computed from "
    "what comes before the activation (cross_entropy, binary_cross_entropy_with_logits); otherwise "
    "lower the learning rate."
)
# Readings that a trend is fitted to.
_TREND = 32


class Layers:
    """Compares layers with each other and with what they were."""

    def __init__(self) -> None:
        self._in_a_row: dict[tuple[str, str], int] = {}
        self._dead: dict[str, list[float]] = {}
        # Share of the units that said nothing when a layer was first looked at.
        self._born: dict[str, float] = {}
        self._starts: dict[tuple[str, str], list[float]] = {}
        self._trends: dict[tuple[str, str], deque[float]] = {}

    def judge(self, one: Reading, weights: dict[str, float]) -> list[Finding]:
        """What a step that was looked at closely says.

        Args:
            one: the step; all of its numbers are finite.
            weights: norm of the weights of each layer.
        """
        drifts = self._drifts(one, weights)
        return self._lasting([*self._rules(one), *self._dying(one), *_attention(one), *drifts])

    def _rules(self, one: Reading) -> list[Finding]:
        """The rules of the diagnosis at birth that hold in training as well."""
        if not one.layers:
            return []
        # How loud queries and keys are, and how little gradient gets back to them, is theirs.
        ordinary = tuple(x for x in one.layers if x.layer not in one.quiet)
        measured = _measurements(ordinary)
        found = [
            f for f in travels(measured, _cure(""), Zeros())
            if f.code in _STOPS or (f.code in _TRAVELS and f.severity == "error")
        ]  # fmt: skip
        for x in one.layers:
            self._born.setdefault(x.layer, x.dead)
        ends = _measurements(one.layers).makes_output
        lasting = tuple(
            replace(x, dead=_dead(one, x), saturation=0.0 if is_end else x.saturation)
            for x, is_end in zip(one.layers, ends, strict=True)
        )
        found += _units(lasting)
        found = [replace(f, remedy=self._cure(f)) for f in found]
        # A model that has grown sure is flat at its end, and that may be all there is to it.
        sure = (replace(x, dead=0.0) for x, is_end in zip(one.layers, ends, strict=True) if is_end)
        found += [replace(f, severity="info", remedy=_SURE) for x in sure for f in _units((x,))]
        return [replace(f, what=f"in step {one.step} {f.what}") for f in found]

    def _cure(self, found: Finding) -> str:
        is_born_so = found.code == "dead-units" and self._born.get(found.where, 0.0) >= DEAD
        word = "born" if is_born_so else found.code.partition("-")[0]
        return _CURES[word].format(found.where)

    def _dying(self, one: Reading) -> list[Finding]:
        found = []
        for x in one.layers:
            first = self._dead.setdefault(x.layer, [])
            dead = one.dead.get(x.layer, 0.0)
            if len(first) < SILENT_LOOKS:
                first.append(dead)
                continue
            # Those before these have not heard enough looks to tell.
            start = statistics.median(first[PERSISTS:])
            # What the rule for dead units says need not be said twice.
            if (
                dead - start < DYING_RISE
                or dead >= DEAD
                or not tells_units(_measurements((x,)), x.sites)
            ):
                continue
            found.append(
                Finding("dying-units", "warning", x.layer,
                        f"up to step {one.step} units die: they give 0 on the whole batch",
                        f"about {start:.0%} of the units, as at first", f"{dead:.0%}",
                        _CURES["dead"].format(x.layer))
            )  # fmt: skip
        return found

    def _lasting(self, found: Sequence[Finding]) -> list[Finding]:
        """Those that were found often enough in a row."""
        now = {(f.code, f.where) for f in found}
        self._in_a_row = {key: self._in_a_row.get(key, 0) + 1 for key in now}
        return [
            f for f in found
            if self._in_a_row[f.code, f.where] >= _needed(f)
        ]  # fmt: skip

    def _drifts(self, one: Reading, weights: dict[str, float]) -> list[Finding]:
        """Signals and weights that are far from what they were."""
        # How loud an output is, is a choice, and it grows as a model grows sure.
        hidden = _measurements(one.layers).hidden
        signals = {x.layer: x.signal for x in hidden if x.layer not in one.quiet}
        found = []
        for layer, (then, now, trend) in self._compared("signal", signals).items():
            found.append(
                Finding("signal-drift", "warning", layer,
                        f"up to step {one.step} the signal has moved far from where it began",
                        f"RMS within a factor {DRIFT:g} of {then:.3g}", f"RMS {now:.3g}, {trend}",
                        "Normalize in front of this layer, lower the learning rate, or add weight "
                        "decay.")
            )  # fmt: skip
        for layer, (then, now, trend) in self._compared("weight", weights).items():
            found.append(
                Finding("weight-drift", "warning", layer,
                        f"up to step {one.step} the weights have moved far from where they began",
                        f"a norm within a factor {DRIFT:g} of {then:.3g}", f"{now:.3g}, {trend}",
                        "Lower the learning rate or add weight decay.")
            )  # fmt: skip
        return found

    def _compared(
        self, kind: str, numbers: dict[str, float]
    ) -> dict[str, tuple[float, float, str]]:
        found = {}
        for layer, number in numbers.items():
            if not 0 < number < math.inf:
                continue
            key = kind, layer
            start = self._starts.setdefault(key, [])
            trend = self._trends.setdefault(key, deque(maxlen=_TREND))
            trend.append(math.log(number))
            if len(start) < DRIFT_READINGS:
                # What starts at 0 grows by any factor; it is compared from where it slows down.
                if start and number > 2 * start[-1]:
                    start.clear()
                start.append(number)
                continue
            then = statistics.median(start)
            if abs(math.log(number / then)) < math.log(DRIFT):
                continue
            fit = fit_drift(list(trend))
            is_sure = abs(fit.per_layer) > DRIFT_ERRORS * fit.error
            words = f"{fit.per_layer:+.2g} nats a reading" if is_sure else "with no trend just now"
            found[layer] = then, number, words
        return found


def _needed(finding: Finding) -> int:
    """Readings in a row before something is said."""
    # A layer of which nothing is left needs no second look; at birth a head of zeros cuts
    # gradients off for one step.
    if finding.code == "dead-units":
        return 1
    return 2 if finding.code in _STOPS else PERSISTS


def _dead(one: Reading, x: LayerMeasurement) -> float:
    """Share of dead units as the rule reads it: none where they are few enough for training."""
    share = 1.0 if x.dead == 1.0 else one.dead.get(x.layer, 0.0)
    return share if share >= DEAD else 0.0


def _units(layers: tuple[LayerMeasurement, ...]) -> list[Finding]:
    found = in_units(_measurements(layers), {}, _cure("dead"), Zeros())
    return [f for f in found if f.code in _UNITS]


def _attention(one: Reading) -> list[Finding]:
    return [
        Finding("attention-collapse", "warning", layer,
                f"in step {one.step} softmax chooses nearly one key for each query",
                f"an entropy above {LOW_ENTROPY:.0%} of that of all keys, or logits below "
                f"{LOUD_LOGIT:g}", f"{entropy:.1%}, largest logit {logit:.3g}",
                "Normalize queries and keys, lower the learning rate, or warm it up.")
        for layer, (logit, entropy) in one.scores.items()
        if logit > LOUD_LOGIT and entropy < LOW_ENTROPY
    ]  # fmt: skip


def _measurements(layers: tuple[LayerMeasurement, ...]) -> Measurements:
    """A step in the form that the rules of the diagnosis read."""
    rows = max((x.distinct_inputs for x in layers), default=0)
    return Measurements(layers, math.nan, math.nan, math.nan, 1.0, True, rows)


def _cure(word: str) -> Callable[[str], str]:
    def cure(layer: str) -> str:
        return _CURES.get(word, "").format(layer)

    return cure
