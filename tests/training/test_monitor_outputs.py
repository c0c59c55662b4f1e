"""Layers that make outputs are found by what the forward pass does, and judged as outputs."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from monitored import Vectors, dense

import equipoise.torch as eq
from equipoise.training.monitor_forward import ForwardWatch
from equipoise.training.monitor_gathered import Gathered

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """Layers a to f of one width, joined by a function."""

    def __init__(self, join, width=16):
        super().__init__()
        for name in "abcdef":
            setattr(self, name, nn.Linear(width, width))
        self.cell = nn.GRU(width, width, batch_first=True)
        self.join = join

    def forward(self, x):
        return self.join(self, x)


def two_heads(m, x):
    z = torch.relu(m.a(x))
    return torch.cat([m.b(z), m.c(z)], 1)


def an_early_head(m, x):
    z = torch.tanh(m.a(x))
    early = m.b(z)
    return {"early": early, "late": m.d(torch.tanh(m.c(z)))}


def a_stream(m, x):
    """The last sum is the output: of what it adds, only what was added last is no part of another
    layer's input."""
    z = m.a(x)
    z = z + m.c(torch.relu(m.b(z)))
    return z + m.e(torch.relu(m.d(z)))


def unknown_functions(m, x):
    z = torch.sin(10.0 * m.a(x)).cumsum(1) * m.b(x).exp().clamp(max=3.0)
    return m.c(torch.stack([z, z.flip(0)]).amax(0)).logsumexp(1)


def used_first_and_last(m, x):
    return m.a(torch.relu(m.b(torch.relu(m.a(x)))))


def unrolled(m, x):
    state = m.a(x)
    for _ in range(3):
        state = torch.tanh(m.b(state))
    return state


def unrolled_with_a_head(m, x):
    return m.c(unrolled(m, x))


def the_last_state_alone(m, x):
    return m.a(m.cell(x[:, None].expand(-1, 5, -1))[1][0])


def detached(m, x):
    """What is guessed first answers to its target; the rest starts from it and sends none back."""
    guess = m.a(x)
    return guess, m.c(torch.relu(m.b(guess.detach())))


def checkpointed(m, x):
    return m.c(checkpoint(lambda z: torch.relu(m.b(m.a(z))), x, use_reentrant=False))


def run_again(m, x):
    """Inside, nothing of the graph is there: the order says that the last one is an output."""
    z = x.clone().requires_grad_()
    return m.d(z), checkpoint(lambda z: m.c(torch.relu(m.a(z))), z, use_reentrant=True)


def in_place(m, x):
    z = m.b(m.a(x).relu_().mul_(2.0))
    z[:, :4] = m.c(x)[:, :4]
    return m.d(z.tanh_())


