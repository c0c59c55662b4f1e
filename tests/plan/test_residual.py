"""Residual branches, found in the traces of real models."""

import math

import pytest
import torch
from torch import nn

from equipoise.plan.residual import find_branches
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Modules by name and any forward."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def ends_of(model, x=X):
    """The branch that each weight ends, by the name of its layer."""
    traced = trace(model, read_inputs(model, x))
    branches = [b for b in find_branches(traced) if b.ends.norm is None]
    return {affine.layer: b for b in branches for affine in b.ends.affines}


def branches_of(model, x=X):
    return find_branches(trace(model, read_inputs(model, x)))


def branch(width=8, hidden=16):
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out((q @ k.mT).softmax(-1) @ v)


class Block(nn.Module):
    """One block of a transformer, of any order of norms and branches."""

    def __init__(self, order):
        super().__init__()
        self.attention, self.mlp, self.order = Attention(), branch(), order
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x):
        if self.order == "pre":
            x = x + self.attention(self.first(x))
            return x + self.mlp(self.second(x))
        if self.order == "post":
            x = self.first(x + self.attention(x))
            return self.second(x + self.mlp(x))
        h = self.first(x)
        return x + self.attention(h) + self.mlp(h)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_each_block_has_two_branches_that_end_in_its_last_weights(order):
    found = ends_of(nn.Sequential(nn.Linear(8, 8), *[Block(order) for _ in range(3)]))
    wanted = {f"{i}.{end}" for i in (1, 2, 3) for end in ("attention.out", "mlp.2")}
    assert set(found) == wanted
    assert {(e.branches, e.parts) for e in found.values()} == {(6, 1)}
    assert {e.share for e in found.values()} == {0.25 / math.sqrt(6)}


def test_attention_and_mlp_in_parallel_are_added_one_after_the_other():
    """(x + a) + m is written as two sums: each is a branch of its own."""
    found = ends_of(nn.Sequential(nn.Linear(8, 8), *[Block("parallel") for _ in range(2)]))
    assert set(found) == {f"{i}.{e}" for i in (1, 2) for e in ("attention.out", "mlp.2")}
    assert {e.share for e in found.values()} == {0.125}


def test_attention_and_mlp_in_parallel_that_are_added_first_share_a_branch():
    class Parallel(Block):
        def forward(self, x):
            h = self.first(x)
            return x + (self.attention(h) + self.mlp(h))

    found = ends_of(nn.Sequential(nn.Linear(8, 8), *[Parallel("") for _ in range(2)]))
    assert {(e.branches, e.parts) for e in found.values()} == {(2, 2)}
    assert {e.share for e in found.values()} == {0.25 / math.sqrt(2)}
    assert len(found) == 4


def test_a_branch_inside_a_branch_belongs_to_its_own_stream():
    inner = Net(lambda m, h: h + m.b(h), b=branch(16, 4))
    model = Net(lambda m, x: x + m.down(m.inner(m.up(x))),
                up=nn.Linear(8, 16), inner=inner, down=nn.Linear(16, 8))  # fmt: skip
    found = ends_of(nn.Sequential(nn.Linear(8, 8), model))
    assert {name: (e.branches, e.parts) for name, e in found.items()} == {
        "1.inner.b.2": (1, 1),
        "1.down": (1, 1),
    }


def conv(given, out, stride=1):
    return nn.Conv2d(given, out, 3, stride, 1)


class Residual(nn.Module):
    """conv, norm, relu, conv with a skip that is projected where the shape changes."""

    def __init__(self, given, out, stride=1):
        super().__init__()
        self.a, self.b, self.norm = conv(given, out, stride), conv(out, out), nn.BatchNorm2d(out)
        same = given == out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(given, out, 1, stride)

    def forward(self, x):
        return torch.relu(self.skip(x) + self.b(torch.relu(self.norm(self.a(x)))))


def test_a_projected_skip_is_not_the_branch():
    """Both terms come from one value: the one that is no more than a linear map goes around."""
    model = nn.Sequential(conv(3, 4), Residual(4, 4), Residual(4, 8, 2), Residual(8, 8))
    assert set(ends_of(model, IMAGES)) == {"1.b", "2.b", "3.b"}
    found = branches_of(model, IMAGES)
    assert [b.moves_skip for b in found] == [False, True, False]
    # A projection begins a stage of its own.
    assert [b.branches for b in found] == [1, 2, 2]
    # An activation behind the sum is part of the stream.
    assert found[1].stream == found[2].stream


