"""Where units should rest: mirrored pairs at one point or spread, or all of them away from 0.

    python benchmarks/kinks.py                     # 20 minutes on 2 cores
    python benchmarks/kinks.py --question rest     # the same for units that rest away from 0
    python benchmarks/kinks.py --quick             # fewer draws and rates, a quarter of that

*kinks*: without biases every kink of a network of rectifiers passes through one point. ``mirrored``
with several spreads of the kinks, and ``auto``, which spreads by 1 / sqrt(directions of the
inputs), on tasks of 1, 2, 8, 10 and 64 inputs.

*rest*: a pair keeps one direction of two units. ``mirrored``, ``centred`` and ``shifted``, whose
units rest where their function is steepest, in narrow networks of smooth gates and rectifiers, and
``auto``, which lets them rest where pairs would hold too few directions.

Learning rates half a decade apart, 500 steps of Adam; the score is on the test part, below 0 counts
as 0; the rate is chosen on rows held back. Trainings run as units of work: what is finished is
kept, and the same command goes on from there. Prints a table and writes JSON.
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

SPREADS = ("auto", "mirrored", "mirrored(spread=0.3)", "mirrored(spread=1)")
RESTS = ("auto", "mirrored", "shifted", "centred")
KINKED = (
    Setting("polynomial", (16,) * 60, "relu", 20, validation=400),
    Setting("sine(frequency=2)", (16,) * 100, "relu", 20, validation=400),
    Setting("spirals", (16,) * 60, "relu", 20, validation=400),
    Setting("checkerboard(cells=3)", (8,) * 60, "leaky_relu(0.1)", 20, validation=400),
    Setting("spirals", (16,) * 60, "softplus", 20, validation=400),
    Setting("teacher", (16,) * 30, "gelu", 20, validation=400),
    Setting("friedman", (8,) * 60, "relu", 20, validation=400),
    Setting("digits", (16,) * 60, "relu", 26, validation=200),
)
RESTING = (
    Setting("digits", (16, 4) * 25, "relu", 20, validation=400),
    Setting("digits", (8,) * 40, "gelu", 20, validation=400),
    Setting("digits", (4,) * 60, "silu", 20, validation=400),
    Setting("digits", (4,) * 60, "softplus", 20, validation=400),
    Setting("digits", (16,) * 40, "mish", 20, validation=400),
    Setting("digits", (16,) * 40, "silu", 20, validation=400),
    Setting("spirals", (16, 4) * 25, "mish", 20, validation=400),
    Setting("friedman", (8,) * 40, "gelu", 40, validation=400),
)
QUESTIONS = {"kinks": (SPREADS, KINKED), "rest": (RESTS, RESTING)}


def best(outcome: Outcome) -> tuple[float, float, int, int]:
    """Mean score at the rate that held-back rows choose, its error, the rate, rates that work."""
    held, scores = np.maximum(outcome.held, 0).mean(1), np.maximum(outcome.scores, 0)
    place = int(held.argmax())
    error = float(scores[place].std(ddof=1)) / math.sqrt(scores.shape[1])
    return float(scores[place].mean()), error, place, int((held > 0.9 * held.max()).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--question", choices=QUESTIONS, default="kinks")
    parser.add_argument("--quick", action="store_true", help="3 rates and 4 draws")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--on", default="processes", help="here, processes, ray or auto")
    parser.add_argument("--jobs", type=int, default=0, help="units at a time, 0 for all cores")
    parser.add_argument("--out", type=Path, help="results/QUESTION.json where left out")
    options = parser.parse_args()
    methods, cells = QUESTIONS[options.question]
    places, draws = ((-1, 0, 1), 4) if options.quick else (range(-2, 3), options.draws)
    runs = {
        f"{cell.name} | {method}": Runs(
            cell, method, tuple(rate_of(cell, place) for place in places), draws
        )
        for cell in cells
        for method in methods
    }
    store = Path(f"results/{options.question}_{len(places)}_{draws}")
    found = run_study(runs, store, options.on, options.jobs)
    table = Table(
        "cell", *methods, title="score ± standard error at the best rate, rates that work"
    )
    results: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        rows = {method: best(found[f"{cell.name} | {method}"]) for method in methods}
        results[cell.name] = {method: list(row) for method, row in rows.items()}
        table.add_row(cell.name, *(f"{m:.3f} ± {e:.3f}, {n}" for m, e, _, n in rows.values()))
    Console(width=130).print(table)
    out = options.out or Path(f"results/{options.question}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"draws": draws, "cells": results}, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
