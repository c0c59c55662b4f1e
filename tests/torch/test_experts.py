"""Mixtures of experts: several matrices in one parameter, each with fans of its own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.plan.nodes import Affine
from equipoise.schemes.laws import Turned
from equipoise.schemes.part_laws import Each
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.trace import trace

EXPERTS, WIDTH, HIDDEN = 4, 16, 32
X = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class OneByOne(nn.Module):
    """Every expert is taken out of the parameter by its number, and has a bias."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.zeros(EXPERTS, HIDDEN, WIDTH))
        self.bias = nn.Parameter(torch.zeros(EXPERTS, HIDDEN))
        self.down = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x):
        share = self.router(x).softmax(-1)
        out = torch.zeros_like(x)
        for e in range(EXPERTS):
            hidden = F.gelu(F.linear(x, self.up[e], self.bias[e]))
            out = out + share[:, e : e + 1] * F.linear(hidden, self.down[e])
        return out


class Together(nn.Module):
    """All experts in one product, the second one the other way round."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))
        self.down = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x):
        hidden = torch.bmm(x.expand(EXPERTS, -1, -1), self.up)
        return torch.bmm(hidden.relu(), self.down.transpose(1, 2))


@pytest.mark.parametrize("kind", [OneByOne, Together])
def test_every_expert_is_a_matrix_of_its_own(kind):
    model = kind()
    report = eq.initialize(model, X, generator=seeded())
    assert not report.plan.untouched
    laws = {a.parameter: a.law for a in report.plan.assignments}
    assert isinstance(laws["up"], Each)
    assert isinstance(laws["up"].matrix, Turned) == (kind is Together)
    for one, other in itertools.combinations(model.up.detach(), 2):
        assert not torch.allclose(one, other)


def test_hidden_units_of_all_experts_are_at_the_scale_of_a_single_one():
    model = Together()
    eq.initialize(model, X, generator=seeded())
    with torch.no_grad():
        hidden = torch.bmm(X.expand(EXPERTS, -1, -1), model.up)
        out = model(X)
    for e in range(EXPERTS):
        assert hidden[e].square().mean().sqrt() == pytest.approx(1.0, abs=0.1)
        assert out[e].square().mean().sqrt() == pytest.approx(1.0, abs=0.25)


def test_gradients_reach_router_and_experts():
    model = OneByOne()
    eq.initialize(model, X, generator=seeded())
    model(X).square().mean().backward()
    norms = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.dim() > 1}
    # Of experts that are all alike the router could not tell one from another.
    assert norms["router.weight"] > 1e-3
    assert min(norms["up"], norms["down"]) > 1e-2


@pytest.mark.parametrize(("kind", "uses"), [(OneByOne, EXPERTS), (Together, 1)])
def test_experts_are_read_as_linear_layers(kind, uses):
    nodes = [n for n in trace(kind(), ModelInputs((X,))).nodes if isinstance(n, Affine)]
    ups = [n for n in nodes if n.weight == "up"]
    assert len(ups) == uses
    assert {(n.in_size, n.out_size, n.several) for n in ups} == {(WIDTH, HIDDEN, EXPERTS)}
    assert {n.bias for n in ups} == ({"bias"} if kind is OneByOne else {""})
    assert {n.is_turned for n in ups} == {kind is Together}


def test_named_schemes_serve_experts():
    model = Together()
    eq.initialize(model, X, scheme="he", generator=seeded())
    # The first reads the inputs as they are, the second what a relu has halved.
    assert float(model.up.detach().std()) == pytest.approx((1 / WIDTH) ** 0.5, rel=0.1)
    assert float(model.down.detach().std()) == pytest.approx((2 / HIDDEN) ** 0.5, rel=0.15)


def test_square_matrices_are_turned_by_what_is_said_not_by_their_shape():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, WIDTH, WIDTH))

        def forward(self, x):
            x = torch.bmm(x.expand(3, -1, -1), self.w.mT)
            return torch.bmm(x, self.w.permute(0, 2, 1)) + torch.bmm(x, self.w)

    nodes = [n for n in trace(Square(), ModelInputs((X,))).nodes if isinstance(n, Affine)]
    assert [n.is_turned for n in nodes] == [False, False, True]


def test_experts_that_share_one_matrix_have_the_fans_of_one():
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(EXPERTS * HIDDEN, WIDTH))

        def forward(self, x):
            parts = self.w.view(EXPERTS, HIDDEN, WIDTH)
            return sum(x @ parts[e].t() for e in range(EXPERTS))

    model = Stacked()
    report = eq.initialize(model, X, generator=seeded())
    assert not report.plan.untouched
    assert float(model.w.detach().std()) == pytest.approx(WIDTH**-0.5, rel=0.05)


def test_parts_of_a_projection_that_read_other_values_are_drawn_by_its_shape():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(WIDTH, 4, HIDDEN, batch_first=True)
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x, memory):
            return self.head(self.layer(x, memory))

    model, x = Decoder(), torch.randn(8, 10, WIDTH, generator=seeded())
    report = eq.initialize(model, (x, 2.0 * x[:, :6]), generator=seeded())
    laws = {a.parameter: a for a in report.plan.assignments}
    packed = laws["layer.multihead_attn.in_proj_weight"]
    assert "its operation was not read" in packed.reason
    assert packed.law.std == pytest.approx(WIDTH**-0.5)
    model(x, x).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_tables_that_are_blown_up_are_offsets():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            self.places = nn.Parameter(torch.zeros(1, 8, 4, 4))
            self.head = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            places = F.interpolate(self.places, size=(8, 8), mode="bilinear", antialias=True)
            return self.head(self.patch(x) + places)

    x = torch.randn(4, 3, 32, 32, generator=seeded())
    plan = eq.plan(Places(), x)
    reasons = {a.parameter: a.reason for a in plan.assignments}
    assert reasons["places"] == "starts as loud as what it is added to"
