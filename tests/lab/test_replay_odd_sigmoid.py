"""The replay of odd-sigmoid activations: its units, small trainings in plain steps, its tables."""

import math
import statistics

import pytest
import torch
from torch import nn

from equipoise.lab import odd_sigmoid_equations, replay_odd_sigmoid
from equipoise.lab.equation import EquationLoss
from equipoise.lab.equation_replay import started_by
from equipoise.lab.equation_training import Descent, solve_
from equipoise.lab.equations import poisson
from equipoise.lab.models import Scaled, activation_module, mlp
from equipoise.lab.odd_sigmoid_cases import LAWS, Case, cases, starts
from equipoise.lab.odd_sigmoid_memory import signs_kept
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.setting import Setting, Trial, train_trials
from equipoise.lab.start_trials import train_starts
from equipoise.lab.starts_at_rates import few_images
from equipoise.torch.initialize import initialize

REPLAY = REPLAYS["odd-sigmoid"]
IMAGES = {
    "part": "images", "mode": "corrected", "images": "digits", "topic": "labels", "depth": 3,
    "width": 6, "activation": "tanh(2)", "count": 20, "noise": 0.3, "steps": 3, "test_rows": 0,
    "choice": 2, "seeds": [4, 5], "starts": {"odd-sigmoid": "odd_sigmoid", "auto": "auto"},
    "rates": [1e-3, 1e-2],
}  # fmt: skip
EQUATION = {
    "part": "equations", "mode": "corrected", "equation": "Poisson", "scale": 2.0,
    "learns": False, "words": "tanh(2 x)", "start": "odd-sigmoid", "scheme": "odd_sigmoid",
    "derivatives": False, "depth": 2, "inside": 12, "on_edge": 1, "steps": 4, "iterations": 3,
    "weight": 10.0, "rates": [1e-3, 3e-3], "seeds": [0, 1],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)


def test_units_vary_one_thing_at_a_time():
    made = REPLAY.units("quick", ("faithful", "corrected"), range(10))
    assert all(a["images"] == "digits" for a in made.values() if a["part"] == "images")
    corrected = [a for a in made.values() if (a["part"], a["mode"]) == ("images", "corrected")]
    assert all(a["seeds"] == [a["choice"]] and len(a["rates"]) > 1 for a in corrected)
    faithful = [a for a in made.values() if (a["part"], a["mode"]) == ("images", "faithful")]
    assert all(a["rates"] == [1e-3] and a["choice"] == 0 for a in faithful)
    assert all("auto" not in a["starts"] and a["seeds"] == list(range(10)) for a in faithful)
    middle = Case("middle")
    for case in cases("paper")[1:]:
        values = [(getattr(case, n), getattr(middle, n))
                  for n in ("depth", "width", "activation", "count", "noise")]  # fmt: skip
        assert sum(a != b for a, b in values) <= 1
    assert {c.topic for c in cases("quick")} == {c.topic for c in cases("paper")}
    assert "signs" not in {a["part"] for a in REPLAY.units("quick", ("faithful",), [0]).values()}


def test_published_rivals_are_not_told_the_scale_and_corrected_ones_are():
    theirs, ours = (starts(mode, Case("scale", activation="erf(4)"))
                    for mode in ("faithful", "corrected"))  # fmt: skip
    plain = starts("faithful", Case("middle"))
    assert {n: theirs[n] for n in ("Xavier", "He", "orthogonal")} == {
        n: plain[n] for n in ("Xavier", "He", "orthogonal")
    }

    def gain(scheme, activation, width=64):
        net = mlp([width] * 3, lambda: activation_module(activation))
        initialize(net, torch.randn(128, width, generator=seeded()), scheme, generator=seeded())
        return float(net[2].weight.detach().norm()) / math.sqrt(width)

    assert gain(theirs["orthogonal"], "erf(4)") == pytest.approx(1.0, rel=1e-6)
    assert gain(theirs["He"], "erf(4)") == pytest.approx(math.sqrt(2), rel=0.05)
    assert gain(theirs["Xavier"], "erf(4)") == pytest.approx(1.0, rel=0.05)
    slope = 4 * 2 / math.sqrt(math.pi)
    assert gain(ours["orthogonal"], "erf(4)") == pytest.approx(1 / slope, rel=1e-6)
    assert gain(ours["Xavier"], "erf(4)") == pytest.approx(1 / slope, rel=0.05)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_scale_of_the_activation_changes_nothing_at_birth():
    x = torch.randn(32, 8, generator=seeded(1))
    hidden = []
    for activation in ("tanh", "tanh(4)"):
        net = mlp([8] * 6, lambda f=activation: activation_module(f))
        initialize(net, x, "odd_sigmoid", generator=seeded(2))
        with torch.no_grad():
            hidden.append(net[:-1](x))
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-6)


def test_a_unit_of_images_is_trials_of_the_batched_trainer():
    found = REPLAY.work(IMAGES)
    task = "digits(balanced=20, noise=0.3, seed=2)"
    assert few_images("digits", 20, 2, 0, 0.3) == task
    setting = Setting(task, (6,) * 3, "tanh(2)", epochs=3, batch_size=50)
    alone = train_trials(setting, [Trial("odd_sigmoid", 1e-2, 5)]).scores[0]
    assert found["odd-sigmoid"][1][1] == pytest.approx(alone, abs=1e-6)


def test_a_start_that_does_not_serve_is_left_out():
    setting = Setting("digits(balanced=20)", (6,) * 3, "relu", epochs=1)
    found = train_starts(setting, {"a": "odd_sigmoid", "b": "he"}, [1e-3], [0])
    assert list(found) == ["b"]


