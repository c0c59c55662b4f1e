"""Rules for residual branches by name, on models of every kind of branch end."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.plan import Plan
from equipoise.schemes.laws import Constant, Zero

WIDTH, BLOCKS = 16, 4
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    """x + g * norm(f(x)), each part optional, and anything behind it."""

    def __init__(self, gain=None, norm=None, behind=lambda z: z, layers=2):
        super().__init__()
        self.a, self.c = nn.Linear(WIDTH, 32), nn.Linear(32, 32) if layers > 2 else None
        self.b = nn.Linear(32, WIDTH)
        self.gain = None if gain is None else nn.Parameter(gain.clone())
        self.norm, self.behind = norm() if norm else nn.Identity(), behind

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = h if self.c is None else torch.relu(self.c(h))
        z = self.behind(self.norm(self.b(h)))
        return x + (z if self.gain is None else self.gain * z)


def net(blocks=BLOCKS, **options):
    return nn.Sequential(
        nn.Linear(8, WIDTH), *[Block(**options) for _ in range(blocks)], nn.Linear(WIDTH, 3)
    )


def law_of(plan, name):
    return {a.parameter: a.law for a in plan.assignments}[name]


def std(plan, name, seed=0):
    return float(np.sqrt(np.mean(np.square(plan.draw(name, seed)))))


@pytest.mark.parametrize("call", [eq.plan, eq.initialize])
def test_an_unknown_rule_is_refused_with_the_choices_and_nothing_changes(call):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ArgumentError, match=r"residual must be one of .*fixup.*zero-last"):
        call(model, X, residual="gtp2")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("rule", ["gpt2", "depth", "fixup", "rezero", "skipinit", "zero-last"])
def test_a_rule_needs_branches(rule):
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(PlanError, match=r"must have residual branches.*residual='none'"):
        eq.plan(plain, X, residual=rule)
    assert eq.plan(plain, X, residual="none").residual == "none"


@pytest.mark.parametrize("rule", ["rezero", "skipinit"])
def test_a_rule_of_gains_needs_gains_that_can_be_written(rule):
    with pytest.raises(PlanError, match=r"layer '1.b' must have a gain of its own.*zero-last"):
        eq.plan(net(), X, residual=rule)
    model = net(gain=torch.ones(()))
    model[2].gain.requires_grad_(False)
    with pytest.raises(PlanError, match=r"'2.gain' must be trainable"):
        eq.plan(model, X, residual=rule)


@pytest.mark.parametrize("rule", ["gpt2", "depth", "fixup", "zero-last"])
def test_a_norm_without_a_gain_is_refused(rule):
    def norm():
        return nn.LayerNorm(WIDTH, elementwise_affine=False)

    with pytest.raises(PlanError, match="a norm without one, which undoes"):
        eq.plan(net(norm=norm), X, residual=rule)
    assert any("a norm without a gain" in note for note in eq.plan(net(norm=norm), X).notes)


def test_a_choice_among_draws_cannot_be_scaled():
    with pytest.raises(PlanError, match=r"'1.b' must have a law that can be scaled"):
        eq.plan(net(), X, "sampled(draws=2)", residual="gpt2")
    assert eq.plan(net(), X, "sampled(draws=2)", residual="zero-last").residual == "zero-last"


@pytest.mark.parametrize("scheme", ["auto", "he", "xavier", "orthogonal", "lecun", "lyapunov"])
@pytest.mark.parametrize("rule", ["gpt2", "depth"])
def test_last_weights_are_scaled_under_every_scheme(rule, scheme):
    usual = eq.plan(net(), X, scheme, residual="none")
    scaled = eq.plan(net(), X, scheme, residual=rule)
    assert std(scaled, "1.b.weight") == pytest.approx(std(usual, "1.b.weight") / 2)
    assert std(scaled, "1.a.weight") == pytest.approx(std(usual, "1.a.weight"))
    assert "1/sqrt(4)" in scaled.choice[2]


def test_projections_side_by_side_count_apart_for_gpt2_and_once_for_depth():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return x + (self.a(x.relu()) + self.b(x.tanh()))

    model = nn.Sequential(nn.Linear(8, WIDTH), Parallel(), Parallel(), nn.Linear(WIDTH, 3))
    usual = std(eq.plan(model, X, residual="none"), "1.a.weight")
    assert std(eq.plan(model, X, residual="gpt2"), "1.a.weight") == pytest.approx(usual / 2)
    assert std(eq.plan(model, X, residual="depth"), "1.a.weight") == pytest.approx(usual / 2**0.5)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("scheme", ["auto", "he"])
def test_fixup_scales_inner_layers_and_zeroes_the_last_and_the_head(layers, scheme):
    """L^(-1/(2m-2)): 1/2 for m = 2 and 1/sqrt(2) for m = 3 at L = 4 (arXiv 1901.09321)."""
    usual = eq.plan(net(layers=layers), X, scheme, residual="none")
    model = net(layers=layers, gain=torch.zeros(1))
    fixed = eq.plan(model, X, scheme, residual="fixup")
    factor = BLOCKS ** (-1 / (2 * layers - 2))
    for name in ("a", "c")[: layers - 1]:
        wanted = factor * std(usual, f"1.{name}.weight")
        assert std(fixed, f"1.{name}.weight") == pytest.approx(wanted)
    assert law_of(fixed, "1.b.weight") == law_of(fixed, "5.weight") == Zero()
    assert law_of(fixed, "1.gain") == Constant(1.0)
    assert set(fixed.silent) == {f"{i}.b.weight" for i in (1, 2, 3, 4)} | {"5.weight"}
    assert any("no such gain" in n for n in eq.plan(net(), X, scheme, residual="fixup").notes)


def test_fixup_leaves_the_layer_of_a_branch_of_one_and_speaks_of_norms():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return x + self.b(x.relu())

    model = nn.Sequential(nn.Linear(8, WIDTH), One(), nn.Linear(WIDTH, 3))
    assert law_of(eq.plan(model, X, residual="fixup"), "1.b.weight") == Zero()
    normed = eq.plan(net(norm=lambda: nn.LayerNorm(WIDTH)), X, residual="fixup")
    assert law_of(normed, "1.norm.weight") == Constant(0.0)
    assert any("without norms" in note for note in normed.notes)


@pytest.mark.parametrize("shape", [(), (1,), (WIDTH,)])
@pytest.mark.parametrize("rule", ["rezero", "skipinit"])
def test_gains_start_at_0(rule, shape):
    model = net(gain=torch.ones(shape))
    report = eq.initialize(model, X, residual=rule, generator=seeded())
    assert report.ok, report.findings
    assert not any(model[i].gain.any() for i in (1, 2, 3, 4))
    assert report.plan.silent == tuple(f"{i}.gain" for i in (1, 2, 3, 4))
    assert model[1].b.weight.any()


RULES_AND_MODELS = {
    "zero-last": {},
    "zero-last, norm": {"norm": lambda: nn.LayerNorm(WIDTH)},
    "zero-last, gain": {"gain": torch.zeros(WIDTH)},
    "fixup": {},
    "rezero, gain": {"gain": torch.ones(())},
}


@pytest.mark.parametrize("name", RULES_AND_MODELS)
def test_silent_branches_pass_the_stream_unchanged_and_train(name):
    rule = name.partition(",")[0]
    model = net(**RULES_AND_MODELS[name])
    report = eq.initialize(model, X, residual=rule, generator=seeded())
    assert report.ok, report.findings
    with torch.no_grad():
        assert torch.equal(model[1:5](model[0](X)), model[0](X))
    y = torch.randint(0, 3, (64,), generator=seeded(1))
    optimizer, before = torch.optim.Adam(model.parameters(), 1e-2), model[1].a.weight.clone()
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), y)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < math.log(3)
    assert not torch.equal(before, model[1].a.weight)


@pytest.mark.parametrize(("value", "is_kept"), [(0.0, True), (0.05, True), (1.0, False)])
def test_auto_keeps_gains_that_are_quieter_than_the_share(value, is_kept):
    model = net(gain=torch.full((WIDTH,), value))
    report = eq.initialize(model, X, generator=seeded())
    assert report.ok
    if is_kept:
        assert torch.equal(model[1].gain, torch.full((WIDTH,), value))
        assert any("keeps its values" in note for note in report.plan.notes)
        assert "1.gain" in {u.parameter for u in report.plan.untouched}
    else:
        with torch.no_grad():
            h = model[0](X)
            share = (model[1](h) - h).square().mean() / h.square().mean()
        assert float(share) == pytest.approx(1 / 64, rel=0.4)


def test_auto_gives_the_gain_of_a_norm_at_the_end_the_share():
    model = net(norm=lambda: nn.LayerNorm(WIDTH))
    plan = eq.plan(model, X)
    level = plan.predictions[0].signal
    assert law_of(plan, "1.norm.weight").value == pytest.approx(level / 8, rel=1e-3)
    model[1].norm.weight.requires_grad_(False)
    assert "1.norm.weight" in {u.parameter for u in eq.plan(model, X).untouched}
    notes = eq.plan(model, X, residual="depth").notes
    assert any("the norm that ends this residual branch is frozen" in note for note in notes)


BEHIND = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "a number": lambda z: 0.25 * z,
    "dropout": lambda z: F.dropout(z, 0.2, training=False),
    "reshape": lambda z: z.reshape(-1, 4, 4).flatten(1),
    "gate": lambda z: z * torch.sigmoid(z),
    "halves": lambda z: torch.cat([z[:, :8], z[:, 8:]], 1),
    "constant offset": lambda z: z + torch.zeros(WIDTH),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_the_share_is_met_behind_whatever_ends_the_branch(behind):
    """In the mean of draws, with 4 standard errors; functions that bend lose more at width 16."""
    model = net(blocks=2, behind=BEHIND[behind])
    plan = eq.plan(model, X)
    shares = []
    for seed in range(30):
        eq.apply(model, plan, seeded(seed))
        with torch.no_grad():
            h = model[0](X)
            shares.append(float((model[1](h) - h).square().mean() / h.square().mean()))
    error = 4 * np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(1 / 32, abs=error + 0.004)


def test_no_scale_reaches_a_share_behind_a_sigmoid():
    plan = eq.plan(net(blocks=30, behind=torch.sigmoid), X)
    assert any("no scale of the last weight" in note for note in plan.notes)


def test_the_rule_and_its_reason_stand_in_the_plan_and_in_its_file(tmp_path):
    plan = eq.plan(net(), X, residual="depth")
    assert "1/sqrt(L)" in plan.choice[0]
    assert "2309.16620" in plan.choice[0]
    read = Plan.load(plan.save(tmp_path / "plan.json"))
    assert (read, read.residual) == (plan, "depth")
    old = plan.to_dict()
    del old["residual"], old["silent"]
    assert Plan.from_dict(old).residual == "auto"
    assert "as published" in eq.plan(net(), X, "he").choice[0]
    assert "hardly grow" in eq.plan(net(), X).choice[0]


def test_he_is_he_unless_a_rule_is_asked_for():
    usual = eq.plan(net(), X, "he")
    none = eq.plan(net(), X, "he", residual="none")
    assert std(usual, "1.b.weight") == std(none, "1.b.weight")
