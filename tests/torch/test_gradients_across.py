"""Gradients foretold through whole models, against measured ones: means over draws."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.rules.against_plan import predictions_by_layer

DRAWS = 12


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Stream(nn.Module):
    """Pre-norm or post-norm residual layers over rows."""

    def __init__(self, norm=nn.LayerNorm, act=nn.GELU, is_post=False, n=32, depth=4):
        super().__init__()
        self.norms = nn.ModuleList(norm(n) for _ in range(depth))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(n, 2 * n), act(), nn.Linear(2 * n, n)) for _ in range(depth)
        )
        self.head, self.is_post = nn.Linear(n, 10), is_post

    def forward(self, x):
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = norm(x + branch(x)) if self.is_post else x + branch(norm(x))
        return self.head(x)


class Transformer(nn.Module):
    """Attention layers that end in all sites, their mean, or the first one."""

    def __init__(self, end, is_causal=False):
        super().__init__()
        n = 32
        self.embed = nn.Linear(8, n)
        self.qkv = nn.ModuleList(nn.Linear(n, 3 * n) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(n, n) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(n) for _ in range(3))
        self.head, self.end, self.is_causal = nn.Linear(n, 10), end, is_causal

    def forward(self, x):
        x = self.embed(x)
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            q, k, v = (
                t.unflatten(-1, (4, 8)).transpose(1, 2) for t in qkv(norm(x)).chunk(3, dim=-1)
            )
            h = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
            x = x + out(h.transpose(1, 2).flatten(2))
        ends = {"all": lambda: x, "mean": lambda: x.mean(1), "first": lambda: x[:, 0]}
        return self.head(ends[self.end]())


class Written(nn.Module):
    """Attention of products and a softmax."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(32, 32)
        self.q, self.k, self.v, self.out, self.head = (nn.Linear(32, 32) for _ in range(5))

    def forward(self, x):
        x = self.embed(x)
        scores = self.q(x) @ self.k(x).mT / math.sqrt(32)
        return self.head(self.out(scores.softmax(-1) @ self.v(x)))


class Pictures(nn.Module):
    """Residual convolutions with batch norms, strides and a mean at the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16),
            )
            for _ in range(3)
        )  # fmt: skip
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.norm = nn.GroupNorm(4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(self.norm(self.down(x)).mean((2, 3)))


class Gated(nn.Module):
    """Gates, parts, joins, dropout, gains, and a difference."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(32, 64), nn.Linear(32, 64), nn.Linear(64, 32)
        self.d, self.e, self.head = nn.Linear(32, 96), nn.Linear(96, 32), nn.Linear(32, 8)
        self.gain = nn.Parameter(torch.full((32,), 0.5))
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = x + self.drop(self.c(F.silu(self.a(x)) * self.b(x)))
        first, second, third = self.d(x).chunk(3, dim=-1)
        x = x - self.gain * self.e(torch.cat([torch.tanh(first), second * third, first], -1))
        return self.head(x)


class Pyramid(nn.Module):
    """Down, up, and a skip."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv1d(4, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 16), nn.InstanceNorm1d(16)])
        self.last = nn.Conv1d(32, 4, 3, padding=1)

    def forward(self, x):
        x = F.gelu(self.norms[0](self.first(x)))
        small = self.norms[1](self.inner(F.avg_pool1d(x, 2)))
        return self.last(torch.cat([x, F.interpolate(small, scale_factor=2.0)], 1))


class Copies(nn.Module):
    """One feature on the way into a wide layer, which a narrow one reads; copied in between."""

    def __init__(self, is_relu=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(1, 1), nn.Linear(1, 32), nn.Linear(32, 3, bias=False)
        self.is_relu = is_relu

    def forward(self, x):
        x = self.b(self.a(x).unsqueeze(1).expand(-1, 3, -1, -1))
        return self.c(x.relu() if self.is_relu else x)


class Packed(nn.Module):
    """Causal attention into a packed one: what values share is summed over sites twice."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.second = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 8)

    def forward(self, x):
        q, k, v = self.first(x).chunk(3, dim=-1)
        x = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.head(self.second(x, x, x, need_weights=False)[0])


class Rotary(nn.Module):
    """Attention whose queries and keys are turned by tables that hold zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 8)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        angles = torch.arange(12)[:, None] / 10.0 ** torch.linspace(0, 2, 32)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x):
        x = self.first(x)
        q, k = (
            t * self.cos + torch.cat([-t[..., 16:], t[..., :16]], -1) * self.sin
            for t in (self.q(x), self.k(x))
        )
        weights = (q @ k.mT / 32**0.5).softmax(-1)
        return self.head(self.norm(x + self.out(weights @ self.v(x))))


class Larger(nn.Module):
    """Maps made larger, of which only a mean is read."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = F.interpolate(self.inner(self.first(x)), scale_factor=2.0, mode="bilinear")
        return self.head(x.mean((2, 3)))


