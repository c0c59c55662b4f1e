"""How much gradient growth to spend: digits through deep networks over the budget B.

    python benchmarks/budget.py

Test accuracy of 8 draws at the better of three learning rates, for centred stacks whose gains spend
B nats of mean-square gradient growth over the whole depth. Prints a table and writes JSON.
"""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from equipoise.lab.batched import Replicas, train
from equipoise.lab.data import digits
from equipoise.lab.models import mlp
from equipoise.plan.make import make_plan
from equipoise.torch.apply import apply
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

BUDGETS = (0.05, 0.15, 0.3, 0.6, 1.2, 2.4)
RATES = (3e-4, 6e-4, 1e-3)
DRAWS = 8
VALIDATION_ROWS = 200
OUT = Path("results/budget.json")
NETWORKS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("tanh 8 x 50", nn.Tanh, (8,) * 50),
    ("tanh 16 x 100", nn.Tanh, (16,) * 100),
    ("tanh 16, 4 x 50", nn.Tanh, (16, 4) * 50),
    ("sigmoid 16 x 100", nn.Sigmoid, (16,) * 100),
    ("elu 16 x 100", nn.ELU, (16,) * 100),
    ("selu 16 x 100", nn.SELU, (16,) * 100),
)


def accuracy(
    activation: Callable[[], nn.Module], hidden: tuple[int, ...], budget: float
) -> dict[str, float]:
    """Mean and standard error of the test accuracy at the rate that validation prefers."""
    task = digits()
    part = task.validation(VALIDATION_ROWS)
    inputs = read_inputs(nn.Identity(), task.x_train)
    models = [mlp((task.features, *hidden, task.classes), activation) for _ in range(DRAWS)]
    traced = trace(models[0], inputs)
    plan = make_plan(traced, "auto", dict(zip(traced.inputs, inputs.rows(), strict=True)), budget)
    for seed, model in enumerate(models):
        apply(model, plan, torch.Generator().manual_seed(seed))
    replicas, seeds = Replicas.of(models), list(range(DRAWS))
    rates = [rate for rate in RATES for _ in seeds]
    tried = train(replicas.repeat(len(RATES)), part, rates, seeds * len(RATES)).score
    best = RATES[int(tried.view(len(RATES), DRAWS).mean(1).argmax())]
    fresh = [seed + 1000 for seed in seeds]
    scores = train(replicas, task, [best] * DRAWS, fresh).score.tolist()
    error = statistics.stdev(scores) / math.sqrt(DRAWS)
    return {"accuracy": statistics.mean(scores), "standard_error": error, "learning_rate": best}


def main() -> None:
    OUT.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    cells = [(net, budget) for net in NETWORKS for budget in BUDGETS]
    for (name, activation, hidden), budget in track(cells, "trainings"):
        key = f"{name} / {budget:g}"
        if key not in results:
            results[key] = accuracy(activation, hidden, budget)
            OUT.write_text(json.dumps(results, indent=1))
    table = Table("network", *(f"B = {b:g}" for b in BUDGETS), title="Test accuracy")
    for name, *_ in NETWORKS:
        row = [results[f"{name} / {b:g}"] for b in BUDGETS]
        table.add_row(name, *(f"{r['accuracy']:.3f} +- {r['standard_error']:.3f}" for r in row))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
