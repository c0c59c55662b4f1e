"""Stacks of real models: which layers are coupled, and what lies between them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.plan.stacks import find_stacks
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def stacks_of(model, x=IMAGES, fixed=frozenset()):
    return find_stacks(trace(model, read_inputs(model, x)), fixed)


def depths(model, x=IMAGES):
    return [stack.depth for stack in stacks_of(model, x)]


class Between(nn.Module):
    """Two layers and any function between them."""

    def __init__(self, first, function, second):
        super().__init__()
        self.first, self.function, self.second = first, function, second

    def forward(self, x):
        return self.second(self.function(self.first(x)))


def conv(out=8, given=3):
    return nn.Conv2d(given, out, 3, padding=1)


def test_a_plain_network_of_convolutions_is_one_stack_to_its_last_linear_layer():
    model = nn.Sequential(
        conv(6), nn.ReLU(), nn.MaxPool2d(2),
        conv(8, 6), nn.ReLU(), nn.Dropout2d(0.25), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Dropout(0.5).eval(), nn.Linear(16, 10),
    )  # fmt: skip
    (stack,) = stacks_of(model)
    first, second, third = stack.hidden
    assert [(h.width, h.sites, h.copies) for h in stack.hidden] == [
        (6, (12, 12), 1),
        (8, (6, 6), 9),
        (16, (), 1),
    ]
    assert [h.activation.name for h in stack.hidden] == ["relu", "relu", "tanh"]
    assert [[p.kind for p in h.pools] for h in stack.hidden] == [["maximum"], ["average"], []]
    assert [h.early_pools for h in stack.hidden] == [(), (), ()]
    assert (second.dropout, second.active_dropout) == (0.25, 0.25)
    assert (third.dropout, third.active_dropout) == (0.5, 0.0)
    for before, hidden, after in zip(stack.affines, stack.hidden, stack.affines[1:], strict=False):
        assert after.in_size == hidden.width * hidden.copies
        assert before.out_space == hidden.space
    assert first.pools[0].out_sites == stack.affines[1].in_sites
    assert math.prod(second.pools[-1].out_sites) == second.copies


ORDERS = [
    (["max", "relu"], [], ["maximum"], (12, 12)),
    (["relu", "max"], [], ["maximum"], (12, 12)),
    (["avg", "relu"], ["average"], [], (6, 6)),
    (["relu", "avg"], [], ["average"], (12, 12)),
    (["avg", "max", "relu"], ["average"], ["maximum"], (6, 6)),
    (["max", "avg", "relu"], ["maximum", "average"], [], (3, 3)),
    (["max", "gelu"], ["maximum"], [], (6, 6)),
    (["max", "tanh", "avg"], [], ["maximum", "average"], (12, 12)),
    (["avg", "max"], [], ["average", "maximum"], (12, 12)),
]


@pytest.mark.parametrize(("order", "early", "late", "sites"), ORDERS)
def test_pools_before_an_activation_and_behind_it(order, early, late, sites):
    parts = {
        "max": nn.MaxPool2d(2), "avg": nn.AvgPool2d(2),
        "relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh(),
    }  # fmt: skip
    model = Between(conv(), nn.Sequential(*(parts[name] for name in order)), conv(5, 8))
    (hidden,) = stacks_of(model)[0].hidden
    assert [pool.kind for pool in hidden.early_pools] == early
    assert [pool.kind for pool in hidden.pools] == late
    assert hidden.sites == sites


def test_a_maximum_pool_told_behind_the_activation_gives_the_same_values():
    h = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    for f in (torch.relu, torch.tanh, torch.sigmoid):
        torch.testing.assert_close(f(F.max_pool2d(h, 3, 2, 1)), F.max_pool2d(f(h), 3, 2, 1))
    assert not torch.equal(F.gelu(F.max_pool2d(-h.abs(), 3)), F.max_pool2d(F.gelu(-h.abs()), 3))


INSIDE = [
    (lambda h: h.relu().mean((2, 3)), nn.Linear(8, 2), 1, [(12, 12)]),
    (lambda h: h.relu().flatten(2).mean(2), nn.Linear(8, 2), 1, [(12, 12)]),
    (lambda h: h.relu().amax((-2, -1), keepdim=True), nn.Conv2d(8, 2, 1), 1, [(12, 12)]),
    (lambda h: h.flatten(1).relu(), nn.Linear(1152, 2), 144, []),
    (lambda h: h.relu().view(4, -1), nn.Linear(1152, 2), 144, []),
    (lambda h: h.relu_().permute(0, 2, 3, 1), nn.Linear(8, 2), 1, []),
    (lambda h: h.relu().flatten(2).transpose(1, 2), nn.Linear(8, 2), 1, []),
]


@pytest.mark.parametrize(("function", "second", "copies", "windows"), INSIDE)
def test_what_stays_inside_a_stack(function, second, copies, windows):
    (stack,) = stacks_of(Between(conv(), function, second))
    (hidden,) = stack.hidden
    assert (hidden.width, hidden.copies, hidden.sites) == (8, copies, (12, 12))
    assert [pool.window for pool in hidden.pools] == windows
    assert all(pool.is_global for pool in hidden.pools)


def test_linear_layers_on_the_channels_of_maps():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(), nn.Linear(8, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            h = self.b(self.a(x).relu().movedim(1, -1)).tanh()
            return self.c(h.movedim(-1, 1))

    (stack,) = stacks_of(Mixer())
    assert [(h.width, h.sites) for h in stack.hidden] == [(8, (12, 12)), (6, (12, 12))]


OUTSIDE = [
    (nn.BatchNorm2d(8), conv(5, 8)),
    (lambda h: h.relu().mT, conv(5, 8)),
    (lambda h: h.relu().tanh() + F.pad(h, (1, 1))[..., 1:-1], conv(5, 8)),
    (nn.Upsample(scale_factor=2), conv(5, 8)),
    (nn.PixelShuffle(2), conv(5, 2)),
    (lambda h: h.relu(), nn.Linear(12, 2)),
    (lambda h: h.permute(0, 2, 3, 1).flatten(1), nn.Linear(1152, 2)),
    (lambda h: h.relu().flatten(2), nn.Conv1d(8, 5, 3)),
    (lambda h: h.relu().mean(3).tanh(), nn.Conv1d(8, 5, 3)),
    (lambda h: h.reshape(4, 2, -1), nn.Linear(576, 2)),
    (lambda h: h.relu(), nn.Conv2d(8, 8, 3, groups=2)),
    (lambda h: h.relu(), nn.ConvTranspose2d(8, 5, 3)),
]


@pytest.mark.parametrize(("function", "second"), OUTSIDE)
def test_what_ends_a_stack(function, second):
    assert depths(Between(conv(), function, second)) == [0, 0]


def test_a_linear_layer_cannot_be_flattened_or_pooled_into_the_next():
    tokens = torch.randn(4, 5, 3)
    assert depths(
        Between(nn.Linear(3, 8), lambda h: h.tanh().mean(1), nn.Linear(8, 2)), tokens
    ) == [0, 0]
    assert depths(
        Between(nn.Linear(3, 8), lambda h: h.tanh().mT.flatten(1), nn.Linear(40, 2)), tokens
    ) == [0, 0]
    assert depths(Between(nn.Linear(3, 8), lambda h: h.tanh(), nn.Linear(8, 2)), tokens) == [1]


def test_what_leaves_a_stack_is_told_before_it_is_pooled():
    model = nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    read = trace(model, read_inputs(model, IMAGES))
    (stack,) = find_stacks(read)
    assert stack.exit_activation.name == "relu"
    assert read.values[stack.exit_value].shape == (4, 8, 12, 12)
    early = nn.Sequential(conv(), nn.AvgPool2d(2), nn.ReLU())
    assert stacks_of(early)[0].exit_activation.name == "identity"


def test_weights_that_stand_alone():
    shared = conv(3)
    assert depths(nn.Sequential(conv(3), nn.ReLU(), shared, nn.ReLU(), shared)) == [0, 0, 0]
    model = nn.Sequential(conv(), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(2, 8))
    assert [s.depth for s in stacks_of(model, fixed=frozenset({"2.weight"}))] == [0, 0, 0]
    (stack,) = stacks_of(model, fixed=frozenset({"2.bias"}))
    assert stack.keeps_bias
    assert stack.can_shift == (True, False, True)


def test_a_value_that_only_an_assert_or_a_log_reads_does_not_end_a_stack():
    class Logged(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv(2, 8)

        def forward(self, x):
            h = self.a(x).relu()
            h.abs().mean()
            return self.b(h.to(torch.float32, memory_format=torch.channels_last))

    assert depths(Logged()) == [1]
