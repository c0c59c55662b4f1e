"""One network on one task, and trainings of it from any start: what studies and grids repeat."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.dense import DenseProgram
from equipoise.lab.models import activation_module, mlp, residual_mlp
from equipoise.lab.optimizers import SGD, Adam, AdamW, Clipping, Optimizer
from equipoise.lab.rivals import starters
from equipoise.lab.task import Task
from equipoise.lab.task_names import task_named

_NARROW, _WIDE = 256, 128
_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(), "adamw": AdamW(), "sgd": SGD(), "momentum": SGD(0.9),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One network on one task, and how it is trained.

    Attributes:
        task: as ``task_named`` reads it.
        hidden: hidden widths.
        activation: as ``activation_module`` reads it, such as ``leaky_relu(0.1)``.
        epochs: passes over the training part.
        batch_size: rows of a batch.
        optimizer: ``adam``, ``adamw``, ``sgd`` or ``momentum`` (0.9).
        clip_norm: largest norm of a replica's gradient, inf for none.
        validation: training rows that are held back and scored apart, 0 for none.
        is_residual: whether the hidden layers but the first are blocks x + W2 f(W1 x) of one width.
    """

    task: str
    hidden: tuple[int, ...]
    activation: str
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adam"
    clip_norm: float = float("inf")
    validation: int = 0
    is_residual: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
            ("validation", self.validation, 0),
        ):
            _checks.at_least(name, value, least)
        _checks.one_of("optimizer", self.optimizer, _OPTIMIZERS)
        if self.is_residual and len(set(self.hidden)) != 1:
            raise ArgumentError(
                f"hidden must be widths of one size for residual blocks, got {self.hidden}. "
                "Repeat one."
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The setting of which ``asdict`` made ``data``, also after a way through JSON.

        Raises:
            ArgumentError: for values that a setting cannot have.

        >>> Setting.of({"task": "digits", "hidden": [16, 16], "activation": "tanh"}).hidden
        (16, 16)
        """
        return cls(**{**data, "hidden": tuple(data["hidden"])})

    @property
    def name(self) -> str:
        """Activation, shape and task.

        >>> Setting("digits", (16, 4) * 50, "tanh").name
        'tanh 16, 4 x 50, digits'
        """
        widths = self.hidden
        period = next(
            p for p in range(1, len(widths) + 1) if widths[:p] * (len(widths) // p) == widths
        )
        times = len(widths) // period
        runs = [(n, len(list(group))) for n, group in groupby(widths)]
        shape = ", ".join(f"{n} x {count}" if count > 1 else f"{n}" for n, count in runs)
        if times > 1:
            shape = f"{', '.join(map(str, widths[:period]))} x {times}"
        kind = " residual" if self.is_residual else ""
        return f"{self.activation}{kind} {shape}, {self.task}"

    def network(self, task: Task) -> nn.Sequential:
        """One network with the framework's default weights."""

        def made() -> nn.Module:
            return activation_module(self.activation)

        if self.is_residual:
            blocks = len(self.hidden)
            return residual_mlp(task.features, self.hidden[0], blocks, task.outputs, made)
        return mlp([task.features, *self.hidden, task.outputs], made)


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        method: one of ``rivals.methods()``, schemes with options in brackets.
        rate: learning rate, positive.
        seed: of the weights and of the batches.
    """

    method: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """What became of trials, in their order; nan and -1 where a method is refused.

    Attributes:
        scores: on the test part; the name of the score is the task's.
        held: on the rows held back, empty where there are none.
        losses: mean training loss of each epoch.
        diverged_at: step at which a loss was first not finite, -1 where none was.
        refused: methods that cannot start the network, with the reason.
    """

    scores: tuple[float, ...]
    held: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    diverged_at: tuple[int, ...]
    refused: dict[str, str]


def most_at_once(setting: Setting, task: Task) -> int:
    """Trials that are well trained together: as many as caches hold, or as memory allows.

    Args:
        setting: what is trained.
        task: the one that it names.

    Raises:
        ArgumentError: for an activation that is not known.

    >>> most_at_once(Setting("digits", (16,) * 10, "tanh"), task_named("digits"))
    128
    """
    network = setting.network(task)
    return _NARROW if DenseProgram(tuple(network)).is_unrolled else _WIDE


def train_trials(setting: Setting, trials: Sequence[Trial], data_dir: str = "") -> Trained:
    """Train all trials as one tensor program.

    Args:
        setting: what is trained.
        trials: trainings; memory grows with their number.
        data_dir: folder of tasks that are read from files.

    Returns:
        The trials, each as a training of its own would end.

    Raises:
        ArgumentError: for a task, activation, method or rate that is not known.

    >>> trials = [Trial("auto", 1e-3, 0), Trial("he", 1e-3, 0)]
    >>> done = train_trials(Setting("digits(rows=200)", (8,), "tanh", epochs=1), trials)
    >>> len(done.scores), done.refused
    (2, {})
    """
    whole = task_named(setting.task, data_dir or None)
    task: Task = whole.validation(setting.validation) if setting.validation else whole
    models, refused = _started(setting, trials, task)
    todo = [i for i, trial in enumerate(trials) if trial.method not in refused]
    scores, held, diverged = [math.nan] * len(trials), [math.nan] * len(trials), [-1] * len(trials)
    losses = [(math.nan,) * setting.epochs] * len(trials)
    if todo:
        with flushed_denormals():
            done = train(
                Replicas.of([models[trials[i].method, trials[i].seed] for i in todo]),
                task,
                [trials[i].rate for i in todo],
                [trials[i].seed for i in todo],
                setting.epochs,
                setting.batch_size,
                optimizer=_OPTIMIZERS[setting.optimizer],
                clipping=Clipping(norm=setting.clip_norm),
            )
            with torch.no_grad():
                tested = whole.scores(done.replicas.forward) if setting.validation else done.score
        for place, i in enumerate(todo):
            scores[i], held[i] = float(tested[place]), float(done.score[place])
            losses[i] = tuple(done.loss[:, place].tolist())
            diverged[i] = int(done.diverged_at[place])
    held = held if setting.validation else []
    return Trained(tuple(scores), tuple(held), tuple(losses), tuple(diverged), refused)


def _started(
    setting: Setting, trials: Sequence[Trial], task: Task
) -> tuple[dict[tuple[str, int], nn.Sequential], dict[str, str]]:
    """Networks by method and seed, and the methods that could not start one, with the reason."""
    network = setting.network(task)
    seeds: dict[str, set[int]] = {}
    for trial in trials:
        seeds.setdefault(trial.method, set()).add(trial.seed)
    models: dict[tuple[str, int], nn.Sequential] = {}
    refused: dict[str, str] = {}
    for method, start in starters(network, tuple(seeds), task.x_train).items():
        try:
            if isinstance(start, EquipoiseError):
                raise start
            for seed in sorted(seeds[method]):
                models[method, seed] = setting.network(task)
                start(models[method, seed], seed)
        except EquipoiseError as error:
            refused[method] = str(error)
    return models, refused


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """A dead network is full of denormal numbers, each a hundred times slower than another."""
    before = not bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