@pytest.mark.parametrize(
    ("join", "ends"),
    [
        (two_heads, "bc"), (an_early_head, "bd"), (a_stream, "e"), (unknown_functions, "c"),
        (used_first_and_last, ""), (unrolled, "b"), (unrolled_with_a_head, "c"),
        (the_last_state_alone, "a"), (detached, "ac"), (checkpointed, "c"), (run_again, "dc"),
        (in_place, "d"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_who_makes_outputs(join, ends):
    found = seen(Model(join))
    assert found == set(ends)


def seen(model, passes=lambda model: model(X)):
    gathered = Gathered()
    watch = ForwardWatch({id(p): name for name, p in model.named_parameters()}, gathered)
    for _ in range(2):
        watch.begin()
        with watch:
            passes(model)
        watch.end([])
    return gathered.takers.outputs([site.layer for site in gathered.sites])


def test_a_layer_whose_output_is_a_weight_is_hidden():
    assert seen(Model(lambda m, x: m.d(F.linear(m.a(x), m.b(m.c.weight))))) == {"d"}


def test_parts_that_are_called_one_by_one():
    """Each call is a pass of its own; the head takes in what an earlier pass made."""
    body, head, other = dense(), nn.Linear(4, 2), nn.Linear(4, 3)
    both = nn.ModuleDict({"body": body, "head": head, "other": other})
    m = eq.Monitor(both, torch.optim.SGD(both.parameters(), 0.01), every=1)
    readings = []
    m._judge.judge = lambda one: readings.append(one) or []
    for _ in range(3):
        z = body(torch.cat([X, X.flip(0)]))
        (head(z).square().mean() + other(z).square().mean()).backward()
        m.optimizers[0].step()
        m.step()
        m.optimizers[0].zero_grad()
    m.close()
    assert [r.outputs for r in readings] == 3 * [{"head", "other"}]
    # Nothing of a graph outlives its step.
    assert not m._steps._gathered.takers._nodes


class Heads(nn.Module):
    """A trunk with a policy and a value that is made first."""

    def __init__(self):
        super().__init__()
        self.trunk = dense(nn.Mish, 2, 48, 48)
        self.value, self.policy = nn.Linear(48, 1), nn.Linear(48, 4)

    def forward(self, x):
        z = self.trunk(x)
        return self.value(z), self.policy(z)


def trained(model, steps, loss, change=None, rate=1e-5):
    torch.manual_seed(0)
    data, model = Vectors(0), model()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    monitor = eq.Monitor(model, optimizer, every=1)
    for step in range(1, steps + 1):
        x, y = data()
        if change is not None:
            change(step, model)
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        monitor.step(value)
    monitor.close()
    return monitor


def both(out, y):
    value, logits = out
    return F.cross_entropy(logits, y) + F.mse_loss(value[:, 0], y.float())


def grows(*names):
    def change(step, model):
        if 12 < step <= 40:
            for name in names:
                model.get_submodule(name).bias.data += 3.0

    return change


def test_the_signal_of_an_output_may_drift():
    m = trained(Heads, 60, both, grows("value"))
    signal = m.history["signal"][:, m.layers.index("value")]
    assert signal[-1] > 30 * signal[:5].max()
    assert "signal-drift" not in {f.code for f in m.findings}


def test_the_signal_of_a_layer_in_front_of_outputs_may_not():
    m = trained(Heads, 60, both, grows("trunk.4"))
    assert ("signal-drift", "trunk.4") in {(f.code, f.where) for f in m.findings}


def test_how_loud_an_output_is_is_no_part_of_the_trip():
    def loud(name):
        def made():
            model = Heads()
            model.get_submodule(name).weight.data *= 1e5
            return model

        return made

    def quiet(out, y):
        return 1e-12 * both(out, y)

    assert not {f.code for f in trained(loud("value"), 5, quiet).findings} & {"exploding-signal"}
    found = trained(loud("trunk.4"), 5, quiet).findings
    assert ("exploding-signal", "trunk.4") in {(f.code, f.where) for f in found}


def test_an_output_that_is_flat_is_told_and_not_accused():
    class Sure(Heads):
        def forward(self, x):
            value, logits = super().forward(x)
            return torch.sigmoid(value), logits

    def loss(out, y):
        value, logits = out
        return F.cross_entropy(logits, y) + F.binary_cross_entropy(value[:, 0], (y > 1).float())

    def change(step, model):
        if step == 3:
            model.value.bias.data += 20.0

    found = [f for f in trained(Sure, 10, loss, change).findings if f.code == "saturation"]
    assert [(f.where, f.severity) for f in found] == [("value", "info")]
    assert "binary_cross_entropy_with_logits" in found[0].remedy


def test_several_new_heads_may_have_the_draw_of_torch():
    def model():
        made = Heads()
        made.value, made.policy = nn.Linear(48, 40), nn.Linear(48, 30)
        for i in (0, 2, 4):
            nn.init.orthogonal_(made.trunk[i].weight)
        return made

    def loss(out, y):
        return sum(part.square().mean() for part in out)

    assert not trained(model, 3, loss).findings

    def forgotten():
        made = model()
        made.trunk[2].reset_parameters()
        return made

    assert [(f.code, f.where) for f in trained(forgotten, 3, loss).findings] == [
        ("default-init", "trunk.2.weight")
    ]


def test_without_a_graph_the_last_layer_is_the_output():
    model = dense(depth=2)
    for i in (0, 2):
        model[i].requires_grad_(False)
    assert seen(model) == {"4"}
    model[4].requires_grad_(False)
    assert seen(model) == {"4"}


def test_one_that_is_taken_in_later_on_is_hidden_from_then_on():
    """A network that grows: what made the output feeds the next layer."""
    is_grown = False

    def join(m, x):
        return m.b(torch.relu(m.a(x))) if is_grown else m.a(x)

    model, gathered = Model(join), Gathered()
    watch = ForwardWatch({id(p): name for name, p in model.named_parameters()}, gathered)
    found = []
    for _ in range(2):
        watch.begin()
        with watch:
            model(X)
        watch.end([])
        found.append(gathered.takers.outputs([site.layer for site in gathered.sites]))
        gathered.clear()
        is_grown = True
    assert found == [{"a"}, {"b"}]
