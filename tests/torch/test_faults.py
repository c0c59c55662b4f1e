"""Each rule is reached by a model with exactly that fault."""

import math

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

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
        # Neither an export nor a recording: as a model may that asks what is being done to it.
        if get_proxy_mode() is not None:
            raise ValueError
        return self.a(x) if x.sum() > -1e9 else x


FAULTS = {
    "non-finite": lambda: (edited(lambda m: m[4].weight[0].fill_(math.nan)), "4"),
    "vanished-signal": lambda: (edited(lambda m: m[4].weight.zero_()), "4"),
    "vanished-gradient": lambda: (
        edited(lambda m: m[10].bias.fill_(-50.0), activation=nn.ReLU), "10"),
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
        edited(lambda m: (m[12].weight.mul_(1e-12), m[12].bias.fill_(1.0))), "output"),
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


class Block(nn.Module):
    """A branch whose last layer is 0 at birth."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


def branched(zero_head):
    model = nn.Sequential(nn.Linear(16, 16), *[Block() for _ in range(4)], nn.Linear(16, 4))
    if zero_head:
        nn.init.zeros_(model[-1].weight)
        nn.init.zeros_(model[-1].bias)
    return model


ZEROS = {
    "head": (lambda: edited(lambda m: m[12].weight.zero_(), activation=nn.ReLU), "12"),
    "head and bias": (
        lambda: edited(lambda m: set_all(m[12], 0.0), activation=nn.ReLU), "12"),
    "branches": (lambda: branched(False), "1.b"),
    "branches and head": (lambda: branched(True), "1.b"),
}  # fmt: skip


@pytest.mark.parametrize("given", ZEROS)
@pytest.mark.parametrize("targets", [None, torch.arange(200) % 4], ids=["", "loss"])
def test_zeros_on_purpose_are_one_finding_without_consequences(given, targets):
    torch.manual_seed(0)
    make, where = ZEROS[given]
    seen = eq.diagnose(make(), X, targets=targets)
    assert [(f.code, f.severity, f.where) for f in seen.findings] == [
        ("zero-weights", "warning", where)
    ]
    assert seen.status == 0


def test_zeros_that_cut_the_network_are_an_error():
    torch.manual_seed(0)
    cut = edited(lambda m: m[6].weight.zero_(), activation=nn.ReLU)
    assert eq.diagnose(cut, X).status == 1
    # Behind zeros without a bias a head of zeros receives nothing and never moves.
    stuck = edited(lambda m: (set_all(m[10], 0.0), m[12].weight.zero_()), activation=nn.ReLU)
    found = {f.code: f for f in eq.diagnose(stuck, X).findings}
    assert found["zero-weights"].severity == "error"


def test_biases_that_kill_units_are_no_exploding_signal():
    model = edited(lambda m: m[4].bias[:10].fill_(-50.0), activation=nn.ReLU)
    found = {f.code: f for f in eq.diagnose(model, X).findings}
    assert set(found) == {"dead-units", "bias-dominates"}
    assert {f.where for f in found.values()} == {"4"}


@pytest.mark.parametrize(
    "x", [X[:1], X[:2], X[:1].repeat(200, 1), X[0]], ids=["one", "two", "constant", "no batch"]
)
def test_few_rows_judge_no_unit(x):
    torch.manual_seed(0)
    seen = eq.diagnose(mlp([16, 64, 64, 4], nn.ReLU), x)
    assert [f.code for f in seen.findings] == ["few-rows"]
    assert seen.ok
    dead = mlp([16, 64, 64, 4], nn.ReLU)
    nn.init.constant_(dead[2].bias, -50.0)
    # A gradient of exactly 0 needs no rows to be seen.
    assert eq.diagnose(dead, x).status == 1


def test_the_sites_of_one_picture_are_cases_enough():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    nn.init.constant_(net[2].bias[:6], -50.0)
    picture = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert {f.code for f in eq.diagnose(net, picture).findings} >= {"dead-units"}


def saturated(factor, activation=nn.Tanh, depth=4):
    torch.manual_seed(0)
    model = mlp([16, *[64] * depth, 10], activation)
    with torch.no_grad():
        scaled(model, factor)
    return model


def test_networks_that_are_flat_throughout_or_sure_of_the_wrong_class_end_with_status_1():
    targets = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(0))
    found = {f.code: f.severity for f in eq.diagnose(saturated(20), X, targets=targets).findings}
    assert found == {"saturation": "error", "loss-above-chance": "error"}
    loud = saturated(14, nn.ReLU, 2)
    found = {f.code: f.severity for f in eq.diagnose(loud, X, targets=targets).findings}
    assert found == {"loss-above-chance": "error"}
    assert eq.diagnose(saturated(1), X, targets=targets).findings == ()
