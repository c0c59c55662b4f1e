"""Entries of one value in places of another: masks, scatters and padding, against measurement."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq

X = torch.randn(64, 12, 16, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(12) % 4 == 0)[None, :, None].expand(64, 12, 16).contiguous()
DRAWS = 12


class Mixed(nn.Module):
    """Two branches of different levels, some way to mix them, and a layer that reads the result."""

    def __init__(self, mix):
        super().__init__()
        self.one, self.other, self.after = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 32)
        self.mix = mix
        mask = (torch.arange(12) % 4 == 0)[None, :, None]
        self.register_buffer("mask", mask.expand(64, 12, 32).contiguous())

    def forward(self, x):
        return self.after(self.mix(self, self.one(x), 4.0 * self.other(x)))


def scattered(m, a, b):
    index = torch.arange(3)[None, :, None].expand(64, 3, 32)
    return a.scatter(1, index, b[:, :3])


def written(m, a, b):
    out = torch.zeros_like(a)
    out.copy_(b)
    return out + a


MIXES = {
    "where": lambda m, a, b: torch.where(m.mask, b, a),
    "where and a number": lambda m, a, b: torch.where(m.mask, a, 3.0 * torch.ones(())),
    "masked_fill": lambda m, a, b: a.masked_fill(m.mask, 0.0),
    "masked_fill with the least number": lambda m, a, b: F.softplus(
        a.masked_fill(torch.zeros_like(m.mask), float("-inf"))
    ),
    "masked_scatter": lambda m, a, b: a.masked_scatter(m.mask, b[:, :3].contiguous()),
    "index_put": lambda m, a, b: a.index_put((torch.arange(3),), b[:3]),
    "scatter": scattered,
    "copy": written,
    "zeros around": lambda m, a, b: F.pad(a, (0, 0, 2, 3)).tanh(),
    "the last one again": lambda m, a, b: F.pad(a, (2, 2), mode="replicate")[..., 2:-2] + b,
    "less": lambda m, a, b: F.pad(a, (0, 0, -1, -1)) * 2.0,
}


@pytest.mark.parametrize("name", MIXES)
def test_what_comes_after_is_scaled_for_the_mixture(name):
    model = Mixed(MIXES[name])
    plan = eq.plan(model, X)
    assert not any("not read" in note or "not known" in note for note in plan.notes), plan.notes
    wanted = next(p.signal for p in plan.predictions if p.layer == "after")
    logs = []
    for seed in range(DRAWS):
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logs.append(math.log(model(X).square().mean().sqrt()))
    error = 4 * 1.2533 * np.std(logs, ddof=1) / math.sqrt(DRAWS)
    assert abs(np.median(logs) - math.log(wanted)) < error + 0.1


def test_a_mask_that_is_computed_is_taken_for_a_half():
    class Half(Mixed):
        def forward(self, x):
            a, b = self.one(x), 3.0 * self.other(x)
            return self.after(torch.where(x[..., :1] > 0, a, b))

    plan = eq.plan(Half(None), X)
    model = Half(None)
    eq.apply(model, plan, torch.Generator().manual_seed(0))
    wanted = next(p.signal for p in plan.predictions if p.layer == "after")
    assert float(model(X).detach().square().mean().sqrt()) == pytest.approx(wanted, rel=0.15)
