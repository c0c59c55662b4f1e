"""What is known of one cell of the grid: results of its trials, and what follows from them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from equipoise.lab.classification import Classification
from equipoise.lab.comparison import Comparison, compare
from equipoise.lab.grid_result import GridCell, Row
from equipoise.lab.regression import Regression
from equipoise.lab.setting import Setting, Trial

OURS = "auto"
# Seeds of the draws that are compared; others have chosen rates and finalists.
FINAL_SEEDS = 1000
# Rivals that are trained further.
_FINALISTS = 3
# A network has trained if it comes half of the way from a constant answer to the best mean score of
# its cell; where even that is hardly better than a constant, none has.
_WAY, _LEAST = 0.5, 0.05


@dataclass(frozen=True)
class Result:
    """What became of one trial.

    Attributes:
        score: on the test part.
        held: on the rows held back.
        losses: mean training loss of each epoch.
    """

    score: float
    held: float
    losses: tuple[float, ...]


@dataclass(eq=False)
class CellState:
    """A cell under way.

    Attributes:
        setting: the cell.
        task: what it trains on.
        found: results by trial.
        refused: methods that cannot start its networks, with the reason.
        finalists: methods that are compared, ours first.
    """

    setting: Setting
    task: Classification | Regression
    found: dict[Trial, Result] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    finalists: tuple[str, ...] = ()

    def means(self, method: str) -> dict[float, float]:
        """Mean score on the rows held back by rate, of the draws that choose."""
        by_rate = defaultdict(list)
        for trial, result in self.found.items():
            if trial.method == method and trial.seed < FINAL_SEEDS:
                by_rate[trial.rate].append(result.held)
        return {rate: statistics.fmean(scores) for rate, scores in by_rate.items()}

    def best_rate(self, method: str) -> float:
        """The rate with the best mean, of those with the most draws."""
        draws = defaultdict[float, int](int)
        for trial in self.found:
            if trial.method == method and trial.seed < FINAL_SEEDS:
                draws[trial.rate] += 1
        means, most = self.means(method), max(draws.values())
        return max((r for r in sorted(means) if draws[r] == most), key=lambda r: means[r])

    def choose_finalists(self, starts: Sequence[str]) -> None:
        """Ours and the best rivals of those surveyed; none where ours is refused."""
        if OURS in self.refused:
            return
        means = {start: self.means(start) for start in starts if start != OURS}
        best = {start: max(by_rate.values()) for start, by_rate in means.items() if by_rate}
        self.finalists = (OURS, *sorted(best, key=lambda s: -best[s])[:_FINALISTS])

    def finals(self, method: str) -> list[Result]:
        """Draws that are compared, in the order of their seeds."""
        found = [(t.seed, r) for t, r in self.found.items() if t.method == method]
        return [r for seed, r in sorted(found, key=lambda one: one[0]) if seed >= FINAL_SEEDS]

    def comparison(self) -> Comparison:
        """Ours against the best of the other finalists."""
        ours, *others = [[r.score for r in self.finals(m)] for m in self.finalists]
        return compare(ours, dict(zip(self.finalists[1:], others, strict=True)))

    def cell(self, starts: Sequence[str]) -> GridCell:
        """What came of it."""
        surveyed = {m: self._best_draws(m) for m in starts if m not in self.refused}
        best = max(statistics.fmean(r.score for r in draws) for draws in surveyed.values())
        constant = _constant_score(self.task)
        bar = constant + _WAY * (best - constant) if best - constant >= _LEAST else math.inf
        rows = [self._row(method, draws, bar) for method, draws in surveyed.items()]
        return GridCell(
            self.setting,
            tuple(sorted(rows, key=lambda row: -row.score)),
            (self.comparison(),) if self.finals(OURS) else (),
            constant,
            tuple(self.refused.items()),
        )

    def _best_draws(self, method: str) -> list[Result]:
        """Draws at the best rate: those that are compared, or where there are none the others."""
        rate = self.best_rate(method)
        here = [r for t, r in self.found.items() if (t.method, t.rate) == (method, rate)]
        return self.finals(method) or here

    def _row(self, method: str, draws: Sequence[Result], bar: float) -> Row:
        scores = [r.score for r in draws]
        task = self.task
        half = math.log(task.outputs) / 2 if isinstance(task, Classification) else 0.5
        epoch_steps = math.ceil((task.rows - self.setting.validation) / self.setting.batch_size)
        steps = [
            next((i + 1 for i, loss in enumerate(r.losses) if loss < half), math.inf) * epoch_steps
            for r in draws
        ]
        return Row(
            method,
            statistics.fmean(scores),
            statistics.stdev(scores) / math.sqrt(len(scores)) if scores[1:] else math.nan,
            len(scores),
            self.best_rate(method),
            statistics.fmean(score >= bar for score in scores),
            self._window(method, bar),
            # Of an even number of draws the slower one: half of them are there by then.
            statistics.median_high(steps),
            tuple(scores),
        )

    def _window(self, method: str, bar: float) -> float:
        """Width of the longest run of neighbouring rates that work, in decades."""
        means = sorted(self.means(method).items())
        at = [math.log10(rate) for rate, _ in means]
        # A rate stands for half of the way to its neighbours, at an end as on the other side.
        gaps = [b - a for a, b in pairwise(at)] or [0.0]
        longest = current = 0.0
        for left, right, (_, mean) in zip([gaps[0], *gaps], [*gaps, gaps[-1]], means, strict=False):
            current = current + (left + right) / 2 if mean >= bar else 0.0
            longest = max(longest, current)
        return longest


def _constant_score(task: Classification | Regression) -> float:
    """Test score of the best constant answer."""
    if isinstance(task, Regression):
        return 0.0
    return float(task.y_test.bincount().max()) / len(task.y_test)
