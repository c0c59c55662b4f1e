"""Reading graphs: attention, joins and products with parameters, whichever way written."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Constant,
    Contract,
    Gain,
    Merge,
    Opaque,
    Softmax,
    Spread,
    Take,
)
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

# Two rows of six tokens with eight features, four heads of two.
X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(2))


def read(model, x=X):
    return trace(model, read_inputs(model, x))


def only(traced, kind):
    return [node for node in traced.nodes if isinstance(node, kind)]


def kinds(traced):
    return [type(node).__name__ for node in traced.nodes]


class Written(nn.Module):
    """Any function of the module and its input, with parameters by name."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            if isinstance(value, nn.Module):
                setattr(self, name, value)
            else:
                setattr(self, name, nn.Parameter(torch.as_tensor(value)))

    def forward(self, *x):
        return self.function(self, *x)


# Attention.


def split(h):
    return h.view(2, 6, 4, 2).transpose(1, 2)


def flat(h):
    return h.reshape(8, 6, 2)


def by_matmul(q, k, v):
    return (split(q) @ split(k).transpose(-1, -2) / 2**0.5).softmax(-1) @ split(v)


def by_bmm(q, k, v):
    scores = torch.bmm(flat(split(q)), flat(split(k)).transpose(1, 2))
    return torch.bmm(F.softmax(scores, dim=-1), flat(split(v)))


