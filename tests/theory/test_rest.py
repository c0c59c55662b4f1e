"""Where units rest: closed forms, and the shape of the function about that place."""

import math

import numpy as np
import pytest

from equipoise.theory import activations
from equipoise.theory.activation import Activation
from equipoise.theory.oddpart import ActivationClass, classify
from equipoise.theory.rest import rest
from equipoise.theory.shift import shifted


def test_closed_forms():
    # f'' of GELU is (2 - x^2) phi(x); that of SiLU is 0 where x tanh(x / 2) = 2.
    assert rest(activations.gelu()).place == pytest.approx(math.sqrt(2), abs=1e-7)
    c = rest(activations.silu()).place
    assert c * math.tanh(c / 2) == pytest.approx(2.0, abs=1e-7)
    for odd in (activations.tanh(), activations.erf(), activations.arctan(), activations.sigmoid()):
        found = rest(odd)
        assert (found.kind, found.place) == ("steepest", 0.0)
        assert found.slope == pytest.approx(odd.slope)


@pytest.mark.parametrize("f", [activations.gelu(), activations.silu(), activations.mish()], ids=str)
def test_units_at_rest_bend_like_odd_sigmoids(f):
    found = rest(f)
    at = shifted(f, found.place)
    v = np.linspace(0.01, 0.5, 50)
    even = np.abs(at.f(v) + at.f(-v))
    # Odd to third order: what is left is of fourth.
    assert (even < 0.1 * v**4 + 1e-9).all()
    assert classify(at).kind is ActivationClass.CENTRE
    h = 1e-3
    slopes = f.df(found.place + np.array([-h, 0.0, h]))
    assert slopes[1] == pytest.approx(found.slope)
    assert slopes[1] > max(slopes[0], slopes[2])


@pytest.mark.parametrize(
    "f",
    [activations.relu(), activations.leaky_relu(0.1), activations.elu(), activations.selu()],
    ids=str,
)
def test_lines_above_0(f):
    found = rest(f)
    assert found.kind == "line"
    assert found.slope == pytest.approx(float(f.df(np.full(1, 7.0))[0]))


def test_what_gets_ever_steeper_rests_where_it_hardly_bends():
    found = rest(activations.softplus())
    s = 1 / (1 + math.exp(-found.place))
    assert found.kind == "hardly bent"
    # f'' / f' of softplus is 1 - s.
    assert 1 - s == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    "f",
    [
        activations.relu6(), activations.hardshrink(), activations.squared_relu(),
        Activation("cube", lambda x: x**3, lambda x: 3 * x**2),
        Activation("falls", lambda x: -np.tanh(x), lambda x: -1 / np.cosh(x) ** 2, parity="odd"),
        Activation("nan", np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    ],
    ids=str,
)  # fmt: skip
def test_no_place(f):
    with np.errstate(invalid="ignore", divide="ignore"):
        found = rest(f)
    assert found.kind == "none"
    assert math.isnan(found.place)
