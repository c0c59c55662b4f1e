"""What each way to advise a learning rate is worth, held against a sweep of quarter decades.

python benchmarks/learning_rate.py [--quick] [--seeds 3] [--out results/learning_rate.json]
python benchmarks/learning_rate.py --held results/learning_rate.json   # advice alone, same sweeps

About ten minutes of one core, three with ``--held``. Every method sees the network at its start and
the training batches, from each of the seeds. *Within 3*: the advice is within a factor 3 of the
best rate. *Trains*: the run at the nearest rate of the sweep makes 80 % of the fall of the best.
*Limit within 3*: the largest rate that the method expects to work is within a factor 3 of the
largest that did, for all seeds. Standard errors are over networks, whose seeds are not independent.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from learning_rate_networks import (
    BATCH,
    NETWORKS,
    ROWS,
    Network,
    Truth,
    optimizer_for,
    task_for,
    truth,
)  # fmt: skip
from rich.console import Console
from rich.table import Table

import equipoise.torch as eq
from equipoise.training.first_step import step_line
from equipoise.training.objective import Objective

# Raw bounds: what theory says before any share is fitted.
RAW = {"Adam": "38 / preconditioned sharpness", "SGD": "2 / sharpness"}
# One forward and backward pass and one forward pass more: the rate at which a first step changes
# the outputs by half of what they are, fitted as the other shares were.
OUTPUTS = {"Adam": 0.5, "SGD": 0.65}
USUAL = {"Adam": 1e-3, "SGD": 1e-1}


@dataclass(frozen=True)
class Advice:
    """What a method says of one network from one seed."""

    rate: float
    limit: float
    passes: float
    seconds: float


def advices(network: Network, name: str, seed: int) -> dict[str, Advice]:
    """All methods on one draw."""
    task = task_for(network)
    model = network.drawn(seed, task)
    optimizer = optimizer_for(name, model)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed)).split(BATCH)
    batches = [(task.x_train[rows], task.y_train[rows]) for rows in order]
    found, begun = dict[str, Advice](), time.perf_counter()
    joined = eq.advise(model, optimizer, batches, F.cross_entropy, seed=seed)
    seconds = time.perf_counter() - begun
    total = sum(e.passes for e in joined.estimates)
    for e in joined.estimates:
        found[e.method] = Advice(e.rate, e.at_most, e.passes, seconds * e.passes / total)
    found["all three, weighted"] = Advice(joined.rate, joined.at_most, total, seconds)
    begun = time.perf_counter()
    bound = eq.sharpness(model, F.cross_entropy, batches, optimizer, tolerance=0.1)
    found[RAW[name]] = Advice(
        bound.largest_rate, bound.largest_rate, bound.passes, time.perf_counter() - begun
    )
    begun = time.perf_counter()
    line = step_line(Objective(model, F.cross_entropy), optimizer, batches[0])
    share = OUTPUTS[name] / line.output_change
    found["output change"] = Advice(
        share, math.nan, 4, (time.perf_counter() - begun) * 4 / line.passes
    )
    if network.depth:
        found["0.5 / (L n)"] = Advice(0.5 / (network.depth * network.width), math.nan, 0, 0.0)
    found[f"{USUAL[name]:g}, as usual"] = Advice(USUAL[name], math.nan, 0, 0.0)
    return found


def scored(advice: Advice, held: Truth, seed: int) -> dict[str, float]:
    """What the advice was worth."""
    is_given = math.isfinite(advice.rate) and advice.rate > 0
    row = held.nearest(advice.rate) if is_given else -1
    return {
        "rate": advice.rate,
        "ratio": advice.rate / held.best,
        "within": float(is_given and abs(math.log(advice.rate / held.best)) <= math.log(3)),
        "trains": float(is_given and bool(held.trains[seed, row])),
        "limit": (
            float(abs(math.log(advice.limit / held.largest)) <= math.log(3))
            if math.isfinite(advice.limit) else math.nan
        ),
        "passes": advice.passes,
        "seconds": advice.seconds,
    }  # fmt: skip


def mean_error(by_network: Sequence[float]) -> str:
    values = [x for x in by_network if math.isfinite(x)]
    if not values:
        return "-"
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * np.mean(values):.0f} +- {100 * error:.0f}"


def table(name: str, results: dict[str, Any]) -> Table:
    """One row for each method."""
    shown = Table(title=f"{name}, {len(results)} networks", title_justify="left")
    for column in (
        "method", "within 3, %", "trains, %", "limit within 3, %", "median of rate / best",
        "spread, nats", "passes", "seconds",
    ):  # fmt: skip
        shown.add_column(column, justify="left" if column == "method" else "right")
    methods = {m: None for r in results.values() for m in r["methods"]}
    for method in methods:
        rows = [r["methods"][method] for r in results.values() if method in r["methods"]]
        every = [x for row in rows for x in row]
        logs = [math.log(x["ratio"]) for x in every if math.isfinite(x["ratio"])]
        shares = [
            mean_error([float(np.mean([x[key] for x in row])) for row in rows])
            for key in ("within", "trains", "limit")
        ]
        label = method if len(rows) == len(results) else f"{method} ({len(rows)} networks)"
        shown.add_row(
            label, *shares, f"{math.exp(np.median(logs)):.2g}", f"{np.std(logs):.2f}",
            f"{np.mean([x['passes'] for x in every]):.0f}",
            f"{np.mean([x['seconds'] for x in every]):.2g}",
        )  # fmt: skip
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two networks, two epochs")
    parser.add_argument("--optimizers", nargs="+", default=["Adam", "SGD"])
    parser.add_argument("--only", nargs="+", default=[""], help="networks with these words")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of 16 batches of 64")
    parser.add_argument("--held", type=Path, help="take the sweeps from an earlier run")
    parser.add_argument("--out", type=Path, default=Path("results/learning_rate.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=130)
    names = [name for name in NETWORKS if any(word in name for word in options.only)]
    names = names[:2] if options.quick else names
    seeds = range(options.seeds)
    everything: dict[str, Any] = {}
    earlier = json.loads(options.held.read_text(encoding="utf-8")) if options.held else {}
    begun = time.process_time()
    for optimizer in options.optimizers:
        results: dict[str, Any] = {}
        for label in names:
            network = NETWORKS[label]
            known = earlier.get(optimizer, {}).get(label)
            if known is not None:
                held = Truth.of(known["last"], known["rates"], known["birth"], 0.0)
            else:
                held = truth(network, optimizer, seeds, 2 if options.quick else options.epochs)
            found = [advices(network, optimizer, seed) for seed in seeds]
            methods = {
                method: [scored(f[method], held, k) for k, f in enumerate(found)]
                for method in found[0]
            }
            results[label] = {
                "best": held.best, "largest": held.largest, "birth": held.birth,
                "rates": held.rates, "last": held.last.tolist(), "sweep_seconds": held.seconds,
                "methods": methods,
            }  # fmt: skip
            ratios = ", ".join(
                f"{m} {np.exp(np.mean([np.log(x['ratio']) for x in rows])):.2g}"
                for m, rows in methods.items()
            )
            console.print(
                f"{optimizer}, {label}: best {held.best:.2g}, largest {held.largest:.2g}; "
                f"over best: {ratios}", highlight=False,
            )  # fmt: skip
            everything[optimizer] = results
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(everything, indent=1), encoding="utf-8")
        console.print(table(optimizer, results))
    console.print(f"{time.process_time() - begun:.0f} s of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
