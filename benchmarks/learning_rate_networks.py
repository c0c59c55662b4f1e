"""Small networks for ``benchmarks/learning_rate.py``, and what every learning rate does to them.

None of their sizes and seeds is among those that the shares in ``equipoise/training`` were fitted
on, which were dense networks of 3, 6, 10 and 20 layers of 16, 32, 64 or 96 units, seeds from 1000.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.lab.batched import Replicas, train
from equipoise.lab.classification import Classification
from equipoise.lab.data import digits
from equipoise.lab.models import mlp, plain_cnn
from equipoise.lab.optimizers import SGD, Adam

BATCH, ROWS = 64, 1024
# Quarter decades.
RATES = {
    "Adam": tuple(10 ** (k / 4) for k in range(-18, -1)),
    "SGD": tuple(10 ** (k / 4) for k in range(-12, 5)),
}
# A run trains if it makes this share of the fall that the best rate makes.
SHARE = 0.8


class Rows(nn.Module):
    """Digits read row by row: an LSTM, or a pre-norm transformer of two blocks."""

    def __init__(self, kind: str, width: int = 32) -> None:
        super().__init__()
        self.kind = kind
        if kind == "lstm":
            self.mix: nn.Module = nn.LSTM(8, width, batch_first=True)
        else:
            self.enter = nn.Linear(8, width)
            self.place = nn.Parameter(0.1 * torch.randn(8, width))
            block = nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.0, batch_first=True, norm_first=True
            )
            self.mix = nn.TransformerEncoder(block, 2, nn.LayerNorm(width), False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of digits, shape (rows, 10)."""
        x = x.view(-1, 8, 8)
        if self.kind == "lstm":
            return self.head(self.mix(x)[0][:, -1])
        return self.head(self.mix(self.enter(x) + self.place).mean(1))


@dataclass(frozen=True)
class Network:
    """A network, how it starts, and its depth and width where it is dense."""

    make: Callable[[], nn.Module]
    start: str
    depth: int = 0
    width: int = 0

    @property
    def is_image(self) -> bool:
        """Whether it reads images."""
        return self.depth == 0 and isinstance(self.make(), nn.Sequential)

    def drawn(self, seed: int, task: Classification) -> nn.Module:
        """The network at its start."""
        torch.manual_seed(seed)
        model = self.make()
        if self.start == "auto":
            generator = torch.Generator().manual_seed(seed)
            eq.initialize(model, task.x_train[:256], generator=generator)
        return model


def dense(depth: int, width: int, activation: Callable[[], nn.Module], start: str) -> Network:
    return Network(lambda: mlp([64, *[width] * depth, 10], activation), start, depth, width)


NETWORKS = {
    "tanh 4 x 8, auto": dense(4, 8, nn.Tanh, "auto"),
    "tanh 4 x 128, default": dense(4, 128, nn.Tanh, "default"),
    "relu 5 x 48, default": dense(5, 48, nn.ReLU, "default"),
    "relu 8 x 24, auto": dense(8, 24, nn.ReLU, "auto"),
    "gelu 7 x 40, default": dense(7, 40, nn.GELU, "default"),
    "gelu 12 x 48, auto": dense(12, 48, nn.GELU, "auto"),
    "tanh 15 x 24, auto": dense(15, 24, nn.Tanh, "auto"),
    "relu 30 x 16, auto": dense(30, 16, nn.ReLU, "auto"),
    "gelu 50 x 16, auto": dense(50, 16, nn.GELU, "auto"),
    "tanh 50 x 8, auto": dense(50, 8, nn.Tanh, "auto"),
    "cnn of 4, relu, default": Network(lambda: plain_cnn(4, nn.ReLU, 8), "default"),
    "cnn of 4, tanh, auto": Network(lambda: plain_cnn(4, nn.Tanh, 8), "auto"),
    "transformer, default": Network(lambda: Rows("transformer"), "default"),
    "transformer, auto": Network(lambda: Rows("transformer"), "auto"),
    "lstm, default": Network(lambda: Rows("lstm"), "default"),
    "lstm, auto": Network(lambda: Rows("lstm"), "auto"),
}


@dataclass(frozen=True)
class Truth:
    """What every rate did.

    Attributes:
        rates: tried.
        last: mean loss of the last epoch, shape (seeds, rates); inf where it diverged.
        birth: loss at the start.
        best: rate of the lowest geometric mean over seeds.
        largest: the largest from there on at which every seed trains.
        trains: whether a run trains, shape (seeds, rates).
        seconds: that the sweep took.
    """

    rates: tuple[float, ...]
    last: np.ndarray
    birth: float
    best: float
    largest: float
    trains: np.ndarray
    seconds: float

    @staticmethod
    def of(
        losses: Sequence[Sequence[float]], rates: Sequence[float], birth: float, seconds: float
    ) -> "Truth":
        """What the losses of the last epoch, shape (seeds, rates), say."""
        last = np.array(losses)
        last = np.where(np.isfinite(last), last, np.inf)
        mean = np.exp(np.log(np.clip(last, 1e-6, 1e6)).mean(0))
        best = int(np.argmin(mean))
        trains = last <= birth - SHARE * (birth - mean[best])
        largest = best
        while largest + 1 < len(rates) and trains[:, largest + 1].all():
            largest += 1
        return Truth(tuple(rates), last, birth, rates[best], rates[largest], trains, seconds)

    def nearest(self, rate: float) -> int:
        """Index of the rate tried that is nearest."""
        return int(np.argmin(np.abs(np.log(np.array(self.rates) / rate))))


def task_for(network: Network) -> Classification:
    task = digits(ROWS)
    return task.images() if network.is_image else task


def truth(network: Network, name: str, seeds: Sequence[int], epochs: int) -> Truth:
    """Train at all rates from all seeds."""
    task, begun, rates = task_for(network), time.perf_counter(), RATES[name]
    models = [network.drawn(seed, task) for seed in seeds]
    with torch.no_grad():
        birth = float(
            np.mean([float(F.cross_entropy(m(task.x_train), task.y_train)) for m in models])
        )
    if all(isinstance(m, nn.Sequential) for m in models):
        replicas = Replicas.of([m for m in models for _ in rates])
        order = [seed for seed in seeds for _ in rates]
        law = Adam() if name == "Adam" else SGD()
        done = train(replicas, task, list(rates) * len(seeds), order, epochs, BATCH, optimizer=law)
        last = done.loss[-1].view(len(seeds), -1).double().numpy()
    else:
        last = np.array([
            [looped(network, name, seed, rate, task, epochs) for rate in rates] for seed in seeds
        ])  # fmt: skip
    return Truth.of(last.tolist(), rates, birth, time.perf_counter() - begun)


def optimizer_for(name: str, model: nn.Module, rate: float = 1e-3) -> torch.optim.Optimizer:
    make = torch.optim.Adam if name == "Adam" else torch.optim.SGD
    return make(model.parameters(), rate)


def looped(
    network: Network, name: str, seed: int, rate: float, task: Classification, epochs: int
) -> float:
    """Mean loss of the last epoch of one training."""
    model = network.drawn(seed, task)
    optimizer = optimizer_for(name, model, rate)
    generator = torch.Generator().manual_seed(seed)
    mean = math.inf
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(task.rows, generator=generator).split(BATCH):
            loss = F.cross_entropy(model(task.x_train[rows]), task.y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                return math.inf
        mean = float(np.mean(losses))
    return mean
