"""What came of a comparison of starts: a table, curves, a winner; as text, JSON and a page."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from equipoise._text import without_nan
from equipoise.lab.comparison import Comparison
from equipoise.lab.presented import Presented
from equipoise.lab.work import Place
from equipoise.report.panels import shown

HEADINGS = ("start", "test loss", "standard error", "trained", "rate", "rates that work", "decades")


@dataclass(frozen=True)
class SchemeRow:
    """One scheme.

    Attributes:
        scheme: its name.
        mean_loss: test loss, lower is better: mean over the draws, geometric where all losses of
            the comparison are positive. A draw that diverged counts with its loss at birth.
        standard_error: of that mean.
        trained_share: share of draws that trained.
        rate: the learning rate it was trained with, chosen on rows held back.
        window: lowest and highest rate, around the one chosen, at which half of the draws trained
            on the rows held back; nan if none.
        is_window_cut: whether the window reaches an end of the rates tried.
        losses: test loss of each draw at the end, not finite where it is lost.
        births: test loss of each draw before training.
        diverged: number of draws whose loss or gradient stopped being finite.
        by_rate: rate, mean loss on the rows held back and share of draws that trained, by rate.
    """

    scheme: str
    mean_loss: float
    standard_error: float
    trained_share: float
    rate: float
    window: tuple[float, float]
    is_window_cut: bool
    losses: tuple[float, ...]
    births: tuple[float, ...]
    diverged: int
    by_rate: tuple[tuple[float, float, float], ...]

    @property
    def window_decades(self) -> float:
        """Width of the window in decades; nan where no rate works."""
        return math.log10(self.window[1] / self.window[0])

    def cells(self) -> tuple[str, ...]:
        """The row as it is printed."""
        low, high = self.window
        some = not math.isnan(low)
        draws = len(self.losses)
        lost = f", {self.diverged} diverged" if self.diverged else ""
        return (
            self.scheme,
            shown(self.mean_loss),
            shown(self.standard_error),
            f"{round(self.trained_share * draws)} of {draws}{lost}",
            shown(self.rate),
            (f"{shown(low)} to {shown(high)}" if low < high else shown(low)) if some else "none",
            ("at least " * self.is_window_cut + f"{self.window_decades:.2g}") if some else "-",
        )


@dataclass(frozen=True)
class Curve:
    """Training loss of one scheme.

    Attributes:
        scheme: its name.
        steps: last step of each stretch that is averaged.
        mean: mean over the draws that have not diverged, geometric where losses are positive.
        low, high: one standard deviation between draws on each side.
    """

    scheme: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Winner:
    """The best start and how sure that is.

    Attributes:
        scheme: its name.
        comparison: with the best of the others. Both are picked on the even draws and compared on
            the odd ones; scores are minus the logarithm of the test loss where that is positive,
            so that higher is better and .01 is 1% of the loss. Its verdict is ``win`` or ``tie``.
        confidence: chance that its mean is the better one, from Student's t of the odd draws.
    """

    scheme: str
    comparison: Comparison
    confidence: float


@dataclass(frozen=True)
class Setting:
    """What was compared, and how.

    Attributes:
        model: name of its class.
        parameters: entries that are trained.
        rows: to train on, of these held back to choose the rate on, and to test on.
        draws: of each scheme.
        steps: of each training.
        batch_size: rows of a step.
        optimizer: its name.
        learning_rates: tried for each scheme.
        margin: a draw has trained if its test loss is lower by this share than at birth and than
            that of the best constant output.
        constant_loss: test loss of that output; nan where there is none.
        is_log: whether means are taken of logarithms.
        seed: of draws, batches and parts.
    """

    model: str
    parameters: int
    rows: tuple[int, int, int]
    draws: int
    steps: int
    batch_size: int
    optimizer: str
    learning_rates: tuple[float, ...]
    margin: float
    constant_loss: float
    is_log: bool
    seed: int


@dataclass(frozen=True)
class Compared(Presented):
    """Which start trains a model best.

    Attributes:
        setting: what was compared, and how.
        table: a row for each scheme, the best first.
        curves: training loss of each scheme, in the same order.
        winners: the winner; empty where fewer than two schemes were finished.
        is_vectorised: whether all draws and rates of a scheme were trained at once.
        why_looped: why not.
        left_out: schemes that could not be compared, with the reason.
        is_complete: whether all were finished.
        place: where it was trained, ``here``, ``processes`` or ``ray``; not compared by ``==``.
        why_there: the reason where that was left open, else ''; nor is this.
    """

    setting: Setting
    table: tuple[SchemeRow, ...]
    curves: tuple[Curve, ...]
    winners: tuple[Winner, ...]
    is_vectorised: bool
    why_looped: str
    left_out: tuple[tuple[str, str], ...]
    is_complete: bool
    place: Place = field(default="here", compare=False)
    why_there: str = field(default="", compare=False)

    @property
    def winner(self) -> str:
        """The best start where it trains and is clear of the others, else ''."""
        trained = {row.scheme for row in self.table if row.trained_share}
        clear = [w.scheme for w in self.winners if w.comparison.verdict == "win"]
        return clear[0] if trained & set(clear) else ""

    def headline(self) -> str:
        """The answer in a few words."""
        if not self.winners:
            return f"{self.table[0].scheme} was the only start compared"
        best = self.winners[0]
        if not any(row.trained_share for row in self.table):
            return "No start trains this model within these steps and rates"
        if not self.winner:
            return f"No clear winner: {best.scheme} and {best.comparison.rival} are level"
        return f"{best.scheme} trains this model best"

    def sentences(self) -> tuple[str, ...]:
        """What to know beside the table."""
        s, said = self.setting, []
        if not self.is_complete:
            done = ", ".join(row.scheme for row in self.table)
            said.append(f"Interrupted: only {done} {'was' if not self.table[1:] else 'were'} done.")
        for w in self.winners:
            said.append(self._verdict(w))
        said += self._ends()
        said += [f"{name} was left out: {why}" for name, why in self.left_out]
        bar = (
            f" and than {shown(s.constant_loss)}, that of the best constant output"
            if math.isfinite(s.constant_loss)
            else ""
        )
        said.append(
            f"Trained: finite, and a test loss at least {s.margin:.0%} lower than at birth{bar}. "
            "A draw that diverged counts with its loss at birth."
        )
        if s.is_log:
            said.append("Means over draws are geometric: losses are compared by their ratios.")
        said.append(
            "All draws and rates of a scheme were trained at once."
            if self.is_vectorised
            else f"Draws were trained one by one: {self.why_looped}."
        )
        if self.why_there:
            there = {"here": "here", "processes": "in processes", "ray": "on Ray"}[self.place]
            said.append(f"Trained {there}: {self.why_there}.")
        return tuple(said)

    def description(self) -> str:
        """What was compared, in one sentence."""
        s = self.setting
        rates = s.learning_rates
        span = f"{len(rates)} rates from {shown(rates[0])} to {shown(rates[-1])}"
        return (
            f"{s.model}, {s.parameters:,} weights; {s.draws} draws of each start, {s.steps:,} "
            f"steps of {s.batch_size} rows, {s.optimizer}, the best of "
            f"{span if rates[1:] else f'rate {shown(rates[0])}'}, chosen on {s.rows[1]:,} of "
            f"{s.rows[0]:,} training rows; {s.rows[2]:,} test rows"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""
        data: dict[str, Any] = without_nan(asdict(self))
        for row, of in zip(data["table"], self.table, strict=True):
            row["window_decades"] = without_nan(of.window_decades)
        for winner, w in zip(data["winners"], self.winners, strict=True):
            winner["comparison"]["verdict"] = w.comparison.verdict
        return {"winner": self.winner, "headline": self.headline()} | data

    def page(self) -> str:
        """All of it as one HTML page that needs no network."""
        from equipoise.lab.compare_html import page

        return page(self)

    def print(self, console: Console) -> None:
        """Print it to a rich console."""
        console.print(self.description(), markup=False)
        table = Table(box=None, pad_edge=False)
        for name in HEADINGS:
            is_number = name in ("test loss", "standard error", "rate", "decades")
            table.add_column(name, justify="right" if is_number else "left")
        for row in self.table:
            table.add_row(*row.cells())
        console.print(table)
        console.print(f"{self.headline()}.", markup=False, style="bold")
        for line in self.sentences():
            console.print(f"  {line}", markup=False)

    def _ends(self) -> list[str]:
        """Schemes whose rate lies at an end of those tried, and may have a better one beyond."""
        rates = self.setting.learning_rates
        if not rates[1:]:
            return []
        said = []
        for rate, end, beyond in ((rates[0], "lowest", "lower"), (rates[-1], "highest", "higher")):
            names = [row.scheme for row in self.table if row.trained_share and row.rate == rate]
            if names:
                said.append(
                    f"{', '.join(names)} did best at the {end} rate tried: try {beyond} ones."
                )
        return said

    def _verdict(self, w: Winner) -> str:
        c = w.comparison
        if self.setting.is_log:
            error = f"a factor of {math.exp(c.standard_error):.3g} either way"
            gap = f"{shown(math.exp(-c.difference))} times that of {c.rival} ({error}"
        else:
            gap = f"lower than that of {c.rival} by {shown(c.difference)} (+- "
            gap += f"{shown(c.standard_error)}, in units of the typical loss at birth"
        return (
            f"{w.scheme} and {c.rival} led on the even draws; on the {c.draws} odd ones the test "
            f"loss of {w.scheme} is {gap}), which makes it the better one with {w.confidence:.1%} "
            f"confidence."
        )
