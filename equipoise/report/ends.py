"""What a plan expects at the end of each stack of layers, beside what was measured there."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equipoise._text import without_nan
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.odds import Outlook
from equipoise.plan.plan import Plan, Prediction
from equipoise.report.rows import number
from equipoise.rules.against_plan import predictions_by_layer

# Two hidden layers have three affine ones around them.
_LEAST_LAYERS = 3


@dataclass(frozen=True)
class End:
    """The last layer of a stack: expected and measured, nan where nothing is known.

    Attributes:
        expected: what the plan says of the stack.
        why_not: what the plan says of its limits there, or ''.
        signal: measured RMS of its output.
        gradient: measured RMS of the gradient at its first layer over that at its last.
        correlation: measured mean cosine between its outputs for different inputs.
    """

    expected: Outlook
    signal: float
    gradient: float
    correlation: float
    why_not: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Both sides as plain JSON types; nan becomes null."""
        measured = {
            "signal": self.signal, "gradient": self.gradient, "correlation": self.correlation,
        }  # fmt: skip
        expected = asdict(self.expected)
        found: dict[str, Any] = without_nan(
            {"where": expected.pop("where"), "expected": expected, "measured": measured}
        )
        return found

    def words(self) -> str:
        """Both sides in a sentence; what neither side knows is left out."""
        e = self.expected
        told = [
            _in_words(e.signal, e.gradient, e.correlation),
            draws_usable(e.odds, e.odds_error),
        ]
        expected = ", ".join(word for word in told if word)
        since = f", since {self.why_not}" if self.why_not else ""
        if not expected:
            expected = f"nothing{since or ', for theory does not reach it'}"
        elif math.isnan(e.signal):
            since = since or ", since one draw strays too far from another"
            expected = f"{expected}; the RMS at the output is not foretold{since}"
        measured = _in_words(self.signal, self.gradient, self.correlation) or "nothing"
        return f"{e.where}: expected {expected}; measured {measured}"


def ends(plan: Plan, measurements: Measurements) -> tuple[End, ...]:
    """The end of each stack that the plan has an outlook on, in the order of the plan.

    Stacks of fewer than two hidden layers are left out: from the first hidden layer to the last
    nothing travels, and what is expected of their layers stands beside each layer.
    """
    sizes: dict[int, list[str]] = {}
    for prediction in plan.predictions:
        sizes.setdefault(prediction.stack, []).append(prediction.layer)
    short = {_where(names[0], names[-1]) for names in sizes.values() if len(names) < _LEAST_LAYERS}
    runs: dict[int, list[tuple[Prediction, LayerMeasurement]]] = {}
    pairs = zip(predictions_by_layer(measurements, plan), measurements.layers, strict=True)
    for prediction, seen in pairs:
        runs.setdefault(prediction.stack, []).append((prediction, seen))
    # A stack is called by the names of its first and last layer.
    named = {(run[0][0].layer, run[-1][0].layer): (run[0][1], run[-1][1]) for run in runs.values()}
    at = {_where(*names): layers for names, layers in named.items()}
    found = []
    for one in plan.outlook:
        if one.where in short:
            continue
        why_not = _why_not(one.where, plan.notes)
        if one.where in at:
            first, last = at[one.where]
            ratio = first.gradient / last.gradient if last.gradient > 0 else math.nan
            found.append(End(one, last.signal, ratio, last.correlation, why_not))
        else:
            found.append(End(one, math.nan, math.nan, math.nan, why_not))
    return tuple(found)


def draws_usable(odds: float, error: float = 0.0) -> str:
    """The odds of a usable draw as so many of 100 draws, '' where they are not known.

    >>> draws_usable(0.973, 0.01), draws_usable(1.0, 0.005), draws_usable(0.0)
    ('97 +- 1 of 100 draws usable', 'more than 99 of 100 draws usable', 'no draw usable')
    """
    if math.isnan(odds):
        return ""
    if not error and odds in (0.0, 1.0):
        return "every draw usable" if odds else "no draw usable"
    share, unsure = round(100 * odds), round(100 * error)
    count = {0: "fewer than 1", 100: "more than 99"}.get(share, f"{share}")
    if unsure and 0 < share < 100:
        count += f" +- {unsure}"
    return f"{count} of 100 draws usable"


def _why_not(where: str, notes: Sequence[str]) -> str:
    """What the plan notes of a stack; a note names the first of the places that it is of."""
    for note in notes:
        place, _, what = note.partition(": ")
        if place == where or place.startswith(f"{where} and "):
            return what.rstrip(".")
    return ""


def _where(first: str, last: str) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _in_words(signal: float, gradient: float, correlation: float) -> str:
    told = [
        f"RMS {number(signal)} at the output" if math.isfinite(signal) else "",
        f"gradient at the first layer {number(gradient)} of that at the last"
        if math.isfinite(gradient) else "",
        f"cosine between inputs {number(correlation)}" if math.isfinite(correlation) else "",
    ]  # fmt: skip
    return ", ".join(word for word in told if word)
