"""A Report: plan, measurements and findings of one model, as text and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from equipoise._text import without_nan
from equipoise.diagnose import Finding, expected_by_layer
from equipoise.measurement import Measurements
from equipoise.plan.plan import Plan
from equipoise.report.choices import grouped, kept
from equipoise.report.ends import ends
from equipoise.report.outcome import Outcome
from equipoise.report.rows import number, shown_rows
from equipoise.schemes.law_data import describe

_SHOWN_STACKS = 6


@dataclass(frozen=True)
class Report(Outcome):
    """What was drawn where and why, what was expected, what was measured, and what is wrong.

    Attributes:
        model: name of the model's class.
        plan: the plan.
        measurements: of the model as it now is (of the would-be weights in a dry run).
        findings: the gravest first.
        seed: root seed of the draw; the same seed gives the same weights.
        is_applied: whether the weights were written.
    """

    model: str
    plan: Plan
    measurements: Measurements
    findings: tuple[Finding, ...]
    seed: int
    is_applied: bool

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types; nan and infinity become null."""
        return {
            "model": self.model,
            "seed": self.seed,
            "is_applied": self.is_applied,
            "ok": self.ok,
            "status": self.status,
            "findings": [asdict(f) for f in self.findings],
            "measurements": without_nan(asdict(self.measurements)),
            "ends": [end.to_dict() for end in ends(self.plan, self.measurements)],
            "plan": without_nan(self.plan.to_dict()),
        }

    def page(self) -> str:
        """The report as one HTML page that needs no network."""
        from equipoise.report.html import page

        return page(self)

    def print(self, console: Console) -> None:
        """Print the report to a rich console."""
        drawn = "drawn" if self.is_applied else "planned, not drawn"
        console.print(
            f"equipoise: {self.model}, scheme {self.plan.scheme}, {len(self.plan.assignments)} "
            f"parameters {drawn}, {len(self.plan.untouched)} untouched, seed {self.seed}"
        )
        for line in grouped(self.plan.choice):
            console.print(f"  {line}", soft_wrap=False, markup=False)
        console.print(layer_table(self.plan, self.measurements))
        last = ends(self.plan, self.measurements)
        for end in last[:_SHOWN_STACKS]:
            console.print(f"  {end.words()}.", markup=False)
        if last[_SHOWN_STACKS:]:
            console.print(f"  and {len(last) - _SHOWN_STACKS} more stacks; a saved report has all")
        for line in kept(self.plan.untouched):
            console.print(f"  {line}", markup=False)
        self.print_findings(console)


def layer_table(plan: Plan | None, measurements: Measurements) -> Table:
    """A table of layers with what was drawn, expected and measured; long networks are abridged."""
    laws = {a.parameter: describe(a.law) for a in plan.assignments} if plan else {}
    expected = expected_by_layer(measurements, plan)
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "drawn from", "signal", "expected", "gradient", "expected", "cosine"):
        table.add_column(name, justify="left" if name in ("layer", "drawn from") else "right")
    shown = shown_rows(len(measurements.layers))
    if len(shown) < len(measurements.layers):
        table.caption = (
            f"{len(shown)} of {len(measurements.layers)} layers; a saved report has them all"
        )
        table.caption_justify = "left"
    for i in shown:
        seen = measurements.layers[i]
        table.add_row(
            seen.layer, laws.get(seen.weight, "kept"), number(seen.signal),
            number(expected[i].signal, ""), number(seen.gradient),
            number(expected[i].gradient, ""), number(seen.correlation),
        )  # fmt: skip
    return table
