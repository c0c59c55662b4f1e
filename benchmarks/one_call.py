"""The one call against its rivals: accuracy through depth, drift and time at birth, predictions.

    python benchmarks/one_call.py            # every kind of cell, under 15 minutes on 2 cores
    python benchmarks/one_call.py --full     # every cell by every method, 7 hours
    python benchmarks/one_call.py --full --cells tanh relu --methods auto he lsuv --draws 4

Adam, 20 epochs, batches of 64. Each method gets the learning rate with the best mean accuracy on
rows held back from training, then trains on all of the training part; draw i has the same seed and
the same order of batches in every method. The best rival is picked on the even draws and compared
with on the odd ones. A difference counts if it exceeds .01 and two standard errors; while its
standard error is above .01 and the verdict could still change, more draws are made.

Prints tables and writes JSON after every piece of work; the same command goes on from there.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cells import BY_NAME, CELLS, Cell
from one_call_report import Results, comparison, load, rows_of, save, show
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from equipoise.errors import EquipoiseError
from equipoise.lab.batched import Replicas
from equipoise.lab.birth import Birth, birth
from equipoise.lab.data import Classification
from equipoise.lab.image_files import FOLDER_VARIABLE
from equipoise.lab.rivals import methods, starter
from equipoise.lab.trials import STEP, pick_rate, rates_around, train_in_parts
from equipoise.torch import Plan, plan

EPOCHS = 20
# Other batches than those that chose the rate.
FINAL_SEEDS = 1000
MOST_DRAWS = {"quick": 32, "full": 64}
# The quick form makes further draws only where they are expected to end by then, in seconds.
LAST_CALL = 780.0
BIRTH_ROWS = 256


@dataclass(frozen=True)
class Effort:
    """How much work one method in one cell is.

    Attributes:
        trial_draws: draws that pick the learning rate.
        draws: draws that are trained with it.
        steps: learning rates on each side of the centre.
        is_refined: whether quarter decades around the best are tried too.
        birth_draws: draws looked at before training.
    """

    trial_draws: int
    draws: int
    steps: int
    is_refined: bool
    birth_draws: int


@dataclass(frozen=True)
class Job:
    """One piece of work: ``train``, ``more`` (draws from ``first`` on) or ``birth``."""

    kind: str
    cell: str
    method: str
    effort: Effort
    first: int = 0
    rate: float = math.nan

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        place = f" from {self.first}" if self.kind == "more" else ""
        return f"{self.kind} | {self.cell} | {self.method}{place}"

    @property
    def seconds(self) -> float:
        """About how long it takes on one core."""
        cell = BY_NAME[self.cell]
        if self.kind == "birth":
            return 2 + 0.02 * cell.depth
        replicas = self.effort.draws
        if self.kind == "train":
            # Every other search goes half a decade further.
            rates = 2 * self.effort.steps + 1.5 + 2 * self.effort.is_refined
            replicas += int(self.effort.trial_draws * rates)
        rows = {"digits": 1400, "mnist": 5000, "fashion": 5000}.get(cell.task, 2000)
        inputs = {"digits": 64, "mnist": 784, "fashion": 784}.get(cell.task, 4)
        steps = EPOCHS * math.ceil(rows / 64)
        return 2 + 0.02 * cell.depth + replicas * steps * cell.milliseconds(inputs) / 1e3


def effort(cell: Cell, mode: str, draws: int = 0) -> Effort:
    """Few draws where one takes long, or as many as asked for."""
    if mode == "full":
        seen = draws or 20
        draws = draws or cell.draws
        return Effort(max(2, draws // 2), draws, 2 if draws > 8 else 1, draws > 8, seen)
    if cell.depth >= 1000 or cell.convolutions >= 200:
        return Effort(1, 4, 1, False, 4)
    if cell.convolutions or cell.depth >= 500:
        return Effort(2, 4, 1, False, 8)
    return Effort(3, 8, 1, False, 8)


def jobs(
    mode: str, cells: list[str], wanted: list[str], has_files: bool, draws: int = 0
) -> list[Job]:
    """All work that is known from the start, the longest first."""
    found = []
    for cell in CELLS:
        if cells and not any(word in cell.name for word in cells):
            continue
        if (cell.needs_files and not has_files) or (mode == "quick" and not cell.quick):
            continue
        chosen = cell.quick if mode == "quick" else (cell.most or methods())
        for method in (m for m in chosen if m in methods() and (not wanted or m in wanted)):
            work = effort(cell, mode, draws)
            found += [Job(kind, cell.name, method, work) for kind in ("train", "birth")]
    return sorted(found, key=lambda job: -job.seconds)


def run(job: Job) -> tuple[dict[str, object], float]:
    """One piece of work in a process of its own, with its seconds."""
    torch.set_num_threads(1)
    # A dead network is full of denormal numbers, each a hundred times slower than another.
    torch.set_flush_denormal(True)
    begun = time.time()
    try:
        match job.kind:
            case "train":
                result = train_job(job)
            case "more":
                result = {"scores": scores(job, range(job.first, job.first + job.effort.draws))}
            case _:
                result = birth_job(job)
    except EquipoiseError as error:
        result = {"refused": str(error)}
    return result, time.time() - begun


def started(job: Job, draws: range, is_final: bool) -> tuple[Replicas, Classification]:
    """Replicas of the draws and the task that they are to be trained on."""
    cell = BY_NAME[job.cell]
    whole, part = cell.data()
    task = whole if is_final else part
    models = [cell.model(task) for _ in draws]
    start = starter(models[0], job.method, task.x_train)
    for seed, model in zip(draws, models, strict=True):
        start(model, seed)
    return Replicas.of(models), task


def train_job(job: Job) -> dict[str, object]:
    """The rate on held-back rows, then accuracy on the test part."""
    replicas, part = started(job, range(job.effort.trial_draws), is_final=False)
    centre = BY_NAME[job.cell].rate
    seeds = list(range(job.effort.trial_draws))
    search = pick_rate(
        replicas, part, rates_around(centre, job.effort.steps), seeds, EPOCHS, at_most=at_most(job)
    )
    by_rate = dict(search.by_rate)
    if job.effort.is_refined:
        near = (search.rate / STEP**0.5, search.rate * STEP**0.5)
        finer = pick_rate(replicas, part, near, seeds, EPOCHS, extensions=0, at_most=at_most(job))
        by_rate |= dict(finer.by_rate)
    rate = max(by_rate, key=lambda r: by_rate[r])
    final = scores(replace(job, rate=rate), range(job.effort.draws))
    return {
        "rate": rate,
        "validation": {f"{r:.3g}": by_rate[r] for r in sorted(by_rate)},
        "scores": final,
    }


def scores(job: Job, draws: range) -> list[float]:
    """Test accuracy of each draw at the job's rate."""
    replicas, task = started(job, draws, is_final=True)
    seeds = [FINAL_SEEDS + draw for draw in draws]
    rates = [job.rate] * len(seeds)
    return train_in_parts(replicas, task, rates, seeds, EPOCHS, at_most=at_most(job)).tolist()


