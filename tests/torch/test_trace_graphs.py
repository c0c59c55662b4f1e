"""Reading graphs: tables, norms, gates and offsets, whichever way they are written."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.plan.nodes import (
    Affine,
    Concat,
    Gain,
    Lookup,
    Nonlinearity,
    Norm,
    Opaque,
    Product,
    Shift,
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


# Tables.


@pytest.mark.parametrize(
    "look_up",
    [
        lambda m, t: F.embedding(t, m.table),
        lambda m, t: m.table[t],
        lambda m, t: m.table.index_select(0, t.flatten()).view(2, 6, 8),
    ],
    ids=["embedding", "index", "index_select"],
)
def test_rows_of_a_table_by_index(look_up):
    traced = read(Written(look_up, table=torch.randn(11, 8)), TOKENS)
    (lookup,) = only(traced, Lookup)
    assert (lookup.weight, lookup.count, lookup.size) == ("table", 11, 8)
    assert traced.inputs == ()
    assert not only(traced, Opaque)


def test_an_embedding_is_named_by_its_module():
    traced = read(nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 3)), TOKENS)
    lookup, linear = traced.nodes
    assert (lookup.layer, lookup.weight) == ("0", "0.weight")
    assert (linear.input, linear.in_space) == (lookup.output, lookup.space)


def test_rows_that_are_looked_up_twice_are_shared_and_padding_is_known():
    tokens = torch.tensor([[3, 3, 1, 2], [0, 1, 2, 4]])
    (lookup,) = read(nn.Embedding(11, 8, padding_idx=0), tokens).nodes
    # One of six pairs of sites of the first row, none of the second.
    assert lookup.share == pytest.approx(1 / 12)
    assert lookup.padding == 0
    (without,) = read(nn.Embedding(11, 8), tokens).nodes
    assert without.padding == -1


def test_tokens_and_a_table_of_positions_are_added_up():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Embedding(11, 8), nn.Embedding(20, 8)

        def forward(self, t):
            return self.token(t) + self.place(torch.arange(t.shape[1]))

    traced = read(Both(), TOKENS)
    assert kinds(traced) == ["Lookup", "Lookup", "Merge"]
    token, place, merge = traced.nodes
    assert merge.inputs == (token.output, place.output)
    assert token.space == place.space == merge.space


def test_a_parameter_of_positions_is_an_offset_of_the_value():
    model = Written(lambda m, x: m.lin(x) + m.place, lin=nn.Linear(8, 8), place=torch.ones(6, 8))
    (shift,) = only(read(model), Shift)
    assert (shift.parameter, shift.mean_square) == ("place", 1.0)


def test_a_token_of_the_models_own_is_concatenated():
    model = Written(
        lambda m, x: torch.cat([m.token.expand(2, -1, -1), m.lin(x)], 1),
        lin=nn.Linear(8, 8), token=torch.randn(1, 1, 8),
    )  # fmt: skip
    traced = read(model)
    (lookup,), (concat,), (linear,) = (only(traced, k) for k in (Lookup, Concat, Affine))
    assert (lookup.weight, lookup.count) == ("token", 0)
    assert concat.inputs == (lookup.output, linear.output)
    assert (concat.axis, concat.sizes) == (-2, (1, 6))
    assert concat.space == linear.out_space == lookup.space


# Norms.


def rms(m, x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain


def llama(m, x):
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return m.w * h.to(x.dtype)


def by_variance(m, x):
    mean = x.mean(-1, keepdim=True)
    return m.w * ((x - mean) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6)) + m.b


def by_squares(m, x):
    centred = x - x.mean(-1, keepdim=True)
    return m.w * (centred * torch.rsqrt((centred**2).mean(-1, keepdim=True) + 1e-6)) + m.b


BY_HAND = [
    (llama, "rms", 0.0),
    (lambda m, x: rms(m, x, m.w), "rms", 0.0),
    (lambda m, x: rms(m, x, 1.0 + m.w), "rms", 1.0),
    (lambda m, x: m.w * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)), "rms", 0.0),
    (lambda m, x: m.w * (x * (x.square().mean(-1, keepdim=True) + 1e-6) ** -0.5), "rms", 0.0),
    (by_variance, "layer", 0.0),
    (by_squares, "layer", 0.0),
]


@pytest.mark.parametrize(("function", "kind", "offset"), BY_HAND)
def test_norms_written_out_are_norms_with_a_gain(function, kind, offset):
    model = Written(
        lambda m, x: function(m, m.lin(x)),
        lin=nn.Linear(8, 8), w=torch.full((8,), 2.0), b=torch.zeros(8),
    )  # fmt: skip
    traced = read(model)
    (norm,) = only(traced, Norm)
    assert (norm.kind, norm.epsilon, norm.weight) == (kind, 1e-6, "")
    (gain,) = only(traced, Gain)
    assert (gain.parameter, gain.input) == ("w", norm.output)
    assert gain.mean_square == pytest.approx((2.0 + offset) ** 2)
    assert gain.offset == offset
    assert [s.parameter for s in only(traced, Shift)] == (["b"] if kind == "layer" else [])
    assert not only(traced, Opaque)


CALLED = [
    (nn.LayerNorm(8), "layer", X),
    (nn.RMSNorm(8), "rms", X),
    (nn.BatchNorm2d(8), "batch", IMAGES),
    (nn.BatchNorm2d(8).eval(), "batch", IMAGES),
    (nn.GroupNorm(2, 8), "group", IMAGES),
    (nn.InstanceNorm2d(8, affine=True), "instance", IMAGES),
]


@pytest.mark.parametrize(("module", "kind", "x"), CALLED, ids=lambda v: str(v)[:9])
def test_norms_called_as_such(module, kind, x):
    traced = read(nn.Sequential(module), x)
    (norm,) = traced.nodes
    assert (norm.layer, norm.kind, norm.weight) == ("0", kind, "0.weight")
    assert norm.bias == ("" if kind == "rms" else "0.bias")
    assert norm.epsilon == (module.eps or 0.0)
    assert norm.is_tracked == (kind == "batch" and not module.training)
    assert traced.sizes[norm.space] == 8


def test_a_mean_of_squares_over_other_axes_is_no_norm_of_features():
    model = Written(
        lambda m, x: m.lin(x) * torch.rsqrt(m.lin(x).pow(2).mean(1, keepdim=True) + 1e-6),
        lin=nn.Linear(8, 8),
    )
    assert not only(read(model), Norm)


# Products, gains and offsets.


def test_a_gate_is_a_product_of_two_values():
    model = Written(
        lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)),
        a=nn.Linear(8, 16, bias=False), b=nn.Linear(8, 16, bias=False), c=nn.Linear(16, 8),
    )  # fmt: skip
    traced = read(model)
    (product,), (f,) = only(traced, Product), only(traced, Nonlinearity)
    a, b, c = only(traced, Affine)
    assert product.inputs == (f.output, b.output)
    assert a.out_space == b.out_space == c.in_space == product.space


def test_a_gate_of_one_number_for_all_features_ties_no_features():
    model = Written(
        lambda m, x: m.a(x) * torch.sigmoid(m.gate(x)), a=nn.Linear(8, 8), gate=nn.Linear(8, 1)
    )
    traced = read(model)
    (product,) = only(traced, Product)
    a, gate = only(traced, Affine)
    assert product.space == a.out_space != gate.out_space


SCALED = [
    (lambda m, x: m.lin(x) * m.w, "w", 4.0),
    (lambda m, x: m.w * m.lin(x), "w", 4.0),
    (lambda m, x: m.lin(x) / m.w, "w", 0.25),
    (lambda m, x: m.lin(x) * torch.full((8,), 3.0), "", 9.0),
    (lambda m, x: m.lin(x) / torch.full((8,), 2.0), "", 0.25),
    (lambda m, x: m.lin(x) * (1 + m.w), "w", 9.0),
    (lambda m, x: m.lin(x) * m.w.view(1, 1, 8), "w", 4.0),
]


@pytest.mark.parametrize(("function", "parameter", "mean_square"), SCALED)
def test_gains(function, parameter, mean_square):
    traced = read(Written(function, lin=nn.Linear(8, 8), w=torch.full((8,), 2.0)))
    (gain,) = only(traced, Gain)
    (linear,) = only(traced, Affine)
    assert (gain.parameter, gain.input) == (parameter, linear.output)
    assert gain.mean_square == pytest.approx(mean_square)
    assert gain.space == linear.out_space


@pytest.mark.parametrize("function", [lambda m, x: m.w / m.lin(x), lambda m, x: x / m.lin(x)])
def test_a_quotient_by_a_value_is_not_read(function):
    traced = read(Written(function, lin=nn.Linear(8, 8), w=torch.ones(8)))
    assert not only(traced, Gain)
    assert "div" in only(traced, Opaque)[0].reason


SHIFTED = [
    (lambda m, x: m.lin(x).tanh() + m.w, "w", 4.0),
    (lambda m, x: m.lin(x).tanh() - m.w, "w", 4.0),
    (lambda m, x: torch.add(m.lin(x).tanh(), m.w, alpha=0.5), "w", 1.0),
    (lambda m, x: m.lin(x).tanh() + torch.arange(8.0), "", 17.5),
]


@pytest.mark.parametrize(("function", "parameter", "mean_square"), SHIFTED)
def test_offsets(function, parameter, mean_square):
    traced = read(Written(function, lin=nn.Linear(8, 8), w=torch.full((8,), 2.0)))
    (shift,) = only(traced, Shift)
    assert (shift.parameter, shift.mean_square) == (parameter, pytest.approx(mean_square))


def test_a_mask_added_to_scores_adds_nothing():
    mask = torch.full((6, 6), -math.inf).triu(1)
    model = Written(lambda m, x: (m.q(x) @ m.k(x).mT + mask).softmax(-1) @ x,
                    q=nn.Linear(8, 8), k=nn.Linear(8, 8))  # fmt: skip
    traced = read(model)
    assert [s.mean_square for s in only(traced, Shift)] == [0.0]
    assert not only(traced, Opaque)
