"""Digits through deep and narrow networks: every method at its own best learning rate.

    python benchmarks/first_light.py            # auto and the strongest rivals, under 15 minutes
    python benchmarks/first_light.py --full     # every method in every cell, about an hour

Each method starts from 8 draws. The learning rate is the one of six with the best mean accuracy on
200 rows held back from the 1,400 training rows; the test accuracy is of fresh training on all 1,400
at that rate. Adam, 20 epochs, batches of 64. Prints tables and writes JSON; a run that was stopped
goes on from its JSON.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from torch import nn

import equipoise.torch as eq
from equipoise.lab.batched import Replicas, train
from equipoise.lab.data import digits
from equipoise.lab.models import mlp

RATES = (3e-5, 1e-4, 3e-4, 6e-4, 1e-3, 3e-3)
DRAWS = 8
GRADIENT_DRAWS = 20
VALIDATION_ROWS = 200
SCHEMES = ("xavier", "he", "orthogonal", "diagonal_noise")
METHODS = ("auto", "default", *SCHEMES, "anyinit")


@dataclass(frozen=True)
class Cell:
    """One network, the accuracy to reach, and the rivals of the quick form."""

    name: str
    activation: Callable[[], nn.Module]
    hidden: tuple[int, ...]
    target: float
    rivals: tuple[str, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return (64, *self.hidden, 10)

    @property
    def is_wide(self) -> bool:
        """Whether the cell asks that nothing is lost on a wide shallow network."""
        return min(self.hidden) >= 256


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.01)


NARROW, ORTHOGONAL = (16,) * 100, ("orthogonal",)
CELLS = (
    Cell("tanh 8 x 50", nn.Tanh, (8,) * 50, 0.92, ORTHOGONAL),
    Cell("tanh 16 x 100", nn.Tanh, NARROW, 0.945, ORTHOGONAL),
    Cell("tanh 16 x 500", nn.Tanh, (16,) * 500, 0.93, ()),
    Cell("tanh 16, 4 x 50", nn.Tanh, (16, 4) * 50, 0.74, ("diagonal_noise",)),
    Cell("softsign 16 x 100", nn.Softsign, NARROW, 0.95, ORTHOGONAL),
    Cell("sigmoid 16 x 100", nn.Sigmoid, NARROW, 0.93, ()),
    Cell("elu 16 x 100", nn.ELU, NARROW, 0.90, ORTHOGONAL),
    Cell("selu 16 x 100", nn.SELU, NARROW, 0.87, ORTHOGONAL),
    Cell("gelu 16 x 100", nn.GELU, NARROW, 0.89, ()),
    Cell("silu 16 x 100", nn.SiLU, NARROW, 0.89, ()),
    Cell("softplus 16 x 100", nn.Softplus, NARROW, 0.89, ()),
    Cell("mish 16 x 100", nn.Mish, NARROW, 0.89, ()),
    Cell("relu 16 x 100", nn.ReLU, NARROW, 0.87, ORTHOGONAL),
    Cell("leaky_relu 16 x 100", leaky, NARROW, 0.87, ORTHOGONAL),
    Cell("relu 8 x 50", nn.ReLU, (8,) * 50, 0.80, ORTHOGONAL),
    # Here auto draws He's law itself: the two would be the same runs.
    Cell("relu 256 x 3", nn.ReLU, (256,) * 3, math.nan, ("default",)),
    Cell("gelu 256 x 3", nn.GELU, (256,) * 3, math.nan, ("default",)),
    Cell("tanh 256 x 3", nn.Tanh, (256,) * 3, math.nan, ("he", "default")),
)


def start(model: nn.Sequential, method: str, x: torch.Tensor, seed: int) -> None:
    """Start one model by one method, in place."""
    if method == "default":
        torch.manual_seed(seed)
        for layer in model[::2]:
            layer.reset_parameters()
    elif method == "anyinit":
        import anyinit

        anyinit.initialize(model, seed=seed)
    else:
        eq.initialize(model, x, method, generator=torch.Generator().manual_seed(seed))


def accuracy(cell: Cell, method: str) -> dict[str, object]:
    """Test accuracies of one method in one cell at its best learning rate."""
    torch.set_num_threads(1)
    begun = time.time()
    task = digits()
    part = task.validation(VALIDATION_ROWS)
    models = []
    for seed in range(DRAWS):
        models.append(mlp(cell.widths, cell.activation))
        start(models[-1], method, part.x_train, seed)
    replicas = Replicas.of(models)
    seeds = list(range(DRAWS))
    rates = [rate for rate in RATES for _ in seeds]
    tried = train(replicas.repeat(len(RATES)), part, rates, seeds * len(RATES)).score
    by_rate = tried.view(len(RATES), DRAWS).mean(1)
    best = RATES[int(by_rate.argmax())]

    for seed, model in enumerate(models):
        start(model, method, task.x_train, seed)
    # Other batches than those that chose the rate.
    fresh = [seed + 1000 for seed in seeds]
    final = train(Replicas.of(models), task, [best] * DRAWS, fresh)
    scores = final.score.tolist()
    return {
        "accuracy": statistics.mean(scores),
        "standard_error": statistics.stdev(scores) / math.sqrt(DRAWS),
        "learning_rate": best,
        "scores": scores,
        "validation": dict(zip(map(str, RATES), by_rate.tolist(), strict=True)),
        "diverged": int((final.diverged_at >= 0).sum()),
        "seconds": time.time() - begun,
    }


def gradient(cell: Cell, method: str) -> dict[str, object]:
    """Gradient norm of the first over the last hidden-to-hidden weight, over 20 draws."""
    torch.set_num_threads(1)
    begun = time.time()
    task = digits()
    model = mlp(cell.widths, cell.activation)
    ours = method == "auto" or method in SCHEMES
    # The plan is the same for each draw: one is enough.
    plan = eq.plan(model, task.x_train, method) if ours else None
    ratios = []
    for seed in range(GRADIENT_DRAWS):
        if plan is not None:
            eq.apply(model, plan, torch.Generator().manual_seed(seed))
        else:
            start(model, method, task.x_train, seed)
        ratios.append(gradient_ratio(model, task.x_train[:256], task.y_train[:256]))
    finite = [r if math.isfinite(r) else math.inf for r in ratios]
    return {
        "median": statistics.median(finite),
        "ratios": ratios,
        "seconds": time.time() - begun,
    }


def gradient_ratio(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> float:
    """First over last hidden-to-hidden weight gradient of the cross-entropy."""
    loss = nn.functional.cross_entropy(model(x), y)
    hidden = [layer.weight for layer in model[2:-1:2]]
    first, last = torch.autograd.grad(loss, (hidden[0], hidden[-1]))
    return float(first.norm() / last.norm()) if float(last.norm()) > 0 else math.inf


def depth_cost() -> dict[str, object]:
    """Seconds of the whole call on MLPs of width 64, 256 rows, over depth; the least of three."""
    x = digits().x_train[:256]
    seconds = {}
    eq.initialize(mlp([64, 64, 10], nn.Tanh), x)
    for depth in (250, 500, 1000):
        runs = []
        for _ in range(3):
            model = mlp([64, *[64] * depth, 10], nn.Tanh)
            begun = time.perf_counter()
            eq.initialize(model, x)
            runs.append(time.perf_counter() - begun)
        seconds[str(depth)] = min(runs)
    return {"seconds_by_depth": seconds}


def tasks(full: bool) -> Iterable[tuple[str, Cell, str]]:
    """Every piece of work, the longest first."""
    by_length = sorted(CELLS, key=lambda c: -len(c.hidden) * max(c.hidden) ** 1.3)
    for cell in by_length:
        methods = METHODS if full else ("auto", *cell.rivals)
        yield from (("accuracy", cell, method) for method in methods)
    for cell in by_length:
        if not cell.is_wide:
            methods = METHODS if full else ("auto",)
            yield from (("gradient", cell, method) for method in methods)
            if not full and len(cell.hidden) <= 100:
                yield ("gradient", cell, "anyinit")


def run(kind: str, index: int, method: str) -> dict[str, object]:
    return (accuracy if kind == "accuracy" else gradient)(CELLS[index], method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="every method in every cell")
    parser.add_argument("--out", type=Path, default=Path("results/first_light.json"))
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    begun = time.time()

    todo = [t for t in tasks(options.full) if _key(*t) not in results]
    context = multiprocessing.get_context("spawn")
    console = Console(width=100)
    if "depth" not in results:
        # Alone, before anything else runs: this one is about time.
        results["depth"] = depth_cost()
    with ProcessPoolExecutor(options.jobs, context) as pool, Progress(console=console) as bar:
        line = bar.add_task("trainings and gradients", total=len(todo))
        futures = {
            pool.submit(run, kind, CELLS.index(cell), method): (kind, cell, method)
            for kind, cell, method in todo
        }
        for future in as_completed(futures):
            results[_key(*futures[future])] = future.result()
            _save(options.out, results)
            bar.advance(line)
    results["seconds"] = results.get("seconds", 0.0) + time.time() - begun
    _save(options.out, results)
    report(console, results)
    console.print(f"{results['seconds']:.0f} s; written to {options.out}")


def _key(kind: str, cell: Cell, method: str) -> str:
    return f"{kind} / {cell.name} / {method}"


def _save(path: Path, results: dict[str, object]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1))
    draft.replace(path)


def report(console: Console, results: dict[str, dict]) -> None:
    table = Table(
        *(Column(name, no_wrap=True) for name in ("cell", "method", "test accuracy", "rate")),
        *(Column(name, no_wrap=True) for name in ("target", "reached")),
        title="Accuracy",
    )
    for cell in CELLS:
        rows = {m: results[k] for m in METHODS if (k := _key("accuracy", cell, m)) in results}
        for method, row in rows.items():
            target, reached = "", ""
            if method == "auto" and not cell.is_wide:
                target = f"{cell.target:.3f}"
                reached = "yes" if row["accuracy"] >= cell.target else "NO"
            elif method == "auto" and len(rows) > 1:
                best = max((r for m, r in rows.items() if m != "auto"), key=lambda r: r["accuracy"])
                gap = row["accuracy"] - best["accuracy"]
                error = math.hypot(row["standard_error"], best["standard_error"])
                target = f"{gap:+.4f} +- {error:.4f}"
                reached = "yes" if gap > -max(0.01, 2 * error) and error <= 0.01 else "NO"
            table.add_row(
                cell.name,
                method,
                f"{row['accuracy']:.4f} +- {row['standard_error']:.4f}",
                f"{row['learning_rate']:g}",
                target,
                reached,
            )
    console.print(table)
    table = Table("cell", "method", "median", "within 3", title="Gradient, first over last weight")
    for cell in CELLS:
        for method in METHODS:
            if (key := _key("gradient", cell, method)) in results:
                median = results[key]["median"]
                within = "yes" if 1 / 3 <= median <= 3 else "no"
                table.add_row(cell.name, method, f"{median:.3g}", within)
    console.print(table)
    table = Table("depth", "seconds", title="Whole call, MLP of width 64")
    for depth, seconds in results["depth"]["seconds_by_depth"].items():
        table.add_row(depth, f"{seconds:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
