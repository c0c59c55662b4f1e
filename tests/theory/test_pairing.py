"""The cost of plain weights and whether mirrored pairs are worth their rank."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.oddpart import ActivationClass, classify
from equipoise.theory.pairing import (
    LOSS_WORTH_MIRRORING,
    SPREAD_WORTH_MIRRORING,
    PlainCost,
    mirroring_pays,
    plain_cost,
)
from equipoise.theory.structured import HiddenLayer


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("width", [3, 40])
def test_leaky_layers_in_closed_form(slope, width):
    """(1 - a)^2 / (2 (1 + a^2)) shares; variance (c - 1/2) / n with c = (6 r - 1) / 4."""
    cost = plain_cost([HiddenLayer(width, activations.leaky_relu(slope))] * 7)
    r = (1 + slope**4) / (1 + slope**2) ** 2
    assert cost.loss == pytest.approx(7 * (1 - slope) ** 2 / (2 * (1 + slope**2)), rel=1e-9)
    assert cost.spread == pytest.approx(math.sqrt(7 * (6 * r - 3) / 4 / width), rel=1e-8)


@pytest.mark.parametrize("activation", [activations.gelu(), activations.mish()], ids=str)
def test_smooth_gates_by_another_quadrature(activation, gaussian_mean):
    f = activation.f
    m = gaussian_mean(lambda z: f(z) ** 2, 1.0)
    linear = gaussian_mean(activation.df, 1.0)
    fourth = gaussian_mean(lambda z: f(z) ** 4, 1.0)
    cost = plain_cost([HiddenLayer(5, activation), HiddenLayer(20, activation)])
    assert cost.loss == pytest.approx(2 * (1 - linear**2 / m), rel=1e-9)
    one = (fourth / m**2 - 1) / 4 - 0.5
    assert cost.spread == pytest.approx(math.sqrt(one / 5 + one / 20), rel=1e-9)


def test_loss_of_drawn_units():
    """Monte Carlo: the share of the energy of relu units that no linear fit explains."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal(400_000)
    y = np.maximum(z, 0.0)
    shares = [1 - (a @ b) ** 2 / ((a @ a) * (b @ b))
              for a, b in zip(z.reshape(20, -1), y.reshape(20, -1), strict=True)]  # fmt: skip
    error = 4 * np.std(shares, ddof=1) / math.sqrt(20)
    assert plain_cost([HiddenLayer(1, activations.relu())]).loss == pytest.approx(
        np.mean(shares), abs=error + 1e-4
    )


def test_costs_of_nothing_and_of_lines():
    assert plain_cost([]) == PlainCost(0.0, 0.0)
    line = plain_cost([HiddenLayer(4, activations.linear(0.3))] * 50)
    assert 0.0 <= line.loss < 1e-9
    assert line.spread == pytest.approx(0.0, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.integers(1, 300))
def test_verdict_is_the_thresholds(width, depth):
    for activation in (activations.relu(), activations.leaky_relu(0.3), activations.gelu()):
        verdict = mirroring_pays(activation, width, depth)
        cost = plain_cost([HiddenLayer(width, activation)] * depth)
        assert verdict.cost.loss == pytest.approx(cost.loss, rel=1e-9)
        assert verdict.cost.spread == pytest.approx(cost.spread, rel=1e-9)
        over = cost.loss > LOSS_WORTH_MIRRORING or cost.spread > SPREAD_WORTH_MIRRORING
        assert verdict.pays == over or abs(cost.loss - LOSS_WORTH_MIRRORING) < 1e-9
        if depth > 1:
            assert verdict.pays >= mirroring_pays(activation, width, depth - 1).pays


@pytest.mark.parametrize(
    "cost", [PlainCost(2.0, 2.3), PlainCost(2.001, 0.0), PlainCost(0.0, 2.301)], ids=str
)
def test_either_cost_is_enough(cost):
    assert cost.is_worth_mirroring == (cost != PlainCost(2.0, 2.3))


def test_reasons():
    deep = mirroring_pays(activations.relu(), 16, 50)
    assert deep.pays
    assert "lose 50% of the linear signal in each of 50 hidden layers of width 16" in deep.reason
    shallow = mirroring_pays(activations.relu(), 256, 1)
    assert not shallow.pays
    assert "1 hidden layer of" in shallow.reason
    one = mirroring_pays(activations.relu(), 1, 50)
    assert not one.pays
    assert "no pair" in one.reason
    assert "no pair" not in mirroring_pays(activations.relu(), 1, 1).reason


@pytest.mark.parametrize("activation", activations.known_activations(), ids=str)
def test_only_gates_are_paired(activation):
    verdict = mirroring_pays(activation, 8, 10_000)
    assert verdict.pays == (classify(activation).kind is ActivationClass.MIRROR)
    if not verdict.pays:
        assert "nothing to gain" in verdict.reason


def test_refusals():
    with pytest.raises(ArgumentError, match="width must be"):
        mirroring_pays(activations.relu(), 0, 4)
    with pytest.raises(ArgumentError, match="depth must be"):
        mirroring_pays(activations.relu(), 4, 0)
    with pytest.raises(ArgumentError, match="width must be"):
        plain_cost([HiddenLayer(0, activations.relu())])
    with pytest.raises(ArgumentError, match="must not be 0 everywhere"):
        mirroring_pays(activations.linear(0.0), 4, 4)
