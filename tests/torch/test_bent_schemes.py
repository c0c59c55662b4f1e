"""Narrow rectifiers that bend at birth: where units rest, what is kept, and which nets get it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.laws import OffsetBias
from equipoise.theory import activations
from equipoise.theory.shift import bend, bend_for_growth


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(act, widths):
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), act()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def line(count=256):
    return (torch.rand(count, 1, generator=seeded()) * 2 - 1) * math.sqrt(3)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shift", [0.7, 1.9])
def test_a_bend_by_quadrature(slope, shift):
    found = bend(activations.leaky_relu(slope) if slope else activations.relu(), shift)
    law = stats.norm(shift, 1)

    def expected(g):
        return sum(
            integrate.quad(lambda u: g(u) * law.pdf(u), *ends, epsabs=1e-13)[0]
            for ends in ((-12, 0), (0, 14))
        )

    def f(u):
        return u if u > 0 else slope * u

    mean, second = expected(f), expected(lambda u: f(u) ** 2)
    steep = expected(lambda u: 1.0 if u > 0 else slope**2)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.std == pytest.approx(math.sqrt(second - mean**2), abs=1e-9)
    assert found.growth == pytest.approx(math.log(steep / (second - mean**2)), abs=1e-8)


def test_growth_is_spent_where_it_is_asked_for():
    for nats in (1e-4, 0.02, 0.1):
        assert bend_for_growth(activations.relu(), nats).growth == pytest.approx(nats, rel=1e-5)
    # Even in the middle a kink between nearly equal slopes makes little.
    most = bend_for_growth(activations.leaky_relu(0.9), 0.1)
    assert most.shift == pytest.approx(0.0, abs=1e-5)
    assert most.growth < 0.01
    assert bend_for_growth(activations.relu(), 1e-15).shift == pytest.approx(8.0, abs=0.3)
    with pytest.raises(ArgumentError, match="growth must be positive"):
        bend_for_growth(activations.relu(), 0.0)


@pytest.mark.parametrize(("slope", "width"), [(0.01, 2), (0.5, 3)])
def test_networks_of_one_number_bend_at_birth(slope, width):
    net = mlp(lambda: nn.LeakyReLU(slope), (1, *(width,) * 40, 1))
    plan = eq.plan(net, line())
    assert "maps of one number do not fold" in plan.choice[0]
    assert "spend 0.85 nats" in plan.choice[0]
    assert "outputs at RMS 0.01" in plan.choice[0]
    x = torch.linspace(-1.7, 1.7, 4001)[:, None]
    pieces, known, loud = [], [], []
    for seed in range(12):
        eq.apply(net, plan, seeded(seed))
        h, sides = x, []
        with torch.no_grad():
            loud.append(float(net(x).std()))
            for layer in net[:-1]:
                h = layer(h)
                if isinstance(layer, nn.Linear):
                    sides.append(h > 0)
        flips = torch.cat(sides, 1)
        pieces.append(1 + int((flips[1:] != flips[:-1]).any(1).sum()))
        h = torch.cat([h, torch.ones(len(h), 1)], 1)
        residual = x - h @ torch.linalg.lstsq(h, x).solution
        known.append(1 - float(residual.square().sum() / x.square().sum()))
    assert np.median(pieces) > 10
    assert np.median(known) > 0.7
    assert max(loud) < 0.05


def test_an_output_scale_that_is_asked_for_is_kept():
    net = mlp(nn.ReLU, (1, *(2,) * 40, 1))
    plan = eq.plan(net, line(), output_rms=2.0)
    assert "maps of one number do not fold" in plan.choice[0]
    assert "outputs at RMS 0.01" not in plan.choice[0]


def test_the_level_is_kept_over_wide_layers():
    """Wide layers are Gaussian: means, levels and gradients are those of the theory."""
    widths = (96, *[96] * 10, 96)
    net = mlp(nn.ReLU, widths).double()
    x = torch.randn(256, 96, dtype=torch.float64, generator=seeded())
    plan = eq.plan(net, x, "shifted(bends=0.6)")
    eq.apply(net, plan, seeded(3))
    one = bend_for_growth(activations.relu(), 0.06)
    h = x
    with torch.no_grad():
        for layer in net[:-1]:
            h = layer(h)
            if isinstance(layer, nn.Linear):
                moved = h - one.shift
                assert float(h.mean()) == pytest.approx(one.shift, abs=0.05)
                assert float(moved.square().mean().sqrt()) == pytest.approx(1.0, abs=0.08)
    norms = []
    for row in x[:20]:
        row = row.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(row).sum(), row)
        norms.append(float(g.square().sum()))
    log_growth = math.log(np.mean(norms) / 96)
    # The first layer is a line, and the last is scaled as the plan says.
    last = {a.parameter: a.law for a in plan.assignments}["20.weight"].scale * one.std
    assert last == pytest.approx(0.04, rel=0.1)
    assert log_growth - 2 * math.log(last) == pytest.approx(0.6, abs=0.12)


def test_predictions_follow_the_bends():
    net = mlp(lambda: nn.LeakyReLU(0.1), (4, *(32,) * 12, 3)).double()
    x = torch.randn(256, 4, dtype=torch.float64, generator=seeded())
    result = eq.initialize(net, x, "shifted(bends=0.5)", seeded())
    for seen, expected in zip(result.measurements.layers, result.plan.predictions, strict=True):
        assert seen.signal == pytest.approx(expected.signal, rel=0.25), seen.layer


@pytest.mark.parametrize("width", [4, 8])
def test_plans_of_wider_networks_stay_as_they_were(width):
    net = mlp(nn.ReLU, (1, *(width,) * 30, 1))
    plan = eq.plan(net, line())
    assert "do not fold" not in plan.choice[0]
    assert "kinks of pairs are spread" in plan.choice[0]


@pytest.mark.parametrize("act", [nn.GELU, nn.Tanh])
def test_functions_that_are_no_lines_stay_as_they_were(act):
    plan = eq.plan(mlp(act, (1, *(2,) * 40, 1)), line())
    assert "do not fold" not in plan.choice[0]
    with pytest.raises(PlanError, match="must be a line above 0 for bends"):
        eq.plan(mlp(act, (1, *(2,) * 40, 1)), line(), "shifted(bends=0.5)")


def test_bends_need_biases_and_dense_layers():
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with pytest.raises(PlanError, match="must be linear with a bias of its own for bends"):
        eq.plan(net, line(), "shifted(bends=0.5)")
    deep = mlp(nn.ReLU, (1, *(2,) * 40, 1))
    plan = eq.plan(deep, line(), "shifted(bends=0.5)")
    laws = {a.parameter: a.law for a in plan.assignments}
    assert isinstance(laws["2.bias"], OffsetBias)
    assert laws["2.bias"].constant > laws["0.bias"].level
