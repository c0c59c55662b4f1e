"""Each rule is reached by a model with exactly that fault."""

import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.diagnose import CODES
from equipoise.lab.models import mlp

X = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))


def healthy(activation=nn.Tanh):
    model = mlp([16, *[16] * 6, 4], activation)
    eq.initialize(model, X, generator=torch.Generator().manual_seed(0))
    return model


def edited(edit, **kwargs):
    model = healthy(**kwargs)
    with torch.no_grad():
        edit(model)
    return model


def scaled(model, factor):
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(factor)


def set_all(layer, value):
    layer.weight.fill_(value)
    layer.bias.zero_()


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.a(x).detach())


class Forgotten(nn.Module):
    """A large layer that forward does not use."""

    def __init__(self):
        super().__init__()
        self.unused, self.used = nn.Linear(100, 100), healthy()

    def forward(self, x):
        return self.used(x)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > -1e9 else x


FAULTS = {
    "non-finite": lambda: (edited(lambda m: m[4].weight[0].fill_(math.nan)), "4"),
    "vanished-signal": lambda: (edited(lambda m: m[4].weight.zero_()), "4"),
    "vanished-gradient": lambda: (edited(lambda m: m[12].weight.zero_()), "10"),
    "vanishing-signal": lambda: (edited(lambda m: scaled(m, 0.3)), "10"),
    "vanishing-gradient": lambda: (edited(lambda m: scaled(m, 0.3)), "0"),
    "exploding-signal": lambda: (
        edited(lambda m: scaled(m, 4.0), activation=nn.Identity), "10"),
    "exploding-gradient": lambda: (
        edited(lambda m: scaled(m, 4.0), activation=nn.Identity), "0"),
    "zero-weights": lambda: (edited(lambda m: m[6].weight.zero_()), "6"),
    "symmetric-units": lambda: (
        edited(lambda m: [set_all(m[i], 0.1) for i in (4, 6)]), "4"),
    "dead-units": lambda: (
        edited(lambda m: m[4].bias[:10].fill_(-50.0), activation=nn.ReLU), "4"),
    "saturation": lambda: (edited(lambda m: m[4].weight.mul_(100.0)), "4"),
    "bias-dominates": lambda: (edited(lambda m: m[4].bias.copy_(torch.randn(16) * 30)), "4"),
    "lost-correlation": lambda: (mlp([16, *[16] * 20, 4], nn.Sigmoid), None),
    "rank-collapse": lambda: (edited(
        lambda m: m[10].weight.copy_(torch.outer(torch.randn(16), torch.randn(16)))), "10"),
    "constant-output": lambda: (
        edited(lambda m: (m[12].weight.zero_(), m[12].bias.fill_(1.0))), "output"),
    "weights-without-gradient": lambda: (Forgotten(), "unused.weight"),
    "not-measured": lambda: (Detached(), "a"),
    "not-read": lambda: (Branching(), "Branching"),
}  # fmt: skip


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found_by_its_code_and_place(code):
    torch.manual_seed(0)
    model, where = FAULTS[code]()
    found = {f.code: f for f in eq.diagnose(model, X).findings}
    assert code in found
    if where is not None:
        assert found[code].where == where
    assert found[code].remedy
    assert code in CODES
