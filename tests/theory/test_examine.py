"""What examine says it knows, what it refuses, and that it needs no framework."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.features import fresh_points
from equipoise.theory.probe import examine, probe


def test_torch_stays_out():
    code = (
        "import sys, math, numpy as np\n"
        "from equipoise.theory.probe import examine\n"
        "examine(lambda x: np.tanh(2 * x) + 0.1 * x)\n"
        "examine(lambda v: v * math.tanh(v))\n"
        "print('torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "False\n", out.stderr


@pytest.mark.parametrize("known", known_activations(), ids=str)
def test_a_known_activation_says_so(known):
    found = examine(lambda x: known.f(x))
    assert found.known
    assert found.activation is known
    assert {e.certainty for e in found.evidence} == {"exact"}
    assert "801 points" in found.about("name").how
    assert str(found).startswith(f"{known}, a known activation")


def test_members_by_their_slopes():
    assert probe(lambda x: np.maximum(x, 0.3 * x)) is activations.leaky_relu(0.3)
    assert probe(lambda x: -2.5 * x) is activations.linear(-2.5)


def test_single_precision_is_recognised_less_surely():
    found = examine(lambda x: (0.5 * x * (1 + np.tanh(0.5 * x))).astype(np.float32))
    assert found.activation is activations.silu()
    assert {e.certainty for e in found.evidence} == {"firm"}


@pytest.mark.parametrize(
    ("f", "name", "value", "certainty"),
    [
        (lambda x: np.tanh(2 * x), "parity", "odd", "firm"),
        (lambda x: np.cos(2 * x), "parity", "even", "firm"),
        (lambda x: np.tanh(x) + 1e-3 * x * x, "parity", "none", "firm"),
        (np.zeros_like, "parity", "none", "firm"),
        (lambda x: 3 * np.abs(x), "homogeneity", 1.0, "firm"),
        (lambda x: np.minimum(x, 0) ** 2, "homogeneity", 2.0, "firm"),
        (np.sign, "homogeneity", 0.0, "firm"),
        (lambda x: x + 1e-4 * x * x, "homogeneity", None, "firm"),
        (lambda x: np.where(x > 0, x, x**3), "homogeneity", None, "firm"),
        (lambda x: np.tanh(2 * x), "monotone", "increasing", "firm"),
        (lambda x: -np.tanh(2 * x), "monotone", "decreasing", "firm"),
        (lambda x: np.cos(2 * x), "monotone", "none", "firm"),
        (lambda x: np.full_like(x, 2.0), "monotone", "constant", "firm"),
        (lambda x: np.tanh(2 * x), "upper", 1.0, "firm"),
        (lambda x: 2.5 * x / (1 + np.abs(x)), "upper", 2.5, "weak"),
        (lambda x: np.sin(2 * x), "lower", -1.0, "weak"),
        (np.abs, "lower", 0.0, "exact"),
        (lambda x: 3 * np.abs(x), "lower", 0.0, "firm"),
        (lambda x: np.log1p(np.abs(x)), "upper", math.inf, "weak"),
        (lambda x: np.clip(x, -50.0, 50.0), "upper", 50.0, "firm"),
        (np.exp, "upper", math.inf, "firm"),
        (lambda x: x + 0.1 * np.sin(600 * x), "resolution", False, "weak"),
        (lambda x: x + 0.1 * np.sin(600 * x), "parity", "odd", "weak"),
        (lambda x: np.tanh(1e6 * x), "kinks", (0.0,), "weak"),
        (lambda x: x + 0.5 * (x > 2), "jumps", (2.0,), "firm"),
        (lambda x: x * np.tanh(2 * x), "upper", math.inf, "firm"),
    ],
)  # fmt: skip
def test_properties_and_their_certainty(f, name, value, certainty):
    evidence = examine(f).about(name)
    assert evidence.certainty == certainty
    assert evidence.value == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_values_that_end_before_a_million_are_weak_evidence():
    wild = lambda x: np.where(np.abs(x) < 100, np.tanh(2 * x), np.nan)  # noqa: E731
    found = examine(wild).about("upper")
    assert (found.value, found.certainty) == (1.0, "weak")
    assert "not finite beyond x = 85" in found.how


def test_a_spike_that_only_a_fresh_point_hits_weakens_the_bound():
    place = fresh_points(7)[0]
    spike = lambda x: np.tanh(2 * x) + 3.0 * (np.abs(x - place) < 1e-9)  # noqa: E731
    assert examine(spike).about("upper").certainty == "weak"


def test_evidence_is_concrete():
    found = examine(lambda x: np.maximum(x - 1.5, 0) + np.tanh(x), "mine")
    text = str(found)
    assert text.startswith("mine, not a known one")
    assert "kinks: 1.5 (firm" in text
    assert "Nothing beyond 30 is seen" in found.about("kinks").how
    assert "f(-x) =" in found.about("parity").how
    with pytest.raises(ArgumentError, match="Did you mean 'kinks'"):
        found.about("kink")


def test_a_given_derivative_is_judged():
    right = examine(np.arcsinh, df=lambda x: 1 / np.sqrt(1 + x * x)).about("derivative")
    wrong = examine(np.arcsinh, df=lambda x: 7.0 + 0 * x).about("derivative")
    assert (right.value, right.certainty) == ("given", "firm")
    assert (wrong.value, wrong.certainty) == ("given", "weak")


def test_overflow_in_the_complex_step_is_filled_in():
    f = lambda x: x + 3 / (1 + np.exp(-x))  # noqa: E731
    found = probe(f)
    assert found.df(np.array([-2000.0, 2000.0])) == pytest.approx([1.0, 1.0], rel=1e-9)


@pytest.mark.parametrize("f", [lambda v: v * math.tanh(v), lambda v: 1.3 * v if v > 0 else 0.1 * v])
def test_functions_of_one_number(f):
    found = examine(f)
    x = np.linspace(-3, 3, 12).reshape(3, 4)
    expected = [[f(v) for v in row] for row in x.tolist()]
    np.testing.assert_allclose(found.activation.f(x), expected, rtol=1e-15)
    assert found.about("derivative").value == "difference"


@pytest.mark.parametrize(
    ("f", "known"),
    [
        (torch.relu, activations.relu()),
        (functional.silu, activations.silu()),
        (lambda h: h.clamp(min=0) ** 2, activations.squared_relu()),
        (nn.GELU(), activations.gelu()),
        (nn.ReLU(inplace=True), activations.relu()),
        (nn.PReLU(), activations.prelu()),
        (nn.RReLU().eval(), activations.rrelu()),
        (nn.Dropout().eval(), activations.identity()),
    ],
)
def test_torch_functions_and_modules_are_recognised(f, known):
    assert probe(f) is known


def test_an_unknown_torch_function_has_torch_s_derivative():
    found = examine(lambda h: torch.sin(3 * h) + h.tanh())
    x = np.linspace(-3, 3, 12).reshape(3, 4)
    exact = 3 * np.cos(3 * x) + 1 / np.cosh(x) ** 2
    np.testing.assert_allclose(found.activation.df(x), exact, rtol=1e-13)
    assert found.about("derivative").value == "autograd"
    assert found.activation.parity == "odd"


@pytest.mark.parametrize("f", [lambda h: 1.5 * torch.sign(h), lambda h: 1.1 * functional.celu_(h)])
def test_torch_functions_without_a_gradient_or_in_place(f):
    found = probe(f)
    twin = f(torch.tensor([-2.0, 3.0], dtype=torch.float64)).numpy()
    np.testing.assert_array_equal(found.f(np.array([-2.0, 3.0])), twin)
    assert found.df(np.array([3.0])) == pytest.approx(0.0 if found.jumps else 1.1)


def test_a_constant_tensor_has_no_gradient_and_slope_zero():
    found = examine(lambda h: torch.full_like(h, 2.0))
    assert found.about("monotone").value == "constant"
    assert found.activation.df(np.zeros((2, 2))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_surrogate_gradient_is_not_the_derivative():
    found = examine(lambda h: h.sin().detach() * h)
    x = np.linspace(0.5, 3, 6)
    exact = np.sin(x) + x * np.cos(x)
    assert found.about("derivative").value == "difference"
    np.testing.assert_allclose(found.activation.df(x), exact, rtol=1e-10)


def test_a_module_is_copied():
    module = nn.Sequential(nn.PReLU(init=0.4), nn.Tanh())
    found = probe(module)
    before = found.f(np.array([-1.0]))
    with torch.no_grad():
        module[0].weight.fill_(0.9)
    assert module[0].weight.dtype == torch.float32
    np.testing.assert_array_equal(found.f(np.array([-1.0])), before)


_calls = [0]


def _late_change(x):
    _calls[0] += 1
    return np.tanh(2 * x) * (1.0 if _calls[0] < 30 else 2.0)


def _moody(x):
    _calls[0] += 1
    return x * _calls[0]


def _half_way(x):
    _calls[0] += 1
    return np.tanh(2 * x) * (1.0 if _calls[0] < 6 else 2.0)


@pytest.mark.parametrize("f", [_moody, _late_change, _half_way, nn.Dropout(), nn.RReLU()])
def test_functions_that_change_their_mind_are_refused(f):
    _calls[0] = 0
    with pytest.raises(ArgumentError, match=r"must be a fixed function.*evaluation mode"):
        probe(f)


@pytest.mark.parametrize(
    "f",
    [
        np.sort, np.flip, lambda x: x - x.mean(), lambda x: x / np.abs(x).max(),
        lambda x: np.roll(x, 1), lambda x: x + np.arange(len(x)), nn.Softmax(-1),
        lambda h: functional.layer_norm(h, h.shape), nn.LayerNorm(801), lambda h: h.cumsum(0),
    ],
)  # fmt: skip
def test_functions_of_other_entries_are_refused(f):
    with pytest.raises(ArgumentError, match="must be pointwise"):
        probe(f)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x > 0, lambda x: np.floor(x).astype(int), lambda x: x + 1j, lambda x: None,
        lambda h: h.relu() > 0, lambda h: (h.relu(), h), lambda v: math.tanh(v) > 0,
    ],
)  # fmt: skip
def test_what_are_not_real_numbers_is_refused(f):
    with pytest.raises(ArgumentError, match="must give real floating-point numbers"):
        probe(f)


@pytest.mark.parametrize("f", [lambda x, y: x, nn.BatchNorm1d(3), nn.PReLU(3), nn.Linear(3, 3)])
def test_what_takes_no_array_is_refused_with_its_own_words(f):
    with pytest.raises(ArgumentError, match=r"must accept one array of floats, it raised \w+Error"):
        probe(f)


def test_the_reason_is_the_callable_s_where_torch_is_not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ArgumentError, match="missing 1 required positional argument: 'y'"):
        probe(lambda x, y: x)


def test_holes_between_the_points_of_the_first_look_are_found():
    hole = lambda x: np.where(np.abs(x + 28.01) < 0.02, np.nan, np.tanh(2 * x))  # noqa: E731
    with pytest.raises(ArgumentError, match=r"must be finite on \[-30, 30\].*-28"):
        probe(hole)


@pytest.mark.parametrize("f", [math.log, lambda v: math.exp(40 * v)])
def test_numbers_at_which_math_raises_are_not_finite(f):
    with pytest.raises(ArgumentError, match="must be finite"):
        probe(f)


def test_too_many_breaks_are_refused():
    with pytest.raises(ArgumentError, match=r"no more than 256 places.*599 jumps and kinks"):
        probe(lambda x: 10 * x - np.floor(10 * x))
