"""Inputs that become alike are a fault where weights made them so, and none where pooling did."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def convolutions(*channels):
    found = []
    for fan_in, fan_out in channels:
        found += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
    return found


def pooled(*head):
    layers = convolutions((3, 16), (16, 16))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def lenet():
    first, second = convolutions((3, 6)), convolutions((6, 16))
    return nn.Sequential(
        *first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


HEALTHY = {
    "global pooling": (lambda: pooled(nn.Linear(16, 10)), PICTURES),
    "a hidden layer behind it": (
        lambda: pooled(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), PICTURES),
    "LeNet": (lenet, PICTURES),
    "autoencoder": (lambda: mlp([16, 32, 2, 32, 16], nn.ReLU), X),
    "four hidden layers": (lambda: mlp([16, *[64] * 4, 4], nn.ReLU), X),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_framework_defaults_that_learn_keep_inputs_apart(name, seed):
    torch.manual_seed(seed)
    make, x = HEALTHY[name]
    seen = eq.diagnose(make(), x)
    assert "lost-correlation" not in {f.code for f in seen.findings}
    assert seen.status == 0


def test_what_the_plan_expects_of_a_pooled_net_is_no_finding():
    report = eq.initialize(
        pooled(nn.Linear(16, 10)), PICTURES, generator=torch.Generator().manual_seed(0)
    )
    assert report.findings == ()


def collapsed(widths, activation, seed=0):
    torch.manual_seed(seed)
    model = mlp(widths, activation)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize(
    ("make", "severity"),
    [
        (lambda: collapsed([16, *[24] * 150, 4], nn.ReLU), "error"),
        (lambda: collapsed([16, *[64] * 60, 4], nn.ReLU), "warning"),
        (lambda: mlp([16, *[64] * 10, 4], nn.ReLU), "error"),
        (lambda: mlp([16, *[64] * 4, 4], nn.Sigmoid), "error"),
        (lambda: mlp([16, *[64] * 20, 4], nn.Tanh), "error"),
    ],
    ids=["He 150", "He 60", "ReLU 10", "sigmoid 4", "tanh 20"],
)
def test_deep_networks_that_make_inputs_alike_are_found(make, severity):
    torch.manual_seed(0)
    found = {f.code: f for f in eq.diagnose(make(), X).findings}
    assert found["lost-correlation"].severity == severity


def test_a_flatten_forgives_nothing():
    """Linear layers behind a map lose what they lose without one."""
    torch.manual_seed(0)
    head = [m for _ in range(12) for m in (nn.Linear(64, 64), nn.ReLU())]
    start = [*convolutions((3, 4)), nn.Flatten(), nn.Linear(576, 64), nn.ReLU()]
    found = {f.code: f for f in eq.diagnose(nn.Sequential(*start, *head), PICTURES).findings}
    assert found["lost-correlation"].severity == "error"


def test_what_a_plan_foretold_is_a_warning():
    model = mlp([16, *[64] * 8, 4], nn.Sigmoid)
    report = eq.initialize(model, X, "he", generator=torch.Generator().manual_seed(0))
    found = {f.code: f for f in report.findings}
    assert found["lost-correlation"].severity == "warning"
    assert "as the plan expects" in found["lost-correlation"].what
    assert {f.code: f for f in eq.diagnose(model, X).findings}["lost-correlation"].severity == (
        "error"
    )
