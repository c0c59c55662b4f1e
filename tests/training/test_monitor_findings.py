"""Each trouble is named, at its layer, within ten steps; and nothing is said before."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from monitored import Attention, Recurrent, Tokens, Vectors, dense, train

import equipoise.torch as eq

AT = 40


def said(monitor):
    return [(f.code, f.where) for f in monitor.findings]


def first(monitor, code):
    return next(f for f in monitor.findings if f.code == code)


def step_of(finding):
    words = finding.what.replace(":", " ").split()
    return next(int(words[i + 1]) for i, w in enumerate(words) if w == "step")


def run(model, before, steps=AT + 10, make=None, data=None, seed=0, **options):
    torch.manual_seed(seed)
    model = model()
    return train(model, data or Vectors(seed), steps, make, before=before, **options)


@pytest.mark.parametrize("layer", ["0", "4", "8"])
def test_nan_in_a_forward_pass(layer):
    def before(step, model, optimizer, x, y):
        if step == AT:
            module = model.get_submodule(layer)
            handle = module.register_forward_hook(lambda m, a, out: out * math.nan)
            optimizer.register_step_post_hook(lambda *_: handle.remove())

    m = run(dense, before)
    assert said(m)[0] == ("non-finite-forward", layer)
    assert step_of(m.findings[0]) == AT
    assert {f.code for f in m.findings} == {"non-finite-forward"}


def test_nan_in_a_forward_pass_that_nobody_watched():
    def before(step, model, optimizer, x, y):
        if step == 14:
            model.get_submodule("4").register_forward_hook(lambda m, a, out: out / 0.0 * 0.0)

    m = run(dense, before, 15, every=10)
    assert said(m) == [("non-finite-forward", "4")]


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(16, 32), nn.Linear(32, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.body = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

    def forward(self, x):
        x = self.enter(x)
        for norm, layer in zip(self.norms, self.body, strict=True):
            x = x + layer(norm(x))
        return self.head(x)


@pytest.mark.parametrize("layer", ["body.0", "body.1"])
def test_what_was_added_last_is_to_blame_for_a_sum(layer):
    def before(step, model, optimizer, x, y):
        if step == 3:
            model.get_submodule(layer).register_forward_hook(lambda m, a, out: out * math.nan)

    assert said(run(Skips, before, 3))[0] == ("non-finite-forward", layer)


class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * math.nan


@pytest.mark.parametrize("layer", ["0", "4", "8"])
def test_nan_in_a_backward_pass(layer):
    def before(step, model, optimizer, x, y):
        if step == AT:
            module = model.get_submodule(layer)
            module.register_forward_hook(lambda m, a, out: Bad.apply(out))

    m = run(dense, before, AT)
    assert said(m) == [("non-finite-backward", layer)]


def test_nan_in_the_batch_the_loss_and_a_weight():
    def batch(step, model, optimizer, x, y):
        if step == AT:
            x[3, 2] = math.inf

    assert said(run(dense, batch, AT)) == [("non-finite-given", "inputs")]

    def weight(step, model, optimizer, x, y):
        if step == AT:
            model[4].weight.data[0, 0] = math.nan

    assert said(run(dense, weight, AT)) == [("non-finite-given", "4.weight")]
    torch.manual_seed(0)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    m = eq.Monitor(model, optimizer, every=1)
    loss = model(torch.randn(8, 16)).sum() * math.inf
    loss.backward()
    optimizer.step()
    (found,) = m.step(loss)
    assert (found.code, found.where) == ("non-finite-loss", "loss")
    m.close()


def test_a_rate_that_explodes():
    def before(step, model, optimizer, x, y):
        if step == AT:
            optimizer.param_groups[0]["lr"] *= 300

    m = run(dense, before)
    assert m.findings[0].code == "update-spike"
    assert "the learning rate rose 300 times" in m.findings[0].what
    assert step_of(m.findings[0]) == AT


def test_a_rate_that_is_too_high_from_the_start():
    m = run(dense, None, 10, lambda p: torch.optim.SGD(p, 300.0))
    assert "large-updates" in {f.code for f in m.findings} or "non-finite" in str(m.findings)
    m = run(dense, None, 10, lambda p: torch.optim.Adam(p, 0.5))
    assert first(m, "large-updates").severity == "error"


@pytest.mark.parametrize("layer", ["2", "6"])
def test_a_gradient_spike(layer):
    def before(step, model, optimizer, x, y):
        if step == AT:
            weight = model.get_submodule(layer).weight
            handle = weight.register_hook(lambda g: 1000 * g)
            optimizer.register_step_post_hook(lambda *_: handle.remove())

    m = run(dense, before)
    assert said(m)[0] == ("gradient-spike", layer)
    assert step_of(m.findings[0]) == AT


def test_a_bad_batch():
    def inputs(step, model, optimizer, x, y):
        return (30 * x, y) if step == AT else None

    assert said(run(dense, inputs))[0] == ("bad-batch", "inputs")

    def targets(step, model, optimizer, x, y):
        return (x, (y + 1) % 4) if step == 150 else None

    m = run(dense, targets, 158, lambda p: torch.optim.Adam(p, 3e-3))
    assert ("bad-batch", "inputs") in said(m)


@pytest.mark.parametrize("layer", ["2", "4"])
def test_units_that_die(layer):
    def before(step, model, optimizer, x, y):
        if step == AT:
            model.get_submodule(layer).bias.data -= 100.0

    m = run(dense, before)
    assert said(m)[0] == ("dead-units", layer)
    assert step_of(m.findings[0]) <= AT + 10
    assert "earlier checkpoint" in m.findings[0].remedy


def test_units_that_were_dead_before_the_first_step_have_another_remedy():
    def silent():
        model = dense()
        model[4].bias.data -= 100.0
        return model

    m = run(silent, None, 10)
    assert said(m)[0] == ("dead-units", "4")
    assert "initialize" in first(m, "dead-units").remedy
    assert "checkpoint" not in first(m, "dead-units").remedy


def test_half_of_the_units_die():
    def before(step, model, optimizer, x, y):
        if step == AT:
            model[2].bias.data[:40] -= 100.0

    m = run(dense, before)
    assert ("dying-units", "2") in said(m)


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.Tanh])
def test_units_that_saturate(act):
    def before(step, model, optimizer, x, y):
        if step == AT:
            model[2].weight.data *= 100.0

    m = run(lambda: dense(act), before)
    assert ("saturation", "2") in said(m)
    assert step_of(first(m, "saturation")) <= AT + 10


def test_gradients_that_vanish_and_signals_that_explode():
    m = run(lambda: dense(nn.Sigmoid, 12), None, 10)
    assert "vanishing-gradient" in {f.code for f in m.findings}

    def loud():
        model = dense(nn.ReLU, 10)
        for p in model[2:].parameters():
            p.data *= 6.0
        return model

    m = run(loud, None, 10, lambda p: torch.optim.SGD(p, 1e-12))
    assert {"exploding-signal", "exploding-gradient"} <= {f.code for f in m.findings}


def test_units_and_layers_that_are_the_same():
    def same():
        model = dense(nn.Tanh)
        nn.init.constant_(model[4].weight, 0.1)
        nn.init.constant_(model[4].bias, 0.0)
        nn.init.constant_(model[6].weight, 0.1)
        return model

    m = run(same, None, 5)
    assert ("symmetric-units", "4") in said(m)

    def copies():
        model = dense()
        model[4].load_state_dict(model[2].state_dict())
        return model

    m = run(copies, None, 5)
    assert said(m) == [("identical-layers", "4.weight")]
    assert "2.weight" in m.findings[0].observed


def test_what_is_frozen_by_mistake():
    m = run(dense, None, 10, lambda p: torch.optim.Adam(list(p)[:-2], 1e-3))
    assert said(m) == [("not-in-optimizer", "8.weight")]

    def half():
        model = dense()
        model[4].requires_grad_(False)
        return model

    assert ("frozen-parameter", "4.weight") in said(run(half, None, 10))

    def before(step, model, optimizer, x, y):
        if step == AT:
            model[6].weight.requires_grad_(False)

    m = run(dense, before)
    assert ("frozen-parameter", "6.weight") in said(m)
    assert step_of(first(m, "frozen-parameter")) <= AT + 10

    def groups(p):
        p = list(p)
        return torch.optim.SGD([{"params": p[:2], "lr": 0.0}, {"params": p[2:]}], 0.01)

    m = run(dense, None, 10, groups)
    assert said(m) == [("frozen-parameter", "0.weight")]
    assert "0.bias" in m.findings[0].observed


def test_an_initialization_that_was_swallowed():
    def after_all(step, model, optimizer, x, y):
        if step == 1:
            model[2].reset_parameters()

    assert ("swallowed-init", "2.weight") in said(run(dense, after_all, 3))
    torch.manual_seed(0)
    model = dense()
    nn.init.orthogonal_(model[4].weight)
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    model[4].reset_parameters()
    m = train(model, Vectors(0), 3, initialized=drawn)
    assert said(m)[0] == ("swallowed-init", "4.weight")
    m = train(dense(), Vectors(0), 3)
    assert not m.findings


def test_one_layer_that_kept_the_draw_of_torch():
    def mixed():
        model = dense()
        for i in (0, 2, 6):
            nn.init.kaiming_normal_(model[i].weight)
        return model

    m = run(mixed, None, 3)
    assert said(m) == [("default-init", "4.weight")]
    assert m.findings[0].severity == "info"


def test_half_precision():
    def before(step, model, optimizer, x, y):
        if step == 5:
            model[4].weight.data *= 1e5

    torch.manual_seed(0)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    m = eq.Monitor(model, optimizer, every=1)
    data = Vectors(0)
    for step in range(1, 7):
        x, y = data()
        before(step, model, optimizer, x, y)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            out = model(x)
        nn.functional.cross_entropy(out.float(), y).backward()
        optimizer.step()
        m.step()
    m.close()
    assert said(m)[0] == ("half-overflow", "4")
    assert step_of(m.findings[0]) == 5


def test_the_gradient_of_a_weight_in_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    m = eq.Monitor(model, optimizer, every=1)
    model[0].bias.data += 1000.0
    with torch.autocast("cpu", torch.float16):
        out = model(torch.randn(64, 4))
    # Each output has a gradient of 10, and the weight one of 10 * 64 * 1000 > 65504.
    (10.0 * out.float()).sum().backward()
    assert model[1].weight.grad.isinf().all()
    assert not model[1].weight.grad.isnan().any()
    optimizer.step()
    found = m.step()[0]
    assert (found.code, found.where) == ("half-overflow", "1")
    m.close()


def test_attention_that_collapses():
    def before(step, model, optimizer, x, y):
        if step == AT:
            model.blocks[1]["qkv"].weight.data[:64] *= 60.0

    m = run(Attention, before, data=Tokens(0))
    assert ("attention-collapse", "blocks.1") in said(m)


def test_signals_and_weights_that_drift():
    def before(step, model, optimizer, x, y):
        if step > 12:
            model[2].weight.data *= 1.3

    m = run(dense, before, 40, lambda p: torch.optim.SGD(p, 1e-5))
    assert {("signal-drift", "2"), ("weight-drift", "2")} <= set(said(m))
    assert "nats a reading" in first(m, "weight-drift").observed


def test_steps_that_overshoot():
    """Gradient descent on a quadratic with sharpness s: the slope is multiplied by 1 - rate s."""

    def descend(rate):
        model = nn.Linear(4, 1, bias=False)
        model.weight.data.fill_(1.0)
        optimizer = torch.optim.SGD(model.parameters(), rate)
        m = eq.Monitor(model, optimizer, every=1)
        x = 2.0 * torch.eye(4)  # of sum (2 w)^2 / 2 the Hessian is 4
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(x).square().sum() / 2
            loss.backward()
            optimizer.step()
            m.step(loss)
        m.close()
        return m

    found = first(descend(0.49), "edge-of-stability")
    # 1 - 0.49 * 4 = -0.96
    assert found.observed.startswith("96%")
    assert "edge-of-stability" not in {f.code for f in descend(0.2).findings}


def test_a_loss_that_stays_high():
    def before(step, model, optimizer, x, y):
        return (x, 30.0 * x[:, :4] if step >= AT else x[:, :4])

    m = run(dense, before, AT + 8, lambda p: torch.optim.SGD(p, 1e-5))
    assert "loss-spike" in {f.code for f in m.findings}
    assert "bad-batch" not in {f.code for f in m.findings}


def test_a_recurrent_network_is_named_as_well():
    def before(step, model, optimizer, x, y):
        if step == 5:
            model.cell.weight_hh_l0.data[0] = math.inf

    from monitored import Sums

    m = run(Recurrent, before, 6, data=Sums(0))
    assert said(m) == [("non-finite-given", "cell.weight_hh_l0")]


def test_a_nan_between_two_looks_on_a_device(monkeypatch):
    """Where the host reads nothing, gradients alone tell."""
    monkeypatch.setattr("equipoise.training.monitor_steps.can_read", lambda tensor: False)

    def forward(step, model, optimizer, x, y):
        if step == 14:
            model[4].register_forward_hook(lambda m, a, out: out * math.nan)

    def back(step, model, optimizer, x, y):
        if step == 14:
            model[4].register_forward_hook(lambda m, a, out: Bad.apply(out))

    (found,) = run(dense, forward, 15, every=10).findings
    assert (found.code, found.severity) == ("non-finite-gradient", "error")
    assert "every=1" in found.what
    (found,) = run(dense, back, 15, every=10).findings
    assert (found.code, found.where) == ("non-finite-gradient", "4")
    assert "6 of 10 gradients" in found.what


def test_a_loss_and_a_batch_between_two_looks():
    def batch(step, model, optimizer, x, y):
        if step == 14:
            x[0] = math.nan

    assert said(run(dense, batch, 15, every=10)) == [("non-finite-given", "inputs")]
    torch.manual_seed(0)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    m = eq.Monitor(model, optimizer, every=10)
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 16)).square().mean()
        (loss * (math.inf if step == 2 else 1.0)).backward()
        optimizer.step()
        m.step()
    # The loss was not handed in, and every layer is finite.
    (found,) = m.findings
    assert (found.code, found.where) == ("non-finite-gradient", "8")
    m.close()


def test_numbers_near_the_end_of_half_precision():
    torch.manual_seed(0)
    model = dense()
    model[2].weight.data *= 4e4
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    m = eq.Monitor(model, optimizer, every=1)
    with torch.autocast("cpu", torch.float16):
        out = model(torch.randn(8, 16))
    assert out.isfinite().all()
    out.float().sum().backward()
    optimizer.step()
    (found,) = [f for f in m.step() if f.code == "half-overflow"]
    assert (found.where, found.severity) == ("2", "warning")
    m.close()
