"""Thousands of random models: is each right by measurement, or refused with a reason?

    python benchmarks/random_models.py --count 5000            # half a second to a few seconds each
    python benchmarks/random_models.py --only 17 4711 --verbose   # some of them, as programs
    python benchmarks/random_models.py --report                # what is known, without a run

Model number n is built by the choices of ``random.Random(n)`` (``random_model.py``), held against
what was promised of it (``random_check.py``). Each runs in a process of its own with a time limit;
results go to a file of one line each, and the same command goes on from there.

Ends with status 1 if there was a fault.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from random_check import examine
from random_model import random_model
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table
from zoo_processes import each

PRELOAD = ["torch", "equipoise.torch", "random_check", "random_model"]


def check(name: str) -> dict[str, Any]:
    """Everything about model number ``name``, as plain data."""
    torch.set_num_threads(1)
    made = random_model(random.Random(int(name)).choice, int(name))
    begun = time.time()
    found = examine(made.model, made.inputs, int(name))
    result: dict[str, Any] = {
        "status": found.status, "reason": found.reason, "faults": found.faults,
        "predicted": found.predicted, "unknown": found.unknown, "unread": found.unread,
        "silent": found.silent, "across": found.across, "seconds": round(time.time() - begun, 2),
    }  # fmt: skip
    return result | ({"program": made.text} if found.faults else {})


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Results so far by number; a line that was cut off is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            name, result = json.loads(line)
        except ValueError:
            continue
        found[name] = result
    return found


def show(console: Console, results: dict[str, dict[str, Any]], verbose: bool) -> int:
    """Print what was found; the number of models with a fault."""
    bad = {n: r for n, r in results.items() if r["faults"]}
    for name, result in bad.items():
        console.print(f"[bold]model {name}[/bold]", highlight=False)
        for fault in result["faults"]:
            is_silent = fault in result.get("silent", result["faults"])
            end = "" if is_silent else " (named by the call)"
            console.print(f"  {fault}{end}", highlight=False, markup=False)
        if verbose:
            console.print(result.get("program", ""), highlight=False, markup=False)
    started = [r for r in results.values() if r["status"] == "started"]
    refused = [r for r in results.values() if r["status"] == "refused"]
    predicted = sum(r["predicted"] for r in started)
    layers = predicted + sum(r["unknown"] for r in started)
    silent = sum(bool(r.get("silent", r["faults"])) for r in bad.values())
    table = Table(title=f"{len(results)} random models")
    table.add_column("what")
    table.add_column("number", justify="right")
    for what, number in (
        ("started", len(started)), ("refused with a reason", len(refused)),
        ("with a fault", len(bad)),
        ("of them with one that the call does not name", silent),
        ("linear maps in those started", layers),
        ("of them with a predicted signal", predicted),
        ("and with a predicted gradient", sum(r.get("across", 0) for r in started)),
    ):  # fmt: skip
        table.add_row(what, f"{number:,}")
    console.print(table)
    unread = Counter(u.split(" of ")[0] for r in started for u in set(r["unread"]))
    for reason, count in unread.most_common(12):
        console.print(f"  {count:5} not read: {reason}", highlight=False, markup=False)
    reasons = Counter(r["reason"].splitlines()[0][:100] for r in refused)
    for reason, count in reasons.most_common(12):
        console.print(f"  {count:5} refused: {reason}", highlight=False, markup=False)
    return len(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="how many models")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="these numbers, anew")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=180, help="time limit of each")
    parser.add_argument("--out", type=Path, default=Path("results/random_models.jsonl"))
    parser.add_argument("--report", action="store_true", help="only show what is known")
    parser.add_argument("--verbose", action="store_true", help="show programs of faulty models")
    options = parser.parse_args()
    console = Console(width=118)
    results = load(options.out)
    wanted = [str(n) for n in options.only or range(options.first, options.first + options.count)]
    todo = [] if options.report else [n for n in wanted if n not in results or options.only]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar,
        options.out.open("a", encoding="utf-8") as file,
    ):
        line = bar.add_task("", total=len(todo))

        def done(name: str, result: dict[str, Any]) -> None:
            if "died" in result:
                crash = [f"crash: {result['died']}"]
                result = {"status": "started", "reason": "", "faults": crash, "silent": crash,
                          "predicted": 0, "unknown": 0, "unread": []}  # fmt: skip
            results[name] = result
            file.write(json.dumps([name, result]) + "\n")
            file.flush()
            faults = sum(bool(r["faults"]) for r in results.values())
            bar.update(line, advance=1, description=f"{faults} with a fault")

        each(todo, check, options.jobs, options.seconds, done, PRELOAD)
    return int(show(console, {n: results[n] for n in wanted if n in results}, options.verbose) > 0)


if __name__ == "__main__":
    sys.exit(main())
