"""Purpose, output scale and derivatives on real networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.lab.equation_models import FourierFeatures, Sloped
from equipoise.lab.models import mlp
from equipoise.plan.derivative_plan import _common_energy
from equipoise.schemes.laws import Directions
from equipoise.theory import activations
from equipoise.theory.derivative_level import derivative_level


class Sin(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def cnn(activation):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), activation(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


NETS = {
    "wide": (lambda a: mlp([32, 128, 10], a), (400, 32)),
    "deep": (lambda a: mlp([32, *[16] * 40, 10], a), (400, 32)),
    "cnn": (cnn, (64, 3, 8, 8)),
    "one layer": (lambda a: nn.Linear(32, 10), (400, 32)),
}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("name", NETS)
def test_outputs_have_the_scale_that_was_asked_for(name, activation):
    build, shape = NETS[name]
    model, x = build(activation), data(*shape) + 0.2
    rms = []
    plan = eq.plan(model, x, output_rms=5.0)
    for seed in range(5):
        eq.apply(model, plan, seeded(seed))
        with torch.no_grad():
            rms.append(float(model(x).square().mean().sqrt()))
    assert np.median(rms) == pytest.approx(5.0, rel=0.35)
    # The expectation is closer than one draw of ten outputs.
    assert plan.predictions[-1].signal == pytest.approx(np.median(rms), rel=0.25)


@pytest.mark.parametrize(
    "scheme", ["he", "xavier", "lecun", "orthogonal", "lyapunov", "diagonal_noise", "centred",
               "fractional_moment", "he(distribution='truncated')",
     "xavier(distribution='uniform')"],
)  # fmt: skip
def test_published_schemes_start_at_the_output_scale_that_was_asked_for(scheme):
    model, x = mlp([16, *[64] * 4, 64], nn.Tanh), data(400, 16)
    asked = eq.plan(model, x, scheme, output_rms=40.0)
    assert asked.predictions[-1].signal == pytest.approx(40.0, rel=0.05)
    rms = []
    for seed in range(5):
        eq.apply(model, asked, seeded(seed))
        rms.append(float(model(x).detach().square().mean().sqrt()))
    assert np.median(rms) == pytest.approx(40.0, rel=0.2)
    plain = eq.plan(model, x, scheme)
    assert plain.assignments[:-2] == asked.assignments[:-2]


def test_a_scheme_whose_scale_is_chosen_among_draws_says_that_it_does_not_heed_an_output_scale():
    report = eq.initialize(mlp([16, 64, 64, 8], nn.Tanh), data(400, 16), "sampled", output_rms=40.0)
    assert any("output scale is not provided for" in w for w in report.plan.warnings)
    assert not report.ok


@pytest.mark.parametrize(("purpose", "words"), [
    ("classification", "up to 0.5 above ln 10 = 2.3"), ("regression", "outputs start at RMS 1"),
])  # fmt: skip
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_the_purpose_is_said(purpose, words, activation):
    plan = eq.plan(mlp([16, 64, 64, 10], activation), data(400, 16), purpose=purpose)
    assert words in plan.choice[-1]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
@pytest.mark.parametrize("classes", [10, 100])
def test_classification_starts_near_log_of_the_number_of_classes(activation, classes):
    model, x = mlp([16, *[128] * 3, classes], activation), data(500, 16)
    y = torch.randint(0, classes, (500,), generator=seeded(1))
    losses = []
    for seed in range(5):
        eq.initialize(model, x, generator=seeded(seed), purpose="classification")
        losses.append(float(nn.functional.cross_entropy(model(x), y).detach()))
    assert math.log(classes) < np.median(losses) < math.log(classes) + 0.6


def test_purpose_and_scale_reach_only_the_last_layer():
    x = data(200, 16)
    plain, many = (eq.plan(mlp([16, 32, 32, 1000], nn.Tanh), x, purpose=p)
                   for p in ("", "classification"))  # fmt: skip
    assert plain.predictions[-1].signal == pytest.approx(1.0, rel=0.05)
    assert many.predictions[-1].signal == pytest.approx(0.1, rel=0.05)
    assert plain.assignments[:-2] == many.assignments[:-2]


@pytest.mark.parametrize("call", [eq.plan, eq.initialize])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_scales_and_purposes_that_are_none_are_refused(call, value):
    model = mlp([8, 8, 2], nn.Tanh)
    with pytest.raises(ArgumentError, match=f"output_rms must be positive and finite, got {value}"):
        call(model, data(32, 8), output_rms=value)
    with pytest.raises(ArgumentError, match="purpose must be one of"):
        call(model, data(32, 8), purpose="generation")


SQUARE = torch.rand(256, 2, generator=seeded(1), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("activation", [nn.Tanh, Sin, nn.Sigmoid])
def test_a_start_for_derivatives_is_as_predicted(activation):
    model = mlp([2, *[16] * 30, 1], activation).double()
    plan = eq.plan(model, SQUARE, for_derivatives=True)
    signal, spread = [], []
    for seed in range(24):
        eq.apply(model, plan, seeded(seed))
        found, h = [], SQUARE
        with torch.no_grad():
            for layer in model:
                h = layer(h)
                found += [float(h.square().mean().sqrt())] * isinstance(layer, nn.Linear)
        signal.append(found)
        spread.append(float(h.std()))
    expected = [p.signal for p in plan.predictions]
    assert np.median(signal, axis=0)[:-1] == pytest.approx(expected[:-1], rel=0.1)
    # Outputs differ over the domain by about 0.3: one output is a random direction of two.
    assert 0.2 < np.sqrt(np.mean(np.square(spread))) < 0.42
    assert math.isnan(expected[-1])


@pytest.mark.parametrize("widths", [[16] * 6, [64] * 4, [16, 48, 16, 48], [16] * 100])
def test_many_outputs_differ_by_what_was_asked_for(widths):
    model = mlp([2, *widths, 16], nn.Tanh).double()
    plan = eq.plan(model, SQUARE, for_derivatives=True, output_rms=2.0)
    spread, rms = [], []
    for seed in range(5):
        eq.apply(model, plan, seeded(seed))
        with torch.no_grad():
            u = model(SQUARE)
        spread.append(float((u - u.mean(0)).square().mean().sqrt()))
        rms.append(float(u.square().mean().sqrt()))
    assert np.median(spread) == pytest.approx(2.0, rel=0.25)
    assert plan.predictions[-1].signal == pytest.approx(np.median(rms), rel=0.25)


def test_first_directions_are_even_and_biases_are_in_proportion_to_the_level():
    model = mlp([2, *[16] * 30, 1], nn.Tanh).double()
    x = 3.0 * SQUARE + 7.0
    report = eq.initialize(model, x, generator=seeded(), for_derivatives=True)
    # Directions are even in units of each input's spread.
    weight = model[0].weight.detach() * x.std(dim=0, correction=0)
    angles = torch.sort(torch.atan2(weight[:, 1], weight[:, 0]) % math.pi).values
    assert torch.allclose(angles.diff(), torch.full((15,), math.pi / 16).double())
    assert torch.allclose(weight.norm(dim=1), weight[0].norm())
    with torch.no_grad():
        first = model[0](x)
    # Where tanh keeps the derivatives of 30 layers in which a twentieth of the energy is biases'.
    level = math.sqrt(derivative_level(activations.tanh(), 29, 0.05, 0.8).q)
    assert float(first.square().mean().sqrt()) == pytest.approx(level, rel=0.02)
    assert first.mean(0).abs().max() < 1e-9
    bias = torch.cat([layer.bias.detach() for layer in model[2:-1:2]])
    laws = [a.law for a in report.plan.assignments if a.parameter.endswith("bias")]
    stds = [law.std for law in laws[1:-1]]
    assert float(bias.std()) == pytest.approx(np.mean(stds), rel=4 / math.sqrt(2 * len(bias)))
    assert stds == pytest.approx([stds[0]] * 29, rel=1e-6)
    assert stds[0] == pytest.approx(math.sqrt(0.05) * level, rel=1e-6)


def test_derivatives_are_tame():
    """An order of magnitude below those of a network whose units all bend at the origin, there."""
    p = (0.03 * data(100, 2)).double().requires_grad_()

    def second(options):
        found = []
        for seed in range(6):
            model = mlp([2, *[16] * 30, 1], nn.Tanh).double()
            eq.initialize(model, SQUARE, generator=seeded(seed), **options)
            u = model(p)
            (du,) = torch.autograd.grad(u.sum(), p, create_graph=True)
            (ddu,) = torch.autograd.grad(du[:, 0].sum(), p)
            with torch.no_grad():
                spread = model(SQUARE).std()
            found.append(float(ddu.detach()[:, 0].square().mean().sqrt() / spread))
        return np.median(found)

    assert second({"for_derivatives": True}) < 0.1 * second({"scheme": "centred"})


def test_the_scales_of_inputs_do_not_matter():
    """Meters or millimeters: the network is the same function of the domain."""
    model = mlp([2, *[16] * 10, 1], nn.Tanh).double()
    outputs = []
    for scale in ((1.0, 1.0), (1e3, 1e-3)):
        x = SQUARE * torch.tensor(scale, dtype=torch.float64) + 2.0 * torch.tensor(scale)
        eq.initialize(model, x, generator=seeded(4), for_derivatives=True)
        outputs.append(model(x).detach())
    assert torch.allclose(*outputs, atol=1e-8)


def test_an_input_that_never_changes_is_left_alone():
    x = torch.cat([SQUARE, torch.ones(len(SQUARE), 1).double()], dim=1)
    model = mlp([3, *[16] * 4, 1], nn.Tanh).double()
    report = eq.initialize(model, x, generator=seeded(), for_derivatives=True)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert not any("derivatives" in w for w in report.plan.warnings)


def slopes_over_domain(model, x):
    """RMS of u_x at each point over draws, and that of u."""
    p = x.clone().requires_grad_()
    squares, values = 0.0, 0.0
    plan = eq.plan(model, x, for_derivatives=True)
    for seed in range(12):
        eq.apply(model, plan, seeded(seed))
        u = model(p)
        (slope,) = torch.autograd.grad(u.sum(), p)
        squares = squares + slope.square().sum(1)
        values = values + float((u - u.mean()).detach().square().mean())
    return (squares / 12).sqrt(), math.sqrt(values / 12)


@pytest.mark.parametrize("depth", [10, 40])
def test_slopes_have_no_peak_where_units_rest_whatever_the_depth(depth):
    model = mlp([2, *[24] * depth, 1], nn.Tanh).double()
    x = torch.cat([0.02 * SQUARE[:40], SQUARE])
    slopes, _ = slopes_over_domain(model, x)
    peak = float(slopes[:40].square().mean().sqrt() / slopes[40:].square().mean().sqrt())
    # Theory has 3 at the very centre in wide layers, against the slope at the mean energy.
    assert peak < 4.0


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid()])
def test_slopes_that_learn_are_balanced_as_fixed_ones(activation):
    steep = nn.Sequential(
        nn.Linear(2, 16), Sloped(activation, 3.0), nn.Linear(16, 16), Sloped(activation, 3.0),
        nn.Linear(16, 16), Sloped(activation, 3.0), nn.Linear(16, 1),
    ).double()  # fmt: skip
    plain = mlp([2, 16, 16, 16, 1], lambda: activation).double()
    found = {}
    for name, model in (("steep", steep), ("plain", plain)):
        report = eq.initialize(model, SQUARE, generator=seeded(), for_derivatives=True)
        assert not any("derivatives" in w for w in report.plan.warnings), name
        found[name] = model(SQUARE).detach()
    # f(3 z) with a third of the weights is f(z).
    assert torch.allclose(found["steep"], found["plain"], atol=0.02)
    assert float(steep[0].weight.detach().norm() * 3) == pytest.approx(
        float(plain[0].weight.detach().norm()), rel=0.01
    )


def test_fourier_features_keep_their_bandwidth_and_the_rest_is_started_for_derivatives():
    features = FourierFeatures(2, 12, 3.0, seeded(1))
    model = nn.Sequential(features, *mlp([24, 16, 16, 16, 1], nn.Tanh)).double()
    before = features.weight.clone()
    report = eq.initialize(model, SQUARE, generator=seeded(), for_derivatives=True)
    assert torch.equal(features.weight, before)
    assert not any("derivatives" in w for w in report.plan.warnings)
    with torch.no_grad():
        u = model(SQUARE)
        first = model[1](features(SQUARE))
    assert 0.1 < float(u.std()) < 0.9
    level = math.sqrt(derivative_level(activations.tanh(), 2, 0.05, 0.06).q)
    assert float(first.square().mean().sqrt()) == pytest.approx(level, rel=0.2)
    law = {a.parameter: a.law for a in report.plan.assignments}
    assert any(isinstance(v, Directions) for v in law.values())


def test_one_input_has_bends_placed_by_biases():
    x = torch.rand(256, 1, generator=seeded(1), dtype=torch.float64) * 4 + 3
    model = mlp([1, *[16] * 10, 1], nn.Tanh).double()
    report = eq.initialize(model, x, generator=seeded(), for_derivatives=True)
    law = {a.parameter: a.law for a in report.plan.assignments}
    assert isinstance(law["0.weight"], Directions)
    assert law["0.weight"].scale == "0.weight:in:scale"
    assert law["0.bias"].centre == "0.weight:in:mean"
    assert law["0.bias"].std == law["0.weight"].norm
    assert torch.allclose(model[0].weight.abs(), model[0].weight.abs()[0])
    # Zeros of the first units: spread over the inputs, not all at their mean.
    zeros = -model[0].bias.detach() / model[0].weight.detach()[:, 0]
    assert float(zeros.std()) > 0.5


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: mlp([2, 16, 16, 1], nn.ReLU), "relu has no second derivative"),
        (lambda: mlp([2, 16, 16, 1], nn.Softsign), "softsign has no second derivative"),
        (lambda: mlp([2, 16, 16, 1], nn.GELU), "not nearly affine"),
        (lambda: nn.Linear(2, 1), "it has no hidden layer"),
        (lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1, bias=False)),
         "layer '2' has no bias of its own"),
    ],
)  # fmt: skip
def test_what_has_no_derivatives_to_provide_for_is_said(model, why):
    warnings = eq.plan(model(), SQUARE.float(), for_derivatives=True).warnings
    assert "derivatives are not provided for" in " ".join(warnings)
    assert why in " ".join(warnings)


def test_convolutions_and_other_schemes_do_not_provide_for_derivatives():
    plan = eq.plan(cnn(nn.Tanh), data(32, 3, 8, 8), for_derivatives=True)
    assert "it joins sites" in " ".join(plan.warnings)
    named = eq.plan(mlp([2, 16, 1], nn.Tanh), SQUARE.float(), "centred", for_derivatives=True)
    assert "only scheme='auto' provides for derivatives" in " ".join(named.warnings)


def test_what_two_inputs_have_in_common():
    """E f0(z1) f0(z2) by Monte Carlo."""
    rng = np.random.default_rng(0)
    z1, g = rng.standard_normal((2, 400_000)) * math.sqrt(0.7)
    z2 = 0.4 * z1 + math.sqrt(1 - 0.4**2) * g
    f = activations.elu()
    products = f.f(z1) * f.f(z2)
    error = 4 * products.std() / math.sqrt(len(products))
    assert _common_energy(f, 0.7, 0.4) == pytest.approx(products.mean(), abs=error)
