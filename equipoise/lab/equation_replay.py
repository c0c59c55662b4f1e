"""Replays of equations solved by networks: loss and error over depth and starts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from equipoise.lab.equation import Array, Equation, EquationLoss, Points, relative_error, slices
from equipoise.lab.equation_training import Descent, solve_together_
from equipoise.lab.equations import allen_cahn, burgers, diffusion, helmholtz, poisson
from equipoise.lab.models import mlp
from equipoise.lab.replay_data import (
    Arguments,
    Budget,
    Curve,
    Done,
    Estimate,
    Findings,
    Mode,
    Picture,
    Replay,
    ResultTable,
    Row,
)
from equipoise.torch.initialize import initialize

EQUATIONS: Mapping[str, Callable[[], Equation]] = {
    "Burgers": burgers, "Burgers, drift 0.3": partial(burgers, drift=0.3),
    "diffusion": diffusion, "Allen-Cahn": allen_cahn, "Poisson": partial(poisson, 2.0),
    "Helmholtz": helmholtz,
}  # fmt: skip
# Scheme and whether it is told that derivatives matter, by the name in tables.
METHODS: Mapping[str, tuple[str, bool]] = {
    "Xavier": ("xavier(distribution='normal')", False),
    "diagonal + noise": ("diagonal_noise", False),
    "auto": ("auto", False),
    "auto, for derivatives": ("auto", True),
}
_PUBLISHED = ("Xavier", "diagonal + noise")
_TIMES = (0.25, 0.5, 0.75, 1.0)
_ALONG, _GRID = 101, 101
# Losses of a curve: more would not be seen.
_SHOWN = 60
# Draws that are trained side by side, which takes half the time.
_TOGETHER = 5


@dataclass(frozen=True)
class Study:
    """What is solved, and by which networks.

    Attributes:
        equations: names in ``EQUATIONS``; the first is the source's.
        width: of the hidden layers.
        depths: hidden layers, by budget; the further equations have the first alone.
        inside, on_edge: points, by budget.
        weight: of the misses on edges in the corrected mode.
        published: log10 of the source's loss, by depth and method.
        iterations: of L-BFGS-B.
    """

    equations: tuple[str, ...]
    width: int
    depths: Mapping[Budget, tuple[int, ...]]
    inside: Mapping[Budget, int]
    on_edge: Mapping[Budget, int]
    weight: float
    published: Mapping[tuple[int, str], float]
    iterations: int = 300


def units(
    study: Study, budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]
) -> dict[str, Arguments]:
    """Trainings for each mode, equation, depth and method, a few draws side by side in a unit."""
    groups = [list(seeds[i : i + _TOGETHER]) for i in range(0, len(seeds), _TOGETHER)]
    found = dict[str, Arguments]()
    for mode in modes:
        for name in study.equations if mode == "corrected" else study.equations[:1]:
            depths = study.depths[budget]
            for depth in depths if name == study.equations[0] else depths[:1]:
                for method in METHODS if mode == "corrected" else _PUBLISHED:
                    for group in groups:
                        key = f"{mode}, {name}, depth {depth}, {method}, draws {group}"
                        found[key] = {
                            "mode": mode, "equation": name, "depth": depth, "method": method,
                            "seeds": group, "width": study.width, "inside": study.inside[budget],
                            "on_edge": study.on_edge[budget], "iterations": study.iterations,
                            "weight": study.weight if mode == "corrected" else 1.0, "steps": 300,
                        }  # fmt: skip
    return found


def train(arguments: Arguments) -> list[dict[str, Any]]:
    """Networks trained on one equation, a draw each.

    Args:
        arguments: as ``units`` makes them.

    Returns:
        For each draw ``loss`` with all weights 1, its ``terms``, ``error`` (relative L2 on a grid),
        ``evaluations`` of loss and gradient, ``history`` (evaluations and losses, thinned), and
        ``slices`` of the solution at four times.
    """
    equation = EQUATIONS[arguments["equation"]]()
    networks, losses = [], []
    for seed in arguments["seeds"]:
        points = equation.points(arguments["inside"], arguments["on_edge"], seed)
        width, depth = arguments["width"], arguments["depth"]
        networks.append(started(equation, points, width, depth, arguments["method"], seed))
        losses.append(EquationLoss(equation, points, {"edges": arguments["weight"]}))
    descent = Descent(steps=arguments["steps"], iterations=arguments["iterations"])
    trained = solve_together_(networks, losses, descent)
    at, reference = reference_on_grid(arguments["equation"])
    along = [torch.from_numpy(x) for x in slices(equation, _TIMES, _ALONG)]
    results = []
    for network, found in zip(networks, trained, strict=True):
        every = max(1, len(found.losses) // _SHOWN)
        with torch.no_grad():
            shown = [network(x)[:, 0].tolist() for x in along]
        results.append({
            "loss": found.loss, "terms": found.terms, "stopped": found.stopped,
            "error": relative_error(network, at, reference),
            "evaluations": found.evaluations[-1],
            "history": [list(found.evaluations[::every]), list(found.losses[::every])],
            "slices": shown,
        })  # fmt: skip
    return results


def started(
    equation: Equation, points: Points, width: int, depth: int, method: str, seed: int
) -> nn.Sequential:
    """A tanh network of float64 for an equation, started by a method of ``METHODS``."""
    hidden = [width] * depth
    return started_by(equation, points, hidden, nn.Tanh, *METHODS[method], seed=seed)


def started_by(
    equation: Equation,
    points: Points,
    hidden: Sequence[int],
    activation: Callable[[], nn.Module],
    scheme: str,
    for_derivatives: bool,
    seed: int,
) -> nn.Sequential:
    """A network of float64 for an equation, started by a scheme.

    Args:
        equation: what it is to solve.
        points: those that it is planned on.
        hidden: widths of the hidden layers.
        activation: makes the one behind each of them.
        scheme: of the catalogue.
        for_derivatives: whether the plan is told that derivatives matter.
        seed: of the weights.

    Returns:
        The network.
    """
    network = mlp([len(equation.axes), *hidden, 1], activation).double()
    generator = torch.Generator().manual_seed(seed)
    initialize(network, points.all, scheme, generator=generator, for_derivatives=for_derivatives)
    return network


@lru_cache(maxsize=8)
def reference_on_grid(name: str) -> tuple[Array, Array]:
    """Points of an even grid and the solution there, by a name in ``EQUATIONS``."""
    equation = EQUATIONS[name]()
    at, _ = equation.grid(_GRID if len(equation.axes) > 1 else _GRID**2)
    return at, equation.reference(at)


def findings(study: Study, done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Tables for each mode, error over depth, losses over evaluations, slices of one solution."""
    cases: dict[tuple[str, str, int, str], list[Any]] = {}
    for a, result in done:
        cases.setdefault((a["mode"], a["equation"], a["depth"], a["method"]), []).extend(result)
    tables = tuple(_table(study, mode, cases) for mode in modes)
    pictures = [p for mode in modes for p in _pictures(study, mode, cases)]
    return Findings(_headline(study, modes[-1], cases), _sentences(study, modes), tables,
                    tuple(pictures))  # fmt: skip


