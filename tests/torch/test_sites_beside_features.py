"""Layers on tokens and layers on maps in one chain: sites are features' neighbours, not rows."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq

DRAWS = 24


class TokensToMaps(nn.Module):
    """A depthwise convolution between two linear layers on tokens, as mix-FFN of SegFormer."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(8, 32), nn.Linear(32, 8)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)

    def forward(self, x):
        rows = x.shape[0]
        maps = self.before(x).transpose(1, 2).reshape(rows, 32, 6, 6)
        tokens = self.depthwise(maps).flatten(2).transpose(1, 2)
        return self.after(F.gelu(tokens))


class TimeStays(nn.Module):
    """Frequencies are joined with the channels, times are not, as in front of a speech encoder."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.last = nn.Linear(64, 20), nn.Linear(20, 4)

    def forward(self, x):
        maps = self.second(self.first(x).relu()).relu()
        rows, channels, times, frequencies = maps.shape
        joined = maps.transpose(1, 2).reshape(rows, times, channels * frequencies)
        return self.last(self.third(joined).relu())


@pytest.mark.parametrize(
    ("kind", "shape"), [(TokensToMaps, (16, 36, 8)), (TimeStays, (16, 1, 24, 16))]
)
def test_expectations_hold_over_draws(kind, shape):
    model, x = kind(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plan = eq.plan(model, x)
    seen, hooks = {}, []
    for name, module in model.named_children():
        hooks.append(module.register_forward_hook(
            lambda _, __, out, name=name: seen.setdefault(name, []).append(float(out.std()))
        ))  # fmt: skip
    for seed in range(DRAWS):
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model(x)
    for p in plan.predictions:
        logs = np.log(seen[p.layer])
        error = 4 * 1.2533 * logs.std(ddof=1) / math.sqrt(DRAWS)
        assert abs(np.median(logs) - math.log(p.signal)) < error + 0.12, p
