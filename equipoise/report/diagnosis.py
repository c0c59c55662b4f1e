"""A Diagnosis: what a model showed as it stands, what theory says of it, and what is wrong."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from equipoise._text import without_nan
from equipoise.diagnose import Finding
from equipoise.drift import Drift
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.report.outcome import Outcome
from equipoise.report.rows import number, shown_rows
from equipoise.rules.theory_word import TheoryWord


@dataclass(frozen=True)
class Diagnosis(Outcome):
    """What a model's forward and backward pass showed, and what is wrong.

    Attributes:
        model: name of the model's class.
        measurements: by layer.
        findings: the gravest first.
        words: what theory says of each stack of layers with such weights.
    """

    model: str
    measurements: Measurements
    findings: tuple[Finding, ...]
    words: tuple[TheoryWord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain JSON types; nan and infinity become null."""
        m = self.measurements
        drifts = {name: asdict(drift) for name, _, drift in self.drifts()}
        done: dict[str, Any] = without_nan({
            "model": self.model,
            "ok": self.ok,
            "status": self.status,
            "findings": [asdict(f) for f in self.findings],
            "theory": [asdict(w) for w in self.words],
            "drift": drifts,
            "chance": math.log(m.classes) if m.classes else math.nan,
            "measurements": asdict(m),
        })  # fmt: skip
        return done

    def drifts(self) -> tuple[tuple[str, str, Drift], ...]:
        """Name, words and value of each drift over the hidden layers."""
        m = self.measurements
        return (
            ("signal", "the signal, forward", m.signal_drift()),
            ("gradient", "the gradient, backward", m.gradient_drift()),
            ("difference", "1 - cosine between inputs, forward", m.difference_drift()),
        )

    def sentences(self) -> tuple[str, ...]:
        """The numbers of the whole model, in words."""
        m = self.measurements
        sent = f"{m.rows} of {m.given_rows}" if m.rows < m.given_rows else f"{m.rows}"
        lines = [f"Measured on {sent} rows; output RMS {number(m.output_rms)}."]
        if m.loss_name:
            guess = f", a guess has ln {m.classes} = {math.log(m.classes):.3f}" if m.classes else ""
            rest = "" if m.rows >= m.given_rows else f" on these {m.rows} rows"
            lines.append(f"Loss {number(m.loss)}{rest} ({m.loss_name}){guess}.")
        else:
            lines.append("Gradients are of a random projection of the output: no loss was given.")
        for _, words, drift in self.drifts():
            if math.isfinite(drift.per_layer):
                error = f" +- {drift.error:.2g}" if math.isfinite(drift.error) else ""
                lines.append(
                    f"Drift of {words}: {drift.per_layer:+.3g}{error} nats per layer over "
                    f"{drift.layers} hidden layers."
                )
        if m.without_gradient > 0:
            share = f"{m.without_gradient:.1%}" if m.without_gradient >= 0.0005 else "A few"
            lines.append(f"{share} of the trainable numbers have no gradient.")
        return tuple(lines)

    def page(self) -> str:
        """The diagnosis as one HTML page that needs no network."""
        from equipoise.report.diagnosis_html import diagnosis_page

        return diagnosis_page(self)

    def print(self, console: Console) -> None:
        """Print the diagnosis to a rich console."""
        count = len(self.measurements.layers)
        layers = f"{count} affine layer{'s' * (count != 1)}"
        console.print(f"equipoise: {self.model} as it stands, {layers}", markup=False)
        for line in self.sentences():
            console.print(f"  {line}", markup=False)
        if count:
            console.print(_table(self.measurements))
        for word in self.words:
            console.print(f"theory, {word.where}: {word.words}", markup=False)
        self.print_findings(console)


COLUMNS = (
    "layer", "signal", "mean", "gradient", "weight gradient", "cosine", "rank", "directions",
    "saturated", "dead",
)  # fmt: skip


def row(x: LayerMeasurement) -> tuple[str, ...]:
    """One layer under the ``COLUMNS``; the weight's gradient is relative to the weight."""
    rank = f"{number(x.rank)} of {x.most_directions}" if math.isfinite(x.rank) else "-"
    return (
        x.layer, number(x.signal), number(x.mean), number(x.gradient),
        number(x.relative_gradient), number(x.correlation), rank, str(x.directions),
        f"{x.saturation:.0%}", f"{x.dead:.0%}",
    )  # fmt: skip


def _table(m: Measurements) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "layer" else "right")
    shown = shown_rows(len(m.layers))
    if len(shown) < len(m.layers):
        table.caption = f"{len(shown)} of {len(m.layers)} layers; a saved diagnosis has them all"
        table.caption_justify = "left"
    for i in shown:
        table.add_row(*row(m.layers[i]))
    return table
