"""Deep narrow rectifier networks of one input: many draws and rates, and what became of each.

Replays of narrow networks share it: all draws of all starts at all learning rates train as one
tensor program, since a step of few narrow replicas is all overhead, each draw on a task of its own;
those that fail are told apart by how.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from equipoise.errors import EquipoiseError, PlanError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.line_pieces import line_pieces
from equipoise.lab.models import activation_module, mlp
from equipoise.lab.own_tasks import OwnTasks
from equipoise.lab.regression import Regression
from equipoise.lab.rivals import starters
from equipoise.lab.setting import flushed_denormals
from equipoise.lab.task import MOST_ROWS

# Outputs that vary by less than this, where targets vary by 1, say nothing.
SILENT = 0.05


@dataclass(frozen=True)
class NarrowDraw:
    """One draw: what it was at birth, and what became of it at each learning rate.

    Attributes:
        method: that started it.
        seed: of its weights and batches.
        born_pieces: linear pieces of the network at birth on the test inputs.
        born_known: share of the inputs' variance that its last hidden layer knew then.
        scores: on the test part, by rate; -inf where training diverged.
        spread: standard deviation of the outputs on the test part, by rate.
        pieces: linear pieces at the end, by rate.
    """

    method: str
    seed: int
    born_pieces: int
    born_known: float
    scores: tuple[float, ...]
    spread: tuple[float, ...]
    pieces: tuple[int, ...]


def train_draws(
    width: int,
    depth: int,
    activation: str,
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    tasks: Sequence[Regression],
    epochs: int,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Train each draw of each start on the draw's task at every rate, by Adam.

    A start is planned once, from the inputs of the first task: all tasks have standardized
    inputs of one law.

    Args:
        width: of the hidden layers.
        depth: number of them.
        activation: a rectifier, as ``activation_module`` reads it.
        methods: of ``rivals.methods()``.
        rates: learning rates.
        seeds: of the draws.
        tasks: one of one input and one output for each draw.
        epochs: passes over the training part.
        batch_size: rows of a batch.

    Returns:
        Fields of one ``NarrowDraw`` for each method and seed, as plain data.

    Raises:
        PlanError: if a method cannot start the network.

    >>> from equipoise.lab.regression_tasks import polynomial
    >>> done = train_draws(2, 3, "relu", ("he",), (1e-3,), (0, 1), [polynomial(2, rows=64)] * 2, 1)
    >>> len(done), len(done[0]["scores"])
    (2, 1)
    """

    def network() -> torch.nn.Sequential:
        return mlp([1, *(width,) * depth, 1], lambda: activation_module(activation))

    drawn = [(method, seed) for method in methods for seed in seeds]
    models = []
    for start in starters(network(), methods, tasks[0].x_train).values():
        if isinstance(start, EquipoiseError):
            raise PlanError(str(start))
        for seed in seeds:
            models.append(network())
            start(models[-1], seed)
    born = Replicas.of(models)
    own = OwnTasks(tuple(tasks) * len(methods) * len(rates))
    x = torch.stack([task.x_test for task in own.tasks])
    with flushed_denormals():
        done = train(
            born.repeat(len(rates)), own, [r for r in rates for _ in drawn],
            [seed for _ in rates for _, seed in drawn], epochs, batch_size,
        )  # fmt: skip
        with torch.no_grad():
            # In parts, as tests are: narrow networks keep all values of all rows.
            parts = [done.replicas.forward(part) for part in torch.split(x, MOST_ROWS, 1)]
            spread = torch.cat(parts, 1).std((1, 2))
    pieces, _ = line_pieces(done.replicas, x)
    born_pieces, born_known = line_pieces(born, x[: len(models)])
    by_draw = [value.view(len(rates), len(models)).t().tolist() for value in
               (done.score, spread, pieces)]  # fmt: skip
    return [
        asdict(
            NarrowDraw(
                method, seed, int(born_pieces[i]), float(born_known[i]),
                *(tuple(column[i]) for column in by_draw),
            )
        )
        for i, (method, seed) in enumerate(drawn)
    ]  # fmt: skip


def fate(draw: NarrowDraw, place: int, success: float) -> str:
    """What became of a draw at one of its rates.

    Args:
        draw: trained.
        place: of the rate.
        success: score that must be passed.

    Returns:
        ``solved``; ``silent`` where outputs hardly vary; ``straight`` where no kink lies among the
        inputs; ``bent`` otherwise.

    >>> fate(NarrowDraw("he", 0, 1, 1.0, (0.4,), (0.8,), (1,)), 0, 0.9)
    'straight'
    """
    if draw.scores[place] > success:
        return "solved"
    if not draw.spread[place] > SILENT:
        return "silent"
    return "straight" if draw.pieces[place] == 1 else "bent"