def _log_loss(results: Sequence[Any], reference: float = math.nan) -> Estimate:
    return Estimate.of([math.log10(max(r["loss"], 1e-300)) for r in results], reference)


def _error(results: Sequence[Any]) -> Estimate:
    return Estimate.of([r["error"] for r in results])


def _table(
    study: Study, mode: Mode, cases: Mapping[tuple[str, str, int, str], Sequence[Any]]
) -> ResultTable:
    rows = []
    for (kind, name, depth, method), results in cases.items():
        if kind != mode:
            continue
        reference = math.nan
        if name == study.equations[0]:
            reference = study.published.get((depth, method), math.nan)
        values = [_log_loss(results, reference), _error(results),
                  Estimate.of([float(r["evaluations"]) for r in results])]  # fmt: skip
        rows.append(Row((name, str(depth), method), tuple(values)))
    return ResultTable(
        f"After 300 steps of Adam and at most {study.iterations} iterations of L-BFGS-B", mode,
        ("equation", "depth", "start"), ("log10 of the loss", "relative error", "evaluations"),
        "published", tuple(rows),
    )  # fmt: skip


def _headline(
    study: Study, mode: Mode, cases: Mapping[tuple[str, str, int, str], Sequence[Any]]
) -> str:
    name = study.equations[0]
    here = {k[2:]: v for k, v in cases.items() if k[:2] == (mode, name)}
    deepest = max(depth for depth, _ in here)
    said = [
        f"{10 ** _log_loss(results).mean:.2g} (relative error {_error(results).mean:.2g}) "
        f"from {method}"
        for (depth, method), results in here.items()
        if depth == deepest
    ]
    return (
        f"{deepest} tanh layers of {study.width} units end on {name} at a loss of {', '.join(said)}"
    )


