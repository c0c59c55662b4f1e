"""Many trainings of dense networks as units of work: starts, learning rates and draws.

A unit is a part of the trainings of one ``Runs``, small enough for memory and caches, and trains as
one tensor program. Units run on all cores or on a cluster, and what is finished is never lost::

    deep = Setting("digits", (16,) * 50, "tanh")
    runs = {m: Runs(deep, m, (3e-4, 1e-3)) for m in ("auto", "he")}
    found = run_study(runs, store=Path("study"), on="processes")
    found["auto"].scores.mean(axis=1)  # by rate
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress, TimeElapsedColumn

from equipoise import _checks
from equipoise.errors import ArgumentError, PlanError
from equipoise.lab.setting import Setting, Trial, most_at_once, train_trials
from equipoise.lab.task_names import task_named
from equipoise.lab.work import Finished, Place, in_parts, run_units

Array = NDArray[np.float64]

# Of what a unit computes; results of an earlier one are refused.
_VERSION = "2"


@dataclass(frozen=True)
class Runs:
    """Trainings of one network on one task from one start, one for each rate and draw.

    Attributes:
        setting: the network, the task and how it is trained.
        method: one of ``rivals.methods()``, schemes with options in brackets.
        rates: learning rates, positive.
        draws: number of draws; draw i has the same seed and batches at every rate and method.
        first: seed of the first draw.
    """

    setting: Setting
    method: str
    rates: tuple[float, ...]
    draws: int = 8
    first: int = 0

    def __post_init__(self) -> None:
        _checks.at_least("draws", self.draws, 1)
        _checks.at_least("first", self.first, 0)
        if not self.rates:
            raise ArgumentError("rates must hold at least one, got none. Add one.")
        for rate in self.rates:
            _checks.positive("rates", rate)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of all trainings of one ``Runs``.

    Attributes:
        scores: on the test part, shape (rates, draws); the name of the score is the task's.
        held: the same on the rows held back, shape (rates, 0) where there are none.
        losses: mean training loss of each epoch, shape (rates, draws, epochs).
        diverged_at: step at which a loss was first not finite, -1 where none was.
        seconds: that all parts took, on one core each.
    """

    scores: Array
    held: Array
    losses: Array
    diverged_at: NDArray[np.int64]
    seconds: float


def run_study(
    runs: Mapping[str, Runs],
    store: Path | None = None,
    on: Place = "processes",
    jobs: int = 0,
    data_dir: str = "",
    is_quiet: bool = False,
) -> dict[str, Outcome]:
    """Train all runs; what a store holds is not done again.

    Args:
        runs: by a name of your choice.
        store: folder of results; the same call goes on where one was stopped.
        on: ``here``, ``processes``, ``ray`` or ``auto``, as ``run_units`` has it.
        jobs: units at a time, 0 for one on each core.
        data_dir: folder of tasks that are read from files.
        is_quiet: whether no progress is shown.

    Returns:
        Outcomes by name, the same numbers wherever they were trained.

    Raises:
        ArgumentError: for a task, network, method or rate that cannot be used, before any training.
        WorkError: if a unit fails; what is finished is in the store.
    """
    names = dict.fromkeys(one.setting.task for one in runs.values())
    tasks = {name: task_named(name, data_dir or None) for name in names}
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for name, one in runs.items():
        pairs = [[rate, one.first + draw] for rate in one.rates for draw in range(one.draws)]
        given = {**asdict(one.setting), "method": one.method, "data_dir": data_dir}
        most = most_at_once(one.setting, tasks[one.setting.task])
        parts[name] = in_parts({name: given}, "runs", pairs, most)
    units = {key: unit for part in parts.values() for key, unit in part.items()}
    seconds: dict[str, float] = {}
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), disable=is_quiet
    ) as progress:
        line = progress.add_task("training", total=len(units))

        def done(unit: Finished) -> None:
            seconds[unit.key] = unit.seconds
            progress.update(line, advance=1, description=unit.key[:40].ljust(40))

        found = run_units(train_runs, units, store, on, jobs, done, version=_VERSION)
    return {
        name: _together(one, [found[k] for k in keys], sum(seconds[k] for k in keys))
        for (name, one), keys in zip(runs.items(), parts.values(), strict=True)
    }


def train_runs(arguments: dict[str, Any]) -> dict[str, Any]:
    """One part of a ``Runs`` as a unit of work.

    Args:
        arguments: of its ``Setting``, ``method``, ``runs``: pairs of rate and seed, and
            ``data_dir``.

    Returns:
        ``scores``, ``held``, ``losses`` (by replica) and ``diverged_at``.

    Raises:
        PlanError: if the method cannot start the network.
    """
    given = dict(arguments)
    pairs, method, data_dir = given.pop("runs"), given.pop("method"), given.pop("data_dir")
    setting = Setting.of(given)
    trials = [Trial(method, rate, seed) for rate, seed in pairs]
    done = train_trials(setting, trials, data_dir)
    if done.refused:
        raise PlanError(done.refused[method])
    return {
        "scores": done.scores, "held": done.held, "losses": done.losses,
        "diverged_at": done.diverged_at,
    }  # fmt: skip


def _together(one: Runs, found: Sequence[Mapping[str, Any]], seconds: float) -> Outcome:
    """The parts of a ``Runs`` by rate and draw."""
    shape = (len(one.rates), one.draws)

    def all_of(name: str) -> list[Any]:
        return [value for part in found for value in part[name]]

    return Outcome(
        np.array(all_of("scores")).reshape(shape),
        np.array(all_of("held")).reshape(len(one.rates), -1),
        np.array(all_of("losses")).reshape(*shape, -1),
        np.array(all_of("diverged_at")).reshape(shape),
        seconds,
    )
