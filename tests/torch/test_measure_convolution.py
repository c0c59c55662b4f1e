"""Convolutions of all kinds against the same numbers taken with hooks, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def literal(model, x, targets):
    """RMS, mean, cosine, rank and gradients of each layer, entry by entry from the definitions."""
    kept = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: (out.retain_grad(), kept.append(out))[1])
        for m in model.modules() if isinstance(m, LAYERS)
    ]  # fmt: skip
    F.cross_entropy(model(x), targets).backward()
    for hook in hooks:
        hook.remove()
    found = []
    for out in kept:
        z, g = out.detach().double(), out.grad.double()
        rows = z.reshape(len(z), -1)
        cosines = [
            float(F.cosine_similarity(rows[i], rows[j], dim=0))
            for i in range(len(z)) for j in range(len(z)) if i != j
        ]  # fmt: skip
        # Channels last: sites of all inputs are the samples of the covariance.
        samples = (z if z.dim() == 2 else z.transpose(1, -1)).reshape(-1, z.shape[1])
        power = torch.linalg.eigvalsh(torch.cov(samples.T).reshape(z.shape[1], z.shape[1]))
        found.append({
            "signal": float(z.square().mean().sqrt()),
            "mean": float(z.mean()),
            "gradient": float(g.square().mean().sqrt()),
            "correlation": sum(cosines) / len(cosines),
            "rank": float(power.sum() ** 2 / power.square().sum()),
            "log_signal": float(rows.square().mean(1).sqrt().log().mean()),
            "log_gradient": float(g.reshape(len(z), -1).square().mean(1).sqrt().log().mean()),
            "sites": z[0, 0].numel(),
            "width": z.shape[1],
        })  # fmt: skip
    return found


def nets():
    torch.manual_seed(0)
    yield nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.Tanh(),
        nn.Conv2d(8, 12, 3, stride=2, groups=4, bias=False), nn.Tanh(),
        nn.ConvTranspose2d(12, 6, 3, stride=2, groups=3), nn.Tanh(),
        nn.Flatten(), nn.Linear(6 * 49, 5),
    ), torch.randn(9, 3, 7, 7)  # fmt: skip
    yield nn.Sequential(
        nn.Conv1d(4, 8, 5, dilation=2), nn.Tanh(), nn.ConvTranspose1d(8, 5, 3),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    ), torch.randn(9, 4, 16)  # fmt: skip
    yield (
        nn.Sequential(
            nn.Conv3d(2, 6, 3),
            nn.Tanh(),
            nn.ConvTranspose3d(6, 4, 2),
            nn.Flatten(),
            nn.Linear(108, 5),
        ),
        torch.randn(9, 2, 4, 4, 4),
    )


@pytest.mark.parametrize("number", range(3))
def test_convolutions_are_measured_as_defined(number):
    model, x = list(nets())[number]
    targets = torch.arange(9) % 5
    expected = literal(model, x, targets)
    model.zero_grad()
    layers = eq.diagnose(model, x, targets=targets).measurements.layers
    assert len(layers) == len(expected)
    for layer, by_hand in zip(layers, expected, strict=True):
        for name, value in by_hand.items():
            assert getattr(layer, name) == pytest.approx(value, rel=2e-4, abs=1e-6), name


def test_functional_convolutions_are_seen():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 1, 3))
            self.v = nn.Parameter(torch.randn(6, 2, 3))

        def forward(self, x):
            h = F.conv1d(x, weight=self.w, groups=2)
            return F.conv_transpose1d(h.relu_(), self.v, None, 1, 0, 0, 3).flatten(1)

    model, x = Functional(), torch.randn(7, 2, 9)
    layers = eq.diagnose(model, x).measurements.layers
    assert [(m.weight, m.width) for m in layers] == [("w", 6), ("v", 6)]
    expected = F.conv1d(x, model.w.detach(), groups=2).square().mean().sqrt()
    assert layers[0].signal == pytest.approx(float(expected), rel=1e-5)


def test_an_image_without_a_batch_is_one_input():
    layer = eq.diagnose(nn.Conv2d(3, 4, 3), torch.randn(3, 6, 6)).measurements.layers[0]
    assert (layer.width, layer.sites) == (4, 16)
    assert math.isnan(layer.correlation)


def test_units_that_repeat_are_counted_by_group_and_direction():
    same = nn.Sequential(nn.Conv1d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(4 * 6, 3))
    with torch.no_grad():
        same[0].weight.fill_(0.3)
        same[0].bias.zero_()
    # Equal kernels of a depthwise convolution read different channels.
    assert eq.diagnose(same, torch.randn(20, 4, 8)).measurements.layers[0].twins == 0.0
    spread = nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                           nn.Linear(6, 3))  # fmt: skip
    with torch.no_grad():
        spread[0].weight[:, 3:] = spread[0].weight[:, :3]
        spread[0].bias.zero_()
        spread[3].weight[:, 3:] = spread[3].weight[:, :3]
    assert eq.diagnose(spread, torch.randn(20, 4, 8)).measurements.layers[0].twins == 0.5
    with torch.no_grad():
        spread[3].weight[:, 3:] = -spread[3].weight[:, :3]
    # Equal now, but their gradients part them.
    assert eq.diagnose(spread, torch.randn(20, 4, 8)).measurements.layers[0].twins == 0.0


def test_dead_channels_are_those_that_are_zero_at_every_site_of_every_input():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 2))
    with torch.no_grad():
        model[0].bias[:2] = -100.0
        # One input of 600 wakes the third channel: no sample may call it dead.
        model[0].weight[2] = 1.0
        model[0].bias[2] = -20.0
    x = torch.randn(600, 1, 6, 6, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    x[333] = 10.0
    layer = eq.diagnose(model, x).measurements.layers[0]
    assert layer.dead == pytest.approx(2 / 8)
