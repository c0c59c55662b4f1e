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
    names = [("a", 0), ("b", 0), ("lone", 1), ("c", 2), ("d", 2)]
    plan = Plan(
        "auto", (), (), (),
        predictions=tuple(Prediction(n, f"{n}.weight", 1.0, 1.0, s) for n, s in names),
        outlook=(outlook("layers a to b"), outlook("layer lone"), outlook("layers c to d"),
                 outlook("layers x to y")),
    )  # fmt: skip
    seen = (
        layer("a", 2.0, 0.5, 0.1), layer("b", 3.0, 0.25, 0.2), layer("lone", 4.0, 0.1, math.nan),
        layer("c", 5.0, 0.3, 0.4), layer("d", 6.0, 0.0, 0.5),
    )  # fmt: skip
    found = ends(plan, Measurements(seen, 1.0, 0.0, 0.0, 1.0, True, 64))
    assert [e.expected for e in found] == list(plan.outlook)
    measured = [(e.signal, e.gradient, e.correlation) for e in found]
    nan = math.nan
    wanted = [(3.0, 2.0, 0.2), (4.0, 1.0, nan), (6.0, nan, 0.5), (nan, nan, nan)]
    for one, other in zip(measured, wanted, strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    assert found[0].words() == (
        "layers a to b: expected at the output RMS 1, gradient at the first layer 0.8 of that at "
        "the last, cosine between inputs 0.3, 97 +- 1 of 100 draws usable; measured RMS 3, "
        "gradient at the first layer 2 of that at the last, cosine between inputs 0.2"
    )
    assert found[-1].words().endswith("measured nothing")
    assert found[1].to_dict()["measured"] == {"signal": 4.0, "gradient": 1.0, "correlation": None}


def test_what_theory_cannot_tell_is_left_out():
    nothing = Outlook("layer a", *[math.nan] * 5, "")
    plan = Plan("auto", (), (), (), outlook=(nothing,))
    (end,) = ends(plan, Measurements((), 1.0, 0.0, 0.0, 1.0, True, 64))
    assert "expected at the output nothing that theory could tell" in end.words()
    json.dumps(end.to_dict(), allow_nan=False)


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
    assert f"expected at the output RMS {expected.signal:.3g}" in text
    assert f"measured RMS {m.layers[-1].signal:.3g}" in text
    (data,) = json.loads(report.to_json())["ends"]
    ratio = m.layers[0].gradient / m.layers[-1].gradient
    assert data["measured"]["gradient"] == pytest.approx(ratio)
    assert data["expected"]["odds_method"] == expected.odds_method
    page = report.page()
    assert "Expected and measured at the end of each stack" in page
    assert f"{expected.signal:.3g}, measured {m.layers[-1].signal:.3g}" in page


def test_many_stacks_are_cut_short_in_text_alone():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(8, 8) for _ in range(9))

        def forward(self, x):
            for part in self.parts:
                x = x + part(x)
            return x

    report = eq.initialize(Branches(), torch.randn(64, 8))
    assert len(report.to_dict()["ends"]) == 9
    assert str(report).count("expected at the output") == 6
    assert "and 3 more stacks" in str(report)