def test_a_norm_at_the_end_of_a_branch_sets_its_scale():
    model = Net(lambda m, x: m.a(x) + m.norm(m.b(m.a(x))), a=conv(3, 4), b=conv(4, 4),
                norm=nn.BatchNorm2d(4))  # fmt: skip
    assert ends_of(model, IMAGES) == {}


ENDINGS = {
    "dropout": lambda m, h: nn.functional.dropout(m.b(h), 0.1),
    "a factor": lambda m, h: m.b(h) * torch.full((8,), 0.5),
    "an offset": lambda m, h: m.b(h) + torch.ones(8),
    "a permutation": lambda m, h: m.b(h.mT.contiguous().mT).mT.mT,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_may_stand_behind_the_last_weight(ending):
    model = Net(lambda m, x: m.a(x) + ENDINGS[ending](m, m.a(x).relu()),
                a=nn.Linear(8, 8), b=nn.Linear(8, 8))  # fmt: skip
    # A layer that is called twice makes the skip and what the branch is made from.
    assert set(ends_of(model)) == {"b"}
    model = Net(lambda m, x: (lambda h: h + ENDINGS[ending](m, h.relu()))(m.a(x)),
                a=nn.Linear(8, 8), b=nn.Linear(8, 8))  # fmt: skip
    assert set(ends_of(model)) == {"b"}


def test_a_concatenation_as_in_a_u_net_is_no_branch():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 4), conv(4, 8, 2), conv(12, 3)

        def forward(self, x):
            h = torch.relu(self.a(x))
            low = torch.relu(self.b(h))
            high = nn.functional.interpolate(low, scale_factor=2)
            return self.c(torch.cat([h, high], 1))

    assert ends_of(UNet(), IMAGES) == {}


