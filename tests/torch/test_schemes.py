"""Every scheme on whole models: laws with the right fans, what they do, and refusals by name."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.independent import laws_apart
from equipoise.plan.plan import Plan
from equipoise.plan.stacks import find_stacks
from equipoise.schemes.catalogue import SCHEMES, parse_scheme
from equipoise.schemes.laws import (
    BestOf,
    DiagonalNoise,
    Identity,
    Normal,
    Orthogonal,
    Taps,
    TruncatedNormal,
    Uniform,
)
from equipoise.theory import activations
from equipoise.theory.moments import critical_scale
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

ON_FRAMES = ("auto", "centred", "mirrored", "shifted")
APART = [s for s in SCHEMES if s not in ON_FRAMES]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(*shape, generator=seeded())


def mlp(act, widths=(8, 64, 24, 4)):
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), act()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def conv_net(act):
    """Dense, grouped, depthwise, strided and dilated kernels; fan_in of each is in FANS."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), act(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4), act(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), act(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), act(),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2), act(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


FAN_IN = {"0": 27, "2": 36, "4": 9, "6": 144, "8": 288, "12": 128}
# Units that read one number of the input, on average over sites.
FAN_OUT = {"0": 144, "2": 36, "4": 9, "6": 72, "8": 288, "12": 10}


def transposed_net(act):
    return nn.Sequential(
        nn.Conv1d(4, 16, 4, stride=2, padding=1), act(),
        nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1), act(),
        nn.Conv1d(8, 3, 3, padding=1),
    )  # fmt: skip


def laws(plan):
    return {a.parameter: a.law for a in plan.assignments}


INPUTS = {mlp: (4, 8), conv_net: (4, 3, 8, 8), transposed_net: (4, 4, 16)}


@functools.cache
def stacks(make, act):
    model = make(act)
    return find_stacks(trace(model, read_inputs(model, data(*INPUTS[make]))))


def apart(make, act, scheme):
    """The laws alone: a plan would also predict what they lead to, which takes its time."""
    return {
        affine.weight: law
        for stack in stacks(make, act)
        for affine, law in zip(stack.affines, laws_apart(stack, parse_scheme(scheme)), strict=True)
    }


@pytest.mark.parametrize("scheme", APART)
@pytest.mark.parametrize("make", [mlp, conv_net])
def test_every_scheme_plans_and_draws_every_layer_it_suits(scheme, make, tmp_path):
    x = data(32, 8) if make is mlp else data(4, 3, 8, 8)
    model = make(nn.Tanh)
    result = eq.initialize(model, x, scheme, seeded())
    assert {a.parameter for a in result.plan.assignments} == {
        n for n, _ in model.named_parameters()
    }
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    # The plan says all of it: drawn again from a file, the weights are the same.
    again = Plan.load(result.plan.save(tmp_path / "plan.json"))
    for name, parameter in model.named_parameters():
        values = torch.from_numpy(again.draw(name, result.seed)).float()
        assert torch.equal(values, parameter.detach()), name


def std_of(law):
    match law:
        case Normal(std=std):
            return std
        case Uniform(bound=bound):
            return bound / math.sqrt(3)
        case TruncatedNormal(scale=scale):
            return scale * 0.8796256610342398  # cut at two standard deviations


@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated"])
def test_fans_of_independent_entries(distribution):
    text = f"(distribution='{distribution}')"
    lecun = apart(conv_net, nn.ReLU, f"lecun{text}")
    xavier = apart(conv_net, nn.ReLU, f"xavier{text}")
    he = apart(conv_net, nn.ReLU, f"he{text}")
    back = apart(conv_net, nn.ReLU, f"he{text[:-1]}, mode='fan_out')")
    for layer, fan in FAN_IN.items():
        name, out = f"{layer}.weight", FAN_OUT[layer]
        assert std_of(lecun[name]) == pytest.approx(fan**-0.5)
        assert std_of(xavier[name]) == pytest.approx((2 / (fan + out)) ** 0.5)
        gain = 1.0 if layer == "0" else 2.0
        assert std_of(he[name]) == pytest.approx((gain / fan) ** 0.5)
        assert std_of(back[name]) == pytest.approx((gain / out) ** 0.5)


def test_fans_of_transposed_kernels():
    found = apart(transposed_net, nn.ReLU, "lecun")
    # 16 channels through 4 taps of which every second is met
    assert found["2.weight"].std == pytest.approx(32**-0.5)
    found = apart(transposed_net, nn.ReLU, "orthogonal")
    assert found["2.weight"] == Taps(Orthogonal(found["2.weight"].matrix.gain), (2,), 1, True)