ROWS, SITES, MAPS = normal(96, 32), normal(24, 12, 8), normal(24, 3, 8, 8)
CASES = {
    "pre-norm": (Stream(), ROWS, 2 * 4 + 1),
    "pre-norm of tanh, rms": (Stream(nn.RMSNorm, nn.Tanh), ROWS, 9),
    "post-norm": (Stream(act=nn.ReLU, is_post=True), ROWS, 9),
    "attention": (Transformer("all"), SITES, 8),
    "attention, mean of sites": (Transformer("mean"), SITES, 8),
    "attention, first site": (Transformer("first"), SITES, 8),
    "causal attention": (Transformer("all", is_causal=True), SITES, 8),
    "written attention": (Written(), normal(24, 12, 32), 6),
    "pictures": (Pictures(), MAPS, 9),
    "gates": (Gated(), ROWS, 6),
    "one feature, copied": (Copies(), normal(7, 3, 1), 3),
    "one feature of rectifiers, copied": (Copies(is_relu=True), normal(7, 3, 1), 3),
    "inputs not about 0": (
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)),
        normal(96, 4) + 3,
        2,
    ),
    "packed attention": (Packed(), normal(24, 12, 32), 5),
    "maps made larger": (Larger(), MAPS, 3),
    "pyramid": (Pyramid(), normal(24, 4, 16), 3),
}


def drawn(model, x):
    """Log of measured over foretold gradients, the mean over draws, by layer."""
    plan = eq.plan(model, x)
    logs = []
    for seed in range(DRAWS):
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        m = eq.diagnose(model, x).measurements
        found = predictions_by_layer(m, plan)
        # The cotangent has norm 1 in all.
        entries = model(x).numel()
        logs.append([
            math.log(s.gradient * math.sqrt(entries) / p.across)
            for p, s in zip(found, m.layers, strict=True)
        ])  # fmt: skip
    return plan, torch.tensor(logs)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_that_are_foretold(case):
    model, x, count = CASES[case]
    plan, logs = drawn(model, x)
    assert len(plan.predictions) == count
    assert all(p.across > 0 for p in plan.predictions)
    error = logs.std(dim=0) / math.sqrt(DRAWS)
    # Wide limit: what 32 units leave out is below a quarter.
    assert (logs.mean(dim=0).abs() < 0.25 + 4 * error).all(), logs.mean(dim=0)


def untold(model, x):
    return [p.layer for p in eq.plan(model, x).predictions if math.isnan(p.across)]


class Turned(nn.Module):
    """A weight that meets what it made."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)) @ self.a.weight)


def test_what_draws_do_not_keep_to_is_not_told():
    # A weight that is used again turns the gradient to what it made itself.
    assert untold(Turned(), normal(64, 16)) == ["a"]
    # A norm divides rows of a single feature by next to nothing.
    one = nn.Sequential(nn.Linear(1, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    assert untold(one, normal(64, 1)) == ["0"]
    silent = normal(64, 16)
    silent[3] = 0.0
    rows = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    assert untold(rows, silent) == ["0"]
    assert not untold(rows, normal(64, 16))
    few = nn.Sequential(nn.Linear(16, 3), nn.LayerNorm(3), nn.Linear(3, 4))
    assert untold(few, normal(64, 16)) == ["0"]
    # Inputs that are far from 0 are centred, and then some are nearly silent.
    assert untold(Beside(), normal(64, 1) + 9) == ["a", "b"]
    # All of few rectifiers are silent for some rows, with or without dropout.
    narrow = [nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 32)]
    ends = [nn.LayerNorm(32), nn.Linear(32, 4)]
    assert untold(nn.Sequential(*narrow, *ends), normal(64, 16)) == ["0", "2"]
    dropped = [nn.Linear(16, 4), nn.Dropout(0.3), nn.Linear(4, 32)]
    assert untold(nn.Sequential(*dropped, *ends), normal(64, 16)) == ["0", "2"]
    wide = [nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32)]
    assert not untold(nn.Sequential(*wide, *ends), normal(64, 16))


class Beside(nn.Module):
    """A norm whose gradient is beside another one that is known."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 32), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.b(torch.tanh(self.a(x)))
        return self.head(x + self.norm(x))


class Bumps(nn.Module):
    """A function that is flat far from 0, of inputs of which a few are far from it."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(3, 3), nn.Linear(3, 17)

    def forward(self, x):
        return self.head(torch.exp(-((x * torch.sigmoid(self.gate(x))) ** 2)))


class OverQueries(nn.Module):
    """Weights that add up over the queries, behind which only a mean of all of them is read."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT / 4
        return self.head((scores.softmax(-2) @ self.v(x)).mean(1))


