"""Small trainable maps beside and between layers that keep their values."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import equipoise.torch as eq

X = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))


class Beside(nn.Module):
    """A layer with a product of two thin matrices added to it."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


class Raw(nn.Module):
    """The same with parameters of its own."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.a.T) @ self.b.T


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up, self.down = kind(nn.Linear(32, 64)), kind(nn.Linear(64, 32))

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def network(kind):
    torch.manual_seed(0)
    model = nn.Sequential(*[Block(kind) for _ in range(3)], nn.Linear(32, 10))
    with torch.no_grad():
        for block in model[:3]:
            block.norm.weight.fill_(5.0)
            block.up.base.weight.mul_(3.0)
    return model


def entries(model):
    """RMS of what enters each adapter, and of what its first matrix makes."""
    found = {}

    def hook(name):
        def note(module, inputs, _):
            a = module.a.weight if isinstance(module.a, nn.Module) else module.a
            x = inputs[0].detach()
            found[name] = float((x @ a.detach().T).square().mean().sqrt())

        return note

    handles = [
        m.register_forward_hook(hook(name))
        for name, m in model.named_modules()
        if isinstance(m, Beside | Raw)
    ]
    model(X)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", [Beside, Raw])
def test_every_adapter_is_fed_at_the_level_that_really_enters(kind):
    model = network(kind)
    only = ["*.a", "*.b"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = eq.initialize(model, X, only=only, generator=torch.Generator().manual_seed(0))
    for name, value in model.state_dict().items():
        part = name.split(".")[2:3]
        if part == ["b"]:
            # The model starts as it was.
            assert not value.any()
        else:
            assert torch.equal(before[name], value) == (part != ["a"])
    assert {a.parameter.split(".")[2] for a in report.plan.assignments} == {"a", "b"}
    assert not any("is assumed" in note for note in report.plan.notes)
    # Rank 4 draws stray; a level that was assumed would be off by 4 to 5.
    for name, level in entries(model).items():
        assert 0.6 < level < 1.6, name
    model(X).square().mean().backward()
    drawn = [p for n, p in model.named_parameters() if n in dict.fromkeys(before) and p.dim() > 1]
    assert all(p.grad.isfinite().all() for p in drawn)


def test_an_adapter_before_a_frozen_body_and_a_head_behind_it():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128))
    with torch.no_grad():
        body[2].weight.mul_(40.0)
    body.requires_grad_(False)
    model = nn.Sequential(nn.Linear(32, 32), body, nn.Linear(128, 16))
    report = eq.initialize(model, X, generator=torch.Generator().manual_seed(3))
    assert "as measured" in report.plan.choice[-1]
    assert float(model(X).detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.2)
