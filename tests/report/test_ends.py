"""What is expected at the end of each stack stands beside what was measured there."""

import json
import math

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.odds import Outlook
from equipoise.plan.plan import Plan, Prediction
from equipoise.report.ends import draws_usable, ends


def outlook(where, odds=0.97, error=0.01, signal=1.0):
    return Outlook(where, signal, 0.8, 0.3, odds, error, "sampled exactly in law")


def layer(name, signal, gradient, correlation):
    return LayerMeasurement(
        name, f"{name}.weight", 16, signal, gradient, 0.1, correlation, 0.0, 0.0
    )


def test_each_stack_is_measured_at_its_own_first_and_last_layer():
    names = [
        ("a", 0),
        ("m", 0),
        ("b", 0),
        ("lone", 1),
        ("c", 2),
        ("m2", 2),
        ("d", 2),
        ("s", 3),
        ("t", 3),
    ]
    plan = Plan(
        "auto", (), (), (),
        predictions=tuple(Prediction(n, f"{n}.weight", 1.0, 1.0, s) for n, s in names),
        outlook=(outlook("layers a to b"), outlook("layer lone"), outlook("layers c to d"),
                 outlook("layers s to t"), outlook("layers x to y")),
    )  # fmt: skip
    seen = (
        layer("a", 2.0, 0.5, 0.1), layer("m", 1.0, 0.3, 0.1), layer("b", 3.0, 0.25, 0.2),
        layer("lone", 4.0, 0.1, math.nan), layer("c", 5.0, 0.3, 0.4), layer("m2", 5.0, 0.3, 0.4),
        layer("d", 6.0, 0.0, 0.5), layer("s", 6.0, 0.1, 0.5), layer("t", 6.0, 0.1, 0.5),
    )  # fmt: skip
    found = ends(plan, Measurements(seen, 1.0, 0.0, 0.0, 1.0, True, 64))
    # Between the ends of one hidden layer, or none, nothing travels.
    assert [e.expected for e in found] == [plan.outlook[i] for i in (0, 2, 4)]
    measured = [(e.signal, e.gradient, e.correlation) for e in found]
    nan = math.nan
    wanted = [(3.0, 2.0, 0.2), (6.0, nan, 0.5), (nan, nan, nan)]
    for one, other in zip(measured, wanted, strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    assert found[0].words() == (
        "layers a to b: expected RMS 1 at the output, gradient at the first layer 0.8 of that at "
        "the last, cosine between inputs 0.3, 97 +- 1 of 100 draws usable; measured RMS 3 at the "
        "output, gradient at the first layer 2 of that at the last, cosine between inputs 0.2"
    )
    assert found[-1].words().endswith("measured nothing")
    assert found[1].to_dict()["measured"] == {"signal": 6.0, "gradient": None, "correlation": 0.5}


def test_what_theory_cannot_tell_is_said_to_be_so_and_why():
    def said(*numbers, notes=()):
        one = Outlook("layers a to b", *numbers, "")
        plan = Plan("auto", (), (), (), outlook=(one,), notes=notes)
        (end,) = ends(plan, Measurements((), 1.0, 0.0, 0.0, 1.0, True, 64))
        json.dumps(end.to_dict(), allow_nan=False)
        return end.words()

    nan = math.nan
    assert "expected nothing, for theory does not reach it;" in said(*[nan] * 5)
    notes = ("layers a to bc: other.", "layers a to b and 2 more: the scale is not known.")
    assert "expected nothing, since the scale is not known;" in said(*[nan] * 5, notes=notes)
    some = (nan, 0.8, nan, 1.0, 0.0)
    assert "every draw usable; the RMS at the output is not foretold, since one draw" in said(*some)
    told = said(*some, notes=("layers a to b: draws differ too much.",))
    assert "is not foretold, since draws differ too much;" in told


def test_the_output_of_a_plan_for_derivatives_is_said_not_to_be_foretold():
    report = eq.initialize(mlp([2, *[32] * 4, 1], nn.Tanh), torch.rand(256, 2),
                           for_derivatives=True)  # fmt: skip
    assert "the RMS at the output is not foretold, since" in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("odds", "error", "words"),
    [
        (0.973, 0.012, "97 +- 1 of 100"),
        (0.5, 0.004, "50 of 100"),
        (1.0, 0.0, "every draw"),
        (1.0, 0.005, "more than 99 of 100"),
        (0.997, 0.01, "more than 99 of 100"),
        (0.003, 0.0, "fewer than 1 of 100"),
        (0.0, 0.005, "fewer than 1 of 100"),
        (0.0, 0.0, "no draw"),
        (math.nan, math.nan, ""),
    ],
)
def test_odds_in_words(odds, error, words):
    assert draws_usable(odds, error).startswith(words)


def test_the_report_of_a_real_start_shows_both_sides(tmp_path):
    model = mlp([8, *[24] * 3, 4], nn.ReLU)
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    report = eq.initialize(model, x, "he", generator=torch.Generator().manual_seed(0))
    text = str(report).replace("\n", " ")
    m, expected = report.measurements, report.plan.outlook[0]
    assert f"expected RMS {expected.signal:.3g} at the output" in text
    assert f"measured RMS {m.layers[-1].signal:.3g}" in text
    (data,) = json.loads(report.to_json())["ends"]
    ratio = m.layers[0].gradient / m.layers[-1].gradient
    assert data["measured"]["gradient"] == pytest.approx(ratio)
    assert data["expected"]["odds_method"] == expected.odds_method
    page = report.page()
    assert "Expected and measured at the end of each stack" in page
    assert f"{expected.signal:.3g}, measured {m.layers[-1].signal:.3g}" in page


class Branches(nn.Module):
    def __init__(self, count, depth):
        super().__init__()
        self.parts = nn.ModuleList(mlp([8] * (depth + 2), nn.Tanh) for _ in range(count))

    def forward(self, x):
        for part in self.parts:
            x = x + part(x)
        return x


def test_many_stacks_are_cut_short_in_text_alone():
    report = eq.initialize(Branches(9, 2), torch.randn(64, 8))
    assert len(report.to_dict()["ends"]) == 9
    assert str(report).count("expected RMS") == 6
    assert "and 3 more stacks" in str(report)


def test_layers_alone_have_no_ends_and_one_sentence():
    report = eq.initialize(Branches(9, 0), torch.randn(64, 8))
    assert report.to_dict()["ends"] == []
    said = "9 layers alone (parts.0.0, parts.1.0, ..., parts.8.0): orthogonal"
    assert said in str(report)
    assert said in report.page()
    assert "expected RMS" not in str(report)
    pairs = eq.initialize(Branches(4, 1), torch.randn(64, 8))
    # What enters the first is known, and of the others how many numbers it has.
    assert "3 stacks (parts.1.0 to parts.1.2, " in str(pairs)
    assert len(pairs.plan.choice) == 5
