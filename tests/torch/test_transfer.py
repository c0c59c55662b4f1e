"""Plans carried over to bigger and smaller siblings."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Family(nn.Module):
    def __init__(self, width, depth, outputs=4):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = torch.randn(128, 8, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("scheme", ["auto", "he(distribution='uniform')"])
def test_the_sibling_is_planned_as_it_would_have_been(scheme, tmp_path):
    plan = eq.plan(Family(16, 2), X, scheme, output_rms=5.0, skip=["stem", "*.norm"])
    plan = eq.Plan.load(plan.save(tmp_path / "plan.json"))
    big = Family(48, 5)
    moved = eq.transfer(plan, big, X)
    assert moved.plan == eq.plan(big, X, scheme, output_rms=5.0, skip=["stem", "*.norm"])
    assert moved.plan.selection == plan.selection
    assert {n.split(".")[1] for n in moved.new} == {"2", "3", "4"}
    assert (moved.gone, moved.beyond_size) == ((), ())
    assert "nothing differs but size" in str(moved)
    eq.apply(big, moved.plan, torch.Generator().manual_seed(0))
    assert len(eq.transfer(plan, Family(16, 1), X).gone) == 6


def test_the_model_itself_gives_the_plan_again():
    plan = eq.plan(Family(16, 2), X, purpose="regression")
    assert eq.transfer(plan, Family(16, 2), X).plan == plan
    assert not eq.transfer(plan, Family(16, 2), X).plan.diff(plan)


def test_meta_models_are_planned_too():
    plan = eq.plan(Family(16, 2), X)
    with torch.device("meta"):
        big = Family(256, 4)
    moved = eq.transfer(plan, big, X.to("meta"))
    assert {a.shape for a in moved.plan.assignments if a.parameter == "head.weight"} == {(4, 256)}


def test_what_is_more_than_size_is_listed():
    small = Family(16, 2)
    plan = eq.plan(small, X)
    big = Family(32, 2)
    big.head.requires_grad_(False)
    moved = eq.transfer(plan, big, X)
    assert {c.parameter for c in moved.beyond_size} == {"head.weight", "head.bias"}
    assert all(c.after == "untouched" for c in moved.beyond_size)


def test_a_plan_that_selected_by_a_function_needs_it_again():
    def is_head(name, _):
        return name.startswith("head")

    plan = eq.plan(Family(16, 2), X, only=is_head)
    big = Family(32, 3)
    with pytest.raises(PlanError, match=r"only must be given again, .* with the same function"):
        eq.transfer(plan, big, X)
    moved = eq.transfer(plan, big, X, only=is_head)
    assert [a.parameter for a in moved.plan.assignments] == ["head.weight", "head.bias"]
    by_pattern = eq.transfer(plan, big, X, only="head", skip="*.bias")
    assert [a.parameter for a in by_pattern.plan.assignments] == ["head.weight"]


def test_strangers_and_other_things_are_refused():
    plan = eq.plan(Family(16, 2), X)
    with pytest.raises(PlanError, match=r"must be a sibling .* not in the plan: '0.weight'"):
        eq.transfer(plan, nn.Sequential(nn.Linear(8, 8)), X)
    with pytest.raises(ArgumentError, match=r"plan must be a Plan, got str. .* Plan.load"):
        eq.transfer("plan.json", Family(16, 2), X)


@pytest.mark.parametrize("other", [Family(32, 2), Family(16, 3)])
def test_applying_to_a_sibling_points_to_transfer(other):
    with pytest.raises(PlanError, match=r"equipoise.torch.transfer\(plan, model, inputs\)"):
        eq.apply(other, eq.plan(Family(16, 2), X))
