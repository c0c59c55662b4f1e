"""What came of a replay: as text, as JSON and as a page."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from equipoise._text import without_nan
from equipoise.lab.presented import Presented
from equipoise.lab.replay_data import Budget, Estimate, Findings, Mode, ResultTable
from equipoise.report.panels import shown

_MODE_WORDS = {"faithful": "as the source does it", "corrected": "corrected"}


@dataclass(frozen=True)
class Replayed(Presented):
    """A published result, replayed.

    Attributes:
        name: of the replay.
        source: whose result it is, with its arXiv id.
        title: what it is about.
        setting: of the source.
        faithful: what is done as the source does it.
        corrected: what differs in the corrected mode.
        budget: ``quick`` or ``paper``.
        modes: that were run.
        draws: number of them.
        seed: of the first.
        seconds: of all units of work, one core each.
        longest: seconds of the longest unit.
        findings: tables, pictures and sentences.
    """

    width: ClassVar[int] = 130

    name: str
    source: str
    title: str
    setting: str
    faithful: str
    corrected: str
    budget: Budget
    modes: tuple[Mode, ...]
    draws: int
    seed: int
    seconds: float
    longest: float
    findings: Findings

    def headline(self) -> str:
        """The answer in a few words."""
        return f"{self.name}: {self.findings.headline}"

    def sentences(self) -> tuple[str, ...]:
        """What to know beside the tables."""
        said = [f"Source: {self.source}. {self.setting}"]
        words = {"faithful": self.faithful, "corrected": self.corrected}
        said += [f"{mode.capitalize()}: {words[mode]}" for mode in self.modes]
        return (*said, *self.findings.sentences, self.effort())

    def effort(self) -> str:
        """How much work it was."""
        draws = f"{self.draws} draw{'s' * (self.draws != 1)}"
        return (
            f"Budget {self.budget}: {draws} from seed {self.seed}, {shown(self.seconds)} seconds "
            f"on one core, {shown(self.longest)} for the longest unit of work. Numbers are means "
            "over the draws with their standard error."
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""
        data: dict[str, Any] = without_nan(asdict(self))
        return {"headline": self.headline()} | data

    def page(self) -> str:
        """All of it as one HTML page that needs no network."""
        from equipoise.lab.replay_html import page

        return page(self)

    def print(self, console: Console) -> None:
        """Print it to a rich console."""
        console.print(f"{self.headline()}.", markup=False, style="bold")
        for table in self.findings.tables:
            console.print()
            console.print(heading(table), markup=False, style="bold")
            console.print(_printed(table))
        console.print()
        for line in self.sentences():
            console.print(f"  {line}", markup=False)


def heading(table: ResultTable) -> str:
    """Title of a table, its mode, and what stands in brackets."""
    words = f"{table.title} ({_MODE_WORDS[table.mode]})"
    has_reference = any(not math.isnan(v.reference) for row in table.rows for v in row.values)
    return f"{words}; in brackets: {table.reference}" if has_reference else words


def text_of(value: Estimate) -> str:
    """A number as a cell of a table.

    >>> text_of(Estimate(0.885, 0.0042, 10, 0.07))
    '0.885 ± 0.0042 (0.07)'
    """
    text = shown(value.mean, "-")
    # Draws that agree to the last digits have no error worth a word.
    if value.standard_error > 1e-12 * abs(value.mean):
        text += f" ± {value.standard_error:.2g}"
    if not math.isnan(value.reference):
        text += f" ({shown(value.reference, '-')})"
    return text


def _printed(table: ResultTable) -> Table:
    made = Table(box=None, pad_edge=False)
    for name in table.names:
        made.add_column(name)
    for name in table.quantities:
        made.add_column(name, justify="right")
    for row in table.rows:
        made.add_row(*row.names, *(text_of(value) for value in row.values))
    return made
