"""What a plan expects of whole networks is what they show, by every scheme and at every depth."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import PlanError
from equipoise.lab.models import mlp
from equipoise.plan.plan_stack import SCHEMES


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


SHAPES = [(64, 256), (256, 64), (64, 64)]


# Schemes that are made for some activations and refuse the others.
REFUSED = {
    ("shifted", nn.Tanh): "a line above 0",
    ("odd_sigmoid", nn.ReLU): "an odd sigmoid",
    ("siren", nn.ReLU): "must serve sines",
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("fan_in", "fan_out"), SHAPES)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_every_scheme_on_real_layers_forward_and_backward(scheme, fan_in, fan_out, activation):
    """What the plan expects of real layers is what a forward and a backward pass show."""
    model = mlp([fan_in, fan_out, fan_out, 32], activation)
    if (scheme, activation) in REFUSED:
        with pytest.raises(PlanError, match=REFUSED[scheme, activation]):
            eq.initialize(model, data(512, fan_in), scheme, seeded())
        return
    report = eq.initialize(model, data(512, fan_in), scheme, seeded())
    assert len(report.plan.assignments) == 6
    end = report.measurements.layers[-1].gradient
    for seen, expected in zip(report.measurements.layers, report.plan.predictions, strict=True):
        # One draw at width 64: two standard deviations of a log norm are below 0.4 nats.
        assert seen.signal == pytest.approx(expected.signal, rel=0.4), seen.layer
        assert seen.gradient / end == pytest.approx(expected.gradient, rel=0.4), seen.layer


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.SiLU, nn.Softplus])
def test_mirrored_networks_are_isometries_at_birth(activation):
    model = mlp([6, *[16] * 60, 6], activation).double()
    report = eq.initialize(model, data(256, 6).double(), generator=seeded())
    jacobian = torch.autograd.functional.jacobian(model, data(6).double())
    singular = torch.linalg.svdvals(jacobian)
    assert report.ok
    torch.testing.assert_close(singular / singular[0], torch.ones(6).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Softsign, nn.ELU, nn.SELU, nn.Mish])
def test_signal_and_gradient_through_100_layers_are_as_predicted(activation):
    model = mlp([64, *[16] * 100, 10], activation)
    report = eq.initialize(model, data(400, 64), generator=seeded(1))
    assert report.ok, report.findings
    assert 1 / 3 < report.measurements.gradient_ratio() < 3
    assert report.measurements.layers[-1].signal == pytest.approx(1.0, rel=0.5)


def test_widths_that_change_in_any_way_keep_the_signal():
    # Gates lie in pairs: 6 units carry 3 directions.
    for activation, narrow in ((nn.Tanh, 3), (nn.ReLU, 6), (nn.GELU, 6)):
        widths = [10, 40, 7, 7, 32, 2 * narrow, 64, 64, 12, 7, 30, narrow]
        report = eq.initialize(mlp(widths * 4, activation), data(400, 10), generator=seeded())
        assert report.ok, (activation, report.findings)


def test_a_bottleneck_of_one_pair_leaves_one_direction():
    model = mlp([10, 20, 3, *[20] * 20, 4], nn.ReLU)
    report = eq.initialize(model, data(400, 10), "mirrored", seeded())
    ranks = [layer.rank for layer in report.measurements.layers]
    assert ranks[0] > 5
    assert ranks[-2] == pytest.approx(1.0, abs=0.05)


def passed(model, x):
    """RMS at the output of each linear layer, and of the gradient there over the last one's."""
    made = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            made.append(x)
    gradients = torch.autograd.grad(x, made, torch.randn(x.shape, generator=seeded(1)))
    signal = [float(z.detach().square().mean().sqrt()) for z in made]
    gradient = [float(g.square().mean().sqrt()) for g in gradients]
    return signal, [g / gradient[-1] for g in gradient]


WIDTHS = ([16] * 50, [32] * 20, [64, 16] * 8, [256] * 3)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SELU])
@pytest.mark.parametrize("widths", WIDTHS, ids=["16 x 50", "32 x 20", "64, 16", "256 x 3"])
def test_the_numbers_told_are_medians_over_draws(activation, widths):
    model, x = mlp([32, *widths, 10], activation), data(256, 32)
    plan = eq.plan(model, x)
    signal, gradient = [], []
    for seed in range(15):
        eq.apply(model, plan, seeded(seed))
        for found, into in zip(passed(model, x), (signal, gradient), strict=True):
            into.append(found)
    for logs, expected, allowed in (
        (np.log(signal), [p.signal for p in plan.predictions], math.log(1.1)),
        (np.log(gradient), [p.gradient for p in plan.predictions], math.log(1.5)),
    ):
        chance = 2.0 * 1.2533 * logs.std(axis=0) / math.sqrt(len(logs))
        miss = np.abs(np.log(expected) - np.median(logs, axis=0))
        told = np.isfinite(expected)
        assert told.mean() > 0.9
        assert np.all((miss < allowed + chance)[told]), miss.max()


@pytest.mark.slow
def test_a_thousand_layers_of_width_64():
    report = eq.initialize(mlp([64, *[64] * 1000, 10], nn.Tanh), data(256, 64), generator=seeded())
    assert report.ok
    assert 1 / 3 < report.measurements.gradient_ratio() < 3
