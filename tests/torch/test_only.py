"""Drawing a part of a model: the rest stays, and what it makes is measured."""

import copy
import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.laws import Zero

X = torch.randn(512, 32, generator=torch.Generator().manual_seed(1))


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def pretrained(rms, kind=nn.ReLU):
    """A body whose outputs have a given RMS, and a head of two layers."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(32, 256), kind(), nn.Linear(256, 256), kind()))
    model.add_module("head", nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64)))
    with torch.no_grad():
        for _ in range(8 if kind is nn.ReLU else 0):
            for p in model.body[2].parameters():
                p *= rms / model.body(X).square().mean().sqrt()
    return model


def rms(values):
    return float(values.detach().square().mean().sqrt())


def bits(model, start=""):
    return {k: v.clone() for k, v in model.state_dict().items() if k.startswith(start)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("level", [30.0, 0.01])
@pytest.mark.parametrize("scheme", ["auto", "he", "orthogonal"])
def test_a_new_head_has_the_outputs_promised_whatever_the_body_sends(level, scheme):
    found = []
    for seed in range(4):
        model = pretrained(level)
        body = bits(model, "body")
        report = eq.initialize(model, X, scheme, seeded(seed), only="head.*", output_rms=2.0)
        assert same(body, bits(model, "body"))
        found.append(rms(model(X)))
        model(X).square().mean().backward()
        assert all(p.grad.abs().sum() > 0 for p in model.head.parameters() if p.dim() > 1)
    expected = report.plan.predictions[-1]
    assert expected.signal == pytest.approx(2.0, rel=0.1)
    spread = max(expected.log_std, 0.02)
    assert abs(math.log(sum(found) / 4 / expected.signal)) < 4 * spread / 2
    assert not any("is assumed" in note for note in report.plan.notes)
    assert f"at RMS {level:.3g} as measured" in report.plan.choice[0]
    assert {u.reason for u in report.plan.untouched} == {"kept: not selected by only='head.*'"}


def test_a_body_that_is_kept_by_choice_is_not_accused():
    report = eq.initialize(pretrained(100.0), X, generator=seeded(), only="head")
    about = [f for f in report.findings if f.where.startswith("body")]
    assert about
    assert {(f.severity, f.remedy[:15]) for f in about} == {("info", "It keeps its va")}
    broken = pretrained(1.0)
    with torch.no_grad():
        broken.body[2].weight.fill_(math.nan)
    report = eq.initialize(broken, X, generator=seeded(), only="head")
    assert report.status == 1


def test_frozen_parameters_are_measured_through_as_well():
    model = pretrained(30.0)
    model.body.requires_grad_(False)
    eq.initialize(model, X, generator=seeded())
    assert rms(model(X)) == pytest.approx(1.0, rel=0.15)


def test_without_values_nothing_is_measured_and_the_plan_says_so():
    model = pretrained(30.0).to("meta")
    plan = eq.plan(model, X.to("meta"), only="head")
    assert any("RMS 1 is assumed" in note for note in plan.notes)


def test_made_up_inputs_tell_nothing_of_what_a_body_sends():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    plan = eq.plan(model, only="1")
    assert any("RMS 1 is assumed" in note for note in plan.notes)


def test_buffers_random_state_and_flags_stay():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(64, 8),
    )
    before, state = bits(model, "0"), torch.get_rng_state()
    report = eq.initialize(model, X, generator=seeded(), only="1")
    assert same(before, bits(model, "0"))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    # Dropout is on: what enters has second moment 1 / 2 (a rectified normal) / 0.5.
    assert "at RMS 1 as measured" in report.plan.choice[0].replace("0.99", "1").replace("1.01", "1")
    assert report.plan == eq.plan(model, X, only="1")


@pytest.mark.parametrize("mode", [True, False])
def test_a_convolutional_body_that_writes_in_place_is_measured_through(mode):
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 32),
    ).train(mode)  # fmt: skip
    x = torch.randn(64, 3, 12, 12, generator=seeded()) * 9
    before = bits(model)
    report = eq.initialize(model, x, generator=seeded(), only="8")
    assert "as measured" in report.plan.choice[0]
    after = bits(model)
    assert same({**before, "8.weight": after["8.weight"], "8.bias": after["8.bias"]}, after)
    assert rms(model(x)) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("form", ["head.*", "head", ["head.0", "head.2"], ("head.?.*",)])
def test_patterns_lists_and_modules_choose_the_same(form):
    plan = eq.plan(pretrained(1.0), X, only=form)
    assert [a.parameter for a in plan.assignments] == [
        f"head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    ]


def test_functions_see_name_and_parameter():
    model = pretrained(1.0)
    plan = eq.plan(model, X, only=lambda name, p: name.startswith("head") and p.dim() == 2)
    assert [a.parameter for a in plan.assignments] == ["head.0.weight", "head.2.weight"]
    assert plan.selection.functions == ("only",)
    other = eq.plan(model, X, skip=lambda name, p: "body" in name)
    assert len(other.assignments) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": "haed"}, r"only must name .* got 'haed'.*nearest names are 'head'"),
        ({"skip": ["head", "nothing.*"]}, r"skip must name .* got 'nothing.\*'"),
        ({"only": ""}, r"only must be a pattern .* got ''"),
        ({"only": []}, r"only must be a pattern .* got \[\]"),
        ({"skip": 3}, r"skip must be a pattern .* got int. Leave it out"),
        ({"only": ["head", 3]}, r"got \['head', 3\]"),
        ({"only": lambda name, p: None}, "only must choose at least one .* return a bool"),
        ({"only": "head", "skip": "head"}, "must leave something to draw, got only='head' and"),
    ],
)
def test_a_choice_that_is_none_is_named_and_nothing_changes(given, message):
    model, generator = pretrained(1.0), seeded()
    before, state = bits(model), generator.get_state()
    with pytest.raises(ArgumentError, match=message):
        eq.initialize(model, X, generator=generator, **given)
    assert same(before, bits(model))
    assert torch.equal(state, generator.get_state())


def test_a_choice_of_which_nothing_can_be_drawn_is_an_error():
    model = pretrained(1.0)
    model.head.requires_grad_(False)
    with pytest.raises(PlanError, match=r"can be drawn, got only='head'.*'head.0.weight': frozen"):
        eq.plan(model, X, only="head")


def test_a_tied_parameter_is_drawn_or_kept_under_all_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body = nn.Embedding(50, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(torch.tanh(self.body(self.embed(tokens))))

    tokens = torch.randint(0, 50, (16, 7), generator=seeded())
    drawn = eq.plan(Tied(), (tokens,), only="head")
    assert [a.parameter for a in drawn.assignments] == ["embed.weight"]
    kept = eq.plan(Tied(), (tokens,), skip="head.weight")
    assert [u.parameter for u in kept.untouched] == ["embed.weight"]
    # The table is read from tokens alone: its real level is what enters the body.
    model = Tied()
    with torch.no_grad():
        model.embed.weight.mul_(20.0)
    plan = eq.plan(model, (tokens,), only="body")
    level = rms(model.embed(tokens))
    assert f"at RMS {level:.3g} as measured" in plan.choice[0]


def test_a_bias_chosen_without_its_weight_starts_anew():
    model = pretrained(1.0)
    before = bits(model)
    report = eq.initialize(model, X, only=["head", "body.0.bias"])
    laws = {a.parameter: a for a in report.plan.assignments}
    assert laws["body.0.bias"].law == Zero()
    assert "its weight keeps its values" in laws["body.0.bias"].reason
    assert torch.equal(model.body[0].weight, before["body.0.weight"])
    assert not model.body[0].bias.any()


def test_a_weight_chosen_without_its_bias_is_measured_behind():
    model = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 16))
    with torch.no_grad():
        model[0].bias.fill_(3.0)
    report = eq.initialize(model, X, "he", seeded(), only="*.weight", output_rms=1.0)
    assert float(model[0].bias.detach().mean()) == 3.0
    assert any("a bias keeps its values" in note for note in report.plan.notes)


def test_undo_puts_back_what_was_drawn_and_nothing_else():
    model = pretrained(3.0)
    before = bits(model)
    report = eq.initialize(model, X, only="head", skip="head.2.bias")
    with torch.no_grad():
        model.body[0].weight.add_(1.0)
    report.undo()
    after = bits(model)
    assert same({**before, "body.0.weight": after["body.0.weight"]}, after)
    assert not torch.equal(before["body.0.weight"], after["body.0.weight"])


def test_folds_are_independent_draws_of_one_plan():
    model = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.2), nn.Tanh(), nn.Linear(64, 4))
    plan = eq.plan(model, X)
    starts = []
    for fold in range(3):
        eq.apply(model, plan, generator=seeded(fold))
        starts.append(copy.deepcopy(model).state_dict())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(starts[-1]["0.weight"], model.state_dict()["0.weight"])
    weights = torch.stack([s["3.weight"].flatten() for s in starts])
    cosines = torch.corrcoef(weights) - torch.eye(3)
    assert cosines.abs().max() < 4 / weights.shape[1] ** 0.5
    # After training a fold starts as a fresh model does, bit for bit, in any process.
    eq.apply(model, plan, generator=seeded(1))
    fresh = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.2), nn.Tanh(), nn.Linear(64, 4))
    eq.initialize(fresh, X, generator=seeded(1))
    assert same(starts[1], model.state_dict())
    assert same(starts[1], fresh.state_dict())
