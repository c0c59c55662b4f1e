"""What two plans do otherwise, and plans of siblings held against each other."""

from dataclasses import replace

import numpy as np
import pytest

from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.plan import Assignment, Plan, Untouched
from equipoise.plan.selection import Selection
from equipoise.plan.siblings import compare, form, refuse_strangers
from equipoise.schemes.laws import Framed, Mirrored, Normal, Orthogonal, Paired, Taps, Zero


def a_plan(arrays=None, **laws):
    names = {key.replace("_", "."): law for key, law in laws.items()}
    return Plan(
        "auto",
        (),
        tuple(Assignment(n, (2, 2), law, "why") for n, law in names.items() if law),
        tuple(Untouched(n, (2, 2), "frozen") for n, law in names.items() if not law),
        arrays=arrays or {},
    )


def test_laws_scales_parameters_and_arrays_are_told_apart():
    laws = {"a": Normal(1.0), "b": Normal(1.0), "c": Zero(), "d": None, "e": Zero()}
    others = {"a": Normal(2.0), "b": Orthogonal(1.0), "c": None, "d": Zero(), "e": Zero()}
    first = a_plan({"mean": np.ones(2)}, **laws)
    second = a_plan({"mean": np.zeros(2)}, **others)
    found = first.diff(second)
    assert [c.parameter for c in found.scales] == ["a"]
    assert [c.parameter for c in found.laws] == ["b"]
    assert [c.parameter for c in found.only_first] == ["c"]
    assert [c.parameter for c in found.only_second] == ["d"]
    assert found.arrays == ("mean",)
    assert str(found).splitlines() == [
        "drawn by the first alone:", "  c: 0 -> untouched",
        "drawn by the second alone:", "  d: untouched -> 0",
        "other law:", "  b: normal, std 1 -> orthogonal, gain 1",
        "other scale:", "  a: normal, std 1 -> normal, std 2",
        "other array:", "  mean",
    ]  # fmt: skip


def test_equal_plans_have_no_difference():
    same = a_plan(a=Normal(1.0)).diff(replace(a_plan(a=Normal(1.0)), notes=("other",)))
    assert not same
    assert str(same) == "both draw the same"


def test_a_scale_inside_another_law_is_a_scale():
    for wrap in (Paired, lambda law: Taps(law, (1, 1))):
        found = a_plan(a=wrap(Normal(1.0))).diff(a_plan(a=wrap(Normal(2.0))))
        assert [c.parameter for c in found.scales] == ["a"]
        found = a_plan(a=wrap(Normal(1.0))).diff(a_plan(a=wrap(Orthogonal(1.0))))
        assert [c.parameter for c in found.laws] == ["a"]


def test_aim_and_selection_are_saved_with_a_plan(tmp_path):
    asked = Selection(("head.*",), ("x",), ("skip",))
    aim = Aim(output_rms=3.0, purpose="regression", for_derivatives=True)
    plan = replace(a_plan(a=Zero()), aim=aim, selection=asked)
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    assert (again.aim, again.selection) == (aim, asked)
    assert again != a_plan(a=Zero())


def test_numbers_of_blocks_are_no_part_of_a_form():
    assert form("h.10.fc1.weight") == "h.#.fc1.weight"
    assert form("3.weight") == "#.weight"


def test_siblings_may_differ_in_numbers_of_blocks_alone():
    plan = a_plan(h_0_w=Zero(), h_1_w=Zero(), head_w=None)
    refuse_strangers(plan, ["h.0.w", "h.1.w", "h.2.w", "head.w"])
    refuse_strangers(plan, ["h.0.w", "head.w"])
    with pytest.raises(PlanError, match=r"not in the plan: 'h.0.b', not in the model: 'head.w'"):
        refuse_strangers(plan, ["h.0.w", "h.0.b"])
    many = [f"x{i}" for i in range(6)]
    with pytest.raises(PlanError, match=r"'x3' and 2 more, not in the model: none"):
        refuse_strangers(plan, ["h.0.w", "head.w", *many])


def test_only_what_size_does_not_explain_is_listed():
    before = Framed("a", "b", 3, 1.1)
    first = a_plan(h_0_w=before, h_1_w=Normal(1.0), head_w=Zero(), tail_w=None)
    second = a_plan(
        h_0_w=Framed("c", "d", 9, 0.4), h_1_w=Normal(0.2), h_2_w=Normal(0.1), h_3_w=Orthogonal(1.0),
        head_w=Zero(), tail_w=Zero(),
    )  # fmt: skip
    moved = compare(first, second)
    assert (moved.new, moved.gone) == (("h.2.w", "h.3.w"), ())
    assert compare(second, first).gone == ("h.2.w", "h.3.w")
    assert [str(c) for c in moved.beyond_size] == [
        "h.3.w: framed, gain 1.1, rank 3 or normal, std 1 -> orthogonal, gain 1",
        "tail.w: untouched -> 0",
    ]
    assert "6 drawn, 0 untouched, 2 new, 0 gone" in str(moved)
    assert "nothing differs but size" in str(compare(first, first))
    mirrored = compare(a_plan(w=before), a_plan(w=replace(before, out_layout=Mirrored())))
    assert [c.parameter for c in mirrored.beyond_size] == ["w"]