def test_taps_of_structured_kernels():
    found = apart(conv_net, nn.Tanh, "orthogonal")
    assert found["0.weight"] == Taps(Orthogonal(1.0), (1, 1))
    assert found["2.weight"] == Taps(Orthogonal(1.0), (1, 1), 4)
    assert found["6.weight"] == Taps(Orthogonal(1.0), (2, 2))
    assert found["12.weight"] == Orthogonal(1.0)
    found = apart(conv_net, nn.Tanh, "orthogonal(kernel='flattened')")
    assert found["6.weight"] == Taps(Orthogonal(1.0), (3, 3))
    found = apart(conv_net, nn.Tanh, "orthogonal(gain=1.5)")
    assert found["6.weight"] == Taps(Orthogonal(1.5), (2, 2))
    found = apart(conv_net, nn.Tanh, "diagonal_noise(alpha=0.3, noise='laplace')")
    assert found["2.weight"] == Taps(DiagonalNoise(1.0, 0.15, "laplace"), (1, 1), 4)
    assert found["12.weight"] == DiagonalNoise(1.0, 0.3 / math.sqrt(128), "laplace")
    found = apart(conv_net, nn.Tanh, "identity(gain=0.5)")
    assert found["6.weight"] == Taps(Identity(0.5), (1, 1))


def test_lyapunov_scales_are_those_of_theory():
    relu = activations.relu()
    found = apart(mlp, nn.ReLU, "lyapunov")
    assert found["0.weight"].std == pytest.approx(critical_scale(relu, 64, 8))
    assert found["2.weight"].std == pytest.approx(critical_scale(relu, 24, 64))
    assert found["4.weight"].std == pytest.approx(critical_scale(activations.identity(), 4, 24))
    found = apart(mlp, nn.ReLU, "lyapunov(distribution='orthogonal')")
    assert found["2.weight"].gain == pytest.approx(critical_scale(relu, 24, 64, "haar"))
    found = apart(mlp, nn.ReLU, "fractional_moment(order=0.5)")
    assert found["2.weight"].std == pytest.approx(critical_scale(relu, 24, 64, order=0.5))
    # s = 2 is He's rule, its gain moved from the weight before f to the one behind it
    found = apart(mlp, nn.ReLU, "fractional_moment(order=2)")
    assert found["2.weight"].std == pytest.approx(math.sqrt(2 / 64))
    # kernels: every channel out is a unit, every tap is read
    found = apart(conv_net, nn.ReLU, "lyapunov")
    assert found["6.weight"].std == pytest.approx(critical_scale(relu, 32, 144))
    found = apart(conv_net, nn.ReLU, "lyapunov(distribution='orthogonal')")
    assert found["6.weight"].matrix.gain == pytest.approx(critical_scale(relu, 32, 64, "haar"))


@pytest.mark.parametrize("rms", [0.2, 1.0, 30.0])
def test_exact_moments_are_taken_at_the_level_of_the_inputs(rms):
    """Where the auto rule draws entries apart, the first layer brings the inputs to RMS 1."""
    x = data(64, 8)
    x = x * (rms / x.square().mean().sqrt())
    plan = eq.plan(mlp(nn.ReLU), x)
    assert "independent entries with exact moments" in plan.choice[0]
    found = laws(plan)
    # Of the energy biases bring a half, then a quarter: inputs vary in few directions.
    assert found["0.weight"].std == pytest.approx(math.sqrt(0.5) / (rms * math.sqrt(8)), rel=1e-5)
    assert found["2.weight"].std == pytest.approx(math.sqrt(0.75 * 2 / 64))


def test_what_is_not_exact_is_said():
    plan = eq.plan(mlp(nn.GELU), data(4, 8), "lyapunov")
    assert "gelu is not a line on each side of 0" in plan.choice[0]
    plan = eq.plan(conv_net(nn.ReLU), data(4, 3, 8, 8), "lyapunov")
    assert "alike at all positions" in plan.choice[0]
    plan = eq.plan(mlp(nn.ReLU), data(4, 8), "sampled(draws=3)")
    assert "the one of 3 draws" in plan.choice[0]
    narrowing = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Tanh(), nn.Conv1d(4, 2, 3))
    for scheme, is_said in (("orthogonal", True), ("orthogonal(kernel='flattened')", False)):
        reason = eq.plan(narrowing, data(4, 4, 8), scheme).choice[0]
        assert ("'2' has fewer channels out than in" in reason) is is_said


def test_sampled_weights_follow_the_signal_through_dense_layers_only():
    found = apart(mlp, nn.ReLU, "sampled(draws=3)")
    assert [found[f"{i}.weight"].previous for i in (0, 2, 4)] == ["", "0.weight", "2.weight"]
    found = apart(conv_net, nn.ReLU, "sampled(draws=3)")
    inner = found["6.weight"].matrix
    assert isinstance(inner, BestOf)
    assert (inner.previous, inner.feed, inner.activation) == ("", "relu", "relu")
    assert found["6.weight"].block == (3, 3)
    assert found["12.weight"].previous == ""
    # Of a line on each side of 0 the level is kept; of others it is that of f(z), z of variance 1.
    assert inner.target == 0.0
    found = apart(mlp, nn.GELU, "sampled(draws=3)")
    energy = 1 / 3 + 1 / (2 * math.sqrt(3) * math.pi)
    assert found["2.weight"].target == pytest.approx(0.5 * math.log(energy))
    assert found["4.weight"].target == pytest.approx(0.0, abs=1e-12)


