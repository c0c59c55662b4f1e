"""What came of a trainability grid: who won which cell, by how much; as text, JSON and a page."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from equipoise._text import without_nan
from equipoise.lab.comparison import Comparison
from equipoise.lab.presented import Presented
from equipoise.lab.setting import Setting
from equipoise.report.panels import shown

HEADINGS = (
    "cell", "auto", "best rival", "its score", "difference", "verdict", "trained", "decades",
    "steps to half loss",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method in one cell, at the learning rate that suits it.

    Attributes:
        method: its name.
        score: mean over the draws of the score on the test part; below 0 counts as 0.
        standard_error: of that mean, nan for a single draw.
        draws: number of them: many of the methods that are compared, few of the others.
        rate: the learning rate, chosen on rows held back.
        trained_share: share of these draws that came half of the way from a constant answer to the
            best mean of the cell.
        window_decades: width of the longest run of neighbouring rates at which the mean on the rows
            held back came as far; each rate stands for half of the way to its neighbours.
        steps_to_loss: steps until half of the draws had a training loss below half of a guess's,
            as means of epochs show it; inf if that never was.
        scores: of each draw.
    """

    method: str
    score: float
    standard_error: float
    draws: int
    rate: float
    trained_share: float
    window_decades: float
    steps_to_loss: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class GridCell:
    """One network on one task.

    Attributes:
        setting: what was trained.
        rows: of each method that could start it, the best first.
        comparison: of ``auto`` with the best of the others; none if it refused the network.
        constant_score: of the best constant answer.
        refused: methods that cannot start it, with the reason.
    """

    setting: Setting
    rows: tuple[Row, ...]
    comparison: tuple[Comparison, ...]
    constant_score: float
    refused: tuple[tuple[str, str], ...]

    @property
    def verdict(self) -> str:
        """``win``, ``tie`` or ``loss`` of ``auto``; a network that it refuses is lost."""
        return self.comparison[0].verdict if self.comparison else "loss"

    def row(self, method: str) -> Row:
        """The row of a method that could start the network."""
        return next(row for row in self.rows if row.method == method)

    def texts(self) -> tuple[str, ...]:
        """The cell as a line of the table."""
        if not self.comparison:
            return (self.setting.name, "refused", "", "", "", "loss", "", "", "")
        c = self.comparison[0]
        ours, theirs = self.row("auto"), self.row(c.rival)
        both = (ours, theirs)
        return (
            self.setting.name,
            _with_error(ours.score, ours.standard_error),
            c.rival,
            _with_error(theirs.score, theirs.standard_error),
            f"{c.difference:+.3f} ± {c.standard_error:.3f}",
            c.verdict,
            " / ".join(f"{row.trained_share:.0%}" for row in both),
            " / ".join(f"{row.window_decades:.1f}" for row in both),
            " / ".join(_steps(row.steps_to_loss) for row in both),
        )


@dataclass(frozen=True)
class Grid(Presented):
    """Which start trains which network.

    Attributes:
        cells: in their order.
        starts: methods that were compared, ``auto`` among them.
        seconds: of all trainings, on one core each.
    """

    width: ClassVar[int] = 130

    cells: tuple[GridCell, ...]
    starts: tuple[str, ...]
    seconds: float

    def count(self, verdict: str) -> int:
        """Number of cells that ended so for ``auto``."""
        return sum(cell.verdict == verdict for cell in self.cells)

    @property
    def share(self) -> float:
        """Share of the cells that ``auto`` won or tied."""
        return 1 - self.count("loss") / len(self.cells)

    @property
    def worst(self) -> float:
        """The largest difference by which a cell was lost, 0 if none was, inf for a refusal."""
        lost = [cell.comparison for cell in self.cells if cell.verdict == "loss"]
        return max((-c[0].difference if c else math.inf for c in lost), default=0.0)

    def headline(self) -> str:
        """The answer in a few words."""
        won, tied, lost = (self.count(v) for v in ("win", "tie", "loss"))
        return (
            f"auto wins {won}, ties {tied} and loses {lost} of {len(self.cells)} cells against "
            f"the best of {len(self.starts) - 1} other starts in each: {self.share:.0%} won or tied"
        )

    def sentences(self) -> tuple[str, ...]:
        """What to know beside the table."""
        said = []
        if self.count("loss"):
            said.append(f"The largest loss is {shown(self.worst)}.")
        means = self.means()
        said.append(
            "Mean score over all cells, a refusal counted as a constant answer: "
            + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            + "."
        )
        said.append(
            "A difference is of means over the odd draws, its rival picked on the even ones; it "
            "counts if it is at least .01 and two standard errors. Trained, decades and steps are "
            "those of auto and of the rival."
        )
        return tuple(said)

    def means(self) -> dict[str, float]:
        """Mean score of each start over all cells, the best first."""
        found = {}
        for start in self.starts:
            scores = [
                next((r.score for r in cell.rows if r.method == start), cell.constant_score)
                for cell in self.cells
            ]
            found[start] = sum(scores) / len(scores)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def groups(self) -> dict[str, dict[str, tuple[int, int, int]]]:
        """Wins, ties and losses by level of each factor of the grid."""
        factors: dict[str, Callable[[Setting], str]] = {
            "activation": lambda s: s.activation,
            "depth": lambda s: f"{len(s.hidden):,}",
            "width": lambda s: f"{min(s.hidden)}",
            "task": lambda s: s.task,
        }
        found: dict[str, dict[str, tuple[int, int, int]]] = {}
        for name, of in factors.items():
            levels = dict.fromkeys(of(cell.setting) for cell in self.cells)
            order = sorted(levels, key=lambda x: (len(x), x)) if name != "task" else list(levels)
            found[name] = {}
            for level in order:
                verdicts = [c.verdict for c in self.cells if of(c.setting) == level]
                won, tied, lost = (verdicts.count(v) for v in ("win", "tie", "loss"))
                found[name][level] = won, tied, lost
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""
        data: dict[str, Any] = without_nan(asdict(self))
        for held, cell in zip(data["cells"], self.cells, strict=True):
            held |= {"name": cell.setting.name, "verdict": cell.verdict}
        counts = {v: self.count(v) for v in ("win", "tie", "loss")}
        return {"headline": self.headline(), **counts, "means": self.means()} | data

    def page(self) -> str:
        """All of it as one HTML page that needs no network."""
        from equipoise.lab.grid_html import page

        return page(self)

    def print(self, console: Console) -> None:
        """Print it to a rich console."""
        table = Table(box=None, pad_edge=False)
        for name in HEADINGS:
            table.add_column(name, justify="right" if name in ("auto", "its score") else "left")
        for cell in self.cells:
            style = {"win": "green", "loss": "red"}.get(cell.verdict, "")
            table.add_row(*cell.texts(), style=style)
        console.print(table)
        console.print(f"{self.headline()}.", markup=False, style="bold")
        for line in self.sentences():
            console.print(f"  {line}", markup=False)


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.3f} ± {error:.3f}"


def _steps(steps: float) -> str:
    return f"{steps:,.0f}" if math.isfinite(steps) else "never"
