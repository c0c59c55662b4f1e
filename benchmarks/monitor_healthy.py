"""How often a monitor raises a false alarm on healthy trainings.

    python benchmarks/monitor_healthy.py            # 100 runs, five minutes of one core
    python benchmarks/monitor_healthy.py --seeds 5

Ten networks (dense with four activations, shallow and deep, with and without norms; convolutional;
transformer; GRU and LSTM) with five optimizers and rates train for 150 steps on tasks of fresh
batches, watched at every step and at every tenth. Thresholds were chosen on seeds 0 and 1 of these
runs, so that what this prints is no test of them; it is what they were chosen for. Findings of
severity ``info`` are counted apart.

Prints a table and writes JSON.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq

STEPS = 150
Batch = tuple[torch.Tensor, torch.Tensor]


class Last(nn.Module):
    """A recurrent network that answers at the last step."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of sequences (rows, steps, 4)."""
        return self.head(self.cell(x)[0][:, -1])


class Tokens(nn.Module):
    """A causal transformer of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos = nn.Embedding(16, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        # Built one by one: TransformerEncoder starts all of its layers from the same weights.
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 128, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of token numbers (rows, 12)."""
        z, mask = self.emb(x) + self.pos, torch.ones(12, 12, dtype=torch.bool).triu(1)
        for layer in self.layers:
            z = layer(z, src_mask=mask)
        return self.head(z)


def dense(act: Callable[[], nn.Module], depth: int = 4, has_norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise([16] + depth * [64]):
        layers += [nn.Linear(a, b), *([nn.LayerNorm(b)] if has_norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def task(kind: str, seed: int) -> Callable[[], Batch]:
    """Fresh batches of 64 rows."""
    g = torch.Generator().manual_seed(seed)
    weight, shapes = torch.randn(16, 4, generator=g), torch.randn(4, 1, 8, 8, generator=g)

    def batch() -> Batch:
        match kind:
            case "images":
                y = torch.randint(4, (64,), generator=g)
                return shapes[y] + torch.randn(64, 1, 8, 8, generator=g), y
            case "tokens":
                x = torch.randint(16, (64, 12), generator=g)
                return x, x.cumsum(1) % 16
            case "sums":
                x = torch.randn(64, 20, 4, generator=g)
                return x, x[:, :5].sum((1, 2))[:, None] / 4
        x = torch.randn(64, 16, generator=g)
        if kind == "sines":
            return x, torch.sin(x @ weight)
        return x, (x @ weight + 0.5 * x.square() @ weight).argmax(1)

    return batch


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ReLU": (lambda: dense(nn.ReLU), "classes"),
    "ReLU, 6 layers": (lambda: dense(nn.ReLU, 6), "sines"),
    "ReLU, 8 layers, norms": (lambda: dense(nn.ReLU, 8, True), "classes"),
    "tanh": (lambda: dense(nn.Tanh), "classes"),
    "GELU": (lambda: dense(nn.GELU), "sines"),
    "sigmoid, 2 layers": (lambda: dense(nn.Sigmoid, 2), "classes"),
    "convolutional": (convolutional, "images"),
    "transformer": (Tokens, "tokens"),
    "GRU": (lambda: Last(nn.GRU), "sums"),
    "LSTM": (lambda: Last(nn.LSTM), "sums"),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam 1e-3": lambda p: torch.optim.Adam(p, 1e-3),
    "Adam 5e-3": lambda p: torch.optim.Adam(p, 5e-3),
    "AdamW 2e-3": lambda p: torch.optim.AdamW(p, 2e-3, weight_decay=0.1),
    "SGD 0.05": lambda p: torch.optim.SGD(p, 0.05),
    "SGD 0.02, momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9),
}


def run(network: str, optimizer: str, seed: int, every: int) -> list[eq.Finding]:
    torch.manual_seed(seed)
    make, kind = NETWORKS[network]
    model, batch = make(), task(kind, seed)
    mover = OPTIMIZERS[optimizer](model.parameters())
    monitor = eq.Monitor(model, mover, every=every)
    for _ in range(STEPS):
        x, y = batch()
        mover.zero_grad()
        out = model(x)
        is_class = y.dtype == torch.long
        loss = F.cross_entropy(out.flatten(0, -2), y.flatten()) if is_class else F.mse_loss(out, y)
        loss.backward()
        mover.step()
        monitor.step(loss)
    monitor.close()
    return list(monitor.findings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--out", type=Path, default=Path("results/monitor_healthy.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "runs", "with an alarm", "alarms", "info only")
    rows, runs, alarmed = [], 0, 0
    for network in NETWORKS:
        codes, notes, bad, count = Counter[str](), Counter[str](), 0, 0
        for optimizer in OPTIMIZERS:
            for seed in range(options.first, options.first + options.seeds):
                for every in (1, 10):
                    found = run(network, optimizer, seed, every)
                    alarms = [f for f in found if f.severity != "info"]
                    count, bad = count + 1, bad + bool(alarms)
                    codes.update(f.code for f in alarms)
                    notes.update(f.code for f in found if f.severity == "info")
                    rows.append({"network": network, "optimizer": optimizer, "seed": seed,
                                 "every": every, "findings": [str(f) for f in found]})  # fmt: skip
        runs, alarmed = runs + count, alarmed + bad
        table.add_row(network, str(count), str(bad), _listed(codes), _listed(notes))
    console = Console(width=110)
    console.print(table)
    console.print(f"{alarmed} of {runs} healthy runs with an alarm, {alarmed / runs:.1%}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def _listed(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {n}" for code, n in codes.items())


if __name__ == "__main__":
    sys.exit(main())
