"""The phase diagram with networks placed on it."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import equipoise.torch as eq
from equipoise import cli
from equipoise.errors import ArgumentError
from equipoise.lab.models import mlp
from equipoise.lab.phase_map import phase_map
from equipoise.theory import activations


def planned(scheme, activation=nn.Tanh, widths=(20, 40, 40, 5)):
    return eq.plan(mlp(list(widths), activation), torch.randn(64, widths[0]), scheme)


def test_weights_are_placed_by_their_norm():
    plan = planned("xavier(distribution='normal')")
    found = phase_map(activations.tanh(), {"mine": plan}, seed=5)
    first, second = found.places
    weight = plan.draw(second.weight, 5)
    assert second.weight_var == pytest.approx(np.mean(np.linalg.norm(weight, axis=1) ** 2))
    assert first.network == "mine"
    assert (first.bias_var, second.bias_var) == (0.0, 0.0)
    # Below 1 tanh without biases fades, and its gradients by weight_var in each layer.
    assert first.phase == ("vanishing" if first.weight_var < 1 else "chaotic")
    assert first.chi_1 == pytest.approx(first.weight_var, rel=1e-6)


def test_he_for_relu_is_critical_and_orthogonal_weights_lie_where_entries_would():
    relu = phase_map(activations.relu(), {"he": planned("he", nn.ReLU, (50, 2000, 2000, 5))})
    assert relu.places[1].weight_var == pytest.approx(2.0, rel=0.01)
    assert relu.places[1].chi_1 == pytest.approx(1.0, rel=0.01)
    tanh = phase_map(activations.tanh(), {"o": planned("orthogonal")})
    assert tanh.places[1].weight_var == pytest.approx(1.0)
    assert tanh.places[1].phase == "critical"
    assert math.isinf(tanh.places[1].trainable_depth)


def test_biases_are_placed_too():
    plan = planned("siren", nn.Tanh, (2, 30, 30, 1))
    place = phase_map(activations.tanh(), {"s": plan}).places[0]
    bias = plan.draw(place.weight.removesuffix("weight") + "bias", 0)
    assert place.bias_var == pytest.approx(np.mean(bias**2))
    assert place.bias_var > 0


def test_pictures_hold_the_maps_and_everything_placed():
    plan = planned("xavier(gain=3.0)")
    found = phase_map(activations.tanh(), {"loud": plan}, (0.5, 2.0), (0.0, 0.1))
    chi, q_star, c_star = found.pictures
    assert max(chi.heat[0].x) == pytest.approx(1.25 * max(p.weight_var for p in found.places))
    line = next(c for c in chi.curves if c.name == "critical")
    # On the critical line chi_1 = 1: the map's own numbers around it part there.
    z, x, y = np.array(chi.heat[0].z), np.array(chi.heat[0].x), np.array(chi.heat[0].y)
    for w, b in list(zip(line.x, line.y, strict=True))[::10]:
        row = z[np.abs(y - b).argmin()]
        assert row[x < w - 0.3].max(initial=0.0) < 1.0 < row[x > w + 0.3].min()
    assert np.array(q_star.heat[0].z).min() >= 0.0
    # Where it is chaotic without a bias, inputs of odd networks become uncorrelated.
    assert c_star.heat[0].z[0][-1] == pytest.approx(0.0, abs=1e-9)
    assert any(c.name == "loud" and c.style == "points" for c in chi.curves)


def test_text_json_and_page(tmp_path):
    found = phase_map(activations.tanh(), {"a": planned("orthogonal")})
    assert "Phase diagram of tanh" in str(found)
    data = json.loads(found.to_json(tmp_path / "a.json").read_text())
    assert data["places"][1]["trainable_depth"] is None
    page = found.to_html(tmp_path / "a.html").read_text()
    assert "Where each weight stands" in page
    assert page.count('class="plot"') == 3
    assert "Where each weight" not in phase_map(activations.tanh()).page()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight_vars": (0.0, 1.0)}, "weight_vars must be positive"),
        ({"weight_vars": (2.0, 1.0)}, "weight_vars must be a range, got 2 to 1"),
        ({"bias_vars": (-1.0, 1.0)}, "bias_vars must be finite and not negative"),
        ({"bias_vars": (0.0, math.nan)}, "bias_vars must be finite"),
    ],
)
def test_ranges_that_are_none_are_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        phase_map(activations.tanh(), **given)


def test_plans_and_functions_that_have_no_place_are_refused():
    with pytest.raises(ArgumentError, match=r"networks\['one'\] must be a plan with a hidden"):
        phase_map(activations.tanh(), {"one": eq.plan(nn.Linear(4, 3), torch.randn(8, 4))})
    with pytest.raises(ArgumentError, match="jumps"):
        phase_map(activations.hardshrink())


def test_the_command(tmp_path, monkeypatch):
    planned("orthogonal").save(tmp_path / "mine.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acts.py").write_text(
        "import numpy as np\ndef twice(x):\n    return 2 * np.tanh(x)\n"
    )
    page = tmp_path / "p.html"
    args = ["lab", "phase", "tanh", "--plan", "mine.json", "--out", str(page)]
    done = CliRunner().invoke(cli.app, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert "mine" in done.stdout
    assert page.exists()
    done = CliRunner().invoke(cli.app, ["lab", "phase", "acts:twice"], catch_exceptions=False)
    assert "Phase diagram of twice" in done.stdout
    with pytest.raises(ArgumentError, match="--seed must be"):
        CliRunner().invoke(
            cli.app, ["lab", "phase", "tanh", "--seed", "-1"], catch_exceptions=False
        )
