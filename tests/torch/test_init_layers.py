"""Every initializer on real layers: what comes out and what comes back, against its claim."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from equipoise.theory import activations
from equipoise.theory.lyapunov import log_gain
from equipoise.theory.moments import critical_scale
from equipoise.torch import init


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def circular(kind, *args, **options):
    return kind(*args, bias=False, padding_mode="circular", **options)


# Layer, shape of one input, and what the initializers must be told of the layer.
LAYERS = {
    "wider": (lambda: nn.Linear(64, 256, bias=False), (64,), {}),
    "narrower": (lambda: nn.Linear(256, 64, bias=False), (256,), {}),
    "conv1d": (lambda: circular(nn.Conv1d, 16, 24, 5, padding=2), (16, 12), {}),
    "conv2d": (lambda: circular(nn.Conv2d, 12, 20, 3, padding=1), (12, 6, 6), {}),
    "conv3d": (lambda: circular(nn.Conv3d, 8, 6, 3, padding=1), (8, 4, 4, 4), {}),
    "grouped": (
        lambda: circular(nn.Conv2d, 16, 32, 3, padding=1, groups=4), (16, 6, 6), {"groups": 4},
    ),
    "depthwise": (
        lambda: circular(nn.Conv2d, 32, 32, 3, padding=1, groups=32), (32, 6, 6), {"groups": 32},
    ),
    "strided": (
        lambda: circular(nn.Conv2d, 16, 24, 3, padding=1, stride=2), (16, 8, 8), {"stride": 2},
    ),
    "dilated": (
        lambda: circular(nn.Conv2d, 12, 12, 3, padding=2, dilation=2), (12, 8, 8), {},
    ),
    # Borders of transposed convolutions are few at this size, and counted out below.
    "transposed": (
        lambda: nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1, bias=False), (24, 8, 8),
        {"stride": 2, "transposed": True},
    ),
    "transposed in groups": (
        lambda: nn.ConvTranspose1d(24, 12, 6, stride=3, bias=False, groups=3), (24, 20),
        {"stride": 3, "transposed": True, "groups": 3},
    ),
}  # fmt: skip


def inner(y, layer):
    """Sites away from the border of a transposed convolution."""
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return y
    for axis in range(2, y.ndim):
        # A whole number of strides from both ends, so that all residues count alike.
        edge = 6
        y = y.narrow(axis, edge, y.shape[axis] - 2 * edge)
    return y


def powers(case, fill, feed=lambda x: x, draws=12):
    """Mean square coming out for feed(N(0,1)) and coming back for N(0,1), with standard errors."""
    make, shape, _ = LAYERS[case]
    layer = make()
    forward, backward = [], []
    for seed in range(draws):
        fill(layer.weight, seeded(seed))
        x = feed(torch.randn(6, *shape, generator=seeded(100 + seed))).requires_grad_()
        y = layer(x)
        forward.append(float(inner(y, layer).detach().square().mean()))
        (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=seeded(seed)))
        if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
            gradient = gradient[(..., *[slice(2, -2)] * (gradient.ndim - 2))]
        backward.append(float(gradient.square().mean()))
    return [(np.mean(v), np.std(v, ddof=1) / math.sqrt(draws)) for v in (forward, backward)]


def ratio(case):
    """fan_out / fan_in, counted on the layer: numbers read by a unit, and units that read it."""
    make, shape, _ = LAYERS[case]
    layer = make().double()
    init.ones_(layer.weight)
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        gradient = gradient[(..., *[slice(2, -2)] * (gradient.ndim - 2))]
    return float(gradient.mean() / inner(y, layer).detach().mean())


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize(
    "fill", [init.lecun_normal_, init.lecun_uniform_, init.lecun_trunc_normal_]
)
def test_lecun(case, fill):
    options = LAYERS[case][2]
    (out, out_se), (back, back_se) = powers(case, lambda w, g: fill(w, generator=g, **options))
    assert abs(out - 1) < 4 * out_se
    assert abs(back - ratio(case)) < 4 * back_se


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize(
    "fill", [init.xavier_normal_, init.xavier_uniform_, init.xavier_trunc_normal_]
)
def test_xavier(case, fill):
    options, r = LAYERS[case][2], ratio(case)
    (out, out_se), (back, back_se) = powers(case, lambda w, g: fill(w, generator=g, **options))
    assert abs(out - 2 / (1 + r)) < 4 * out_se
    assert abs(back - 2 * r / (1 + r)) < 4 * back_se


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize(
    "fill", [init.kaiming_normal_, init.kaiming_uniform_, init.kaiming_trunc_normal_]
)
def test_kaiming(case, fill):
    """Behind ReLU: RMS 1 comes out with fan_in, and half of what comes back is passed on."""
    options = LAYERS[case][2]
    (out, out_se), _ = powers(case, lambda w, g: fill(w, generator=g, **options), torch.relu)
    assert abs(out - 1) < 4 * out_se
    _, (back, back_se) = powers(
        case, lambda w, g: fill(w, mode="fan_out", generator=g, **options), torch.relu
    )
    assert abs(back / 2 - 1) < 4 * back_se


@pytest.mark.parametrize("case", ["wider", "narrower", "conv2d", "grouped"])
def test_exact_gains(case):
    """Behind GELU, for which torch has no gain."""
    options, gelu = LAYERS[case][2], nn.GELU()
    (out, se), _ = powers(
        case, lambda w, g: init.kaiming_normal_(w, nonlinearity=gelu, generator=g, **options), gelu
    )
    assert abs(out - 1) < 4 * se


@pytest.mark.parametrize(
    ("case", "order"),
    [
        ("wider", 0.0), ("wider", 3.0), ("narrower", 0.0), ("narrower", 1.0), ("conv1d", 0.0),
        ("conv2d", 0.0), ("conv2d", 1.0), ("conv3d", 0.0), ("grouped", 0.0), ("strided", 0.0),
        ("transposed", 0.0), ("transposed in groups", 1.0), ("dilated", 2.0),
    ],
)  # fmt: skip
def test_moments_that_are_kept(case, order):
    """E RMS(relu(W x))^s = RMS(x)^s for x alike at all sites, at order 0 the mean of the log."""
    make, shape, options = LAYERS[case]
    layer, found = make(), []
    for seed in range(200):
        init.fractional_moment_(layer.weight, order, "leaky_relu(negative_slope=0.1)", seeded(seed),
                                **options)  # fmt: skip
        x = torch.randn(1, shape[0], *[1] * (len(shape) - 1), generator=seeded(1000 + seed))
        if options.get("groups"):
            # Groups of unlike loudness are nets of their own.
            x = x.unflatten(1, (options["groups"], -1))
            x = (x / x.square().mean(2, keepdim=True).sqrt()).flatten(1, 2)
        y = inner(layer(x.expand(1, *shape)), layer).detach()
        # All residues of a stride are units of their own with the same law.
        y = y[(0, slice(None), *[0] * (y.ndim - 2))]
        rms = (
            torch.nn.functional.leaky_relu(y, 0.1).square().mean().sqrt() / x.square().mean().sqrt()
        )
        found.append(math.log(rms) if order == 0 else float(rms) ** order - 1)
    assert abs(np.mean(found)) < 4 * np.std(found, ddof=1) / math.sqrt(len(found))


def test_which_axis_sets_the_correction_of_finite_width():
    """The units behind the weight for lines on each side of 0, those before it for all others."""
    plain = init.normal_(torch.empty(3, 12, dtype=torch.float64), generator=seeded())
    relu = init.lyapunov_normal_(torch.empty(3, 12, dtype=torch.float64), "relu", seeded())
    exact = critical_scale(activations.relu(), 3, 12)
    torch.testing.assert_close(relu / plain, torch.full_like(plain, exact))
    tanh = init.lyapunov_normal_(torch.empty(3, 12, dtype=torch.float64), "tanh", seeded())
    second, fourth = (
        integrate.quad(lambda z, k=k: math.tanh(z) ** k * stats.norm.pdf(z), -12, 12)[0]
        for k in (2, 4)
    )
    first = math.exp((fourth / second**2 - 1) / 4 / 12) / math.sqrt(12 * second)
    torch.testing.assert_close(tanh / plain, torch.full_like(plain, first))


@pytest.mark.parametrize("case", ["wider", "narrower"])
def test_lyapunov_is_order_zero(case):
    w = LAYERS[case][0]().weight
    first = init.lyapunov_normal_(w, "relu", seeded()).clone()
    assert torch.equal(first, init.fractional_moment_(w, 0.0, "relu", seeded()))


@pytest.mark.parametrize("case", ["wider", "narrower", "conv2d", "grouped", "strided"])
def test_lyapunov_orthogonal(case):
    """The mean log gain of a Haar matrix of that shape is that of the exact law."""
    make, _, options = LAYERS[case]
    w = init.lyapunov_orthogonal_(make().weight, "relu", seeded(), **options)
    groups, stride = options.get("groups", 1), options.get("stride", 1)
    matrix = w.detach().double()[: len(w) // groups]
    # the taps that are filled
    matrix = matrix.flatten(1)
    matrix = matrix[:, matrix.abs().sum(0) > 0]
    rows, columns = matrix.shape
    assert columns == w.shape[1] * (stride ** (w.ndim - 2))
    gain = torch.linalg.svdvals(matrix)
    scale = float(gain[0])
    torch.testing.assert_close(gain, torch.full_like(gain, scale))
    exact = log_gain(activations.relu(), rows, columns, scale, "haar").mean
    assert exact == pytest.approx(0.5 * math.log(rows / columns), abs=1e-6)


def test_other_activations_keep_the_typical_level_to_first_order():
    """Tanh, width 16: log RMS of W tanh(z) is 0 within a tenth of what finite width takes away."""
    n, found, plain = 16, [], []
    gain = init.calculate_gain(nn.Tanh())
    for seed in range(300):
        z = torch.randn(n, 50, generator=seeded(seed), dtype=torch.float64)
        sent = torch.tanh(z).square().mean(0).sqrt().log()
        w = init.lyapunov_normal_(torch.empty(n, n, dtype=torch.float64), "tanh", seeded(seed))
        found.append(float((sent + math.log(float(w.std()) * n**0.5)).mean()))
        plain.append(float((sent + math.log(gain)).mean()))
    # c / n = (E f^4 / (E f^2)^2 - 1) / 4 / 16
    assert np.mean(plain) < -0.008
    assert abs(np.mean(found)) < abs(np.mean(plain)) / 3


@pytest.mark.parametrize("case", ["conv1d", "conv2d", "conv3d", "grouped", "depthwise", "dilated"])
def test_delta_orthogonal_keeps_norms(case):
    make, shape, options = LAYERS[case]
    layer = make()
    init.delta_orthogonal_(layer.weight, 1.5, seeded(), groups=options.get("groups", 1))
    x = torch.randn(4, *shape, generator=seeded())
    y = layer(x).detach()
    size_in, size_out = x.square().sum(1), y.square().sum(1)
    if layer.out_channels >= layer.in_channels:
        torch.testing.assert_close(size_out, 2.25 * size_in, rtol=1e-4, atol=1e-4)
    else:
        # Fewer channels out: the transpose keeps norms instead.
        x.requires_grad_()
        v = torch.randn(y.shape, generator=seeded(1))
        (back,) = torch.autograd.grad(layer(x), x, v)
        expected = 2.25 * v.square().sum(1)
        torch.testing.assert_close(back.square().sum(1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["wider", "narrower", "conv2d", "grouped"])
def test_diagonal_noise(case):
    """At the centre tap ones where i = j (mod fan_in) and noise of std alpha / sqrt(fan_in)."""
    make, _, options = LAYERS[case]
    layer = make()
    init.diagonal_noise_(layer.weight, nn.Tanh(), 0.3, generator=seeded(), **options)
    w = layer.weight.detach().double()
    if w.ndim > 2:
        assert int((w != 0).sum()) == w.shape[0] * w.shape[1]
        w = w[:, :, 1, 1]
    groups = options.get("groups", 1)
    noise = []
    for part in w.split(len(w) // groups):
        for i in range(part.shape[0]):
            row = part[i].clone()
            row[i % part.shape[1]] -= 1.0
            noise.append(row)
    std = 0.3 / math.sqrt(w.shape[1])
    values = torch.cat(noise)
    assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
    assert float(values.var()) == pytest.approx(std**2, rel=4 * math.sqrt(2 / len(values)))


@pytest.mark.parametrize("noise", ["uniform", "truncated_normal", "laplace", "student_t"])
def test_other_noise_has_the_same_scale(noise):
    w = init.diagonal_noise_(torch.empty(300, 300), "tanh", 1.0, noise, generator=seeded())
    spread = (w - torch.eye(300)).double().square() * 300
    error = float(spread.std()) / 300
    assert abs(float(spread.mean()) - 1) < 4 * error


@pytest.mark.parametrize("gate", [nn.ReLU(), nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize("case", ["dense", "conv"])
def test_mirrored_layers_are_isometries(gate, case):
    """Three layers of real modules keep the norm of every input, forward and backward."""
    if case == "dense":
        layers = [nn.Linear(8, 16, bias=False), nn.Linear(16, 16, bias=False),
                  nn.Linear(16, 8, bias=False)]  # fmt: skip
        x = torch.randn(32, 8, generator=seeded())
    else:
        layers = [circular(nn.Conv2d, *c, 3, padding=1) for c in ((8, 16), (16, 16), (16, 8))]
        x = torch.randn(4, 8, 5, 5, generator=seeded())
    for i, layer in enumerate(layers):
        init.mirrored_(layer.weight, 1.0, rows=i < 2, columns=i > 0, generator=seeded(i))
    net = nn.Sequential(layers[0], gate, layers[1], gate, layers[2])
    x.requires_grad_()
    y = net(x)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1), rtol=1e-4, atol=1e-4)
    v = torch.randn(y.shape, generator=seeded(9))
    (back,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(back.square().sum(1), v.square().sum(1), rtol=1e-4, atol=1e-4)


CENTRED = {
    "wider": lambda: nn.Linear(64, 256),
    "narrower": lambda: nn.Linear(256, 64),
    "conv": lambda: nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular", groups=2),
    "strided": lambda: nn.Conv1d(8, 12, 4, stride=2, padding=1, padding_mode="circular"),
    "transposed": lambda: nn.ConvTranspose2d(8, 12, 3, padding=1, groups=2),
}


@pytest.mark.parametrize("case", CENTRED)
def test_centred_units_at_rest_send_nothing(case):
    layer = CENTRED[case]()
    options = {} if isinstance(layer, nn.Linear) else {
        "groups": layer.groups, "stride": layer.stride[0],
        "transposed": isinstance(layer, nn.ConvTranspose2d),
    }  # fmt: skip
    init.centred_(layer.weight, layer.bias, nn.Sigmoid(), generator=seeded(), **options)
    size = (layer.in_features,) if isinstance(layer, nn.Linear) else (
        8, *[6] * (layer.weight.ndim - 2)
    )  # fmt: skip
    at_rest = torch.sigmoid(torch.zeros(1, *size))
    assert float(layer(at_rest).detach().abs().max()) < 1e-5
    assert float(layer.bias.detach().abs().max()) > 0.01


def test_sampled_keeps_the_mean_gain_of_fresh_directions():
    """Over fresh probes the mean log gain of the chosen weight strays less than that of any."""
    fresh = torch.randn(8, 4000, generator=seeded(7), dtype=torch.float64)
    fresh = fresh / fresh.square().mean(0).sqrt()

    def stray(draws):
        gains = []
        for seed in range(60):
            w = init.sampled_(torch.empty(8, 8, dtype=torch.float64), "relu", draws, seeded(seed))
            sent = torch.relu(w @ fresh).square().mean(0).clamp_min(1e-30).sqrt().log()
            gains.append(float(sent.clamp_min(-5).mean()))
        return np.std(gains)

    assert stray(32) < 0.7 * stray(1)