def test_a_sum_with_an_earlier_signal_is_a_branch_of_the_signal_that_it_came_from():
    """A long skip that is added at the end of residual blocks goes around all of them."""

    class Long(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            h = self.first(x)
            low = h + self.a(h)
            return h + self.b(low), self.b(low) + h

    found = ends_of(Long())
    assert set(found) == {"a", "b"}
    assert {e.branches for e in found.values()} == {3}


MODULES = {"a": (8, 8), "b": (8, 8), "c": (8, 8)}
SKIPS = {
    "a part": lambda h, f: h[:, :3] + f(h)[:, :3],
    "a strided slice": lambda h, f: h[..., ::2] + f(h)[..., ::2],
    "a number": lambda h, f: 2.0 * h + f(h),
    "the other way": lambda h, f: f(h) + h,
    "a difference": lambda h, f: h - f(h),
    "padding": lambda h, f: nn.functional.pad(h[..., ::2], (0, 4)) + f(h),
    "a rescaled sum": lambda h, f: (h + f(h)) * 0.5**0.5,
}


@pytest.mark.parametrize("skip", SKIPS)
def test_a_skip_may_be_moved_cut_or_multiplied(skip):
    model = Net(lambda m, x: SKIPS[skip](m.a(x), lambda h: m.c(m.b(h).relu())),
                **{k: nn.Linear(*v) for k, v in MODULES.items()})  # fmt: skip
    (found,) = branches_of(model)
    assert [a.layer for a in found.ends.affines] == ["c"]
    assert [a.layer for a in found.inner] == ["b", "c"]
    assert found.layers == 2


def test_padded_channels_of_a_strided_skip_are_found():
    """Option A of residual networks for small images."""

    def run(m, x):
        h = m.a(x)
        cut = nn.functional.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return cut + m.c(torch.relu(m.b(h)))

    (found,) = branches_of(Net(run, a=conv(3, 4), b=conv(4, 8, 2), c=conv(8, 8)), IMAGES)
    assert [a.layer for a in found.ends.affines] == ["c"]


ENDS = {
    "weight": (lambda m, h: m.c(m.b(h).relu()), ["c"], "", 0, 0),
    "norm": (lambda m, h: m.norm(m.c(m.b(h).relu())), ["c"], "norm", 0, 0),
    "function": (lambda m, h: m.c(m.b(h)).relu(), ["c"], "", 1, 0),
    "norm and function": (lambda m, h: m.norm(m.c(h)).relu(), ["c"], "norm", 1, 0),
    "layer scale": (lambda m, h: m.gain * m.c(m.b(h).relu()), ["c"], "", 0, 1),
    "scalar gain": (lambda m, h: m.c(m.b(h).relu()) * m.scalar, ["c"], "", 0, 1),
    "gain and norm": (lambda m, h: m.gain * m.norm(m.c(h.relu())), ["c"], "norm", 0, 1),
    "gate": (lambda m, h: m.c(h.relu()) * torch.sigmoid(m.b(h)), ["c"], "", 0, 0),
    "gate that leads": (lambda m, h: torch.sigmoid(m.b(h)) * m.c(h.relu()), ["c"], "", 0, 0),
    "values of attention": (
        lambda m, h: nn.functional.scaled_dot_product_attention(m.a(h), m.b(h), m.c(h)),
        ["c"], "", 0, 0,
    ),
    "written attention": (lambda m, h: (m.a(h) @ m.b(h).mT).softmax(-1) @ m.c(h), ["c"], "", 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_branch(end):
    function, layers, norm, bends, gains = ENDS[end]
    model = Net(lambda m, x: (lambda h: h + function(m, h))(m.first(x)),
                **{k: nn.Linear(*v) for k, v in MODULES.items()}, first=nn.Linear(8, 8),
                norm=nn.LayerNorm(8))  # fmt: skip
    model.gain, model.scalar = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(1))
    (found,) = branches_of(model)
    assert [a.layer for a in found.ends.affines] == layers
    assert (found.ends.norm.layer if found.ends.norm else "") == norm
    assert (len(found.ends.bends), len(found.ends.gains)) == (bends, gains)


class Experts(nn.Module):
    def __init__(self, shared=False):
        super().__init__()
        self.first, self.router, self.shared = nn.Linear(8, 8), nn.Linear(8, 3), shared
        self.experts = nn.ModuleList(branch() for _ in range(4))

    def forward(self, x):
        h = self.first(x)
        p = self.router(h).softmax(-1)
        made = p[..., :1] * self.experts[0](h)
        for i in (1, 2):
            made = made + p[..., i : i + 1] * self.experts[i](h)
        return h + (made + self.experts[3](h) if self.shared else made)


@pytest.mark.parametrize("shared", [False, True])
def test_experts_that_a_router_weighs_are_one_branch(shared):
    (found,) = branches_of(Experts(shared))
    assert {a.layer for a in found.ends.affines} == {f"experts.{i}.2" for i in range(3 + shared)}
    assert found.parts == 1
    assert found.layers == 2


def test_post_norm_streams_are_told_from_others():
    for order, is_normed in (("pre", False), ("post", True)):
        model = nn.Sequential(nn.Linear(8, 8), *[Block(order) for _ in range(2)])
        found = branches_of(model)
        assert [b.is_normed for b in found] == [is_normed] * 4
        assert {b.branches for b in found} == {4}
        assert {(b.layers, b.projections) for b in found} == {(2, 4)}


def test_dense_blocks_and_equals_are_no_branches():
    dense = Net(lambda m, x: torch.cat([x, m.a(x)], -1), a=nn.Linear(8, 8))
    assert branches_of(dense) == ()
    equals = Net(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    assert branches_of(equals) == ()
    twice = Net(lambda m, x: (lambda h: h + h)(m.a(x)), a=nn.Linear(8, 8))
    assert branches_of(twice) == ()


def test_a_parameter_in_an_activation_is_no_gain_of_a_branch():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.beta = nn.Parameter(torch.ones(()))

        def forward(self, x):
            h = self.a(x)
            return self.b(h + self.beta * torch.relu(h))

    assert branches_of(Learned()) == ()


def test_a_plain_chain_has_none():
    assert ends_of(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))) == {}
    assert ends_of(Net(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(8, 8), b=nn.Linear(8, 8))) == {}


def test_many_branches_leave_a_stream_of_bounded_growth():
    """(1 + 1/(16 L))^L < e^(1/16) for any number of branches."""
    for count in (1, 7, 40):
        net = nn.Sequential(nn.Linear(8, 8), *[Block("pre") for _ in range(count)])
        shares = [b.share for b in branches_of(net)]
        growth = math.prod(1 + share**2 for share in shares)
        assert len(shares) == 2 * count
        assert 1 + 1 / 17 < growth < math.exp(1 / 16)
