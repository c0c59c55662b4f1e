"""Parameters inside activations, one for all units or one for each."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.torch import initialize, plan

INPUTS = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))


class Swish(nn.Module):
    def __init__(self, shape, beta=1.5):
        super().__init__()
        self.beta = nn.Parameter(torch.full(shape, beta))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class SoftSwish(Swish):
    def forward(self, x):
        return x * torch.sigmoid(F.softplus(self.beta) * x)


class Snake(Swish):
    def forward(self, x):
        return x + (1.0 / (self.beta + 1e-9)) * torch.sin(x * self.beta).pow(2)


def _net(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), activation(), nn.Linear(64, 64), activation(),
                         nn.Linear(64, 8))  # fmt: skip


def _prelu(count):
    return lambda: nn.PReLU(count, init=0.4)


class ChannelSnake(Snake):
    def forward(self, x):
        slope = self.beta.unsqueeze(0) if self.beta.dim() else self.beta
        return x + (1.0 / (slope + 1e-9)) * torch.sin(x * slope).pow(2)


@pytest.mark.parametrize("kind", [Swish, SoftSwish, Snake, ChannelSnake], ids=lambda k: k.__name__)
def test_a_slope_for_each_unit_is_read_as_one_while_all_are_the_same(kind):
    one, each = _net(lambda: kind(())), _net(lambda: kind((64,)))
    first, second = plan(one, INPUTS), plan(each, INPUTS)
    assert {a.parameter: a.law for a in first.assignments} == {
        a.parameter: a.law for a in second.assignments
    }
    assert first.predictions == second.predictions
    assert all("read as it stands" in u.reason for u in second.untouched)
    report = initialize(each, INPUTS, generator=torch.Generator().manual_seed(0))
    for expected, found in zip(report.plan.predictions, report.measurements.layers, strict=True):
        spread = 4 * math.hypot(expected.log_std, 0.05)
        assert abs(math.log(found.signal / expected.signal)) < spread


def test_prelu_with_a_slope_for_each_channel():
    one, each = _net(_prelu(1)), _net(_prelu(64))
    assert plan(one, INPUTS).predictions == plan(each, INPUTS).predictions
    report = initialize(each, INPUTS)
    assert torch.equal(each[1].weight.detach(), torch.full((64,), 0.4))
    assert "leaky_relu(negative_slope=0.4)" in report.plan.untouched[0].reason
    maps = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 4, 3))
    assert all(math.isfinite(p.signal) for p in plan(maps, torch.randn(8, 3, 8, 8)).predictions)


@pytest.mark.parametrize("activation", [_prelu(64), lambda: Swish((64,))])
def test_slopes_that_differ_are_refused_with_the_reason(activation):
    model = _net(activation)
    slopes = next(model[1].parameters())
    slopes.data[3] = 2.0
    made = plan(model, INPUTS)
    name = "1.weight" if isinstance(model[1], nn.PReLU) else "1.beta"
    (reason,) = [u.reason for u in made.untouched if u.parameter == name]
    assert "its slopes differ from unit to unit" in reason
    # What comes of it is measured; on shapes alone it is not known.
    assert made.predictions[-1].signal == pytest.approx(1.0, rel=0.05)
    blind = plan(model.to("meta"), INPUTS.to("meta"))
    assert math.isnan(blind.predictions[-1].signal)


def test_gains_stay_gains():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch = nn.Linear(16, 32), nn.Linear(32, 32)
            self.gain = nn.Parameter(torch.full((32,), 0.01))
            self.log_scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            x = self.first(x)
            return (x + self.gain * torch.tanh(self.branch(x))) * self.log_scale.exp()

    reasons = {u.parameter: u.reason for u in plan(Scaled(), INPUTS).untouched}
    assert "a gain of the model's own" in reasons["gain"]
    assert "read as it stands" in reasons["log_scale"]


def test_numbers_that_no_activation_reads_name_their_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.log = nn.Linear(16, 4), nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return torch.stack([self.layer(x), self.log.exp().expand(len(x), 4)])

    (untouched,) = plan(Odd(), INPUTS).untouched
    assert untouched.parameter == "log"
    assert "a function of the parameter is used as a value" in untouched.reason
