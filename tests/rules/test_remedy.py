"""Remedies say what is known: of auto's own plans only what keeps them from doing better."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.plan.stacks import find_stacks
from equipoise.rules.remedy import remedies
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        for part in self.parts:
            x = x + torch.relu(part(x))
        return x


class Square(nn.Module):
    def forward(self, x):
        return x * x


def dropping():
    layers = [m for _ in range(8) for m in (nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.3))]
    return nn.Sequential(*layers, nn.Linear(16, 4))


AFTER_AUTO = [
    (lambda: mlp([16, 16, 16, 4], nn.Tanh), "0", ""),
    (dropping, "0", "Dropout of 0.3 in layers 0 to 24 was active"),
    (lambda: dropping().eval(), "0", "No better law was open to layers 0 to 24, since dropout"),
    (lambda: mlp([16, *[16] * 4, 4], Square), "0", "Theory knows no law that keeps the signal"),
    (Sums, "parts.1", "for layer parts.1 alone, one of 3 stacks of this model"),
    (Sums, "elsewhere", ""),
]


@pytest.mark.parametrize(("make", "layer", "words"), AFTER_AUTO)
def test_after_auto_the_cause_is_named_or_nothing_said(make, layer, words):
    model = make()
    stacks = find_stacks(trace(model, read_inputs(model, X)))
    said = remedies(eq.plan(model, X), stacks)(layer)
    assert words in said if words else said == ""


def test_other_starts_are_told_what_auto_would_do():
    model = dropping()
    stacks = find_stacks(trace(model, read_inputs(model, X)))
    for plan in (None, eq.plan(model, X, "he")):
        said = remedies(plan, stacks)("0")
        assert said.startswith("Initialize with scheme='auto': layers 0 to 24 independent entries")
        assert "No law keeps" not in said
        assert remedies(plan, stacks)("elsewhere") == "Initialize with scheme='auto'."
