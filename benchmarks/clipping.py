"""Which clip for which trouble: every rule on small real trainings, beside no clipping.

    python benchmarks/clipping.py            # about a quarter of an hour on one core
    python benchmarks/clipping.py --quick    # two minutes, fewer seeds

Each rule takes the best of its limits on two seeds that are not used again; the table is of other
seeds. Losses are on data without noise and without trouble; a run that is not finite, or ends
above where it began, counts with its first loss and as lost. The guard's skipping of what is not
finite is at work in all runs but those named ``no guard``, so that rules are compared and not that.

Prints a table and writes JSON.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import equipoise.torch as eq
from equipoise.lab.data import digits

STEPS = 250
TUNE = (100, 101)

# Rule: its limits, in the order in which they are tried.
RULES: dict[str, tuple[Callable[[float], Any], tuple[float, ...]]] = {
    "none": (lambda limit: None, (0.0,)),
    "GlobalNorm": (eq.GlobalNorm, (0.3, 1.0, 3.0)),
    "Value": (eq.Value, (0.003, 0.03, 0.3)),
    "PerLayer": (eq.PerLayer, (0.1, 0.5, 2.0)),
    "PerUnit": (eq.PerUnit, (0.01, 0.05, 0.25)),
    "Percentile": (eq.Percentile, (10.0, 50.0, 90.0)),
    "ZScore": (eq.ZScore, (1.0, 2.5, 4.0)),
}


@dataclass(frozen=True, eq=False)
class Training:
    """One training: a model, its optimizer, the loss of a step, and the loss it is judged by."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], torch.Tensor]
    judged: Callable[[], torch.Tensor]


class Recurrent(nn.Module):
    """A tanh network that adds two marked numbers of a sequence; it starts a little too loud."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(2, 32, batch_first=True), nn.Linear(32, 1)
        nn.init.orthogonal_(self.cell.weight_hh_l0, 1.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sequences of (rows, steps, 2) to (rows,)."""
        return self.head(self.cell(x)[0][:, -1])[:, 0]


def adding(
    generator: torch.Generator, rows: int, length: int = 20
) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.rand(rows, length, generator=generator)
    marks = torch.zeros(rows, length)
    half = length // 2
    marks[torch.arange(rows), torch.randint(half, (rows,), generator=generator)] = 1.0
    marks[torch.arange(rows), half + torch.randint(half, (rows,), generator=generator)] = 1.0
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1)


def spiking_rnn(seed: int) -> Training:
    model, generator = Recurrent(), torch.Generator().manual_seed(seed)
    x, y = adding(torch.Generator().manual_seed(seed + 1), 256)

    def loss(step: int) -> torch.Tensor:
        inputs, targets = adding(generator, 32)
        return F.mse_loss(model(inputs), targets)

    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return Training(model, optimizer, loss, lambda: F.mse_loss(model(x), y))


