"""What a comparison of starts gains from more processes than one, and whether its numbers stay.

python benchmarks/compare_places.py --repeats 3

Trains the network of examples/compare_starts.py here and in processes, by turns. Every process has
one thread; here torch has --threads, one if left out, so that the ratio is that of the work alone:
threads of small layers gain little, and wait for each other where other programs take their cores.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
from equipoise.lab import compare
from examples.compare_starts import load, net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemes", nargs="+", default=["auto", "he", "xavier", "default"])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/compare_places.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ratios, rows, gap = [], [], 0.0
    for repeat in range(given.repeats):
        found, seconds = {}, {}
        for place in ("here", "processes"):
            begun = time.perf_counter()
            found[place] = compare(
                net, load(), "cross-entropy", given.schemes, given.draws, given.rates,
                steps=given.steps, seed=repeat, on=place, jobs=given.jobs, show_progress=False,
            )  # fmt: skip
            seconds[place] = time.perf_counter() - begun
        losses = [
            {row.scheme: row.losses for row in one.table}
            for one in (found["here"], found["processes"])
        ]
        gap = max(
            gap,
            *(
                abs(a - b) / a
                for s in losses[0]
                for a, b in zip(losses[0][s], losses[1][s], strict=True)
            ),
        )
        ratios.append(seconds["here"] / seconds["processes"])
        rows.append({**seconds, "ratio": ratios[-1], "load": os.getloadavg()[0]})
    error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if ratios[1:] else math.nan
    table = Table("repeat", "here, s", "processes, s", "times faster", "load of the machine")
    for i, row in enumerate(rows):
        table.add_row(str(i), *(f"{row[k]:.3g}" for k in ("here", "processes", "ratio", "load")))
    console = Console()
    console.print(table)
    console.print(
        f"{given.jobs} processes: {statistics.mean(ratios):.2f} +- {error:.2f} times as fast; test "
        f"losses differ by at most {gap:.1e} of themselves"
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "runs": rows,
        "jobs": given.jobs,
        "threads": given.threads,
        "mean": statistics.mean(ratios),
        "error": error,
        "gap": gap,
    }
    given.out.write_text(json.dumps(data, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
