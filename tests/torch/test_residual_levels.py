"""Signals foretold through sums of a stream and its branches, against the median of draws."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.plan.nodes import Affine
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

WIDTH, HEADS, SITES = 32, 4, 10
DRAWS = 9


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        parts = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def bend():
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Block(nn.Module):
    """Attention and MLP: pre-norm, post-norm, norms on both sides, or side by side."""

    def __init__(self, order):
        super().__init__()
        self.attention, self.mlp, self.order = Attention(), bend(), order
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(self, x):
        a, b, c, d = self.norms
        match self.order:
            case "pre":
                x = x + self.attention(a(x))
                return x + self.mlp(b(x))
            case "post":
                x = a(x + self.attention(x))
                return b(x + self.mlp(x))
            case "sandwich":
                x = x + c(self.attention(a(x)))
                return x + d(self.mlp(b(x)))
            case _:
                h = a(x)
                return x + self.attention(h) + self.mlp(h)


class Encoder(nn.Module):
    def __init__(self, order, layers):
        super().__init__()
        self.first = nn.Linear(16, WIDTH)
        self.blocks = nn.Sequential(*[Block(order) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.first(x))))


class Added(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def residual_mlp(blocks, width):
    return nn.Sequential(
        nn.Linear(16, width),
        *[Added(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)))
          for _ in range(blocks)],
        nn.Linear(width, 5),
    )  # fmt: skip


class PreActivation(nn.Module):
    """norm, ReLU, convolution, twice; where the shape changes the skip is a convolution too."""

    def __init__(self, given, out, stride=1):
        super().__init__()
        self.n, self.m = nn.BatchNorm2d(given), nn.BatchNorm2d(out)
        self.a = nn.Conv2d(given, out, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        same = given == out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(given, out, 1, stride, bias=False)

    def forward(self, x):
        h = torch.relu(self.n(x))
        return self.skip(x) + self.b(torch.relu(self.m(self.a(h))))


def resnet20():
    widths = [16] * 3 + [32] * 3 + [64] * 3
    blocks = [
        PreActivation(given, out, 1 if given == out else 2)
        for given, out in zip([16, *widths], widths, strict=False)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), *blocks, nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


ROWS = torch.randn(16, SITES, 16, generator=seeded())
FLAT = torch.randn(128, 16, generator=seeded())
IMAGES = torch.randn(16, 3, 16, 16, generator=seeded())
QUICK = {
    "pre-norm, 4 layers": (lambda: Encoder("pre", 4), ROWS),
    "post-norm, 3 layers": (lambda: Encoder("post", 3), ROWS),
    "sandwich norm, 3 layers": (lambda: Encoder("sandwich", 3), ROWS),
    "parallel, 3 layers": (lambda: Encoder("parallel", 3), ROWS),
    "residual MLP, 8 blocks": (lambda: residual_mlp(8, 64), FLAT),
}
DEEP = {
    "pre-norm, 24 layers": (lambda: Encoder("pre", 24), ROWS),
    "post-norm, 12 layers": (lambda: Encoder("post", 12), ROWS),
    "sandwich norm, 12 layers": (lambda: Encoder("sandwich", 12), ROWS),
    "parallel, 12 layers": (lambda: Encoder("parallel", 12), ROWS),
    "residual MLP, 24 blocks": (lambda: residual_mlp(24, 64), FLAT),
    "residual MLP, 100 blocks": (lambda: residual_mlp(100, 64), FLAT),
    "pre-activation ResNet 20": (resnet20, IMAGES),
}


def drawn_signals(model, plan, x, draws=DRAWS):
    """Log RMS at the output of each linear layer, one row for each draw."""
    layers = {n.weight: n.layer for n in trace(model, read_inputs(model, x)).nodes
              if isinstance(n, Affine)}  # fmt: skip
    modules = dict(model.named_modules())
    found = []
    for seed in range(draws):
        eq.apply(model, plan, seeded(seed))
        seen = {}

        def note(weight, seen=seen):
            return lambda module, given, out: seen.update({weight: float(out.square().mean())})

        hooks = [modules[layer].register_forward_hook(note(w)) for w, layer in layers.items()]
        with torch.no_grad():
            model(x)
        for hook in hooks:
            hook.remove()
        found.append([0.5 * math.log(seen[p.weight]) for p in plan.predictions])
    return np.array(found)


MODELS = QUICK | DEEP


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)]
)
def test_signals_are_foretold_within_a_tenth_of_the_median_draw(name):
    torch.manual_seed(0)
    make, x = MODELS[name]
    model = make()
    plan = eq.plan(model, x)
    logs = drawn_signals(model, plan, x)
    expected = np.array([p.signal for p in plan.predictions])
    assert np.isfinite(expected).all()
    off = np.median(logs, axis=0) - np.log(expected)
    # A median of few draws has an error of its own.
    error = 1.2533 * logs.std(axis=0, ddof=1) / math.sqrt(len(logs))
    worst = np.abs(off) - 4 * error
    place = int(worst.argmax())
    assert worst[place] < math.log(1.1), (plan.predictions[place].layer, math.exp(off[place]))
