"""Replicas trained together against a loop of single trainings.

    python benchmarks/batched.py            # some minutes on one core
    python benchmarks/batched.py --quick    # a minute

A step is forward, backward and Adam on a batch of 64. The loop is the plain one of torch: one
model, autograd, ``torch.optim.Adam``. Both run on one thread, one after the other and again, and
the ratio is that of the medians; the error is the spread of the ratios over rounds. With
``--jobs 2`` the replicas are shared by two processes that train at the same time, as the lab does
it on two cores; the loop stays one process of one thread.

Prints a table and writes JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from equipoise.lab.batched import Replicas, train
from equipoise.lab.data import digits
from equipoise.lab.models import mlp, plain_cnn, residual_mlp
from equipoise.lab.regression_tasks import polynomial
from equipoise.lab.task import Task

BATCH, RATE = 64, 1e-3


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


# Name: network, task, replicas at a time, replicas in all, what must be reached.
CASES: dict[str, tuple[Callable[[], nn.Sequential], Callable[[], Task], tuple[int, ...], float]] = {
    "width 2, depth 40": (
        lambda: mlp([1, *[2] * 40, 1], leaky), lambda: polynomial(5), (128, 256, 512, 1200), 75,
    ),
    "width 16, depth 50": (
        lambda: mlp([64, *[16] * 50, 10], nn.Tanh), lambda: digits(1024), (32, 64, 128), 10,
    ),
    "width 4, depth 50": (
        lambda: mlp([64, *[4] * 50, 10], nn.Tanh), lambda: digits(1024), (64, 128, 256), 0,
    ),
    "width 64, depth 10": (
        lambda: mlp([64, *[64] * 10, 10], nn.GELU), lambda: digits(1024), (8, 32), 0,
    ),
    "residual, width 16, 24 blocks": (
        lambda: residual_mlp(64, 16, 24, 10, nn.GELU), lambda: digits(1024), (32, 64), 0,
    ),
    "convolutions, 8 channels, depth 20": (
        lambda: plain_cnn(20, nn.Tanh, 8), lambda: digits(1024).images(), (16,), 0,
    ),
}  # fmt: skip


def looped(network: nn.Sequential, task: Any, steps: int) -> float:
    """Seconds of one step of a single training."""
    adam = torch.optim.Adam(network.parameters(), RATE)
    is_classes = task.y_train.dtype == torch.int64
    loss_of = nn.functional.cross_entropy if is_classes else nn.functional.mse_loss
    order = torch.randint(task.rows, (steps, BATCH))
    begun = time.perf_counter()
    for rows in order:
        loss = loss_of(network(task.x_train[rows]), task.y_train[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return (time.perf_counter() - begun) / steps


def together(networks: Sequence[nn.Sequential], task: Any, epochs: int) -> float:
    """Seconds of one step of one replica of many."""
    count, steps = len(networks), epochs * -(-task.rows // BATCH)
    replicas = Replicas.of(networks)
    begun = time.perf_counter()
    train(replicas, task, [RATE] * count, range(count), epochs, BATCH)
    return (time.perf_counter() - begun) / steps / count


def share(name: str, count: int) -> float:
    """Seconds that one process trains its share of the replicas, networks drawn before."""
    torch.set_num_threads(1)
    make, task_of, _, _ = CASES[name]
    return together([make() for _ in range(count)], task_of(), 1) * count


def spread_out(pool: ProcessPoolExecutor, name: str, count: int, jobs: int) -> float:
    """Seconds of one step of one replica of many, shared by processes at the same time."""
    seconds = pool.map(share, [name] * jobs, [count // jobs] * jobs)
    return max(seconds) / (count // jobs * jobs)


def measure(name: str, rounds: int, jobs: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Times of one case, loop and replicas in turn."""
    make, task_of, counts, wanted = CASES[name]
    task = task_of()
    torch.manual_seed(0)
    looped(make(), task, 3)
    singles = list[float]()
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        singles.append(looped(make(), task, 30))
        for count in counts:
            found[count].append(
                together([make() for _ in range(count)], task, 1)
                if jobs == 1
                else spread_out(pool, name, count, jobs)
            )
    single = statistics.median(singles)
    return {
        "loop_ms": 1e3 * single,
        "wanted": wanted,
        "replicas": {
            str(count): {
                "us": 1e6 * statistics.median(times),
                "ratio": single / statistics.median(times),
                "spread": statistics.pstdev([s / t for s, t in zip(singles, times, strict=True)]),
            }
            for count, times in found.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first two cases, one round")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the replicas")
    parser.add_argument("--out", type=Path, default=Path("results/batched.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=100)
    names = list(CASES)[:2] if options.quick else list(CASES)
    results = {}
    table = Table("network", "loop, ms a step", "replicas", "us a step and replica", "ratio")
    rounds = 1 if options.quick else options.rounds
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for name in names:
            results[name] = found = measure(name, rounds, options.jobs, pool)
            for count, numbers in found["replicas"].items():
                table.add_row(
                    name, f"{found['loop_ms']:.2f}", count, f"{numbers['us']:.1f}",
                    f"{numbers['ratio']:.0f} +- {numbers['spread']:.0f}",
                )  # fmt: skip
                name = ""
    console.print(table)
    console.print(f"replicas on {options.jobs} thread(s), the loop on one")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
