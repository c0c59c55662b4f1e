"""The first step as a line, and the advice that joins all methods."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.first_step import follows_gradient, step_line
from equipoise.training.objective import Objective


def quadratic(curvatures, start):
    layer = nn.Linear(len(curvatures), 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([start]))
    roots = torch.diag(torch.tensor(curvatures, dtype=torch.float64).sqrt())
    return Objective(layer, lambda out: 0.5 * out.square().sum()), roots


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_the_line_of_a_quadratic_is_a_parabola(kind):
    c, w = torch.tensor([4.0, 1.0, 0.5]).double(), torch.tensor([1.0, -2.0, 3.0]).double()
    objective, x = quadratic(c.tolist(), w.tolist())
    parameters = objective.model.parameters()
    make = torch.optim.Adam if kind == "adam" else torch.optim.SGD
    gradient = c * w
    step = gradient.sign() if kind == "adam" else gradient
    line = step_line(objective, make(parameters, 1e-3), x)
    slope = float(gradient @ step)
    lowest = slope / float(step @ (c * step))
    assert line.loss == pytest.approx(0.5 * float(w @ (c * w)))
    assert line.slope == pytest.approx(-slope, rel=1e-6)
    # Within the grid of factors of 2 about the lowest point and its parabola in the logarithm.
    assert line.lowest_at == pytest.approx(lowest, rel=0.3)
    assert line.returns_at == pytest.approx(2 * lowest, rel=0.45)
    outputs = x @ w
    expected = float((x @ step).norm() / outputs.norm())
    assert line.output_change == pytest.approx(expected, rel=1e-6)
    assert not line.has_settled
    assert line.passes <= 25


def test_a_line_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    adam = torch.optim.Adam(model.parameters())
    before = {n: v.clone() for n, v in model.state_dict().items()}
    state = torch.get_rng_state()
    batch = (torch.ones(6, 4), torch.zeros(6, 2))
    lines = [step_line(Objective(model, F.mse_loss), adam, batch) for _ in range(2)]
    assert lines[0] == lines[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert not adam.state


def test_a_head_of_zeros_is_moved_a_little_first():
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    lowest = {}
    for is_zero in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(*[nn.Linear(8, 8), nn.Tanh()] * 1, nn.Linear(8, 4))
        if is_zero:
            nn.init.zeros_(model[-1].weight)
            nn.init.zeros_(model[-1].bias)
        line = step_line(
            Objective(model, F.cross_entropy), torch.optim.Adam(model.parameters()), (x, y)
        )
        assert line.has_settled == is_zero
        lowest[is_zero] = line.lowest_at
    assert math.isfinite(lowest[True])


def test_a_step_that_goes_up_has_no_lowest_point():
    objective, x = quadratic([1.0, 2.0], [1.0, 1.0])
    uphill = torch.optim.SGD(objective.model.parameters(), 1e-3, maximize=True)
    line = step_line(objective, uphill, x)
    assert math.isnan(line.lowest_at)
    assert math.isinf(line.returns_at)
    assert line.slope > 0


def test_an_output_of_zero_has_no_relative_change():
    objective, x = quadratic([1.0], [0.0])
    line = step_line(objective, torch.optim.SGD(objective.model.parameters(), 1e-3), x)
    assert math.isnan(line.output_change)


def test_which_optimizers_follow_their_gradient():
    objective, x = quadratic([1.0, 2.0], [1.0, 1.0])
    weights = [objective.model.weight]
    follow = {
        torch.optim.SGD: True, torch.optim.Adam: False, torch.optim.AdamW: False,
        torch.optim.RMSprop: False, torch.optim.Adagrad: False, torch.optim.NAdam: False,
    }  # fmt: skip
    for make, expected in follow.items():
        assert follows_gradient(objective, make(weights, 1e-2), x) == expected
    used = torch.optim.SGD(weights, 1e-9, momentum=0.9)
    objective.of(x).backward()
    used.step()
    kept = used.state[weights[0]]["momentum_buffer"].clone()
    assert follows_gradient(objective, used, x)
    assert torch.equal(used.state[weights[0]]["momentum_buffer"], kept)


def task():
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return list(zip(x.split(32), y.split(32), strict=True))


def network(depth=3):
    torch.manual_seed(1)
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(16, 16), nn.Tanh())]
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), *layers, nn.Linear(16, 2))
    eq.initialize(model, task()[0][0], generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_advice_joins_three_methods(make):
    model = network()
    found = eq.advise(model, make(model.parameters(), 1e-3), task(), F.cross_entropy)
    assert [e.method for e in found.estimates] == ["first step", "range test", "sharpness"]
    logs = [math.log(e.rate) for e in found.estimates]
    weights = [e.spread**-2 for e in found.estimates]
    mean = sum(x * w for x, w in zip(logs, weights, strict=True)) / sum(weights)
    assert found.rate == pytest.approx(math.exp(mean))
    assert found.rate <= found.at_most
    agree = max(e.rate for e in found.estimates) <= 3 * min(e.rate for e in found.estimates)
    expected = "high" if agree and make is torch.optim.Adam else "fair"
    assert found.confidence == expected
    assert found.network == "Sequential of 4 layers"
    assert "takes a learning rate of at most" in str(found)
    assert "Clip gradients" in str(found)
    assert json.loads(found.to_json())["rate"] == found.rate
    # No ordinary gradient is cut.
    norms = []
    for x, y in task():
        g = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        norms.append(float(torch.cat([t.reshape(-1) for t in g]).norm()))
    assert max(norms) < found.clip_norm < 10 * max(norms)


def test_deeper_networks_take_less():
    found = {}
    for depth in (2, 30):
        model = network(depth)
        adam = torch.optim.Adam(model.parameters())
        found[depth] = eq.advise(model, adam, task(), F.cross_entropy, methods=["first step"])
    assert found[30].at_most < found[2].at_most
    assert all(f.confidence == "low" for f in found.values())


def test_a_rate_out_of_the_window_is_warned_of():
    model, ask = network(), ["first step"]
    for rate, words in ((10.0, "times what this network takes"), (1e-7, "below what this network")):
        adam = torch.optim.Adam(model.parameters(), rate)
        found = eq.advise(model, adam, task(), F.cross_entropy, methods=ask)
        assert words in found.warning
        assert words in str(found)
    good = torch.optim.Adam(model.parameters(), found.rate)
    assert eq.advise(model, good, task(), F.cross_entropy, methods=ask).warning == ""


def test_what_no_method_can_tell_is_said():
    model = network()
    lion = torch.optim.Adagrad(model.parameters(), 1e-3)
    found = eq.advise(model, lion, task()[:1], F.cross_entropy, methods=["sharpness"])
    assert found.confidence == "none"
    assert found.rate == 1e-3
    assert "edge of stability is not known" in found.estimates[0].ground
    flat = eq.advise(
        model, lion, task()[:1], lambda z, y: 0 * z.sum() + 1, methods=["range test", "first step"]
    )
    assert all(math.isnan(e.rate) for e in flat.estimates)
    assert flat.confidence == "none"


def test_what_is_refused():
    model = network()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ArgumentError, match="methods must be one of first step, range test"):
        eq.advise(model, adam, task(), F.cross_entropy, methods=["guess"])
    with pytest.raises(ArgumentError, match="methods must name at least one"):
        eq.advise(model, adam, task(), F.cross_entropy, methods=[])
