"""Recurrent layers of torch: what they are drawn from, and the states that come of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.plan.nodes import Concat, Recurrent
from equipoise.schemes.laws import Orthogonal
from equipoise.schemes.part_laws import Blocks, Chrono
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
DRAWS = 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


X = torch.randn(32, 40, 6, generator=seeded())


class Reader(nn.Module):
    """A recurrent network and a head on its last state."""

    def __init__(self, kind, last, **options):
        super().__init__()
        self.cells = getattr(nn, kind)(6, 24, batch_first=True, **options)
        width = (options.get("proj_size") or 24) * (1 + options.get("bidirectional", False))
        self.head, self.last = nn.Linear(width, 8), last

    def forward(self, x):
        states, last = self.cells(x)
        match self.last:
            case "step":
                return self.head(states[:, -1])
            case "all":
                return self.head(states)
            case "state":
                return self.head((last[0] if isinstance(last, tuple) else last)[-1])
            case "cell":
                return self.head(last[1][-1])


class Cells(nn.Module):
    """The same step by step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(6, 24), nn.GRUCell(24, 24), nn.Linear(24, 8)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 24)
        g = torch.zeros_like(h)
        for t in range(12):
            h, c = self.lstm(x[:, t], (h, c))
            g = self.gru(h, g)
        return self.head(g)


MODELS = {
    "lstm": lambda: Reader("LSTM", "step"),
    "lstm, two layers": lambda: Reader("LSTM", "step", num_layers=2, dropout=0.1),
    "lstm, all steps": lambda: Reader("LSTM", "all"),
    "lstm, cell": lambda: Reader("LSTM", "cell"),
    "lstm, projected": lambda: Reader("LSTM", "state", proj_size=10),
    "lstm, both ways": lambda: Reader("LSTM", "all", bidirectional=True, num_layers=2),
    "lstm, no biases": lambda: Reader("LSTM", "step", bias=False),
    "gru": lambda: Reader("GRU", "step"),
    "gru, state": lambda: Reader("GRU", "state", num_layers=2),
    "tanh": lambda: Reader("RNN", "step"),
    "relu": lambda: Reader("RNN", "step", nonlinearity="relu"),
    "cells": Cells,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_head_reads_states_of_the_level_that_was_planned(name):
    model = MODELS[name]().eval()
    plan = eq.plan(model, X)
    assert not plan.untouched
    assert not any("not read" in note or "not known" in note for note in plan.notes), plan.notes
    outputs = []
    for seed in range(DRAWS):
        eq.apply(model, plan, seeded(seed))
        with torch.no_grad():
            outputs.append(float(model(X).square().mean().sqrt().log()))
    error = 4 * 1.2533 * np.std(outputs, ddof=1) / math.sqrt(DRAWS)
    # The head's outputs are planned at RMS 1.
    assert abs(np.median(outputs)) < error + 0.25


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_weight(name):
    model = MODELS[name]()
    report = eq.initialize(model, X, generator=seeded())
    model(X).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not [f for f in report.findings if f.severity == "error"], report.findings


def test_gates_have_laws_of_their_own():
    plan = eq.plan(Reader("LSTM", "step"), X)
    laws = {a.parameter: a.law for a in plan.assignments}
    assert laws["cells.bias_ih_l0"].parts[0] == Chrono(40, -1.0)
    assert laws["cells.bias_ih_l0"].parts[1] == Chrono(40)
    assert laws["cells.weight_hh_l0"] == Blocks((Orthogonal(1.0),) * 4)
    level = float(X.square().mean())
    gain = math.sqrt(24 / 6 / level)
    assert laws["cells.weight_ih_l0"].parts[2].gain == pytest.approx(gain, rel=1e-6)
    assert any("keep what they hold for 1 to 40 steps" in choice for choice in plan.choice)
    few = eq.plan(Reader("LSTM", "step"), X[:, :4])
    bias = next(a.law for a in few.assignments if a.parameter == "cells.bias_ih_l0")
    assert bias.parts[1].value == 1.0


def test_a_gru_keeps_by_its_second_gate():
    model = Reader("GRU", "step")
    eq.initialize(model, X, generator=seeded())
    reset, keep, candidate = model.cells.bias_ih_l0.detach().chunk(3)
    assert not reset.any()
    assert not candidate.any()
    assert keep.min() >= 0
    assert keep.max() <= math.log(39) + 1e-6


def test_what_is_frozen_keeps_its_values_and_what_it_makes_is_measured():
    model = Reader("LSTM", "step")
    model.cells.weight_hh_l0.requires_grad_(False)
    before = model.cells.weight_hh_l0.clone()
    report = eq.initialize(model, X, generator=seeded())
    assert torch.equal(model.cells.weight_hh_l0, before)
    assert [u.parameter for u in report.plan.untouched] == ["cells.weight_hh_l0"]
    assert not any("scale of what enters is not known" in note for note in report.plan.notes)
    assert 0.4 < float(model(X).detach().square().mean().sqrt()) < 2.5


def test_layers_and_directions_are_nodes_of_their_own():
    model = Reader("LSTM", "all", bidirectional=True, num_layers=2)
    nodes = trace(model, ModelInputs((X,))).nodes
    cells = [n for n in nodes if isinstance(n, Recurrent)]
    assert [n.weight for n in cells] == [
        "cells.weight_ih_l0", "cells.weight_ih_l0_reverse",
        "cells.weight_ih_l1", "cells.weight_ih_l1_reverse",
    ]  # fmt: skip
    assert [n.in_size for n in cells] == [6, 6, 48, 48]
    assert {n.steps for n in cells} == {40}
    assert sum(isinstance(n, Concat) for n in nodes) == 2


def test_a_packed_batch_is_read():
    class Packed(Reader):
        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(
                x, [40, 30] + [20] * 30, batch_first=True, enforce_sorted=False
            )
            _, (last, _) = self.cells(packed)
            return self.head(last[-1])

    model = Packed("LSTM", "state")
    report = eq.initialize(model, X, generator=seeded())
    assert not report.plan.untouched
    assert 0.4 < float(model(X).detach().square().mean().sqrt()) < 2.5


def test_a_state_that_is_learned_is_read():
    class Started(Reader):
        def __init__(self):
            super().__init__("GRU", "step")
            self.start = nn.Parameter(torch.zeros(1, 1, 24))

        def forward(self, x):
            states, _ = self.cells(x, self.start.expand(1, len(x), 24).contiguous())
            return self.head(states[:, -1])

    plan = eq.plan(Started(), X)
    assert {a.parameter for a in plan.assignments} >= {"cells.weight_ih_l0", "start"}


def test_no_storage_is_needed():
    with torch.device("meta"):
        model = Reader("LSTM", "step", num_layers=2)
    plan = eq.plan(model, torch.empty(32, 40, 6, device="meta"))
    assert len(plan.assignments) == 10