def heavy_tails(seed: int) -> Training:
    """Targets with noise of Student's t with 1.2 degrees of freedom, which has no variance."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(),
                          nn.Linear(32, 1))  # fmt: skip
    w = torch.randn(8, 3, generator=generator)

    def clean(x: torch.Tensor) -> torch.Tensor:
        return (x @ w).tanh().sum(1, keepdim=True)

    x = torch.randn(512, 8, generator=generator)

    def loss(step: int) -> torch.Tensor:
        inputs = torch.randn(32, 8, generator=generator)
        normal = torch.randn(32, 1, generator=generator)
        # A chi-squared over its 1.2 degrees of freedom is a gamma of shape 0.6.
        gamma = torch._standard_gamma(torch.full((32, 1), 0.6), generator=generator) / 0.6
        return F.mse_loss(model(inputs), clean(inputs) + 0.5 * normal / gamma.sqrt())

    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    return Training(model, optimizer, loss, lambda: F.mse_loss(model(x), clean(x)))


def on_digits(seed: int, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]) -> Training:
    task, generator = digits(1024), torch.Generator().manual_seed(seed)
    layers = [m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def loss(step: int) -> torch.Tensor:
        rows = torch.randint(task.rows, (64,), generator=generator)
        return F.cross_entropy(model(task.x_train[rows]), task.y_train[rows])

    def judged() -> torch.Tensor:
        return F.cross_entropy(model(task.x_test), task.y_test)

    return Training(model, optimizer_of(model), loss, judged)


def sgd(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def exploding_rate(seed: int) -> Training:
    return on_digits(seed, sgd(0.3))


def bad_layer(seed: int) -> Training:
    """One layer of seven has its gradient multiplied by 300 in one step of ten."""
    found = on_digits(seed, sgd(0.02))
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(found.model, nn.Sequential)
    weight = found.model[4].weight
    weight.register_hook(
        lambda g: g * (300.0 if torch.rand((), generator=generator) < 0.1 else 1.0)
    )
    return found


def healthy(seed: int) -> Training:
    return on_digits(seed, lambda model: torch.optim.Adam(model.parameters(), 1e-3))


TROUBLES = {
    "spikes in an RNN": spiking_rnn,
    "heavy-tailed batches": heavy_tails,
    "rate too high": exploding_rate,
    "one bad layer": bad_layer,
    "healthy": healthy,
}


@dataclass(frozen=True)
class Run:
    """How a training ended."""

    loss: float
    clipped: float
    is_lost: bool


def run(make: Callable[[int], Training], seed: int, rule: Any, is_guarded: bool = True) -> Run:
    torch.manual_seed(seed)
    training = make(seed)
    with torch.no_grad():
        first = float(training.judged())
    guard = eq.Guard(training.optimizer, rule, spikes=None) if is_guarded else None
    for step in range(STEPS):
        training.optimizer.zero_grad()
        loss = training.loss(step)
        loss.backward()
        if guard is not None:
            guard.step(loss=loss)
        else:
            training.optimizer.step()
    with torch.no_grad():
        last = float(training.judged())
    is_lost = not last < first
    share = guard.clipped_share if guard is not None else 0.0
    return Run(first if is_lost else last, 0.0 if math.isnan(share) else share, is_lost)


def best_limit(make: Callable[[int], Training], name: str) -> float:
    """The limit with the lowest mean log loss on the seeds kept for that."""
    rule, limits = RULES[name]
    return min(
        limits,
        key=lambda limit: sum(math.log(run(make, seed, rule(limit)).loss) for seed in TUNE),
    )


def compare(make: Callable[[int], Training], seeds: Sequence[int]) -> dict[str, Any]:
    found = {}
    for name in ("no guard", *RULES):
        is_guarded = name != "no guard"
        limit = best_limit(make, name) if is_guarded and name != "none" else 0.0
        rule = RULES[name][0](limit) if is_guarded else None
        runs = [run(make, seed, rule, is_guarded) for seed in seeds]
        losses = [one.loss for one in runs]
        found[name] = {
            "limit": limit,
            "loss": statistics.mean(losses),
            "error": statistics.stdev(losses) / math.sqrt(len(losses)),
            "clipped": statistics.mean(one.clipped for one in runs),
            "lost": sum(one.is_lost for one in runs),
            "losses": losses,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("results/clipping.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(2 if options.quick else options.seeds)
    console, results = Console(width=100), {}
    table = Table("trouble", "rule", "limit", "final loss", "clipped steps", "lost runs")
    for trouble, make in TROUBLES.items():
        results[trouble] = found = compare(make, seeds)
        lowest = min(x["loss"] for x in found.values())
        for i, (name, x) in enumerate(found.items()):
            # In bold: the best, and what is not told from it by two standard errors.
            is_best = x["loss"] - lowest <= 2 * x["error"] and not x["lost"]
            shown = f"{x['loss']:.3g} ± {x['error']:.1g}"
            table.add_row(
                trouble if i == 0 else "", name, f"{x['limit']:g}" if x["limit"] else "",
                f"[bold]{shown}[/bold]" if is_best else shown,
                f"{x['clipped']:.0%}" if x["limit"] else "", f"{x['lost']} of {len(seeds)}",
                end_section=i == len(found) - 1,
            )  # fmt: skip
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