def by_einsum(q, k, v):
    q, k, v = (h.view(2, 6, 4, 2) for h in (q, k, v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


class Attends(nn.Module):
    """Queries, keys and values of one layer each, and any way to attend."""

    def __init__(self, attend):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.attend = attend

    def forward(self, x):
        made = self.attend(self.q(x), self.k(x), self.v(x))
        return self.o(made.reshape(2, 6, 8))


@pytest.mark.parametrize("attend", [by_matmul, by_bmm, by_einsum])
def test_attention_written_out(attend):
    traced = read(Attends(attend))
    (softmax,) = only(traced, Softmax)
    scores, average = only(traced, Contract)
    assert (softmax.size, scores.size, average.size) == (6, 2, 6)
    assert average.inputs[0] == softmax.output
    assert len(only(traced, Affine)) == 4
    assert not only(traced, Opaque)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
HARMONIC = sum(1 / t for t in range(1, 7)) / 6
CALLS = [
    ({}, 1 / 6),
    ({"is_causal": True}, HARMONIC),
    ({"attn_mask": CAUSAL}, HARMONIC),
    ({"attn_mask": torch.zeros(6, 6).masked_fill(~CAUSAL, -math.inf)}, HARMONIC),
    ({"attn_mask": torch.ones(6, 6, dtype=torch.bool)}, 1 / 6),
]


@pytest.mark.parametrize(("given", "visible"), CALLS)
def test_attention_called_as_such(given, visible):
    def attend(q, k, v):
        return F.scaled_dot_product_attention(split(q), split(k), split(v), **given).transpose(1, 2)

    traced = read(Attends(attend))
    (node,) = only(traced, Attention)
    assert (node.size, node.sites, node.scale) == (2, 6, 2**-0.5)
    assert node.visible == pytest.approx(visible)
    assert not only(traced, Opaque)


def test_a_scale_of_ones_own():
    def attend(q, k, v):
        return F.scaled_dot_product_attention(split(q), split(k), split(v), scale=0.25)

    assert [n.scale for n in only(read(Attends(attend)), Attention)] == [0.25]


def test_keys_of_groups_are_spread_over_their_queries():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            k, v = (
                h(x).view(2, 6, 2, 2).transpose(1, 2)[:, :, None].expand(2, 2, 2, 6, 2)
                .reshape(2, 4, 6, 2)
                for h in (self.k, self.v)
            )  # fmt: skip
            return F.scaled_dot_product_attention(split(self.q(x)), k, v)

    traced = read(Grouped())
    assert len(only(traced, Spread)) == 2
    assert [n.sites for n in only(traced, Attention)] == [6]
    assert not only(traced, Opaque)


def test_rotary_tables_are_constants_even_from_a_region_under_autocast():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(8, 8)
            self.register_buffer("frequencies", 0.5 ** torch.arange(4))

        def forward(self, x):
            with torch.autocast(device_type="cpu", enabled=False):
                angles = torch.arange(6)[:, None].float() * self.frequencies
                cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
            q = self.q(x)
            turned = torch.cat([-q[..., 4:], q[..., :4]], -1)
            return q * cos + turned * sin

    traced = read(Rotary())
    gains = only(traced, Gain)
    assert [g.parameter for g in gains] == ["", ""]
    angles = torch.arange(6.0)[:, None] * 0.5 ** torch.arange(4)
    assert gains[0].mean_square == pytest.approx(float(angles.cos().square().mean()), rel=1e-5)
    # cos^2 + sin^2 = 1: the turn keeps second moments.
    assert gains[0].mean_square + gains[1].mean_square == pytest.approx(1.0, rel=1e-5)
    assert not only(traced, Opaque)


def test_a_constant_that_is_a_value_has_its_second_moment():
    model = Written(lambda m, x: torch.cat([m.lin(x), torch.full((2, 6, 3), 2.0)], -1),
                    lin=nn.Linear(8, 8))  # fmt: skip
    traced = read(model)
    assert [c.mean_square for c in only(traced, Constant)] == [4.0]
    assert [c.sizes for c in only(traced, Concat)] == [(8, 3)]


# Joins.


JOINS = [
    (lambda a, b: torch.cat([a, b], -1), -1, (8, 8)),
    (lambda a, b: torch.cat([a, b], 1), -2, (6, 6)),
    (lambda a, b: torch.stack([a, b], -1), -1, (1, 1)),
    (lambda a, b: torch.stack([a, b]), -4, (1, 1)),
]


@pytest.mark.parametrize(("join", "axis", "sizes"), JOINS)
def test_joins(join, axis, sizes):
    model = Written(lambda m, x: join(m.a(x), m.b(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    traced = read(model)
    a, b, concat = traced.nodes
    assert concat.inputs == (a.output, b.output)
    assert (concat.axis, concat.sizes) == (axis, sizes)
    assert traced.values[concat.output].shape == tuple(join(X, X).shape)


def added(parts):
    return functools.reduce(torch.add, parts)


TAKES = [
    (lambda h: h[..., :4], 1),
    (lambda h: h[:, 0], 1),
    (lambda h: h.select(1, 2), 1),
    (lambda h: h.narrow(-1, 2, 3), 1),
    (lambda h: h.split(4, -1)[1], 1),
    (lambda h: added(h.split([3, 3, 2], -1)[:2]), 2),
    (lambda h: added(h.chunk(2, -1)), 2),
    (lambda h: added(h.unbind(1)), 6),
    (lambda h: h[:, [0, 2, 3]], 1),
    (lambda h: h.index_select(1, torch.tensor([0, 5])), 1),
    (lambda h: h.flip(1), 1),
]


@pytest.mark.parametrize(("take", "count"), TAKES)
def test_some_of_the_entries(take, count):
    traced = read(Written(lambda m, x: take(m.a(x)), a=nn.Linear(8, 8)))
    (linear,) = only(traced, Affine)
    takes = only(traced, Take)
    assert len(takes) == count
    assert {t.input for t in takes} == {linear.output}
    assert set(kinds(traced)) <= {"Affine", "Take", "Merge"}
    assert traced.values[traced.outputs[0]].shape == tuple(take(X).shape)


SPREADS = [
    (lambda h: h.repeat(1, 1, 2), False),
    (lambda h: h.unsqueeze(1).expand(2, 3, 6, 8), True),
    (lambda h: h.repeat_interleave(2, 1), True),
]


@pytest.mark.parametrize(("spread", "keeps"), SPREADS)
def test_entries_several_times(spread, keeps):
    traced = read(Written(lambda m, x: spread(m.a(x)), a=nn.Linear(8, 8)))
    (linear,) = only(traced, Affine)
    (node,) = only(traced, Spread)
    assert (node.space == linear.out_space) == keeps
    assert not only(traced, Opaque)


def test_nearest_upsampling_keeps_channels():
    model = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 1))
    traced = read(model, IMAGES)
    assert kinds(traced) == ["Affine", "Spread", "Affine"]
    first, _, second = traced.nodes
    assert first.out_space == second.in_space


def test_units_in_another_order_are_other_units():
    order = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
    for turn in (lambda h: h.flip(-1), lambda h: h.roll(1, -1), lambda h: h[..., order]):
        traced = read(Written(lambda m, x, f=turn: m.b(f(m.a(x))), a=nn.Linear(8, 8),
                              b=nn.Linear(8, 8)))  # fmt: skip
        a, _, b = traced.nodes
        assert a.out_space != b.in_space


# Products with a parameter.


PRODUCTS = [
    (lambda m, x: x @ m.w, True, ""),
    (lambda m, x: torch.matmul(x, m.w), True, ""),
    (lambda m, x: x @ m.v.T, False, ""),
    (lambda m, x: x @ m.v.t(), False, ""),
    (lambda m, x: x @ m.v.transpose(0, 1), False, ""),
    (lambda m, x: x @ m.w + m.b, True, "b"),
    (lambda m, x: torch.addmm(m.b, x[0], m.w), True, "b"),
    (lambda m, x: torch.addmm(m.b, x.view(-1, 8), m.v.T), False, "b"),
    (lambda m, x: torch.mm(x.view(-1, 8), m.w), True, ""),
]


@pytest.mark.parametrize(("function", "is_turned", "bias"), PRODUCTS)
def test_products_with_a_parameter_are_linear_layers(function, is_turned, bias):
    model = Written(function, w=torch.randn(8, 5), v=torch.randn(5, 8), b=torch.zeros(5))
    (node,) = only(read(model), Affine)
    assert (node.in_size, node.out_size, node.axis) == (8, 5, -1)
    assert (node.weight, node.bias, node.is_turned) == ("w" if is_turned else "v", bias, is_turned)


def test_a_weight_that_is_read_both_ways_has_one_name():
    """A head that is the table itself."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, t):
            return self.head(self.table(t).tanh())

    traced = read(Tied(), TOKENS)
    lookup, _, head = traced.nodes
    assert lookup.weight == head.weight == "table.weight"
    assert traced.parameters[0].aliases == ("head.weight",)


def test_the_trace_has_no_dead_ends():
    model = Written(lambda m, x: (m.a(x).softmax(-1).sum(), m.a(x))[1], a=nn.Linear(8, 8))
    assert not [n for n in read(model).nodes if isinstance(n, Merge | Softmax)]