def _sentences(study: Study, modes: Sequence[Mode]) -> tuple[str, ...]:
    said = [
        "The loss is the mean square of the residual plus that of the misses at all points with "
        "given values, both with weight 1, whatever was minimised; its mean is one of logarithms.",
        "The relative error is |u - reference| / |reference| on an even grid of 101 points along "
        "each axis; references are computed here and checked against an independent method.",
    ]
    if "corrected" in modes:
        said.append(f"In the corrected mode misses at given values weigh {study.weight:g}.")
    return tuple(said)


def _pictures(
    study: Study, mode: Mode, cases: Mapping[tuple[str, str, int, str], Sequence[Any]]
) -> list[Picture]:
    name = study.equations[0]
    here = {k[2:]: v for k, v in cases.items() if k[:2] == (mode, name)}
    depths = sorted({depth for depth, _ in here})
    methods = list(dict.fromkeys(method for _, method in here))
    made = []
    if len(depths) > 1:
        curves = []
        for method in methods:
            errors = [_error(here[depth, method]) for depth in depths]
            bands = tuple(e.standard_error for e in errors if not math.isnan(e.standard_error))
            curves.append(Curve(method, tuple(map(float, depths)), tuple(e.mean for e in errors),
                                bands if len(bands) == len(errors) else ()))  # fmt: skip
        made.append(
            Picture(
                f"{name}: relative error over depth, {mode}",
                "; ".join(f"{c.name} from {c.y[0]:.2g} to {c.y[-1]:.2g}" for c in curves) + ".",
                "hidden layers", "relative error", tuple(curves), log_y=True,
            )
        )  # fmt: skip
    deepest = depths[-1]
    first = {method: here[deepest, method][0] for method in methods}
    losses = tuple(
        Curve(method, tuple(map(float, r["history"][0])), tuple(r["history"][1]))
        for method, r in first.items()
    )
    made.append(
        Picture(
            f"{name}: loss of the first draw by evaluations, depth {deepest}, {mode}",
            "At the end: " + ", ".join(f"{m} {r['loss']:.2g}" for m, r in first.items()) + ".",
            "evaluations of loss and gradient", "loss", losses, log_y=True,
        )
    )  # fmt: skip
    equation = EQUATIONS[name]()
    for i, x in enumerate(slices(equation, _TIMES, _ALONG)):
        right = tuple(equation.reference(x).tolist())
        along = tuple(x[:, 0].tolist())
        where = f" at {equation.axes[-1]} = {_TIMES[i]:g}" if len(equation.axes) > 1 else ""
        made.append(
            Picture(
                f"{name}: first draw of depth {deepest}{where}, {mode}",
                f"Networks over {equation.axes[0]} beside the reference.",
                equation.axes[0], "u",
                (
                    Curve("reference", along, right, style="dashed"),
                    *(Curve(m, along, tuple(r["slices"][i])) for m, r in first.items()),
                ),
            )
        )  # fmt: skip
    return made


def made(
    name: str, title: str, source: str, setting: str, study: Study, draws: Mapping[Budget, int]
) -> Replay:
    """A replay of one study."""
    return Replay(
        name=name, source=source, title=title, setting=setting,
        faithful="inputs unscaled, all weights of the loss 1, the loss as the only measure; "
        "quick has fewer points and layers.",
        corrected=f"several draws; evaluations of the loss counted; the relative error against a "
        f"reference beside the loss; misses at given values weigh {study.weight:g}; our rules "
        "and further equations beside the published starts.",
        draws=draws, units=partial(units, study), work=train, findings=partial(findings, study),
    )  # fmt: skip
