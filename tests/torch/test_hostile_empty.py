"""Layers without units and values without entries: no obstacle, and said to be what they are."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_units_are_left_alone_and_what_they_cut_off_is_said():
    model = nn.Sequential(nn.Linear(16, 0), nn.Tanh(), nn.Linear(0, 4))
    report = eq.initialize(model, X)
    reasons = {u.parameter: u.reason for u in report.plan.untouched}
    assert reasons["0.weight"] == reasons["2.weight"] == "has no entries"
    for outcome in (report, eq.diagnose(model, X)):
        found = {f.code: f for f in outcome.findings}
        assert found["empty-layer"].where == "0"
        assert not {"non-finite", "dead-units", "zero-weights"} & set(found)


def test_a_value_without_entries_is_no_obstacle():
    class Dropping(nn.Module):
        def __init__(self, keep):
            super().__init__()
            self.a, self.keep = nn.Linear(16, 4), keep

        def forward(self, x):
            return self.keep(self.a(x))

    for keep in (lambda h: h[:0], lambda h: h[:, :0], lambda h: h.argmax(-1)):
        found = {f.code: f for f in eq.diagnose(Dropping(keep), X).findings}
        assert "returns no floating-point numbers" in found["not-measured"].what


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_theory_has_no_word_on_weights_without_entries():
    sizes = [(16, 8), (8, 0), (0, 4), (4, 4), (4, 4)]
    model = nn.Sequential(*[m for s in sizes for m in (nn.Linear(*s), nn.Tanh())])
    (word,) = eq.diagnose(model, X).words
    assert word.reason == "'2.weight' has no entries"
