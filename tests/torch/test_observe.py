"""Values of a trace, run piece by piece, against hooks on a real forward."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.plan.behind import Behind, Draws
from equipoise.plan.make import make_plan
from equipoise.plan.nodes import Affine
from equipoise.schemes.laws import Constant, Normal
from equipoise.torch.inputs import read_inputs
from equipoise.torch.observe import Runner
from equipoise.torch.stateless import Copies, own_randomness
from equipoise.torch.trace import read
from equipoise.training.affine_watch import Watch


def runner(model, x):
    inputs = read_inputs(model, x)
    found = read(model, inputs)
    return Runner(model, found.program, found.places, inputs, found.trace), found.trace


def draws(trace, laws, kept=None):
    names = {p.name for p in trace.parameters}
    laws = {name: (law, "why") for name, law in laws.items()}
    return Draws(trace, names - laws.keys() if kept is None else kept, (laws,), {}, {})


class Functional(nn.Module):
    """Everything written out, with writes in place, regions and a transposed weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(12))
        self.c = nn.Linear(12, 12)
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, x):
        h = x @ self.a + self.b
        h = h.relu_()
        with torch.no_grad():
            h = self.c(h) * self.scale
        h.add_(1.0)
        return self.c(h)


class Casting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = self.a(x)
        return self.b(h.float())