@pytest.mark.parametrize("learns", [False, True])
def test_a_unit_of_equations_in_plain_steps(learns):
    found = REPLAY.work(EQUATION | {"learns": learns})
    assert [len(row) for row in found] == [2, 2]
    equation = poisson(2.0)
    points = equation.points(12, 1, 1)
    net = started_by(equation, points, [16, 16], lambda: Scaled(nn.Tanh(), 2.0), "odd_sigmoid",
                     False, 1)  # fmt: skip
    result = solve_(net, EquationLoss(equation, points, {"edges": 10.0}), Descent(4, 3e-3, 3))
    if learns:
        # The same network at birth, whose slopes then move as well.
        assert found[1][1]["loss"] != pytest.approx(result.loss, rel=1e-3)
    else:
        assert found[1][1]["loss"] == pytest.approx(result.loss, rel=1e-6)
        x = torch.linspace(-1, 1, 101**2, dtype=torch.float64)[:, None]
        right = torch.sin(2 * math.pi * x)
        with torch.no_grad():
            error = (net(x) - right).norm() / right.norm()
        assert found[1][1]["error"] == pytest.approx(float(error), rel=1e-5)


def test_signs_are_kept_as_the_closed_form_says():
    one = {"activation": "arctan", "width": 32, "scheme": LAWS["odd-sigmoid, uniform noise"],
           "layers": 30, "networks": 10, "seeds": [0, 1, 2]}  # fmt: skip
    kept = signs_kept(one)
    # 960 units, of which each is 1 or -1.
    assert statistics.fmean(kept) == pytest.approx(0.5, abs=4 * math.sqrt(0.75 / 960))
    heavy = one | {"scheme": LAWS["odd-sigmoid, Student's t, 3 degrees"], "networks": 1}
    assert signs_kept(heavy) != kept


def finished():
    corrected = IMAGES | {"rates": [1e-3], "noise": 0.0}
    middle = corrected | {"topic": "middle", "activation": "tanh", "width": 16}
    steep = corrected | {"topic": "scale", "activation": "tanh(4)", "width": 16}
    done = []
    for i, (a, b) in enumerate([(0.5, 0.3), (0.6, 0.2), (0.7, 0.4)]):
        own = {"seeds": [i], "choice": i}
        done.append((middle | own, {"auto": [[a]], "odd-sigmoid": [[b]]}))
        done.append((steep | own, {"auto": [[a - 0.1]], "odd-sigmoid": [[b / 2]]}))
    for start, errors in (("odd-sigmoid", [1e-1, 1e-2]), ("auto, for derivatives", [1e-3, 1e-3])):
        rows = [[{"loss": 10 * e, "error": e}, {"loss": e, "error": e / 10}] for e in errors]
        done.append((EQUATION | {"start": start}, rows))
    done.append(({"part": "signs", "activation": "tanh", "width": 16, "law": "normal"}, [0.4, 0.6]))
    return done


def test_findings():
    found = REPLAY.findings(finished(), ("corrected",))
    scores, sensitivity, equations, signs = found.tables
    by_name = {row.names[1:3]: row for row in scores.rows}
    gain = by_name["tanh 16 x 3, 20 images", "odd-sigmoid"].values[1]
    assert gain.mean == pytest.approx((0.2 + 0.4 + 0.3) / 3)
    assert gain.standard_error == pytest.approx(statistics.stdev([0.2, 0.4, 0.3]) / math.sqrt(3))
    # The order of the starts is that of the units, whatever a store made of it.
    assert [row.names[2] for row in scores.rows] == ["odd-sigmoid", "auto"] * 2
    lost = {row.names: row.values[2] for row in sensitivity.rows}
    assert set(lost) == {("scale", "odd-sigmoid"), ("scale", "auto")}
    assert lost["scale", "auto"].mean == pytest.approx(0.1)
    assert lost["scale", "odd-sigmoid"].mean == pytest.approx(0.15)
    theirs, ours = equations.rows
    assert theirs.names[-1] == "0.003"
    assert theirs.values[0].mean == pytest.approx((-1 - 2) / 2)
    assert theirs.values[1].mean == pytest.approx((-2 - 3) / 2)
    assert theirs.values[2].mean == pytest.approx(1.5)
    assert math.isnan(ours.values[2].mean)
    assert signs.rows[0].values[0].mean == 0.5
    assert signs.rows[0].values[0].reference == 0.5
    assert "0.300 by odd-sigmoid, 0.600 by auto" in found.headline
    assert "auto at its worst 0.500 (tanh(4) 16 x 3, 20 images)" in found.headline
    assert "digits" in " ".join(found.sentences)
    assert found.pictures == ()


def test_the_faithful_mode_has_no_word_of_rates():
    done = [
        (a | {"mode": "faithful", "rates": [1e-3]}, result)
        for a, result in finished()
        if a["part"] == "images"
    ]
    one_rate = [
        (EQUATION | {"mode": "faithful", "rates": [1e-3]}, [[{"loss": math.nan, "error": 1.0}]])
    ]
    found = REPLAY.findings(done + one_rate, ("faithful",))
    assert len(found.tables) == 3
    assert found.tables[2].rows[0].values[0].mean == 300.0
    assert not any("lowest mean log loss" in words for words in found.sentences)
    assert odd_sigmoid_equations.table([], "faithful").rows == ()
    assert replay_odd_sigmoid.REPLAY is REPLAY
