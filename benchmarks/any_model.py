"""equipoise's default against other starts on real architectures, trained without warm-up.

    python benchmarks/any_model.py                        # everything, an hour on one core
    python benchmarks/any_model.py --quick                # little of everything, 5 minutes
    python benchmarks/any_model.py --only transformer     # tasks whose name holds a word
    python benchmarks/any_model.py --seeds 16             # more draws of what is there
    python benchmarks/any_model.py --report               # what is known, without a run

Adam, no warm-up, no clipping, no decay. Each method gets the learning rate with the best mean score
on data of its own (three rates half a decade apart, up to two more where the best lies at an end),
then trains anew; draw i has the same seed and the same batches in every method. The best rival is
picked on the even draws and compared with on the odd ones; a difference counts if it exceeds .01
and two standard errors. A refusal or a crash is a result and is shown.

Prints tables and writes JSON after each method; the same command goes on from there.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from any_model_tasks import TASKS_BY_NAME, Task
from one_call_report import Results, load, rows_of, save, table_of, verdict_table
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from equipoise.lab.rivals import starter
from equipoise.lab.trials import STEP, rates_around

KEPT = Path(__file__).with_suffix(".json")
QUICK = Path("results/any_model_quick.json")
# Rows that data-driven starts see.
START_ROWS = 256
# Other batches than those that chose the rate.
FINAL_SEEDS = 1000
TRIAL_DRAWS, DRAWS = 2, 6
EXTENSIONS = 2
# Training loss is kept as means over so many equal parts of the training.
PARTS = 10


class Starts:
    """Fresh models of one task, started by one method."""

    def __init__(self, task: Task, method: str):
        x, _ = task.data(False).sample(torch.Generator().manual_seed(0), START_ROWS)
        self._task, self._method = task, method
        is_ours = method not in task.published
        self._start = starter(self._built(0), method, x) if is_ours else None

    def _built(self, seed: int) -> nn.Module:
        # What a method leaves alone comes from the constructor.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._task.build()

    def model(self, seed: int) -> nn.Module:
        """The model of one draw."""
        model = self._built(seed)
        if self._start is not None:
            self._start(model, seed)
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._task.published[self._method](model)
        return model


def trained(
    task: Task, model: nn.Module, rate: float, seed: int, is_final: bool
) -> tuple[float, list[float]]:
    """Score after training, and the mean training loss of each part of it."""
    data = task.data(is_final)
    generator = torch.Generator().manual_seed(seed)
    # One pass over all parameters: those of small models are too many for a pass each.
    adam = torch.optim.Adam(model.parameters(), rate, fused=True)
    losses = []
    model.train()
    for _ in range(task.steps):
        x, y = data.sample(generator, task.batch)
        loss = task.loss(model(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            losses += [math.nan] * (task.steps - len(losses))
            break
    model.eval()
    with torch.no_grad():
        score = task.score(model(data.test[0]), data.test[1])
    size = math.ceil(task.steps / PARTS)
    return score, [statistics.mean(losses[i : i + size]) for i in range(0, task.steps, size)]


def choose_rate(task: Task, starts: Starts, draws: int) -> dict[float, float]:
    """Mean score by learning rate on data that is not the final one."""
    found: dict[float, float] = {}
    wanted = rates_around(task.rate, 1)
    for _ in range(EXTENSIONS + 1):
        for rate in wanted:
            scores = [trained(task, starts.model(d), rate, d, False)[0] for d in range(draws)]
            found[rate] = statistics.mean(scores)
        best = max(found, key=lambda rate: found[rate])
        at_end = {min(found): 1 / STEP, max(found): STEP}
        # Where nothing learns, the ends lead nowhere.
        if best not in at_end or max(found.values()) == min(found.values()):
            break
        wanted = (best * at_end[best],)
    return found


def compared(
    task: Task, method: str, draws: range, trial_draws: int, rate: float
) -> dict[str, Any]:
    """Everything about one method: its rate where it is not known, then the scores of the draws."""
    begun = time.time()
    result: dict[str, Any] = {}
    try:
        starts = Starts(task, method)
        if math.isnan(rate):
            by_rate = choose_rate(task, starts, trial_draws)
            rate = max(by_rate, key=lambda r: by_rate[r])
            result = {"rate": rate, "validation": {f"{r:.3g}": by_rate[r] for r in sorted(by_rate)}}
        done = [trained(task, starts.model(d), rate, FINAL_SEEDS + d, True) for d in draws]
    # Rivals crash in ways of their own: what they raise is their result.
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return {"refused": f"{type(error).__name__}: {reason[0]}"}
    result["scores"] = [score for score, _ in done]
    result["loss"] = [statistics.mean(part) for part in zip(*(c for _, c in done), strict=True)]
    return {**result, "job_seconds": time.time() - begun}


def further(results: Results, task: Task, method: str, draws: int) -> tuple[str, range, float]:
    """The key, draws and rate (nan if unknown) of what is to do; no draws where all is done."""
    key = f"train | {task.name} | {method}"
    if key not in results:
        return key, range(draws), math.nan
    if "refused" in results[key]:
        return key, range(0), math.nan
    have = len(rows_of(results, task.name)[method])
    rate = float(results[key]["rate"])
    return f"more | {task.name} | {method} from {have}", range(have, draws), rate


def show(console: Console, results: Results, tasks: list[Task]) -> list[str]:
    """Scores, verdicts and refusals; returns the verdicts."""
    for task in tasks:
        score_table(console, results, task)
    targets = dict.fromkeys((task.name for task in tasks), math.nan)
    verdicts = verdict_table(console, results, targets)
    names = {task.name for task in tasks}
    for key, value in results.items():
        if "refused" in value and key.split(" | ")[1] in names:
            line = f"refused {key.split(' | ', 1)[1]}: {value['refused']}"
            console.print(line, markup=False, style="dim")
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("win", "tie", "loss"))
    console.print(f"equipoise's default against the best rival: {counts}")
    return verdicts


def score_table(console: Console, results: Results, task: Task) -> None:
    rows = rows_of(results, task.name)
    if not rows:
        return
    table = table_of(
        task.name, "method", task.unit, "draws", "rate", "loss of first tenth", "of third", "last"
    )
    for method in sorted(rows, key=lambda m: -statistics.mean(rows[m])):
        scores, known = rows[method], results[f"train | {task.name} | {method}"]
        error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
        losses = [float(known["loss"][i]) for i in (0, 2, -1)]
        table.add_row(
            method, f"{statistics.mean(scores):.4f} +- {error:.4f}", str(len(scores)),
            f"{known['rate']:.2g}", *(f"{loss:.3g}" for loss in losses),
            style="bold" if method == "auto" else "",
        )  # fmt: skip
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="tasks whose name holds a word")
    parser.add_argument("--methods", nargs="*", default=[], help="only these methods")
    parser.add_argument("--redo", nargs="*", default=[], help="forget results of these methods")
    parser.add_argument("--seeds", type=int, default=0, help=f"draws, at least 4; {DRAWS} if unset")
    parser.add_argument("--steps", type=int, default=0, help="of each training; the task's if 0")
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps, 4 draws")
    parser.add_argument("--report", action="store_true", help="show what is known, train nothing")
    parser.add_argument("--out", type=Path, help="file of results")
    options = parser.parse_args(arguments)
    draws = options.seeds or (4 if options.quick else DRAWS)
    if draws < 4:
        parser.error(f"--seeds must be at least 4, got {draws}. Comparisons need pairs.")
    out = options.out or (QUICK if options.quick else KEPT)
    console = Console(width=118)
    tasks = [
        task
        for task in TASKS_BY_NAME.values()
        if not options.only or any(word in task.name for word in options.only)
    ]
    settings: dict[str, object] = {
        "steps": options.steps, "quick": options.quick, "torch": torch.__version__,
    }  # fmt: skip
    if options.report and out.exists():
        settings = json.loads(out.read_text(encoding="utf-8"))["settings"]
    results, before = load(out, settings, options.redo)
    if not options.report:
        work_off(console, options, tasks, draws, out, settings, results, before)
    show(console, results, tasks)
    console.print(f"numbers: {out}")
    return 0


def work_off(
    console: Console,
    options: argparse.Namespace,
    tasks: list[Task],
    draws: int,
    out: Path,
    settings: dict[str, object],
    results: Results,
    before: float,
) -> None:
    """Train what is missing, and keep it piece by piece."""
    # Models this small are quicker on one thread than on two.
    torch.set_num_threads(1)
    # A dead network is full of denormal numbers, each a hundred times slower than another.
    torch.set_flush_denormal(True)
    trial_draws = 1 if options.quick else TRIAL_DRAWS
    pieces = [
        (shortened(task, options.steps, options.quick), method)
        for task in tasks
        for method in task.methods
        if not options.methods or method in options.methods
    ]
    begun = time.time()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            line = bar.add_task("", total=len(pieces))
            for task, method in pieces:
                bar.update(line, description=f"{task.name}: {method}")
                key, missing, rate = further(results, task, method, draws)
                if missing:
                    results[key] = compared(task, method, missing, trial_draws, rate)
                    save(out, settings, results, before + time.time() - begun)
                bar.advance(line)
    except KeyboardInterrupt:
        console.print("Stopped: the same command goes on from here.")


def shortened(task: Task, steps: int, is_quick: bool) -> Task:
    """The task with the steps asked for."""
    return replace(task, steps=steps or (max(1, task.steps // 4) if is_quick else task.steps))


if __name__ == "__main__":
    sys.exit(main())
