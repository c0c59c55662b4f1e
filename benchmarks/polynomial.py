"""Which starts let networks of width 2 and depth 40 learn a polynomial, over many draws.

    python benchmarks/polynomial.py --quick      # 12 draws, 500 steps: a minute on 2 cores
    python benchmarks/polynomial.py              # 100 draws, 3,000 steps, 8,400 trainings
    python benchmarks/polynomial.py --on ray     # on a cluster

Leaky ReLU of three slopes, seven starts, four learning rates; Adam, batches of 64 of 2,000 rows of
one polynomial of degree 5. A training has solved it if its test mean squared error is below .1 of
the variance. Shares are at each start's best rate, with their standard errors. The setting follows
arXiv 2602.10949, whose polynomials may differ.

Trainings run as units of work: what is finished is kept, and the same command goes on from there.
Prints a table and writes JSON.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from equipoise.lab.setting import Setting
from equipoise.lab.study import Outcome, Runs, run_study

METHODS = ("auto", "shifted", "mirrored", "lyapunov", "orthogonal", "he", "xavier")
SLOPES = (0.5, 0.1, 0.01)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
ROWS, BATCH, SOLVED = 2000, 64, 0.9
STEPS_AN_EPOCH = -(-ROWS // BATCH)


def study(draws: int, steps: int) -> dict[str, Runs]:
    """All trainings, by start and slope."""
    epochs = math.ceil(steps / STEPS_AN_EPOCH)
    return {
        f"{method}, slope {slope:g}": Runs(
            Setting(
                f"polynomial(degree=5, rows={ROWS})", (2,) * 40, f"leaky_relu({slope:g})",
                epochs, BATCH,
            ),
            method, RATES, draws,
        )
        for method in METHODS
        for slope in SLOPES
    }  # fmt: skip


def solved(outcome: Outcome) -> tuple[float, float, float]:
    """Share solved at the best rate, its standard error, and that rate."""
    shares = (outcome.scores > SOLVED).mean(axis=1)
    best = int(shares.argmax())
    share, count = float(shares[best]), outcome.scores.shape[1]
    return share, math.sqrt(share * (1 - share) / count), RATES[best]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="12 draws, 500 steps")
    parser.add_argument("--draws", type=int, default=100, help="of each start, slope and rate")
    parser.add_argument("--steps", type=int, default=3000, help="of each training")
    parser.add_argument("--on", default="processes", help="here, processes, ray or auto")
    parser.add_argument("--jobs", type=int, default=0, help="units at a time, 0 for all cores")
    parser.add_argument("--store", type=Path, help="folder of results")
    parser.add_argument("--out", type=Path, default=Path("results/polynomial.json"))
    options = parser.parse_args()
    draws, steps = (12, 500) if options.quick else (options.draws, options.steps)
    store = options.store or Path(f"results/polynomial_{draws}_{steps}")
    runs, begun = study(draws, steps), time.perf_counter()
    found = run_study(runs, store, options.on, options.jobs)
    wall, work = time.perf_counter() - begun, sum(o.seconds for o in found.values())
    trainings = sum(o.scores.size for o in found.values())
    taken = trainings * STEPS_AN_EPOCH * next(iter(runs.values())).setting.epochs
    table = Table("start", *(f"slope {slope:g}" for slope in SLOPES), title="share solved")
    results: dict[str, dict[str, list[float]]] = {}
    for method in METHODS:
        results[method] = {f"{s:g}": list(solved(found[f"{method}, slope {s:g}"])) for s in SLOPES}
        table.add_row(
            method, *(f"{a:.2f} +- {e:.2f} ({r:.0e})" for a, e, r in results[method].values())
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{trainings:,} trainings, {taken:,} steps: {1e6 * work / taken:.1f} us a step on one "
        f"core, {work / 60:.1f} core minutes; {wall / 60:.1f} minutes on {os.cpu_count()} cores"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = {"share": results, "trainings": trainings, "steps": taken, "core_seconds": work}
    options.out.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
