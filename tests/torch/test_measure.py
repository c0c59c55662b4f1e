"""Measurements against the same numbers taken by hand, and no side effects."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.diagnose import diagnose
from equipoise.lab.models import mlp
from equipoise.torch.inputs import read_inputs
from equipoise.torch.measure import measure
from equipoise.torch.trace import trace

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def measured(model, x=X):
    inputs = read_inputs(model, x)
    return measure(model, trace(model, inputs), inputs)


def by_hand(model, x):
    """Outputs of the linear layers of a Sequential, and the random cotangent's gradients there."""
    outputs, h = [], x.clone().requires_grad_()
    for layer in model:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            outputs.append(h)
    torch.manual_seed(0)
    cotangent = torch.randn(h.shape) / math.sqrt(h.numel())
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    found = torch.autograd.grad(h, outputs + weights, cotangent)
    outputs = [z.detach() for z in outputs]
    return outputs, found[: len(outputs)], found[len(outputs) :]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
def test_signal_gradient_and_weight_gradient_are_those_of_autograd(activation):
    model = mlp([8, 12, 5, 3], activation)
    with torch.random.fork_rng():
        outputs, gradients, weights = by_hand(model, X)
    seen = measured(model)
    for layer, z, g, w in zip(seen.layers, outputs, gradients, weights, strict=True):
        assert layer.signal == pytest.approx(float(z.square().mean().sqrt()), rel=1e-5)
        assert layer.gradient == pytest.approx(float(g.square().mean().sqrt()), rel=1e-5)
        assert layer.weight_gradient == pytest.approx(float(w.norm()), rel=1e-5)


def test_correlation_is_the_mean_cosine_over_pairs():
    model = mlp([8, 6, 3], nn.Tanh)
    z = model[0](X).detach()
    cosines = F.cosine_similarity(z[:, None], z[None, :], dim=-1)
    pairs = cosines[~torch.eye(len(X), dtype=torch.bool)]
    assert measured(model).layers[0].correlation == pytest.approx(float(pairs.mean()), abs=1e-6)


def test_dead_units_and_saturation_are_counted():
    model = mlp([8, 10, 3], nn.ReLU)
    with torch.no_grad():
        model[0].bias[:4] = -100.0
    assert measured(model).layers[0].dead == pytest.approx(0.4)
    model = mlp([8, 10, 3], nn.Tanh)
    with torch.no_grad():
        model[0].bias[:7] = 100.0
    assert measured(model).layers[0].saturation == pytest.approx(0.7)


def test_functional_layers_and_in_place_activations_are_seen():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(2, 6))

        def forward(self, x):
            return F.linear(F.relu_(F.linear(x, self.a)), weight=self.b)

    model = Functional()
    layers = measured(model).layers
    assert [layer.layer for layer in layers] == ["a", "b"]
    expected = float((X @ model.a.detach().T).square().mean().sqrt())
    assert layers[0].signal == pytest.approx(expected, rel=1e-5)


def test_frozen_layers_are_measured_too():
    model = mlp([8, 12, 3], nn.Tanh).requires_grad_(False)
    layers = measured(model).layers
    assert all(layer.gradient > 0 for layer in layers)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_model_that_detaches_its_output_has_no_gradient_to_measure():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 3)

        def forward(self, x):
            return {"out": self.a(x).detach(), "count": 3}

    layers = measured(Detached()).layers
    assert math.isnan(layers[0].gradient)
    assert layers[0].signal > 0


def codes(model, x=X):
    return {f.code: f for f in eq.diagnose(model, x).findings}


def test_a_dead_network_is_diagnosed_by_name_of_layer():
    torch.manual_seed(0)
    found = codes(mlp([8, *[16] * 100, 4], nn.GELU))
    assert found["vanished-gradient"].severity == "error"
    assert found["lost-correlation"].severity == "error"
    assert "scheme='auto'" in found["lost-correlation"].remedy


def test_exploding_and_vanishing_are_told_apart():
    model = mlp([16, *[16] * 20, 4], nn.Tanh)
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in model[::2]:
            nn.init.orthogonal_(layer.weight, 0.4)
            layer.bias.zero_()
    small = codes(model, x)
    assert {"vanishing-signal", "vanishing-gradient"} <= set(small)
    linear = nn.Sequential(*[nn.Linear(16, 16) for _ in range(20)])
    with torch.no_grad():
        for layer in linear:
            nn.init.orthogonal_(layer.weight, 2.0)
    assert {"exploding-signal", "exploding-gradient"} <= set(codes(linear, x))


@pytest.mark.parametrize("widths", [[1, 60, 60, 1], [2, 3000, 1], [2000, 2, 2, 1]])
def test_a_change_of_width_alone_is_no_finding(widths):
    x = torch.randn(40, widths[0], generator=torch.Generator().manual_seed(1))
    report = eq.initialize(mlp(widths, nn.Tanh), x, generator=torch.Generator().manual_seed(0))
    assert report.ok, report.findings


def test_numbers_that_are_not_finite_are_an_error():
    model = mlp([8, 4, 2], nn.Tanh)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    assert codes(model)["non-finite"].where == "2"


def test_a_zero_output_is_an_error_at_its_layer():
    model = mlp([8, 4, 4, 2], nn.ReLU)
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    assert codes(model)["vanished-signal"].where == "2"


def test_a_badly_scaled_input_is_worth_a_word():
    assert codes(mlp([8, 4, 2], nn.Tanh), X + 1000)["input-scale"].severity == "info"


def test_a_balanced_network_has_no_findings():
    model = mlp([8, *[16] * 30, 4], nn.SiLU)
    eq.initialize(model, X, generator=torch.Generator().manual_seed(0))
    assert not codes(model)
    assert "in balance" in str(eq.diagnose(model, X))


def test_a_prediction_that_fails_is_a_finding():
    model = mlp([8, *[16] * 6, 4], nn.Tanh)
    inputs = read_inputs(model, X)
    traced = trace(model, inputs)
    report = eq.initialize(model, X)
    scaled = {"0.weight": model[0].weight.detach() * 30}
    findings = diagnose(measure(model, traced, inputs, scaled), report.plan)
    assert "prediction-missed" in {f.code for f in findings}


def test_rank_and_directions_are_those_of_known_spreads():
    """Standard deviations 1, 0.1, 0.002 and 0.0005: three above 1e-3 of the largest."""
    spreads = torch.tensor([1.0, 0.1, 0.002, 0.0005], dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    model = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(spreads))
    seen = measured(model, corners).layers[0]
    power = spreads.square()
    assert seen.rank == pytest.approx(float(power.sum() ** 2 / power.square().sum()), rel=1e-9)
    assert (seen.directions, seen.most_directions) == (3, 4)
