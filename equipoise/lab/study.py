"""Many trainings of dense networks as units of work: starts, learning rates and draws.

A unit is a part of the trainings of one ``Runs``, small enough for memory and caches, and trains as
one tensor program. Units run on all cores or on a cluster, and what is finished is never lost::

    runs = {m: Runs("digits", (16,) * 50, "tanh", m, (3e-4, 1e-3)) for m in ("auto", "he")}
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
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.dense import DenseProgram
from equipoise.lab.models import activation_module, mlp, residual_mlp
from equipoise.lab.optimizers import SGD, Adam, AdamW, Clipping, Optimizer
from equipoise.lab.rivals import starter
from equipoise.lab.task import Task
from equipoise.lab.task_names import task_named
from equipoise.lab.work import Finished, Place, in_parts, run_units

Array = NDArray[np.float64]

# Replicas of one unit: of narrow layers as many as caches hold, of others as memory allows.
_NARROW, _WIDE = 256, 64
# Of what a unit computes; results of an earlier one are refused.
_VERSION = "1"
_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(), "adamw": AdamW(), "sgd": SGD(), "momentum": SGD(0.9),
}  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Trainings of one network on one task from one start, one for each rate and draw.

    Attributes:
        task: as ``task_named`` reads it.
        hidden: hidden widths.
        activation: as ``activation_module`` reads it, such as ``leaky_relu(0.1)``.
        method: one of ``rivals.methods()``, schemes with options in brackets.
        rates: learning rates, positive.
        draws: number of draws; draw i has the same seed and batches at every rate and method.
        first: seed of the first draw.
        epochs: passes over the training part.
        batch_size: rows of a batch.
        optimizer: ``adam``, ``adamw``, ``sgd`` or ``momentum`` (0.9).
        clip_norm: largest norm of a replica's gradient, inf for none.
        validation: training rows to be tested on in place of the test part, 0 for none.
        is_residual: whether the hidden layers but the first are blocks x + W2 f(W1 x) of one width.
    """

    task: str
    hidden: tuple[int, ...]
    activation: str
    method: str
    rates: tuple[float, ...]
    draws: int = 8
    first: int = 0
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adam"
    clip_norm: float = float("inf")
    validation: int = 0
    is_residual: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("draws", self.draws, 1), ("first", self.first, 0), ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1), ("validation", self.validation, 0),
        ):  # fmt: skip
            _checks.at_least(name, value, least)
        if not self.rates:
            raise ArgumentError("rates must hold at least one, got none. Add one.")
        for rate in self.rates:
            _checks.positive("rates", rate)
        _checks.one_of("optimizer", self.optimizer, _OPTIMIZERS)
        if self.is_residual and len(set(self.hidden)) != 1:
            raise ArgumentError(
                f"hidden must be widths of one size for residual blocks, got {self.hidden}. "
                "Repeat one."
            )

    def network(self, task: Task) -> nn.Sequential:
        """One network with the framework's default weights."""

        def made() -> nn.Module:
            return activation_module(self.activation)

        if self.is_residual:
            blocks = len(self.hidden)
            return residual_mlp(task.features, self.hidden[0], blocks, task.outputs, made)
        return mlp([task.features, *self.hidden, task.outputs], made)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of all trainings of one ``Runs``.

    Attributes:
        scores: on the test part, shape (rates, draws); the name of the score is the task's.
        losses: mean training loss of each epoch, shape (rates, draws, epochs).
        diverged_at: step at which a loss was first not finite, -1 where none was.
        seconds: that all parts took, on one core each.
    """

    scores: Array
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
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for name, one in runs.items():
        network = one.network(task_named(one.task, data_dir or None))
        most = _NARROW if DenseProgram(tuple(network)).is_unrolled else _WIDE
        pairs = [[rate, draw] for rate in one.rates for draw in range(one.draws)]
        parts[name] = in_parts({name: {**asdict(one), "data_dir": data_dir}}, "runs", pairs, most)
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
        arguments: its fields, ``runs``: pairs of rate and draw, and ``data_dir``.

    Returns:
        ``scores``, ``losses`` (by replica) and ``diverged_at``.
    """
    given = dict(arguments)
    pairs, data_dir = given.pop("runs"), given.pop("data_dir")
    one = Runs(**{**given, "hidden": tuple(given["hidden"]), "rates": tuple(given["rates"])})
    task = task_named(one.task, data_dir or None)
    task = task.validation(one.validation) if one.validation else task
    network = one.network(task)
    start = starter(network, one.method, task.x_train)
    started: dict[int, nn.Sequential] = {}
    for _, draw in pairs:
        if draw not in started:
            started[draw] = one.network(task)
            start(started[draw], one.first + draw)
    done = train(
        Replicas.of([started[draw] for _, draw in pairs]),
        task,
        [rate for rate, _ in pairs],
        [one.first + draw for _, draw in pairs],
        one.epochs,
        one.batch_size,
        optimizer=_OPTIMIZERS[one.optimizer],
        clipping=Clipping(norm=one.clip_norm),
    )
    return {
        "scores": done.score.tolist(),
        "losses": done.loss.T.tolist(),
        "diverged_at": done.diverged_at.tolist(),
    }


def _together(one: Runs, found: Sequence[Mapping[str, Any]], seconds: float) -> Outcome:
    """The parts of a ``Runs`` by rate and draw."""
    shape = (len(one.rates), one.draws)
    scores = np.array([score for part in found for score in part["scores"]])
    losses = np.array([loss for part in found for loss in part["losses"]])
    diverged = np.array([step for part in found for step in part["diverged_at"]])
    return Outcome(
        scores.reshape(shape), losses.reshape(*shape, -1), diverged.reshape(shape), seconds
    )