def at_most(job: Job) -> int:
    """Replicas at a time: activations of all layers must fit in memory."""
    cell = BY_NAME[job.cell]
    return 8 if cell.depth >= 200 or cell.convolutions else 32


def birth_job(job: Job) -> dict[str, object]:
    """Drift at birth over draws, the time of one call, and predictions against measurements."""
    cell = BY_NAME[job.cell]
    task, _ = cell.data()
    model = cell.model(task)
    begun = time.time()
    start = starter(model, job.method, task.x_train)
    start(model, 0)
    seconds = time.time() - begun
    x = task.x_train[:BIRTH_ROWS]
    seen = []
    for seed in range(job.effort.birth_draws):
        start(model, seed)
        seen.append(birth(model, x, seed))
    result: dict[str, object] = {
        "forward_drift": median(b.forward_drift for b in seen),
        "gradient_drift": median(b.gradient_drift for b in seen),
        "seconds": seconds,
        "draws": len(seen),
    }
    if job.method == "auto":
        made = plan(model, task.x_train)
        result |= {"choice": list(made.choice), **prediction_gaps(made, seen)}
    return result


def prediction_gaps(made: Plan, seen: list[Birth]) -> dict[str, object]:
    """Largest log ratio of measured (median draw) and predicted RMS over the layers, nats."""
    place = {weight: i for i, weight in enumerate(seen[0].weights)}
    # Gradients are predicted relative to the last layer of each stack.
    last = {p.stack: place[p.weight] for p in made.predictions if p.weight in place}
    signal, gradient = [], []
    for p in made.predictions:
        if p.weight not in place or not (p.signal > 0 and p.gradient > 0):
            continue
        i, end = place[p.weight], last[p.stack]
        signal.append(log_ratio(median(b.signal[i] for b in seen), p.signal))
        ratio = median(b.gradient[i] / b.gradient[end] if b.gradient[end] else math.nan
                       for b in seen)  # fmt: skip
        gradient.append(log_ratio(ratio, p.gradient))
    return {
        "predicted_layers": len(signal),
        "layers": len(seen[0].weights),
        "signal_gap": max(map(abs, signal), default=math.nan),
        "gradient_gap": max(map(abs, gradient), default=math.nan),
    }


def log_ratio(measured: float, predicted: float) -> float:
    return math.log(measured / predicted) if measured > 0 else math.inf


def median(values: Iterable[float]) -> float:
    """The median of what is not nan, nan where nothing is left."""
    known = [v for v in values if not math.isnan(v)]
    return statistics.median(known) if known else math.nan


