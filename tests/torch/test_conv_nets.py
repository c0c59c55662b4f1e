"""Plain convolutional networks, planned on frames, drawn and measured on real layers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import PlanError
from equipoise.lab.data import digits
from equipoise.schemes.laws import Framed, OffsetBias, Taps
from equipoise.torch import initialize, plan

LAYOUT = {
    nn.GELU: "mirrored",
    nn.ReLU: "mirrored",
    nn.Tanh: "centred",
    nn.Sigmoid: "centred",
    nn.ELU: "centred",
}


def images(rows=48):
    return digits().x_train[:rows].reshape(-1, 1, 8, 8)


def net(activation, middle, head, channels=16, **options):
    """Convolutions with 3 x 3 taps; ``middle`` names what stands between two groups of four."""
    options = {"padding": 1} | options
    layers, before = [], 1
    for group in range(2):
        for i in range(4):
            stride = 2 if group and i == 0 and middle == "stride" else 1
            layers += [nn.Conv2d(before, channels, 3, stride=stride, **options), activation()]
            before = channels
        if group == 0 and middle in ("average", "maximum"):
            layers.append(nn.AvgPool2d(2) if middle == "average" else nn.MaxPool2d(2))
    side = 8 if middle == "nothing" else 4
    if head == "flatten":
        layers += [nn.Flatten(), nn.Linear(channels * side * side, 10)]
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers)


def measured(model, x, scheme, draws):
    """Log ratios of measured to predicted RMS of signal and gradient by layer, of every draw."""
    signal, gradient = [], []
    for seed in range(draws):
        report = initialize(model, x, scheme, generator=torch.Generator().manual_seed(seed))
        layers, expected = report.measurements.layers, report.plan.predictions
        last = layers[-1].gradient
        signal.append(
            [math.log(m.signal / p.signal) for m, p in zip(layers, expected, strict=True)]
        )
        gradient.append(
            [
                math.log(m.gradient / last / p.gradient)
                for m, p in zip(layers, expected, strict=True)
            ]
        )
    return np.array(signal), np.array(gradient)


@pytest.mark.parametrize(
    ("activation", "middle", "head"),
    [
        (nn.GELU, "stride", "flatten"),
        (nn.ReLU, "average", "mean"),
        (nn.Tanh, "stride", "mean"),
        (nn.Tanh, "average", "flatten"),
        (nn.Sigmoid, "maximum", "flatten"),
        (nn.ELU, "nothing", "flatten"),
    ],
)
def test_predictions_meet_measurements(activation, middle, head):
    """Signals to a tenth, gradients to a factor 1.5, in the median of a few draws.

    Chance adds to a median of four what it has at 16 channels: 1.25 deviations over 2.
    """
    signal, gradient = measured(net(activation, middle, head), images(), LAYOUT[activation], 4)
    noise = 1.25 * signal.std(axis=0, ddof=1) / 2
    assert (abs(np.median(signal, axis=0)) < 0.1 + 4 * noise).all()
    assert (abs(np.median(gradient, axis=0)) < math.log(1.5)).all()


def test_a_mirrored_network_is_one_linear_map_of_its_inputs():
    """Through strides, borders and a flattened map."""
    torch.set_default_dtype(torch.float64)
    try:
        model, x = net(nn.GELU, "stride", "flatten"), images(8).double()
        initialize(model, x, "mirrored")
        with torch.no_grad():
            zero = model(torch.zeros_like(x))
            left = model(x[:4] + x[4:]) - zero[:4]
            right = model(x[:4]) + model(x[4:]) - 2 * zero[:4]
        assert torch.allclose(left, right, atol=1e-10)
        assert float(left.abs().max()) > 0.1
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_first_layer_of_few_channels():
    """One channel, 16 units: what is read, and that zero bias stands where nothing is centred."""
    made = plan(net(nn.GELU, "nothing", "flatten"), images(), "mirrored")
    first, second = (a.law for a in made.assignments if a.parameter in ("0.weight", "2.weight"))
    assert isinstance(first, Taps)
    assert isinstance(first.matrix, Framed)
    assert isinstance(second, Taps)
    assert second.block == (1, 1)


@pytest.mark.parametrize("kernel", [3, 7])
def test_the_first_bias_centres_what_is_read(kernel):
    """Borders included: the mean over rows and sites of each unit's preactivation is 0."""
    x = images() + 3.0
    model = nn.Sequential(
        nn.Conv2d(1, 32, kernel, padding=kernel // 2), nn.Tanh(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    made = initialize(model, x, "centred")
    law = next(a.law for a in made.plan.assignments if a.parameter == "0.bias")
    assert isinstance(law, OffsetBias)
    assert law.centre
    with torch.no_grad():
        z = model[0](x)
    assert float(z.mean((0, 2, 3)).abs().max()) < 1e-4 * float(z.square().mean().sqrt())


def test_sites_that_nothing_reads_are_told():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 1, stride=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip
    assert "'2' reads 16 of 64 sites" in str(plan(model, images(), "centred"))


@pytest.mark.parametrize("options", [{"groups": 2}])
def test_groups_cannot_share_frames(options):
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, **options), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 64, 3)
    )
    with pytest.raises(PlanError, match="the groups of layer '0' do not see each other"):
        plan(model, torch.randn(20, 4, 8, 8), "centred")


def test_transposed_layers_cannot_share_frames():
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 2, stride=2), nn.Tanh(), nn.Conv2d(8, 3, 1))
    with pytest.raises(PlanError, match="layer '0' is transposed"):
        plan(model, torch.randn(20, 4, 8, 8), "mirrored")


def test_one_dimension_and_one_layer():
    x = torch.randn(64, 5, 40)
    model = nn.Sequential(
        nn.Conv1d(5, 12, 5, padding=2), nn.Tanh(), nn.MaxPool1d(2),
        nn.Conv1d(12, 12, 4, stride=2, padding=1), nn.Tanh(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip
    signal, _ = measured(model, x, "centred", 5)
    assert (abs(np.median(signal, axis=0)) < 0.2).all()
    alone = initialize(nn.Conv1d(5, 12, 5, padding=2), x, "centred")
    assert alone.measurements.layers[0].signal == pytest.approx(1.0, rel=0.15)


def test_without_inputs_half_is_alike():
    """Shapes alone, as of a model on the meta device."""
    with torch.device("meta"):
        model = net(nn.GELU, "average", "mean")
        made = plan(model, torch.empty(8, 1, 8, 8), "mirrored")
    assert "half of what enters is taken to be alike at all sites" in str(made)