def test_weights_that_add_up_over_queries_are_not_taken_for_averages():
    assert untold(OverQueries(), normal(16, 12, 16)) == ["q", "k"]


def test_tables_that_turn_queries_and_keys_silence_no_row():
    assert not untold(Rotary(), SITES)


def test_what_few_inputs_decide_is_not_told():
    x = normal(2, 3) * torch.tensor([20.0, 1.0, 1.0])
    assert "gate" in untold(Bumps(), x)


class Scaled(nn.Module):
    """A gate of one number for each row, whose size a norm takes off again."""

    def __init__(self):
        super().__init__()
        self.gate, self.x, self.head = nn.Linear(16, 1), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(F.layer_norm(self.x(x) * torch.sigmoid(self.gate(x)), (32,)))


def test_the_size_that_a_gate_gives_is_lost_behind_a_norm():
    assert "gate" in untold(Scaled(), normal(64, 16))


class FewNumbers(nn.Module):
    """Units that a layer makes of few numbers, beside a quiet branch, behind a norm of each."""

    def __init__(self, numbers, norm):
        super().__init__()
        self.stem = nn.Conv2d(numbers, 12, 1, bias=False)
        self.branch = nn.Sequential(nn.Conv2d(12, 12, 1), nn.GELU(), nn.Conv2d(12, 12, 1))
        self.gain = nn.Parameter(torch.tensor(0.1), requires_grad=False)
        self.norm, self.head = norm(12), nn.Linear(12 * 36, 16)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.norm(x + self.gain * self.branch(x)).flatten(1))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d, lambda n: nn.GroupNorm(n, n)])
def test_units_made_of_one_number_may_be_nearly_silent(norm):
    assert "stem" in untold(FewNumbers(1, norm), normal(8, 1, 6, 6))
    assert "stem" not in untold(FewNumbers(9, norm), normal(8, 9, 6, 6))
    # A row that is a single number times one direction is as large as that number.
    rows = nn.Sequential(nn.Linear(16, 1), nn.Linear(1, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    assert untold(rows, normal(64, 16)) == ["0", "1"]
    # A norm of all units together divides by the size of many.
    whole = FewNumbers(1, lambda n: nn.GroupNorm(1, n))
    assert "stem" not in untold(whole, normal(8, 1, 6, 6))


class Largest(nn.Module):
    """The largest sites of units that are made of few numbers, which a function bends."""

    def __init__(self, units):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, units, 3, padding=1), nn.Conv2d(units, 16, 3, padding=1)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).amax((2, 3))


@pytest.mark.parametrize("units", [1, 16])
def test_the_largest_sites_of_few_numbers_are_not_typical(units):
    assert ("a" in untold(Largest(units), normal(4, 3, 8, 8))) == (units == 1)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_in_a_row_take_the_same_direction_off_once(norm):
    """A quiet branch in between turns it by little: eight norms cost hardly more than one."""
    model, x = Stream(norm=norm, is_post=True, n=8, depth=8), normal(64, 8)
    plan, logs = drawn(model, x)
    # In front of the first norm rows of 8 normal numbers differ in size.
    ends = [i for i, p in enumerate(plan.predictions) if p.layer.endswith("2")][1:]
    error = logs.std(dim=0) / math.sqrt(DRAWS)
    assert (logs.mean(dim=0)[ends].abs() < 0.15 + 4 * error[ends]).all(), logs.mean(dim=0)


class Meeting(nn.Module):
    """A value and its norm, added or taken off: both ways back are the same one."""

    def __init__(self, sign):
        super().__init__()
        self.stem, self.norm, self.sign = nn.Linear(16, 16), nn.LayerNorm(16), sign

    def forward(self, x):
        x = self.stem(x)
        return x + self.norm(x) if self.sign > 0 else self.norm(x) - x


@pytest.mark.parametrize("sign", [1, -1])
def test_ways_back_that_meet_without_weights_in_between_are_not_told(sign):
    assert untold(Meeting(sign), normal(64, 16)) == ["stem"]
    # A branch with weights of its own turns its way back apart.
    assert not untold(Stream(n=16, depth=1), normal(64, 16))


class Across(nn.Module):
    """A norm over sites, which hardly differ."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(5, 5)

    def forward(self, x):
        return self.b(F.layer_norm(self.a(x).mT, (5,)))


def test_a_norm_over_sites_is_a_matter_of_their_differences():
    assert untold(Across(), normal(64, 5, 16)) == ["a"]


def test_the_page_and_the_check_of_the_same_call_use_them():
    model, x, _ = CASES["pre-norm"]
    report = eq.initialize(model, x)
    assert not [f for f in report.findings if f.code == "prediction-missed"]
    assert all(p.across > 0 for p in report.plan.predictions)
    again = eq.Plan.from_dict(report.plan.to_dict())
    assert again == report.plan
