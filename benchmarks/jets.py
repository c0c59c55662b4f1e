"""Derivatives carried forward as jets against nested reverse mode and torch.func.

    python benchmarks/jets.py            # two minutes on one core
    python benchmarks/jets.py --quick    # half a minute

One evaluation is the loss of an equation and its gradient with respect to all parameters, in
float64 on one thread. The three are measured in turns, round after round; a ratio is the median
over rounds of the other's time over that of jets, with the standard error of its logarithm.

Prints a table and writes JSON.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call, hessian, jacrev, vmap

from equipoise.lab.equation import Equation, Jet
from equipoise.lab.equations import burgers, helmholtz, poisson
from equipoise.lab.jet_rule import Orders
from equipoise.lab.jets import jets
from equipoise.lab.models import mlp

# Name: equation, width, depth, points.
CASES: dict[str, tuple[Callable[[], Equation], int, int, int]] = {
    "Burgers, 16 x 30, 500 points": (burgers, 16, 30, 500),
    "Burgers, 16 x 30, 2,000 points": (burgers, 16, 30, 2000),
    "Burgers, 64 x 8, 2,000 points": (burgers, 64, 8, 2000),
    "Helmholtz, 16 x 30, 500 points": (helmholtz, 16, 30, 500),
    "Poisson, 16 x 30, 500 points": (poisson, 16, 30, 500),
}
WAYS = ("jets", "nested", "torch.func")


def by_jets(network: nn.Module, x: torch.Tensor, orders: tuple[Orders, ...]) -> Jet:
    return jets(network, x, orders)


def by_nesting(network: nn.Module, x: torch.Tensor, orders: tuple[Orders, ...]) -> Jet:
    """Each derivative by reverse mode of the one below; no derivative is made twice."""
    x = x.clone().requires_grad_()
    value = network(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    found: dict[Orders, torch.Tensor] = {(0,) * x.shape[1]: value}
    units = torch.eye(x.shape[1], dtype=torch.int64).tolist()
    for axis, unit in enumerate(units):
        found[tuple(unit)] = first[:, axis : axis + 1]
    for axis, unit in enumerate(units):
        if tuple(2 * k for k in unit) in orders:
            (second,) = torch.autograd.grad(first[:, axis].sum(), x, create_graph=True)
            found[tuple(2 * k for k in unit)] = second[:, axis : axis + 1]
    return found


def by_func(network: nn.Module, x: torch.Tensor, orders: tuple[Orders, ...]) -> Jet:
    """Value, gradient and Hessian of one point, over all points by vmap."""
    parameters = dict(network.named_parameters())

    def u(at: torch.Tensor) -> torch.Tensor:
        return functional_call(network, parameters, (at[None],))[0, 0]

    value, slope, bend = vmap(u)(x), vmap(jacrev(u))(x), vmap(hessian(u))(x)
    found: dict[Orders, torch.Tensor] = {(0,) * x.shape[1]: value[:, None]}
    for axis, unit in enumerate(torch.eye(x.shape[1], dtype=torch.int64).tolist()):
        found[tuple(unit)] = slope[:, axis : axis + 1]
        found[tuple(2 * k for k in unit)] = bend[:, axis, axis, None]
    return found


def measure(name: str, rounds: int) -> dict[str, object]:
    make, width, depth, count = CASES[name]
    equation = make()
    network = mlp([len(equation.axes), *[width] * depth, 1], nn.Tanh).double()
    x = equation.points(count, 1, 0).inside
    parameters = list(network.parameters())

    def evaluate(way: Callable[..., Jet]) -> list[torch.Tensor]:
        loss = equation.residual(way(network, x, equation.orders), x).square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, parameters, materialize_grads=True)]

    ways = dict(zip(WAYS, (by_jets, by_nesting, by_func), strict=True))
    right = evaluate(by_nesting)
    for way in ways.values():
        for a, b in zip(evaluate(way), right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            start = time.perf_counter()
            evaluate(call)
            times[way].append(time.perf_counter() - start)
    ratios = {}
    for way in WAYS[1:]:
        logs = [math.log(b / a) for a, b in zip(times["jets"], times[way], strict=True)]
        error = statistics.stdev(logs) / math.sqrt(len(logs))
        ratios[way] = {"ratio": math.exp(statistics.median(logs)), "log_error": error}
    return {"ms": {w: 1e3 * statistics.median(t) for w, t in times.items()}, "ratios": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the first case, few rounds")
    parser.add_argument("--rounds", type=int, default=25, help="measurements of each")
    parser.add_argument("--out", type=Path, default=Path("results/jets.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    table = Table("loss and gradient", "jets, ms", "nested, ms", "torch.func, ms", "nested / jets",
                  "torch.func / jets")  # fmt: skip
    run = partial(measure, rounds=5 if options.quick else options.rounds)
    for name in list(CASES)[:1] if options.quick else CASES:
        results[name] = found = run(name)
        ms, ratios = found["ms"], found["ratios"]
        assert isinstance(ms, dict)
        assert isinstance(ratios, dict)
        table.add_row(
            name, *(f"{ms[w]:.1f}" for w in WAYS),
            *(f"{ratios[w]['ratio']:.2f} ± {ratios[w]['ratio'] * ratios[w]['log_error']:.2f}"
              for w in WAYS[1:]),
        )  # fmt: skip
    Console(width=120).print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
