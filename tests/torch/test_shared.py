"""Weights with several uses, tables that are heads, and factors behind tables."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.torch import initialize, plan
from equipoise.torch.apply import apply

INPUTS = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Loop(nn.Module):
    """One layer, or a wider and a narrower one, used again and again."""

    def __init__(self, times, activation, hidden=0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)
        wide = hidden or 32
        self.up, self.down = nn.Linear(32, wide), nn.Linear(wide, 32) if hidden else None
        self.times, self.act = times, activation

    def forward(self, x):
        x = self.act(self.first(x))
        for _ in range(self.times):
            x = self.act(self.up(x))
            if self.down is not None:
                x = self.act(self.down(x))
        return self.last(x)


def _levels(model, made, draws=40):
    """Log RMS of each layer's output, one row for each draw."""
    found = []

    def note(module, inputs, output):
        found.append(float(output.detach().square().mean()))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    for seed in range(draws):
        apply(model, made, _seeded(seed))
        model(INPUTS)
    for hook in hooks:
        hook.remove()
    return 0.5 * np.log(np.reshape(found, (draws, -1)))


@pytest.mark.parametrize("times", [3, 10])
def test_one_law_serves_all_uses_of_an_odd_loop(times):
    model = Loop(times, torch.tanh)
    made = plan(model, INPUTS)
    (shared,) = [a for a in made.assignments if a.parameter == "up.weight"]
    assert f"one law serves {times} uses" in shared.reason
    assert len(made.assignments) == 6
    found = _levels(model, made)
    expected = np.log([p.signal for p in made.predictions])
    assert np.isfinite(expected).all()
    # The median of 40 draws strays by 1.25 / sqrt(40) of their spread; the wide limit by some %.
    doubt = 0.04 + 4 * 1.25 * found.std(axis=0) / math.sqrt(40)
    assert (np.abs(np.median(found, axis=0) - expected) < doubt).all()


@pytest.mark.parametrize("hidden", [0, 64])
def test_a_loop_of_gates_keeps_its_level_and_nothing_is_foretold_behind_its_first_round(hidden):
    model = Loop(10, torch.relu, hidden)
    made = plan(model, INPUTS)
    told = [p.signal for p in made.predictions]
    rounds = 2 if hidden else 1
    assert np.isfinite(told[: 1 + rounds]).all()
    assert np.isnan(told[1 + rounds :]).all()
    assert any("shared weight" in note for note in made.notes)
    found = _levels(model, made)
    # 10 rounds through one matrix: no typical draw is lost, which gain 1 would do by 7 nats.
    assert abs(float(np.median(found[:, -2]))) < 1.0


def test_siamese_branches_are_foretold():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)
            )

        def forward(self, x, y):
            return self.net(x), self.net(y)

    report = initialize(Twins(), (INPUTS, INPUTS.flip(0)), generator=_seeded())
    assert report.ok
    assert (
        "most of which read relu"
        in {a.parameter: a.reason for a in report.plan.assignments}["net.2.weight"]
    )
    by_weight = {}
    for p in report.plan.predictions:
        by_weight.setdefault(p.weight, []).append(p.signal)
    for signals in by_weight.values():
        assert signals[0] == pytest.approx(signals[1])
    for found in report.measurements.layers:
        assert found.signal == pytest.approx(by_weight[found.weight][0], rel=0.2)


class Language(nn.Module):
    """Embedding times a factor, one residual branch, and a head, tied or not."""

    def __init__(self, factor, is_tied, has_norm=True, form="number"):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(300, 64), nn.Linear(64, 300, bias=False)
        if is_tied:
            self.head.weight = self.table.weight
        self.norm, self.up, self.down = nn.RMSNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.last = nn.RMSNorm(64) if has_norm else nn.Identity()
        self.factor, self.form = factor, form
        self.register_buffer("scale", torch.tensor(factor))

    def forward(self, tokens):
        x = self.table(tokens)
        x = x * (self.factor if self.form == "number" else self.scale.to(x.dtype))
        x = x + self.down(torch.tanh(self.up(self.norm(x))))
        return self.head(self.last(x))


TOKENS = torch.randint(0, 300, (16, 12), generator=_seeded(3))


@pytest.mark.parametrize("form", ["number", "buffer"])
@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_an_embedding_starts_at_rms_1_behind_its_factor(factor, form):
    model = Language(factor, False, form=form)
    report = initialize(model, TOKENS, generator=_seeded())
    after = factor * model.table(TOKENS)
    # 300 * 64 entries, of which the tokens pick some.
    assert float(after.detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.03)
    reason = {a.parameter: a.reason for a in report.plan.assignments}["table.weight"]
    assert ("factor 8" in reason) == (factor != 1.0)
    expected = {p.layer: p.signal for p in report.plan.predictions}
    for found in report.measurements.layers:
        assert found.signal == pytest.approx(expected[found.layer], rel=0.1)


@pytest.mark.parametrize(("has_norm", "rms"), [(True, 1.0), (False, math.sqrt(1 + 1 / 16))])
def test_logits_of_a_tied_head_are_foretold_at_the_scale_of_the_table(has_norm, rms):
    model = Language(8.0, True, has_norm)
    report = initialize(model, TOKENS, generator=_seeded())
    assert "its weight is an embedding too" in " ".join(report.plan.choice)
    after = 8.0 * model.table(TOKENS)
    assert float(after.detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.03)
    expected = {p.layer: p.signal for p in report.plan.predictions}["head"]
    assert expected == pytest.approx(rms, rel=0.02)
    # A token's own row is louder: what goes around the branch is that very row.
    logits = model(TOKENS).detach()
    others = torch.ones_like(logits, dtype=torch.bool).scatter(-1, TOKENS[..., None], False)
    assert float(logits[others].square().mean().sqrt()) == pytest.approx(expected, rel=0.05)
