"""The card of an activation: its numbers are those of theory, its code runs, its picture draws."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.plan_stack import SCHEMES
from equipoise.report.card import make_card
from equipoise.report.card_plot import check_path, draw_card
from equipoise.theory import (
    activations,
    classify,
    critical_scale,
    known_activations,
    largest_depth,
    log_gain,
    mean_field,
    mean_hermite_degree,
    usable_odds,
)
from equipoise.theory.oddpart import ActivationClass
from equipoise.theory.rest import rest


@pytest.mark.parametrize("act", known_activations(), ids=str)
def test_every_known_activation_has_a_card(act):
    card = make_card(act, 16, 20)
    data = json.loads(card.to_json())
    assert data["activation"] == str(act)
    assert data["classification"]["kind"] == classify(act).kind.value
    assert str(act) in str(card)
    assert "eq.initialize(model, x)" in card.code
    assert (card.wide is None) == bool(act.jumps)
    assert bool(card.curve) == (not act.jumps)


def test_numbers_are_those_of_theory():
    act = activations.leaky_relu(0.1)
    card = make_card(act, 12, 40)
    by_name = {g.name: g for g in card.growths}
    row = by_name["Lyapunov, orthogonal"]
    scale = critical_scale(act, 12, law="haar")
    assert row.scale == scale
    assert row.odds == usable_odds(act, 12, 40, scale, "haar")
    assert row.even_depth == largest_depth(act, 12, 0.5, scale, "haar")
    he = by_name["He, Gaussian"]
    one = log_gain(act, 12, scale=critical_scale(act, 12, order=2.0))
    assert he.scale == pytest.approx(math.sqrt(2 / 1.01), rel=1e-12)
    assert he.decades == pytest.approx(40 * one.mean / math.log(10), rel=1e-12)
    assert by_name["mirrored"].odds == 1.0
    assert card.wide.chi_1 == pytest.approx(mean_field(act, 2 / 1.01).chi_1, abs=1e-9)


def test_no_spread_is_told_where_no_level_is_stable():
    card = make_card(lambda x: np.maximum(x, 0.0) ** 2, 16, 100, name="mine")
    assert math.isnan(card.log_std)
    assert json.loads(card.to_json())["log_std"] is None
    words = " ".join(str(card).split())
    assert "cannot be told, since no level of the signal is stable" in words
    assert "strays by a factor" not in words


def test_the_curve_holds_its_level():
    act = activations.tanh()
    card = make_card(act, 16, 10)
    for point in card.curve[::8]:
        assert mean_field(act, point.weight_var).q_star == pytest.approx(point.q, rel=1e-6)
        assert point.centred == pytest.approx(mean_hermite_degree(act, point.q), rel=1e-9)
        # With mean degree above 1 no bias variance of 0 or more is critical at this level.
        assert point.critical_bias_var == pytest.approx(
            point.q * (1 - 1 / point.chi_1), rel=1e-7, abs=1e-12
        )


def test_sigmoid_is_centred_and_named_so():
    card = make_card(activations.sigmoid(), 16, 50)
    assert [g.name for g in card.growths] == ["centred, budget 0.3"]
    assert "layer.bias.copy_(-0.5 * layer.weight.sum(1))" in card.code


def test_a_level_that_does_not_stay_has_no_law():
    rows = {g.name: g for g in make_card(activations.gelu(), 16, 100).growths}
    assert rows["He, Gaussian"].claim == "the level does not stay"
    assert math.isnan(rows["He, Gaussian"].decades)


def test_an_invented_activation():
    def mine(x):
        return x * np.tanh(np.exp(np.minimum(x, 20.0))) + 0.1 * np.abs(x - 1)

    card = make_card(mine, 16, 50, name="mine")
    assert str(card.function) == "mine"
    found = {e.property: e for e in card.evidence}
    assert found["kinks"].certainty == "firm"
    assert card.function.kinks == pytest.approx((1.0,), abs=1e-9)
    text = str(card)
    assert "firm: " in text
    assert "mine" in text


def test_one_hidden_layer_has_no_lines_by_hand():
    card = make_card(activations.relu(), 16, 1)
    assert card.code.endswith("a batch of its inputs")
    assert "by hand" in make_card(activations.relu(), 16, 2).code


def test_names_are_printed_as_they_are():
    card = make_card(lambda x: np.tanh(x) + 0.1 * x, 16, 5, name="[red]mine[/red]")
    assert str(card).startswith("[red]mine[/red], centre")


def test_a_torch_module_can_be_read():
    assert make_card(nn.GELU(), 16, 10).function is activations.gelu()


def test_what_takes_more_than_a_few_lines_is_not_copied():
    assert make_card(activations.tanh(), 4, 3, "sampled").code.endswith("a batch of its inputs")


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "sampled"])
@pytest.mark.parametrize(
    "act", [activations.gelu(), activations.tanh(), activations.sigmoid()], ids=str
)
def test_the_code_keeps_the_signal_where_the_card_expects_it(act, scheme):
    """The lines run on real layers and give the RMS that the card promises, up to its spread."""
    width, depth = 64, 12
    if scheme == "mirrored" and classify(act).kind is not ActivationClass.MIRROR:
        pytest.skip(
            "pairs of an odd function need a first layer of pairs, which is not copied here"
        )
    try:
        card = make_card(act, width, depth, scheme)
    except PlanError:
        pytest.skip("the scheme is not for this activation")
    torch.manual_seed(0)
    block = card.code.partition("between hidden units:\n")[2]
    layers = [nn.Linear(width, width) for _ in range(depth)]
    for layer in layers:
        exec(block, {"torch": torch, "nn": nn, "layer": layer, "width": width})
    half = torch.randn(4000, width // 2)
    # The state before a hidden layer: preactivations at the expected level, mirrored if pairs are.
    z = torch.cat([half, -half], 1) if "pairs" in block else torch.randn(4000, width)
    if scheme not in ("diagonal_noise", "odd_sigmoid"):
        z = z * card.signal[0] / z.square().mean().sqrt()
    if scheme == "shifted":
        # Units rest at c, and the RMS counts from 0.
        c = rest(act).place
        z = torch.randn(4000, width)
        z = c + z * math.sqrt(card.signal[0] ** 2 - c**2) / z.square().mean().sqrt()
    for layer in layers[1:]:
        with torch.no_grad():
            z = layer(torch.from_numpy(act.f(z.double().numpy())).float())
    expected = card.signal[-2]
    if scheme not in ("diagonal_noise", "odd_sigmoid") and expected > 0:
        allowed = max(0.1, 4 * card.log_std)
        assert abs(math.log(float(z.square().mean().sqrt()) / expected)) < allowed


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
@pytest.mark.parametrize(
    "act", [activations.relu(), activations.hardshrink(), activations.sin(30.0)], ids=str
)
def test_the_picture_draws(act, ending, tmp_path):
    path = draw_card(make_card(act, 8, 5), tmp_path / f"card.{ending}")
    head = path.read_bytes()[:100]
    assert head.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending])


def test_a_missing_matplotlib_is_said(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r"Install 'equipoise\[plot\]'"):
        draw_card(make_card(activations.relu(), 8, 5), tmp_path / "card.png")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: make_card(activations.relu(), 1, 5), ArgumentError, "width must be an integer"),
        (lambda: make_card(activations.relu(), 8, 0), ArgumentError, "depth must be an integer"),
        (lambda: make_card(activations.relu(), 8, 5, "hee"), ArgumentError, "Did you mean 'he'"),
        (lambda: make_card(activations.linear(0.0), 8, 5), ArgumentError, "must not be constant"),
        (lambda: make_card(lambda x: x / np.abs(x).max(), 8, 5), ArgumentError, "pointwise"),
        (lambda: make_card(activations.squared_relu(), 8, 5, "diagonal_noise"), PlanError, "slope"),
        (lambda: draw_card(make_card(activations.relu(), 8, 5), "x.gif"), ArgumentError, "end in"),
        (lambda: check_path("no_such_folder/x.svg"), ArgumentError, "Make no_such_folder first"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