class Branching(nn.Module):
    """Export refuses it: one real forward is recorded."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x):
        h = self.a(x)
        return self.b(h * 2 if h.mean().item() < 1e9 else h)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Embedding(20, 16), layer, nn.Linear(16, 20))


ROWS = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)) * 2
CASES = {
    "functional": (Functional, ROWS),
    "casting": (Casting, ROWS),
    "branching": (Branching, ROWS),
    "convolutional": (convolutional, torch.randn(16, 2, 8, 8)),
    "transformer": (transformer, torch.arange(60).reshape(6, 10) % 20),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layer_makes_what_it_makes_in_a_real_forward(case):
    make, x = CASES[case]
    torch.manual_seed(0)
    model = make()
    run, trace = runner(model, x)
    copies = Copies(model, {}, with_gradient=True)
    watch = Watch({id(copy): name for name, copy in copies.by_name.items()})
    with own_randomness(model), watch:
        copies.call(model, (x,), {})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected: dict[str, list[float]] = {}
    for seen in watch.seen:
        expected.setdefault(seen.weight, []).append(
            float(seen.output.detach().double().square().mean())
        )
    found: dict[str, list[float]] = {}
    for node in trace.nodes:
        if isinstance(node, Affine):
            seen = run.look(node.output, draws(trace, {}), False)
            found.setdefault(node.weight, []).append(seen.mean_square)
    # Inside a fused attention hooks see nothing; what comes behind it depends on it all the same.
    assert found.keys() >= expected.keys()
    for weight in expected:
        values = found[weight]
        # A bias that stands apart from its weight belongs to the layer, which the watch cannot see.
        if (case, weight) != ("functional", "a"):
            np.testing.assert_allclose(values, expected[weight], rtol=1e-5, err_msg=weight)
    if case == "functional":
        whole = float((x @ model.a + model.b).detach().double().square().mean())
        assert found["a"] == pytest.approx([whole], rel=1e-5)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_value_itself_is_given_where_it_is_asked_for():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    run, trace = runner(model, ROWS)
    last = trace.nodes[-1]
    laws = draws(trace, {}, {"0.weight", "0.bias"})
    seen = run.look(last.input, laws, True)
    np.testing.assert_allclose(seen.rows, model[:2](ROWS).detach().double(), rtol=1e-6)
    assert seen.mean_square == pytest.approx(np.square(seen.rows).mean(), rel=1e-6)
    assert run.look(last.input, laws, False).rows.size == 0
    assert run.look(999, laws, True) is None


def test_a_parameter_without_a_law_yet_stops_what_depends_on_it():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    run, trace = runner(model, ROWS)
    last = trace.nodes[-1]
    assert run.look(last.output, draws(trace, {}, {"0.weight", "0.bias"}), False) is None
    law = {"2.weight": Constant(0.5), "2.bias": Constant(0.25)}
    found = run.look(last.output, draws(trace, law), False)
    expected = (0.5 * model[:2](ROWS).sum(dim=1) + 0.25).detach().double().square().mean()
    assert found.mean_square == pytest.approx(float(expected), rel=1e-5)


def test_a_write_waits_for_the_reads_before_it():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = self.a(x)
            g = self.b(h)
            h = h.mul_(100.0)
            return self.c(h) + g

    model = Writing()
    run, trace = runner(model, ROWS)
    layers = {n.weight: n for n in trace.nodes if isinstance(n, Affine)}
    kept = {p.name for p in trace.parameters} - {"b.weight"}
    # b has no law yet: what stands behind the write is not reached, lest b read what was written.
    assert run.look(layers["c.weight"].input, draws(trace, {}, kept), False) is None
    found = run.look(layers["b.weight"].output, draws(trace, {"b.weight": Normal(0.0)}), False)
    assert found.mean_square == pytest.approx(float(model.b.bias.detach().square().mean()))
    behind = run.look(layers["c.weight"].input, draws(trace, {}), False)
    expected = (100 * model.a(ROWS)).detach().double().square().mean()
    assert behind.mean_square == pytest.approx(float(expected), rel=1e-5)


def test_shares_are_those_of_sites_or_of_rows():
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 1))
    with torch.no_grad():
        model[0].bias.zero_()
    for x, share in (
        (torch.ones(8, 1, 50) * torch.randn(8, 1, 1), 1.0),
        (torch.randn(400, 1, 50), 0.0),
        (torch.randn(4000, 1, 1) + torch.randn(4000, 1, 20), 0.5),
    ):
        run, trace = runner(model, x)
        seen = run.look(trace.nodes[0].output, draws(trace, {}), False)
        assert seen.share == pytest.approx(share, abs=0.05)
    flat = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    run, trace = runner(flat, torch.randn(1, 4).expand(64, 4).clone())
    assert run.look(trace.nodes[0].output, draws(trace, {}), False).share == pytest.approx(1.0)


def test_a_forward_that_cannot_be_run_again_is_not_seen_and_said_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.b(self.a(x))

    model = Odd()
    run, trace = runner(model, ROWS)
    run._parameters["a.weight"] = torch.zeros(3, 3)
    assert run.look(trace.nodes[-1].input, draws(trace, {}), True) is None
    assert run.look(trace.nodes[-1].output, draws(trace, {}), True) is None
    assert run.failure.startswith("linear: ")
    kept = {"a.weight": "why", "a.bias": "why"}
    plan = make_plan(trace, kept=kept, observer=run)
    assert any("could not be run one by one (linear: " in note for note in plan.notes)


def test_what_overflows_is_not_seen():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].weight.fill_(math.inf)
    run, trace = runner(model, ROWS)
    assert run.look(trace.nodes[-1].input, draws(trace, {}), True) is None
    plan = eq.plan(model, ROWS, only="1")
    assert any("RMS 1 is assumed" in note for note in plan.notes)


def test_only_what_lies_behind_kept_parameters_is_looked_at():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8))
    run, trace = runner(model, ROWS)
    kept = {"2.weight", "2.bias"}
    behind = Behind(trace, kept, run, draws(trace, {}, kept))
    first, _tanh, second, _last = trace.nodes
    assert [behind.covers(n.output) for n in trace.nodes] == [False, False, True, True]
    assert [behind.is_made_by_one(n.output) for n in trace.nodes] == [False, False, True, False]
    assert not any(behind.is_certain(n.output) for n in trace.nodes)
    assert behind.look(first.output) is None
    assert not Behind(trace, kept, None, draws(trace, {}, kept)).covers(second.output)


def test_laws_may_change_until_they_are_read():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))
    run, trace = runner(model, ROWS)
    first, last = trace.nodes[0], trace.nodes[-1]
    laws = {"2.weight": (Constant(0.5), "why")}
    given = Draws(trace, {"0.weight"}, (laws,), {}, {})
    # What comes first is looked at while the last weight has its first law.
    assert run.look(first.output, given, False) is not None
    laws["2.weight"] = Constant(0.25), "why"
    found = run.look(last.output, given, False)
    expected = (0.25 * model[:2](ROWS).sum(dim=1)).detach().double().square().mean()
    assert found.mean_square == pytest.approx(float(expected), rel=1e-5)


class Paired(nn.Module):
    """A product of two drawn values that is not read, of ``width`` units, and a layer behind it."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(8, width), nn.Bilinear(width, width, width)
        self.c = nn.Linear(width, 4)

    def forward(self, x):
        h = self.a(x)
        return self.c(self.b(h, h))


def test_one_draw_of_few_units_is_no_promise():
    wide, narrow = (eq.plan(Paired(width), ROWS) for width in (32, 8))
    told = [[p.signal for p in plan.predictions] for plan in (wide, narrow)]
    assert all(math.isfinite(s) for s in told[0])
    assert math.isfinite(told[1][0])
    assert math.isnan(told[1][-1])
    laws = {a.parameter: a.law for a in wide.assignments}
    # A unit adds up the products of all pairs.
    assert laws["b.weight"] == Normal(1 / 32)
