"""A Report: plan, measurements and findings of one model, as text and as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from equipoise.diagnose import Finding, expected_by_layer
from equipoise.errors import ArgumentError, UnhealthyError
from equipoise.measurement import Measurements
from equipoise.plan.plan import Plan, without_nan
from equipoise.schemes.law_data import describe

_SHOWN_LAYERS = 12
_WIDTH = 110


@dataclass(frozen=True)
class Report:
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

    @property
    def ok(self) -> bool:
        """Whether no finding is an error or a warning."""
        return all(f.severity == "info" for f in self.findings)

    def raise_if_unhealthy(self) -> None:
        """Raise if a finding is an error.

        Raises:
            UnhealthyError: with the findings in words.
        """
        errors = [str(f) for f in self.findings if f.severity == "error"]
        if errors:
            raise UnhealthyError("\n".join(errors))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types; nan and infinity become null."""
        return {
            "model": self.model,
            "seed": self.seed,
            "is_applied": self.is_applied,
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "measurements": without_nan(asdict(self.measurements)),
            "plan": without_nan(self.plan.to_dict()),
        }

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write the report as .html, .json or .txt, and return the path.

        Raises:
            ArgumentError: for another ending.
        """
        path = Path(path)
        match path.suffix:
            case ".html":
                from equipoise.report.html import page

                text = page(self)
            case ".json":
                text = self.to_json()
            case ".txt":
                text = str(self)
            case suffix:
                raise ArgumentError(
                    f"path must end in .html, .json or .txt, got {suffix or path.name!r}. Rename."
                )
        path.write_text(text, encoding="utf-8")
        return path

    def __str__(self) -> str:
        buffer = StringIO()
        console = Console(file=buffer, width=_WIDTH, color_system=None, highlight=False)
        self.print(console)
        return buffer.getvalue().rstrip("\n")

    def print(self, console: Console) -> None:
        """Print the report to a rich console."""
        drawn = "drawn" if self.is_applied else "planned, not drawn"
        console.print(
            f"equipoise: {self.model}, scheme {self.plan.scheme}, {len(self.plan.assignments)} "
            f"parameters {drawn}, {len(self.plan.untouched)} untouched, seed {self.seed}"
        )
        for line in self.plan.choice:
            console.print(f"  {line}", soft_wrap=False, markup=False)
        console.print(layer_table(self.plan, self.measurements))
        for item in self.plan.untouched:
            console.print(f"  untouched {item.parameter}: {item.reason}", markup=False)
        if self.ok:
            console.print("in balance: signal and gradient reach every layer.")
        for finding in self.findings:
            console.print(f"  {finding}", markup=False)


def layer_table(plan: Plan | None, measurements: Measurements) -> Table:
    """A table of layers with what was drawn, expected and measured; long networks are abridged."""
    laws = {a.parameter: describe(a.law) for a in plan.assignments} if plan else {}
    expected = expected_by_layer(measurements, plan)
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "drawn from", "signal", "expected", "gradient", "expected", "cosine"):
        table.add_column(name, justify="left" if name in ("layer", "drawn from") else "right")
    count = len(measurements.layers)
    shown = set(range(count))
    if count > _SHOWN_LAYERS:
        # Even steps, and the layers next to both ends, where most goes wrong.
        step = (count - 1) / (_SHOWN_LAYERS - 3)
        shown = {round(i * step) for i in range(_SHOWN_LAYERS - 2)} | {1, count - 2}
        table.caption = f"{len(shown)} of {count} layers; a saved report has them all"
        table.caption_justify = "left"
    for i in sorted(shown):
        seen = measurements.layers[i]
        table.add_row(
            seen.layer, laws.get(seen.weight, "kept"), _number(seen.signal),
            _number(expected[i].signal, ""), _number(seen.gradient),
            _number(expected[i].gradient, ""), _number(seen.correlation),
        )  # fmt: skip
    return table


def _number(x: float, otherwise: str = "-") -> str:
    return otherwise if math.isnan(x) else f"{x:.3g}"
