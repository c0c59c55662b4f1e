"""Equations of the odd-sigmoid replay: tanh networks of a given scale, or one that learns."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from equipoise.lab.equation import EquationLoss, relative_error
from equipoise.lab.equation_models import Sloped
from equipoise.lab.equation_replay import EQUATIONS, reference_on_grid, started_by
from equipoise.lab.equation_training import Descent, solve_together_
from equipoise.lab.models import Scaled
from equipoise.lab.replay_data import Arguments, Budget, Done, Estimate, Mode, ResultTable, Row
from equipoise.lab.starts_at_rates import compared
from equipoise.lab.work import in_parts

OURS = "auto, for derivatives"
THEIRS = "odd-sigmoid"
WIDTH, DEPTH = 16, 10
# As published, rivals do not know the scale.
_FAITHFUL: Mapping[str, tuple[str, bool]] = {
    "Xavier": ("xavier(distribution='normal')", False),
    "orthogonal": ("orthogonal(gain=1)", False),
    THEIRS: ("odd_sigmoid", False),
}
_CORRECTED: Mapping[str, tuple[str, bool]] = {
    "Xavier": ("xavier(distribution='normal', gain={gain:.6g})", False),
    "orthogonal": ("orthogonal", False),
    THEIRS: ("odd_sigmoid", False),
    "auto": ("auto", False),
    OURS: ("auto", True),
}
_EQUATIONS: Mapping[Budget, tuple[str, ...]] = {
    "quick": ("Poisson",), "paper": ("Poisson", "diffusion"),
}  # fmt: skip
# Scales of the activation, and whether they learn.
_SCALES: Mapping[Budget, tuple[tuple[float, bool], ...]] = {
    "quick": ((2.0, False), (1.0, True)),
    "paper": ((0.5, False), (1.0, False), (2.0, False), (1.0, True)),
}
_INSIDE: Mapping[Budget, int] = {"quick": 100, "paper": 1000}
_STEPS: Mapping[Budget, int] = {"quick": 150, "paper": 300}
_THEIR_RATE, _RATES = 1e-3, (1e-3, 3e-3)
# Of the misses at given values in the corrected mode, as in the replay of Poisson's equation.
_WEIGHT = 10.0
# Draws of one unit, which are trained side by side.
_TOGETHER: Mapping[Budget, int] = {"quick": 10, "paper": 5}


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Trainings for each mode, equation, scale and start, several draws side by side."""
    made: dict[str, Arguments] = {}
    for mode in modes:
        starts = _FAITHFUL if mode == "faithful" else _CORRECTED
        for equation in _EQUATIONS[budget]:
            for scale, learns in _SCALES[budget]:
                for start, (scheme, for_derivatives) in starts.items():
                    words = f"tanh({scale:g} x)" + (", slope learns" if learns else "")
                    made[f"{mode}, {equation}, {words}, {start}"] = {
                        "part": "equations", "mode": mode, "equation": equation, "scale": scale,
                        "learns": learns, "words": words, "start": start,
                        "scheme": scheme.format(gain=1 / scale), "derivatives": for_derivatives,
                        "depth": DEPTH, "inside": _INSIDE[budget],
                        "on_edge": 1 if equation == "Poisson" else _INSIDE[budget] // 8,
                        "steps": _STEPS[budget], "iterations": _STEPS[budget],
                        "weight": 1.0 if mode == "faithful" else _WEIGHT,
                        "rates": [_THEIR_RATE] if mode == "faithful" else list(_RATES),
                    }  # fmt: skip
    return in_parts(made, "seeds", seeds, _TOGETHER[budget])


def trained(arguments: Arguments) -> list[list[dict[str, float]]]:
    """Networks of several draws, trained on one equation at each rate of Adam.

    Args:
        arguments: as ``units`` makes them.

    Returns:
        For each draw and rate ``loss`` with all weights 1, and ``error``, relative L2 on a grid.
    """
    a = arguments
    equation = EQUATIONS[a["equation"]]()

    def activation() -> nn.Module:
        return Sloped(nn.Tanh(), a["scale"]) if a["learns"] else Scaled(nn.Tanh(), a["scale"])

    born, losses = [], []
    for seed in a["seeds"]:
        points = equation.points(a["inside"], a["on_edge"], seed)
        hidden = [WIDTH] * a["depth"]
        born.append(
            started_by(equation, points, hidden, activation, a["scheme"], a["derivatives"], seed)
        )
        losses.append(EquationLoss(equation, points, {"edges": a["weight"]}))
    at, reference = reference_on_grid(a["equation"])
    found: list[list[dict[str, float]]] = [[] for _ in born]
    for rate in a["rates"]:
        networks = copy.deepcopy(born)
        descent = Descent(steps=a["steps"], rate=rate, iterations=a["iterations"])
        ends = solve_together_(networks, losses, descent)
        for row, network, end in zip(found, networks, ends, strict=True):
            with torch.no_grad():
                row.append({"loss": end.loss, "error": relative_error(network, at, reference)})
    return found


def table(done: Sequence[Done], mode: Mode) -> ResultTable:
    """Loss and error of each start at the rate whose losses are lowest in the other draws."""
    by_case: dict[tuple[str, str], dict[str, list[list[dict[str, float]]]]] = {}
    rates: tuple[float, ...] = ()
    for a, result in done:
        if a["mode"] == mode:
            rates = tuple(a["rates"])
            by_start = by_case.setdefault((a["equation"], a["words"]), {})
            by_start.setdefault(a["start"], []).extend(result)
    rows = []
    for (equation, words), by_start in by_case.items():
        scores = {
            start: [[-_log(x["loss"]) for x in row] for row in found]
            for start, found in by_start.items()
        }
        for c in compared(scores, rates, OURS):
            picked = zip(by_start[c.start], c.places, strict=True)
            errors = [_log(row[k]["error"]) for row, k in picked]
            rows.append(
                Row(
                    (equation, words, c.start, f"{c.rate:g}"),
                    (Estimate.of([-s for s in c.scores]), Estimate.of(errors), c.gain),
                )
            )
    return ResultTable(
        f"Equations by {DEPTH} layers of width {WIDTH}", mode,
        ("equation", "activation", "start", "best rate"),
        ("log10 of the loss", "log10 of the relative error", f"{OURS} is ahead by"), "none",
        tuple(rows),
    )  # fmt: skip


def _log(value: float) -> float:
    # What is not finite is as bad as anything can be.
    return math.log10(min(max(value, 1e-300), 1e300)) if math.isfinite(value) else 300.0
