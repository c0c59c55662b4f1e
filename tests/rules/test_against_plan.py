"""Measurements held against a plan: how far each number may be off, and what a plan warns of."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.diagnose import diagnose
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Plan, Prediction
from equipoise.rules.against_plan import limits

X = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))


def layer(name, signal=1.0, gradient=1.0, correlation=0.0, **more):
    numbers = (signal, gradient, 0.1, correlation, 0.0, 0.0)
    return LayerMeasurement(name, f"{name}.weight", 100, *numbers, **more)


def missed(layers, predictions, loss_name="", cotangent=math.nan, **plan):
    made = Plan("he", (), (), (), predictions=tuple(predictions), **plan)
    seen = Measurements(tuple(layers), 1.0, 0.0, 0.0, 1.0, True, 64)
    found = diagnose(replace(seen, loss_name=loss_name, cotangent=cotangent), made)
    return [f for f in found if f.code == "prediction-missed"]


@pytest.mark.parametrize("name", ["signal", "gradient"])
@pytest.mark.parametrize("sign", [1, -1])
def test_each_number_has_the_spread_of_its_own(name, sign):
    """Three standard deviations and a factor 2: exp(3 * 0.5) * 2 = 8.96."""
    spreads = {"signal": (0.5, 0.0), "gradient": (0.0, 0.5)}[name]
    for factor, count in ((8.9, 0), (9.0, 1)):
        seen = {name: factor**sign}
        found = missed(
            [layer("a", **seen), layer("b")],
            [Prediction("a", "a.weight", 1.0, 1.0, 0, *spreads),
             Prediction("b", "b.weight", 1.0, 1.0, 0, *spreads)],
        )  # fmt: skip
        assert len(found) == count, found
    assert name in found[0].what
    assert found[0].severity == "warning"
    assert found[0].expected == "RMS 1 within a factor 9"
    assert found[0].where == "a"
    # The other spread is no excuse.
    found = missed(
        [layer("a", **{name: 2.1**sign}), layer("b")],
        [Prediction("a", "a.weight", 1.0, 1.0, 0, *spreads[::-1]), *_even("b")],
    )
    assert len(found) == 1


def _even(*names):
    return [Prediction(name, f"{name}.weight", 1.0, 1.0, 0) for name in names]


def test_gradients_are_held_against_those_of_the_same_stack():
    """Predicted relative to the last layer of a stack; two stacks have two ends."""
    seen = [layer("a", gradient=6.0), layer("b", gradient=2.0), layer("c", gradient=50.0)]
    predictions = [
        Prediction("a", "a.weight", 1.0, 3.0, 0), Prediction("b", "b.weight", 1.0, 1.0, 0),
        Prediction("c", "c.weight", 1.0, 1.0, 1),
    ]  # fmt: skip
    assert not missed(seen, predictions)
    assert missed(seen, [Prediction("a", "a.weight", 1.0, 0.3, 0), *predictions[1:]])


def test_gradients_are_held_against_those_of_the_whole_model():
    """In units of the cotangent at the outputs; nothing is said of gradients of a loss."""

    def chains(*across, log_std=0.0):
        return [
            Prediction(n, f"{n}.weight", 1.0, 1.0, i, 0.0, log_std, across=a)
            for i, (n, a) in enumerate(zip("abc", across, strict=True))
        ]

    seen = [layer("a", gradient=0.2), layer("b", gradient=1.0), layer("c", gradient=2.0)]
    assert not missed(seen, chains(0.1, 0.5, 1.0), cotangent=2.0)
    assert not missed(seen, chains(0.1, 0.5, 2.5), cotangent=2.0)
    assert missed(seen, chains(0.7, 0.5, 1.0), cotangent=2.0)
    assert missed(seen, chains(0.7, math.nan, math.nan), cotangent=2.0)
    assert not missed(seen, chains(0.7, 0.5, 1.0, log_std=0.5), cotangent=2.0)
    # All of them too large alike, too.
    assert missed(seen, chains(0.4, 2.0, 4.0), cotangent=2.0)
    assert not missed(seen, chains(0.7, 0.5, 1.0), loss_name="cross-entropy")


def test_the_cotangent_of_a_measurement_is_that_of_its_outputs():
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5))
    seen = eq.diagnose(model, X).measurements
    assert seen.cotangent == pytest.approx(1 / math.sqrt(200 * 5))
    labels = torch.zeros(200, dtype=torch.long)
    assert math.isnan(eq.diagnose(model, X, targets=labels).measurements.cotangent)


def test_a_weight_that_is_used_twice_has_two_expectations():
    shared = [Prediction("a", "a.weight", s, 1.0, 0) for s in (1.0, 10.0)]
    assert not missed([layer("a", signal=1.0), layer("a", signal=10.0)], shared)
    assert missed([layer("a", signal=10.0), layer("a", signal=1.0)], shared)


def test_a_cosine_may_be_off_by_its_chance():
    """0.15 and three standard deviations 1 / sqrt(100)."""
    at = [Prediction("a", "a.weight", 1.0, 1.0, 0, correlation=0.2)]
    assert not missed([layer("a", correlation=0.2 + 0.44)], at)
    found = missed([layer("a", correlation=0.2 + 0.46)], at)
    assert [f.severity for f in found] == ["info"]
    assert not missed([layer("a", correlation=0.2 + 0.152, sites=10_000)], at)
    assert missed([layer("a", correlation=0.2 + 0.154, sites=10_000)], at)
    assert not missed([layer("a", correlation=math.nan)], at)


class Pointwise(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def deep(f, depth):
    hidden = [m for _ in range(depth) for m in (nn.Linear(16, 16), Pointwise(f))]
    return nn.Sequential(*hidden, nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (lambda z: F.relu(z) ** 2, "has slope 0 at 0"),
        (lambda z: z**3, "has slope 0 at 0"),
        (torch.sign, "jumps at 0"),
    ],
)
def test_where_no_law_keeps_the_signal_the_report_says_so(f, why):
    report = eq.initialize(deep(f, 3), X, generator=torch.Generator().manual_seed(0))
    found = {x.code: x for x in report.findings}["no-better-law"]
    assert (found.severity, found.where) == ("warning", "layers 0 to 6")
    assert why in found.what
    assert "no scale is stable in depth" in found.what
    assert "Use another activation" in found.remedy
    assert not report.ok
    # Through two layers the signal arrives: worth a word, no more.
    report = eq.initialize(deep(f, 2), X, generator=torch.Generator().manual_seed(0))
    found = [x for x in report.findings if "no scale is stable" in x.what]
    assert [(x.code, x.severity) for x in found] == [("plan-limit", "info")]


def test_derivatives_that_a_scheme_does_not_provide_for_have_a_remedy_of_their_own():
    model = deep(torch.tanh, 3)
    report = eq.initialize(model, X, "he", for_derivatives=True)
    found = [f for f in report.findings if "for derivatives" in f.what]
    assert [(f.code, f.severity) for f in found] == [("plan-limit", "warning")]
    assert "scheme='auto'" in found[0].remedy
    assert "activation" not in found[0].remedy


def test_named_schemes_get_the_remedy_of_the_very_stack():
    report = eq.initialize(deep(torch.tanh, 60), X, "lecun",
                           generator=torch.Generator().manual_seed(0))  # fmt: skip
    told = [f.remedy for f in report.findings if f.code == "lost-correlation"] + [
        f.remedy for f in report.findings if f.code.startswith(("vanishing", "exploding"))
    ]
    assert told
    assert all("layers 0 to 120 centred orthogonal on frames" in remedy for remedy in told)


def test_operations_of_one_layer_that_are_not_read_are_one_finding():
    notes = (
        "a and 2 more: not read, operation 'tril' of _Orthogonal is not modelled.",
        "layer b: the scale of what enters is not known.",
        "a and 2 more: not read, operation 'sub' of _Orthogonal is not modelled.",
        "c: not read, operation 'mv' of _SpectralNorm is not modelled.",
        "a and 2 more: not read, operation 'exp' of _Orthogonal is not modelled.",
        "a and 2 more: not read, operation 'add' of _Orthogonal is not modelled.",
    )
    found = limits(Plan("auto", (), (), (), notes=notes))
    assert [(f.where, f.what) for f in found] == [
        ("a and 2 more",
         "not read, operations 'tril', 'sub', 'exp' and others of _Orthogonal are not modelled"),
        ("layer b", "the scale of what enters is not known"),
        ("c", "not read, operation 'mv' of _SpectralNorm is not modelled"),
    ]  # fmt: skip
    assert {f.severity for f in found} == {"info"}
    assert found[0].remedy.startswith("Parameters there keep their values")
    assert found[1].remedy.startswith("The weights are drawn all the same")
