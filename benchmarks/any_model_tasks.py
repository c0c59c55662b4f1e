"""What the benchmark of any model trains: tasks, their data and scores."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from any_model_networks import (
    Adder,
    ResidualMLP,
    Siren,
    Transformer,
    bert,
    fixup,
    gpt2,
    he,
    open_forget,
    siren,
    xavier,
    zero_last,
)
from cells import TASKS
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from equipoise.lab.data import Classification
from equipoise.lab.models import plain_cnn

Pair = tuple[torch.Tensor, torch.Tensor]
# Of generated tasks: rows that choose the rate and rows that are scored, made from these seeds.
_HELD_BACK_SEED, _TEST_SEED, _ROWS = 1, 2, 512


@dataclass(frozen=True)
class Data:
    """What one training reads.

    Attributes:
        sample: makes a training batch of so many rows.
        test: inputs and targets that are scored.
    """

    sample: Callable[[torch.Generator, int], Pair]
    test: Pair


@dataclass(frozen=True)
class Task:
    """One architecture on one task.

    Attributes:
        name: of the architecture and what it learns.
        build: makes a fresh model.
        data: of the trial trainings that choose the rate (False) and of the final ones (True).
        loss: of outputs and targets, a mean over rows.
        score: of outputs and targets on the test part, the more the better; at most 1 but for
            ``bels``.
        unit: what the score counts.
        published: the starts that the architecture's papers ask for, by name.
        rate: centre of the three learning rates, half a decade apart.
        steps: of Adam.
        batch: rows in a batch.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[bool], Data]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor, torch.Tensor], float]
    unit: str
    published: dict[str, Callable[[nn.Module], None]] = field(default_factory=dict)
    rate: float = 1e-3
    steps: int = 250
    batch: int = 64

    @property
    def methods(self) -> tuple[str, ...]:
        """Every start that is compared, equipoise's first."""
        return ("auto", "default", *self.published, "lsuv", "anyinit")


# Data


@cache
def digits(is_image: bool, is_final: bool) -> Data:
    """Rows of the digits drawn at random; rows held back from training choose the rate."""
    make, held_back = TASKS["digits"]
    task: Classification = make()
    if is_image:
        task = task.images()
    part = task if is_final else task.validation(held_back)

    def sample(generator: torch.Generator, rows: int) -> Pair:
        chosen = torch.randint(len(part.x_train), (rows,), generator=generator)
        return part.x_train[chosen], part.y_train[chosen]

    return Data(sample, (part.x_test, part.y_test))


def generated(make: Callable[[torch.Generator, int], Pair], is_final: bool) -> Data:
    """Endless fresh rows, tested on rows of a seed of their own."""
    seed = _TEST_SEED if is_final else _HELD_BACK_SEED
    return Data(make, make(torch.Generator().manual_seed(seed), _ROWS))


def sorting(symbols: int, length: int, generator: torch.Generator, rows: int) -> Pair:
    """Symbols, and the same in order."""
    x = torch.randint(symbols, (rows, length), generator=generator)
    return x, x.sort(1).values


def adding(length: int, generator: torch.Generator, rows: int) -> Pair:
    """Numbers and two marks, one in each half; the target is the sum of the marked numbers.

    Source: Hochreiter and Schmidhuber 1997.
    """
    values = torch.rand(rows, length, generator=generator)
    half = length // 2
    first = torch.randint(half, (rows, 1), generator=generator)
    second = torch.randint(half, length, (rows, 1), generator=generator)
    marks = torch.zeros(rows, length).scatter_(1, torch.cat([first, second], 1), 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)


@cache
def mosaic(is_final: bool) -> Data:
    """64 digits side by side as one image of 64 x 64, grey values between -1 and 1.

    A fit has no unseen part: trial and final trainings differ in draws and batches.
    """
    tiles = torch.from_numpy(load_digits().images[:64]).float().view(8, 8, 8, 8)
    grey = tiles.transpose(1, 2).reshape(-1, 1) / 8 - 1
    axis = torch.linspace(-1, 1, 64)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)

    def sample(generator: torch.Generator, rows: int) -> Pair:
        chosen = torch.randint(len(places), (rows,), generator=generator)
        return places[chosen], grey[chosen]

    return Data(sample, (places, grey))


# Scores


def symbol_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, whatever axes rows have."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of right answers; what is not finite is wrong."""
    right = (outputs.argmax(-1) == targets) & outputs.isfinite().all(-1)
    return float(right.float().mean())


def explained(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of the targets' variance that is explained, 0 where none is."""
    return max(0.0, 1.0 - _unexplained(outputs, targets))


def bels(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """log10 of the targets' variance over the mean square error, 0 where none is explained.

    A tenth of a decibel is .01: the difference that a comparison takes for notable.
    """
    return max(0.0, -math.log10(_unexplained(outputs, targets)))


def _unexplained(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    error = float((outputs - targets).double().square().mean())
    return error / float(targets.double().var(correction=0)) if math.isfinite(error) else math.inf


_SORTING = {"symbols": 16, "length": 8}
_SORTED = partial(generated, partial(sorting, *_SORTING.values()))
SEQUENCES = {"loss": symbol_loss, "score": accuracy, "unit": "accuracy", "batch": 16}
TASKS_BY_NAME = {
    task.name: task
    for task in (
        Task(
            "residual MLP x 24, no norm, digits",
            ResidualMLP, partial(digits, False), symbol_loss, accuracy, "accuracy",
            {"zero last": zero_last, "fixup": fixup},
        ),
        Task(
            "plain CNN x 20, digits",
            partial(plain_cnn, 20, nn.ReLU, stride=2), partial(digits, True), symbol_loss, accuracy,
            "accuracy", {"he": he},
        ),
        Task(
            "post-norm transformer x 12, sorting",
            partial(Transformer, 12, False, **_SORTING), _SORTED,
            published={"bert .02": bert, "xavier": xavier}, **SEQUENCES,
        ),
        Task(
            "pre-norm transformer x 24, sorting",
            partial(Transformer, 24, True, **_SORTING), _SORTED,
            published={"gpt-2": gpt2}, steps=200, **SEQUENCES,
        ),
        Task(
            "LSTM x 2, adding over 200 steps",
            Adder, partial(generated, partial(adding, 200)), functional.mse_loss, explained,
            "variance explained", {"open forget": open_forget}, rate=1e-2, steps=1500, batch=32,
        ),
        Task(
            "SIREN x 4, image of 64 x 64",
            Siren, mosaic, functional.mse_loss, bels, "bels", {"siren": siren},
            rate=3e-4, steps=400, batch=512,
        ),
    )
}  # fmt: skip