def test_sampled_networks_keep_their_norm():
    """40 layers of width 16, where the log RMS of a Lyapunov draw strays by about 2."""
    for seed in range(2):
        net = mlp(nn.LeakyReLU, (16,) * 42)
        eq.initialize(net, data(64, 16), "sampled(draws=4)", seeded(seed))
        assert abs(math.log(float(net(data(64, 16)).detach().square().mean()))) / 2 < 0.8


def test_odd_sigmoid_scales_follow_the_target_layer():
    found = apart(mlp, nn.Tanh, "odd_sigmoid(layer=100)")
    # alpha^2 = ln(.776 / .5) / (.4626 L), the first of several modes
    alpha = math.sqrt(math.log(0.776 / 0.5) / 46.26)
    assert found["2.weight"].noise_std * 8 == pytest.approx(alpha, rel=0.02)
    assert found["4.weight"].noise_std * 24**0.5 == pytest.approx(found["2.weight"].noise_std * 8)
    own = apart(mlp, nn.Tanh, "odd_sigmoid")
    ratio = own["2.weight"].noise_std / found["2.weight"].noise_std
    assert ratio == pytest.approx(math.sqrt(100 / 3))
    alone = laws(eq.plan(nn.Sequential(nn.Linear(8, 4)), data(4, 8), "odd_sigmoid"))
    assert alone["0.weight"].noise_std == pytest.approx(0.085 / math.sqrt(8))


def test_first_kernels_of_one_tap_are_predicted_about_the_mean_of_their_inputs():
    """The mean is stored for the whole kernel, of which few units fill one tap."""
    net = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.Sigmoid(), nn.Conv1d(8, 4, 1))
    x = data(64, 4, 16) + 3
    result = eq.initialize(net, x, "mirrored", seeded())
    assert laws(result.plan)["0.weight"].block == (1,)
    assert laws(result.plan)["0.bias"].centre
    for seen, expected in zip(result.measurements.layers, result.plan.predictions, strict=True):
        assert seen.signal == pytest.approx(expected.signal, rel=0.2), seen.layer


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "x", "scheme", "words"),
    [
        (lambda: mlp(nn.ReLU), data(4, 8), "odd_sigmoid", "layer '0': .* relu is not odd"),
        (lambda: mlp(nn.Tanhshrink), data(4, 8), "diagonal_noise", "layer '0': .* slope at 0"),
        (lambda: transposed_net(nn.Tanh), data(4, 4, 16), "diagonal_noise", "layer '2': .* reach"),
        (lambda: transposed_net(nn.Tanh), data(4, 4, 16), "identity", "layer '2': .* reach"),
        (lambda: mlp(nn.Hardshrink), data(4, 8), "he(mode='fan_out')", "layer '2': .* mean square"),
        (lambda: mlp(nn.Tanh), data(4, 8), "odd_sigmoid(layer=1)", "layer '0': target"),
        (lambda: mlp(nn.Tanh), data(4, 8), "shifted", "layer '0' must be a line above 0"),
        (lambda: conv_net(nn.ReLU), data(4, 3, 8, 8), "shifted", "layer '0' must be linear"),
        (
            lambda: conv_net(nn.ReLU), data(4, 3, 8, 8), "mirrored(spread=1)",
            "layer '0' must be linear",
        ),
        (lambda: mlp(nn.Mish), data(4, 8), "mirrored(spread=1)", "odd part that is a line"),
        (
            lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)),
            data(4, 8), "shifted", "layer '2' must have a bias",
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_layer(make, x, scheme, words):
    model = make()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(PlanError, match=words):
        eq.initialize(model, x, scheme)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_unknown_activations_cannot_be_sampled():
    class Own(nn.Module):
        def forward(self, x):
            return x + x**3 / 20

    with pytest.raises(PlanError, match="must be a known one"):
        eq.plan(mlp(Own), data(4, 8), "sampled")


def test_unknown_options_are_refused_at_the_door():
    with pytest.raises(ArgumentError, match="Did you mean 'mode'"):
        eq.plan(mlp(nn.Tanh), data(4, 8), "he(mod='fan_in')")


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU])
def test_a_signal_whose_square_is_beyond_all_numbers_is_planned_and_told(act):
    net = mlp(act, (4, *[4] * 250, 4))
    outlook = eq.plan(net, data(64, 4), "identity(gain=10)").outlook[0]
    assert outlook.signal > 1e240
    assert outlook.odds == 0
