"""Plans as data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from equipoise.errors import PlanError
from equipoise.plan.plan import Assignment, Plan, Prediction, Untouched
from equipoise.plan.trace import Parameter
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import (
    DiagonalNoise,
    Frame,
    Framed,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Plain,
    Taps,
    Uniform,
    Zero,
)

LAWS = [
    Zero(),
    Normal(0.1),
    Uniform(0.2),
    Orthogonal(1.5),
    DiagonalNoise(1.0, 0.01),
    Framed("a", "b", 3, 1.1, Mirrored(), Plain()),
    OffsetBias("w", 0.5, "mean"),
    Taps(Framed("a", "b", 3, 1.1, Mirrored(), Plain()), (1, 1), 2, True),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_laws_go_through_json(law):
    assert law_from_dict(json.loads(json.dumps(law_to_dict(law)))) == law
    assert describe(law)


def a_plan(*names):
    return Plan(
        "auto",
        ("why.",),
        tuple(Assignment(name, (2, 2), Normal(1.0), "because") for name in names),
        (Untouched("kept", (3,), "frozen"),),
        (Frame("f", 2, 2),),
        {"mean": np.array([0.1, 1 / 3])},
        notes=("layer x: a note.",),
    )


def test_plans_go_through_files(tmp_path):
    plan = a_plan("a", "b")
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again.to_dict() == plan.to_dict()
    assert np.array_equal(again.arrays["mean"], plan.arrays["mean"])


def test_a_plan_that_is_read_again_equals_what_was_saved(tmp_path):
    unknown = Prediction("x", "x.weight", math.nan, math.inf, 0)
    plan = replace(a_plan("a"), predictions=(unknown,))
    again = Plan.load(plan.save(tmp_path / "plan.json"))
    assert again == plan
    assert hash(again) == hash(plan)
    assert {plan: 1}[again] == 1
    moved = {"mean": np.array([0.1, np.nextafter(1 / 3, 1.0)])}
    others = [
        replace(plan, arrays=moved), replace(plan, arrays={}), replace(plan, notes=()),
        replace(plan, predictions=(replace(unknown, signal=1.0),)), a_plan("b"),
    ]  # fmt: skip
    assert all(other != plan for other in others)
    assert plan != plan.to_dict()


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    with pytest.raises(PlanError, match=r"can be read, got .*none.json.*Plan.save") as caught:
        Plan.load(tmp_path / "none.json")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(PlanError, match=r"can be written, got .*folder.*Make its folder") as caught:
        a_plan("a").save(tmp_path / "folder" / "x.json")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    (tmp_path / "bytes.json").write_bytes(bytes([255, 254, 0]))
    with pytest.raises(PlanError, match="text that is not JSON"):
        Plan.load(tmp_path / "bytes.json")


def test_display_and_difference():
    text = str(a_plan("a"))
    assert "a [2, 2]: normal, std 1" in text
    assert "kept [3]: untouched, frozen" in text
    assert str(a_plan("a").diff(a_plan("b"))).splitlines() == [
        "drawn by the first alone:",
        "  a: normal, std 1 -> untouched",
        "drawn by the second alone:",
        "  b: untouched -> normal, std 1",
    ]
    assert not a_plan("a").diff(a_plan("a"))


def parameters(*names):
    return tuple(Parameter(name, (2, 2), "float32") for name in names)


KEPT = Parameter("kept", (3,), "float32")


def test_each_parameter_stands_in_exactly_one_place():
    a_plan("a").verify_complete((*parameters("a"), KEPT))
    with pytest.raises(PlanError, match=r"missing: \['b'\]"):
        a_plan("a").verify_complete((*parameters("a", "b"), KEPT))
    with pytest.raises(PlanError, match=r"foreign: \['kept'\]"):
        a_plan("a").verify_complete(parameters("a"))
    with pytest.raises(PlanError, match=r"twice: \['a'\]"):
        a_plan("a", "a").verify_complete((*parameters("a"), KEPT))
    with pytest.raises(PlanError, match="must have shape"):
        a_plan("a").verify_complete((Parameter("a", (2, 3), "float32"), KEPT))


def test_what_cannot_be_read_is_refused():
    with pytest.raises(PlanError, match="format must be"):
        Plan.from_dict({"format": 99})
    with pytest.raises(PlanError, match="law must be one of"):
        law_from_dict({"law": "Magic"})
    with pytest.raises(PlanError, match="must be assigned"):
        a_plan("a").draw("kept", 0)