def further(results: Results, cell: str, mode: str) -> list[Job]:
    """More draws for a cell whose comparison is open: auto and the best of its rivals."""
    made = comparison(results, cell)
    if made is None or not made.is_open:
        return []
    work = effort(BY_NAME[cell], mode)
    found = []
    for method in ("auto", made.rival):
        have = len(rows_of(results, cell)[method])
        rate = results[f"train | {cell} | {method}"]["rate"]
        if have + work.draws <= MOST_DRAWS[mode]:
            found.append(Job("more", cell, method, work, have, float(rate)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="every cell by every method")
    parser.add_argument("--cells", nargs="*", default=[], help="only cells whose name holds a word")
    parser.add_argument("--methods", nargs="*", default=[], help="only these methods")
    parser.add_argument("--draws", type=int, default=0, help="of each training, in the full form")
    parser.add_argument("--redo", nargs="*", default=[], help="forget results of these methods")
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST and Fashion-MNIST")
    parser.add_argument("--out", type=Path, help="file of results")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    mode = "full" if options.full else "quick"
    out = options.out or Path(f"results/one_call{'_full' if options.full else ''}.json")
    if options.data_dir:
        os.environ[FOLDER_VARIABLE] = str(options.data_dir.resolve())
    console = Console(width=118)
    settings = {"mode": mode, "epochs": EPOCHS, "torch": torch.__version__}
    results, before = load(out, settings, options.redo)
    has_files = bool(os.environ.get(FOLDER_VARIABLE))
    planned = jobs(mode, options.cells, options.methods, has_files, options.draws)
    todo = [job for job in planned if job.key not in results]
    hours = sum(job.seconds for job in todo) / options.jobs
    console.print(
        f"{len(todo)} of {len(planned)} pieces of work to do, about {clock(hours)} on "
        f"{options.jobs} cores; Ctrl-C keeps what is done ({out})"
    )
    begun = time.time()

    def keep() -> None:
        save(out, settings, results, before + time.time() - begun)

    # Workers read it before they import numpy.
    os.environ["OMP_NUM_THREADS"] = "1"
    failures = work_off(console, mode, todo, planned, results, options.jobs, keep)
    keep()
    show(console, results, {job.cell: BY_NAME[job.cell].target for job in planned})
    console.print(f"{clock(before + time.time() - begun)} in all; numbers: {out}")
    for key, error in failures.items():
        console.print(f"[red]failed[/red] {key}: {type(error).__name__}: {error}", markup=True)
    return 1 if failures else 0


def work_off(
    console: Console,
    mode: str,
    todo: list[Job],
    planned: list[Job],
    results: Results,
    count: int,
    keep: Callable[[], None],
) -> dict[str, BaseException]:
    """Do the work in processes of one thread each; more draws follow where a verdict is open."""
    begun, spent, expected = time.time(), 0.0, 0.0
    failures: dict[str, BaseException] = {}
    cells = dict.fromkeys(job.cell for job in planned)
    asked: set[str] = set()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    running: dict[Future[tuple[dict[str, object], float]], Job] = {}
    queue = list(todo)
    try:
        with Progress(*columns, console=console) as bar:
            line = bar.add_task("", total=1, left="")
            while True:
                if not queue:
                    pace = spent / expected if expected > 30 else 1.0
                    room = LAST_CALL - (time.time() - begun) if mode == "quick" else math.inf
                    busy = {job.cell for job in running.values()}
                    queue = [
                        job
                        for cell in cells
                        if cell not in busy
                        for job in further(results, cell, mode)
                        if job.key not in asked and pace * job.seconds < room
                    ]
                    asked |= {job.key for job in queue}
                while queue and len(running) < count:
                    job = queue.pop(0)
                    running[pool.submit(run, job)] = job
                if not running:
                    return failures
                ready, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in ready:
                    job = running.pop(future)
                    error = future.exception()
                    if error is not None:
                        failures[job.key] = error
                        continue
                    result, seconds = future.result()
                    results[job.key] = {**result, "job_seconds": seconds}
                    spent, expected = spent + seconds, expected + job.seconds
                    keep()
                pace = spent / expected if expected > 30 else 1.0
                left = pace * sum(job.seconds for job in (*queue, *running.values())) / count
                to_go = len(queue) + len(running)
                bar.update(
                    line,
                    total=to_go + len(results),
                    completed=len(results),
                    description=f"{to_go} to go",
                    left=f"about {clock(left)} left",
                )
    except BrokenProcessPool as error:
        # The system killed a worker, most likely for memory: nothing else can be started.
        return {**failures, "a worker": error}
    except KeyboardInterrupt:
        console.print("Stopped: the same command goes on from here.")
        for process in multiprocessing.active_children():
            process.terminate()
        return failures
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def clock(seconds: float) -> str:
    """Minutes, or hours and minutes."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


if __name__ == "__main__":
    sys.exit(main())
