"""The replays of equations: their units, one small training in plain steps, tables and pictures."""

import math
import statistics

import numpy as np
import pytest
import torch

from equipoise.lab import replay_burgers
from equipoise.lab.equation import EquationLoss
from equipoise.lab.equation_replay import EQUATIONS, METHODS, findings, started, train
from equipoise.lab.equation_training import Descent, solve_
from equipoise.lab.equations import burgers
from equipoise.lab.replay_names import REPLAYS

NAMES = ("burgers", "allen-cahn", "poisson", "helmholtz")


def unit(mode, method, depth, seeds=(0, 1), equation="Burgers"):
    return {
        "mode": mode, "equation": equation, "depth": depth, "method": method, "seeds": list(seeds),
        "width": 6, "inside": 20, "on_edge": 4, "iterations": 3, "steps": 4,
        "weight": 1.0 if mode == "faithful" else 3.0,
    }  # fmt: skip


def test_a_unit_in_plain_steps():
    arguments = unit("corrected", "diagonal + noise", 3)
    found = train(arguments)
    assert len(found) == 2
    equation = burgers()
    points = equation.points(20, 4, 1)
    net = started(equation, points, 6, 3, "diagonal + noise", 1)
    result = solve_(net, EquationLoss(equation, points, {"edges": 3.0}), Descent(4, 1e-3, 3))
    assert found[1]["loss"] == pytest.approx(result.loss, rel=1e-6)
    assert found[1]["evaluations"] == result.evaluations[-1]
    x = np.linspace(-1, 1, 101)
    grid = np.stack([m.ravel() for m in np.meshgrid(x, np.linspace(0, 1, 101), indexing="ij")], 1)
    with torch.no_grad():
        u = net(torch.from_numpy(grid)).numpy()[:, 0]
    right = equation.reference(grid)
    error = np.linalg.norm(u - right) / np.linalg.norm(right)
    assert found[1]["error"] == pytest.approx(error, rel=1e-5)
    assert [len(line) for line in found[1]["slices"]] == [101] * 4
    at_middle = u.reshape(101, 101)[:, 50]
    assert found[1]["slices"][1] == pytest.approx(at_middle, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_units_of_both_budgets(name):
    replay = REPLAYS[name]
    quick = replay.units("quick", ("faithful", "corrected"), range(10))
    drawn = {}
    for a in quick.values():
        key = a["mode"], a["equation"], a["depth"], a["method"]
        drawn.setdefault(key, []).extend(a["seeds"])
        assert a["weight"] == 1.0 or a["mode"] == "corrected"
    assert all(seeds == list(range(10)) for seeds in drawn.values())
    assert {m for mode, _, _, m in drawn if mode == "faithful"} == {"Xavier", "diagonal + noise"}
    assert {m for mode, _, _, m in drawn if mode == "corrected"} == set(METHODS)
    paper = replay.units("paper", ("faithful",), range(3))
    assert max(a["inside"] for a in paper.values()) > max(a["inside"] for a in quick.values())
    assert {a["equation"] for a in quick.values()} <= set(EQUATIONS)


@pytest.mark.parametrize("name", NAMES[1:])
def test_each_equation_trains_from_each_start(name):
    equation = REPLAYS[name].units("quick", ("corrected",), [0]).popitem()[1]["equation"]
    for method in METHODS:
        (result,) = train(unit("corrected", method, 2, [0], equation))
        assert math.isfinite(result["loss"])
        assert 0 < result["error"] < 100


def test_findings_say_what_was_measured():
    study = replay_burgers.STUDY
    methods = {"faithful": ("Xavier", "diagonal + noise"), "corrected": tuple(METHODS)}
    done = [
        (given, train(given))
        for mode, names in methods.items()
        for depth in (3, 2)
        for method in names
        for given in (unit(mode, method, depth),)
    ]
    found = findings(study, done, ("faithful", "corrected"))
    faithful, corrected = found.tables
    assert [row.names for row in faithful.rows] == [
        ("Burgers", d, m) for d in ("3", "2") for m in methods["faithful"]
    ]
    assert len(corrected.rows) == 8
    logs = [math.log10(r["loss"]) for r in done[0][1]]
    assert faithful.rows[0].values[0].mean == pytest.approx(statistics.fmean(logs))
    assert faithful.rows[0].values[1].mean == pytest.approx(
        statistics.fmean(r["error"] for r in done[0][1])
    )
    assert found.headline.startswith("3 tanh layers of 16 units end on Burgers at a loss of ")
    # Error over depth, losses, four slices; of each mode.
    assert len(found.pictures) == 12
    assert found.pictures[0].curves[0].x == (2.0, 3.0)
    assert found.pictures[2].curves[0].name == "reference"


def test_published_numbers_stand_beside_ours():
    study = replay_burgers.STUDY
    done = [(a, train(a)) for a in (unit("faithful", "Xavier", 30, [0]),)]
    (table,) = findings(study, done, ("faithful",)).tables
    assert table.rows[0].values[0].reference == pytest.approx(math.log10(6.16e-3))
