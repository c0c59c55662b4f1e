"""Where the kinks of mirrored pairs should lie: at one point, or spread.

    python benchmarks/kinks.py            # 20 minutes on 2 cores
    python benchmarks/kinks.py --quick    # fewer draws and rates, a quarter of that

Without biases every kink of a network of rectifiers passes through one point. ``mirrored`` with
several spreads of the kinks, and ``auto``, which spreads by 1 / sqrt(directions of the inputs),
on tasks of 1, 2, 8, 10 and 64 inputs, over learning rates. 500 steps of Adam; the score is on the
test part, below 0 counts as 0; the rate is chosen on rows held back.

Trainings run as units of work: what is finished is kept, and the same command goes on from there.
Prints a table and writes JSON.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from equipoise.lab.grid_run import rate_of
from equipoise.lab.setting import Setting
from equipoise.lab.study import Outcome, Runs, run_study

METHODS = ("auto", "mirrored", "mirrored(spread=0.3)", "mirrored(spread=1)")
CELLS = (
    Setting("polynomial", (16,) * 60, "relu", 20, validation=400),
    Setting("sine(frequency=2)", (16,) * 100, "relu", 20, validation=400),
    Setting("spirals", (16,) * 60, "relu", 20, validation=400),
    Setting("checkerboard(cells=3)", (8,) * 60, "leaky_relu(0.1)", 20, validation=400),
    Setting("spirals", (16,) * 60, "softplus", 20, validation=400),
    Setting("teacher", (16,) * 30, "gelu", 20, validation=400),
    Setting("friedman", (8,) * 60, "relu", 20, validation=400),
    Setting("digits", (16,) * 60, "relu", 26, validation=200),
)


def best(outcome: Outcome) -> tuple[float, float, int, int]:
    """Mean score at the rate that held-back rows choose, its error, the rate, rates that work."""
    held, scores = np.maximum(outcome.held, 0).mean(1), np.maximum(outcome.scores, 0)
    place = int(held.argmax())
    error = float(scores[place].std(ddof=1)) / math.sqrt(scores.shape[1])
    return float(scores[place].mean()), error, place, int((held > 0.9 * held.max()).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 rates and 4 draws")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--on", default="processes", help="here, processes, ray or auto")
    parser.add_argument("--jobs", type=int, default=0, help="units at a time, 0 for all cores")
    parser.add_argument("--out", type=Path, default=Path("results/kinks.json"))
    options = parser.parse_args()
    places, draws = ((-1, 0, 1), 4) if options.quick else (range(-2, 3), options.draws)
    runs = {
        f"{cell.name} | {method}": Runs(
            cell, method, tuple(rate_of(cell, place) for place in places), draws
        )
        for cell in CELLS
        for method in METHODS
    }
    store = Path(f"results/kinks_{len(places)}_{draws}")
    found = run_study(runs, store, options.on, options.jobs)
    table = Table(
        "cell", *METHODS, title="score ± standard error at the best rate, rates that work"
    )
    results: dict[str, dict[str, list[float]]] = {}
    for cell in CELLS:
        rows = {method: best(found[f"{cell.name} | {method}"]) for method in METHODS}
        results[cell.name] = {method: list(row) for method, row in rows.items()}
        table.add_row(cell.name, *(f"{m:.3f} ± {e:.3f}, {n}" for m, e, _, n in rows.values()))
    Console(width=130).print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"draws": draws, "cells": results}, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
