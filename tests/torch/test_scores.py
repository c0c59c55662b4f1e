"""Queries and keys start at half their scale, however they are made and cut out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.plan.scores import HALF
from equipoise.schemes.part_laws import Rows
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.trace import trace

WIDTH, HEADS = 32, 4
X = torch.randn(8, 12, WIDTH, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Separate(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def queries(self, x):
        return heads(self.q(x)), heads(self.k(x)), heads(self.v(x))

    def forward(self, x):
        made = F.scaled_dot_product_attention(*self.queries(x))
        return self.out(made.transpose(1, 2).flatten(2))


class Rotated(Separate):
    """Rotary embeddings between the projections and the scores."""

    def queries(self, x):
        def turned(t):
            one, other = t.chunk(2, -1)
            angle = torch.arange(x.shape[1])[:, None] / torch.arange(1, t.shape[-1] + 1)
            return t * angle.cos() + torch.cat([-other, one], -1) * angle.sin()

        q, k, v = super().queries(x)
        return turned(q), turned(k), v


class Written(Separate):
    """Products and a softmax in place of a call."""

    def forward(self, x):
        q, k, v = self.queries(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.full((12, 12), float("-inf")).triu(1)
        made = (scores + mask).softmax(-1) @ v
        return self.out(made.transpose(1, 2).flatten(2))


class Packed(nn.Module):
    """One projection for all three, cut up in some way."""

    def __init__(self, cut, size=3 * WIDTH):
        super().__init__()
        self.qkv, self.out, self.cut = nn.Linear(WIDTH, size), nn.Linear(WIDTH, WIDTH), cut

    def forward(self, x):
        q, k, v = self.cut(self.qkv(x))
        made = F.scaled_dot_product_attention(q, k, v, enable_gqa=k.shape[1] != q.shape[1])
        return self.out(made.transpose(1, 2).flatten(2))


def grouped(z):
    q, k, v = z.split([WIDTH, 16, 16], -1)
    return heads(q), *(t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (k, v))


def interleaved(z):
    """Head by head: queries, keys and values of one head stand together."""
    return z.view(8, 12, HEADS, -1).transpose(1, 2).chunk(3, -1)


CUTS = {
    "thirds": (lambda z: [heads(t) for t in z.chunk(3, -1)], 3 * WIDTH, ((0, 2 * WIDTH),)),
    "slices": (
        lambda z: [heads(z[..., i * WIDTH : (i + 1) * WIDTH]) for i in range(3)],
        3 * WIDTH, ((0, 2 * WIDTH),),
    ),
    "an axis of three": (
        lambda z: z.view(8, 12, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0),
        3 * WIDTH, ((0, 2 * WIDTH),),
    ),
    "values first": (
        lambda z: [heads(z.chunk(3, -1)[i]) for i in (1, 2, 0)], 3 * WIDTH, ((WIDTH, 3 * WIDTH),)
    ),
    "sizes of their own": (grouped, 2 * WIDTH, ((0, WIDTH + 16),)),
    "head by head": (
        interleaved, 3 * WIDTH, tuple((24 * h, 24 * h + 16) for h in range(HEADS))
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [Separate, Rotated, Written])
def test_projections_of_their_own_are_drawn_at_half_the_scale(kind):
    model = kind()
    plan = eq.plan(model, X)
    signal = {p.layer: p.signal for p in plan.predictions}
    assert signal["q"] == pytest.approx(HALF, rel=0.02)
    assert signal["k"] == pytest.approx(HALF, rel=0.02)
    assert signal["v"] == pytest.approx(1.0, rel=0.02)
    eq.apply(model, plan, seeded())
    with torch.no_grad():
        q, k, v = model.queries(X)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    assert float(scores.std()) == pytest.approx(HALF**2, rel=0.25)
    assert float(v.std()) == pytest.approx(1.0, rel=0.1)
    model(X).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize("cut", CUTS)
def test_rows_of_a_packed_projection_are_told_apart(cut):
    function, size, rows = CUTS[cut]
    model = Packed(function, size)
    (found,) = trace(model, ModelInputs((X,))).score_rows
    assert found[1] == rows
    plan = eq.plan(model, X)
    law = next(a.law for a in plan.assignments if a.parameter == "qkv.weight")
    assert isinstance(law, Rows)
    assert law.rows == rows
    eq.apply(model, plan, seeded())
    with torch.no_grad():
        q, k, v = model.cut(model.qkv(X))
    for part, rms in ((q, HALF), (k, HALF), (v, 1.0)):
        assert float(part.square().mean().sqrt()) == pytest.approx(rms, rel=0.15)
    wanted = {p.layer: p.signal for p in plan.predictions}
    with torch.no_grad():
        assert float(model.qkv(X).std()) == pytest.approx(wanted["qkv"], rel=0.1)
        assert float(model(X).std()) == pytest.approx(wanted["out"], rel=0.35)


def test_a_norm_between_decides_the_scale_itself():
    class Normed(Separate):
        def __init__(self):
            super().__init__()
            self.norm = nn.RMSNorm(WIDTH // HEADS)

        def queries(self, x):
            q, k, v = super().queries(x)
            return self.norm(q), self.norm(k), v

    signal = {p.layer: p.signal for p in eq.plan(Normed(), X).predictions}
    assert signal["q"] == pytest.approx(1.0, rel=0.02)


def test_schemes_by_name_and_frozen_weights_are_left_as_they_are():
    plan = eq.plan(Separate(), X, scheme="xavier")
    signal = {p.layer: p.signal for p in plan.predictions}
    assert signal["q"] == pytest.approx(signal["v"], rel=0.05)
    model = Packed(CUTS["thirds"][0])
    model.qkv.weight.requires_grad_(False)
    before = model.qkv.weight.clone()
    eq.initialize(model, X, generator=seeded())
    assert torch.equal(model.qkv.weight, before)


def test_multihead_attention_of_torch_is_read():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    plan = eq.plan(Own(), X)
    law = next(a.law for a in plan.assignments if a.parameter == "attention.in_proj_weight")
    assert isinstance(law, Rows)
    assert law.rows == ((0, 2 * WIDTH),)


def test_one_key_has_no_scores():
    plan = eq.plan(Separate(), X[:, :1])
    signal = {p.layer: p.signal for p in plan.predictions}
    assert signal["q"] == pytest.approx(1.0, rel=0.05)
