"""The trainability grid: which start trains which network, over learning rates and draws.

Every method is surveyed in every cell with few draws at rates a decade apart, going on where the
best lies at an end. For ``auto`` and the best of its rivals the rates between are tried too, with
more draws around the best; then they train many draws at the rate that suits each, and more while
the verdict is open. Rates are chosen on rows held back, with other draws than those that are
compared; scores are of the test part. Trainings of all cells are units of work, so that any number
of cores is busy to the end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.grid_cells import first_rate
from equipoise.lab.grid_result import Grid
from equipoise.lab.grid_state import FINAL_SEEDS, OURS, CellState, Result
from equipoise.lab.rivals import methods
from equipoise.lab.setting import Setting, Trial, most_at_once, train_trials
from equipoise.lab.task_names import task_named
from equipoise.lab.trials import STEP
from equipoise.lab.work import Finished, Place, run_units

# Of what a unit computes; results of an earlier one are refused.
_VERSION = "1"
# Between rates of the survey, in half decades; they go on by as much where the best lies at an end.
_SPACING = 2


@dataclass(frozen=True)
class Effort:
    """How much work a grid is.

    Attributes:
        decades: that the rates of the survey span, around the first guess.
        survey: draws of every method at every rate.
        again: further draws that choose between the best rate and its neighbours.
        draws: of those that are compared, even and at least 4.
        most_draws: of an open verdict.
    """

    decades: int = 3
    survey: int = 2
    again: int = 4
    draws: int = 8
    most_draws: int = 32

    def __post_init__(self) -> None:
        _checks.at_least("decades", self.decades, 0)
        _checks.at_least("survey", self.survey, 1)
        _checks.at_least("again", self.again, 0)
        _checks.at_least("draws", self.draws, 4)
        _checks.at_least("most_draws", self.most_draws, self.draws)


def run_grid(
    settings: Sequence[Setting],
    starts: Sequence[str] = (),
    effort: Effort | None = None,
    store: Path | None = None,
    on: Place = "processes",
    jobs: int = 0,
    data_dir: str = "",
    is_quiet: bool = False,
) -> Grid:
    """Train every cell from every start, and compare ``auto`` with the best of the others.

    Args:
        settings: the cells, such as ``grid_cells.cells("scoreboard")``; rows must be held back.
        starts: methods as ``rivals.methods()`` names them, ``auto`` among them; all if left out.
        effort: how many rates and draws.
        store: folder of results; the same call goes on where one was stopped.
        on: ``here``, ``processes``, ``ray`` or ``auto``, as ``run_units`` has it.
        jobs: units at a time, 0 for one on each core.
        data_dir: folder of tasks that are read from files.
        is_quiet: whether no progress is shown.

    Returns:
        The grid, the same numbers wherever it ran.

    Raises:
        ArgumentError: for a cell or start that cannot be used, before any training.
        WorkError: if a unit fails; what is finished is in the store.
    """
    effort = effort or Effort()
    starts = tuple(dict.fromkeys(starts)) or methods()
    if OURS not in starts or len(starts) < 2:
        raise ArgumentError(
            f"starts must be {OURS!r} and at least one other, got {list(starts)}. Add it."
        )
    for start in starts:
        _checks.one_of("starts", start.partition("(")[0].strip(), methods())
    states: dict[str, CellState] = {}
    for setting in settings:
        if not setting.validation:
            raise ArgumentError(
                f"validation of {setting.name!r} must be at least 1: the learning rate is chosen "
                "on rows held back, got 0. Hold some back."
            )
        states[setting.name] = CellState(setting, task_named(setting.task, data_dir or None))
    run = _Run(states, starts, effort, store, on, jobs, data_dir)
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("{task.fields[what]}"),
        disable=is_quiet,
    ) as progress:  # fmt: skip
        seconds = run.all_stages(progress)
    return Grid(tuple(state.cell(starts) for state in states.values()), starts, seconds)


class _Run:
    """The stages of a grid; each asks for the trials that what is known calls for."""

    def __init__(
        self,
        states: Mapping[str, CellState],
        starts: Sequence[str],
        effort: Effort,
        store: Path | None,
        on: Place,
        jobs: int,
        data_dir: str,
    ) -> None:
        self._states, self._starts, self._effort = states, starts, effort
        self._store, self._on, self._jobs, self._data_dir = store, on, jobs, data_dir
        self._at_once = {
            name: most_at_once(state.setting, state.task) for name, state in states.items()
        }

    def all_stages(self, progress: Progress) -> float:
        """Train all that is called for; the seconds that it took, on one core."""

        def stage(what: str, wanted: Callable[[CellState], list[Trial]]) -> float:
            return self._stage(progress, what, {n: wanted(s) for n, s in self._states.items()})

        seconds = stage("survey", self._survey)
        seconds += stage("rates beyond", self._beyond)
        for state in self._states.values():
            state.choose_finalists(self._starts)
        seconds += stage("rates again", self._again)
        count = self._effort.draws
        while count <= self._effort.most_draws:
            seconds += stage(f"{count} draws", partial(self._finals, count))
            count *= 2
        return seconds

    def _stage(self, progress: Progress, what: str, wanted: Mapping[str, Sequence[Trial]]) -> float:
        """Train the trials of all cells."""
        units: dict[str, dict[str, Any]] = {}
        owners: dict[str, tuple[CellState, tuple[Trial, ...]]] = {}
        for name, trials in wanted.items():
            state, most = self._states[name], self._at_once[name]
            for part in _parts(trials, most):
                listed = [[t.method, t.rate, t.seed] for t in part]
                # Other starts or draws than before are other units, not a clash in the store.
                key = f"{name}, {what}, {sha256(str(listed).encode()).hexdigest()[:8]}"
                owners[key] = state, part
                units[key] = {
                    "setting": asdict(state.setting), "data_dir": self._data_dir, "trials": listed,
                }  # fmt: skip
        # The longest first: no core is left alone with one at the end.
        order = sorted(units, key=lambda k: -sum(owners[k][0].setting.hidden) * len(owners[k][1]))
        line = progress.add_task(what.ljust(12), total=len(units), what="")
        spent = 0.0

        def done(unit: Finished) -> None:
            nonlocal spent
            spent += unit.seconds
            state, part = owners[unit.key]
            state.refused |= unit.result["refused"]
            for i, trial in enumerate(part):
                if trial.method not in state.refused:
                    state.found[trial] = Result(
                        unit.result["scores"][i], unit.result["held"][i],
                        tuple(unit.result["losses"][i]),
                    )  # fmt: skip
            progress.update(line, advance=1, what=unit.key[:60])

        run_units(
            train_cell, {key: units[key] for key in order}, self._store, self._on, self._jobs,
            done, version=_VERSION,
        )  # fmt: skip
        progress.update(line, what="")
        return spent

    def _survey(self, state: CellState) -> list[Trial]:
        """Every method at the same rates."""
        end = self._effort.decades
        rates = [rate_of(state.setting, place) for place in range(-end, end + 1, _SPACING)]
        draws = range(self._effort.survey)
        return [Trial(m, rate, seed) for m in self._starts for rate in rates for seed in draws]

    def _beyond(self, state: CellState) -> list[Trial]:
        """One more rate for each method whose best lies at an end of those tried."""
        found: list[Trial] = []
        for method in self._starts:
            means = state.means(method)
            # Where nothing learns, the ends lead nowhere.
            if not means or max(means.values()) == min(means.values()):
                continue
            best = state.best_rate(method)
            for end, step in ((min(means), -_SPACING), (max(means), _SPACING)):
                if best == end:
                    rate = rate_of(state.setting, place_of(state.setting, best) + step)
                    found += [Trial(method, rate, seed) for seed in range(self._effort.survey)]
        return found

    def _again(self, state: CellState) -> list[Trial]:
        """The rates between for the finalists, with more draws around the best."""
        few, many = range(self._effort.survey), range(self._effort.survey + self._effort.again)
        found: list[Trial] = []
        for method in state.finalists:
            tried = [place_of(state.setting, rate) for rate in state.means(method)]
            best = place_of(state.setting, state.best_rate(method))
            for place in range(min(*tried, best - 1), max(*tried, best + 1) + 1):
                rate = rate_of(state.setting, place)
                seeds = many if abs(place - best) <= 1 else few
                found += [Trial(method, rate, seed) for seed in seeds]
        return [trial for trial in found if trial not in state.found]

    def _finals(self, count: int, state: CellState) -> list[Trial]:
        """More draws of ours and of the best rivals, where the verdict asks for them."""
        have = len(state.finals(OURS)) if state.finalists else 0
        if not state.finalists[1:] or (have and not state.comparison().is_open):
            return []
        seeds = range(FINAL_SEEDS + have, FINAL_SEEDS + count)
        rates = {method: state.best_rate(method) for method in state.finalists}
        return [Trial(method, rate, seed) for method, rate in rates.items() for seed in seeds]


def _parts(trials: Sequence[Trial], most: int) -> list[tuple[Trial, ...]]:
    """Trials of units: ours apart from the others', which stay as they are when our rule changes.

    >>> [len(part) for part in _parts([Trial(m, 1e-3, 0) for m in ("auto", "he", "lsuv")], 8)]
    [1, 2]
    """
    groups = ([t for t in trials if t.method == OURS], [t for t in trials if t.method != OURS])
    return [tuple(g[i : i + most]) for g in groups for i in range(0, len(g), most)]


def train_cell(arguments: dict[str, Any]) -> dict[str, Any]:
    """Trials of one cell as a unit of work.

    Args:
        arguments: ``setting``, ``trials``: methods, rates and seeds, and ``data_dir``.

    Returns:
        ``scores``, ``held``, ``losses`` and ``refused``, as ``Trained`` has them; a score is never
        below 0, which is what a constant answer of a regression gets.
    """
    setting = Setting.of(arguments["setting"])
    trials = [Trial(*trial) for trial in arguments["trials"]]
    done = train_trials(setting, trials, arguments["data_dir"])
    return {
        "scores": [max(0.0, score) for score in done.scores],
        "held": [max(0.0, score) for score in done.held],
        "losses": done.losses,
        "refused": done.refused,
    }


def rate_of(setting: Setting, place: int) -> float:
    """A learning rate of a cell, ``place`` half decades from the first guess.

    Three digits: rates are keys of what is stored.

    >>> rate_of(Setting("digits", (16,) * 50, "tanh"), 2)
    0.00625
    """
    return float(f"{first_rate(setting) * STEP**place:.3g}")


def place_of(setting: Setting, rate: float) -> int:
    """Of a rate that ``rate_of`` gave.

    >>> place_of(Setting("digits", (16,) * 50, "tanh"), 0.00625)
    2
    """
    return round(math.log(rate / first_rate(setting), STEP))
