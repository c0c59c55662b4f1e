"""Breaks of functions known by values, and derivatives that respect them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.breaks import find_breaks, scan, unresolved
from equipoise.theory.derivative import best_step, complex_step, difference_slope, relative_gap
from equipoise.theory.hermite import statistics
from equipoise.theory.probe import examine, probe


def _find(f):
    return find_breaks(f, scan(f))


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: np.maximum(x, 0.99 * x), [(0.0, 1)]),
        (lambda x: np.maximum(x, 0.999 * x), [(0.0, 1)]),
        (lambda x: np.maximum(x - math.e, 0.99 * (x - math.e)) + np.tanh(3 * x), [(math.e, 1)]),
        (lambda x: np.maximum(np.tanh(x), -0.5), [(-math.atanh(0.5), 1)]),
        (lambda x: np.clip(x, -25.3, 28.1), [(-25.3, 1), (28.1, 1)]),
        (lambda x: np.clip(x, 0, 0.03), [(0.0, 1), (0.03, 1)]),
        (lambda x: np.clip(x, 0, 0.01), [(0.0, 1), (0.01, 1)]),
        (lambda x: 1e-8 * np.maximum(x, 0), [(0.0, 1)]),
        (lambda x: np.where(x > 1, np.exp(1 - x) - 2 + x, 0.0), [(1.0, 2)]),
        (lambda x: x / (1 + np.abs(x - math.pi)), [(math.pi, 1)]),
        (lambda x: (x - math.pi) * np.abs(x - math.pi), [(math.pi, 2)]),
        (lambda x: np.abs(x) ** 3, [(0.0, 3)]),
        (lambda x: np.tanh(x) + 1e-4 * (x > math.sqrt(3)), [(math.sqrt(3), 0)]),
        (lambda x: np.where(np.abs(x) > 0.5, x, 0.0), [(-0.5, 0), (0.5, 0)]),
        (lambda x: np.maximum(np.sin(3 * x), 2 - x), None),
    ],
)
def test_places_orders_and_stated_errors(f, expected):
    found = _find(f)
    if expected is None:
        # sin(3x) and 2 - x cross once between 1 and 3: bisect for the place.
        a, b = 1.0, 3.0
        for _ in range(60):
            a, b = (
                ((a + b) / 2, b) if math.sin(1.5 * (a + b)) < 2 - (a + b) / 2 else (a, (a + b) / 2)
            )
        assert min(abs(x.place - a) for x in found) < 1e-10
        return
    assert [b.order for b in found] == [order for _, order in expected]
    for b, (place, _) in zip(found, expected, strict=True):
        assert abs(b.place - place) <= max(b.error, 1e-15)
        assert b.error < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.floats(-25, 25), st.floats(-3, 3).filter(lambda s: abs(s - 1) > 0.01), st.floats(0.1, 9))
def test_a_kink_anywhere_is_found_to_a_billionth(place, slope, scale):
    found = _find(
        lambda x: scale * (np.where(x > place, x - place, slope * (x - place)) + np.cos(x))
    )
    assert len(found) == 1
    assert found[0].place == pytest.approx(place, abs=1e-9)
    assert found[0].order == 1


@settings(max_examples=20, deadline=None)
@given(st.floats(-25, 25), st.floats(0.01, 3))
def test_a_jump_anywhere_is_found_to_rounding(place, height):
    found = _find(lambda x: np.arctan(x) + height * (x > place))
    assert [b.order for b in found] == [0]
    assert found[0].place == pytest.approx(place, abs=1e-13)


@pytest.mark.parametrize(
    "f",
    [np.exp, np.sin, lambda x: np.sin(30 * x), lambda x: x**8, lambda x: np.tanh(50 * x),
     lambda x: np.exp(-x * x), lambda x: np.log(1 + np.exp(x)), np.zeros_like,
     lambda x: 0.5 * x * (1 + np.tanh(x)), lambda x: 1e6 + np.tanh(x), lambda x: x**3 - x],
)  # fmt: skip
def test_smooth_functions_have_no_breaks(f):
    assert _find(f) == ()


def test_a_steep_stretch_is_no_jump():
    found = _find(lambda x: np.tanh(1e6 * (x - 0.3)))
    assert [b.order for b in found] == [-1]
    assert abs(found[0].place - 0.3) <= found[0].error


def test_a_root_has_a_kink_and_infinite_slopes():
    found = examine(lambda x: np.sqrt(np.abs(x)))
    assert found.activation.kinks == (0.0,)
    assert found.activation.slope_left == -math.inf
    assert found.about("slope_right").certainty == "weak"
    assert found.activation.homogeneity == 0.5


def test_many_breaks_are_each_found():
    teeth = _find(lambda x: x - np.floor(x))
    np.testing.assert_allclose([b.place for b in teeth], np.arange(-29.0, 30.0), atol=1e-12)
    assert {b.order for b in teeth} == {0}


def test_single_precision_counts_as_noise():
    found = _find(lambda x: np.maximum(x - 0.3, 0).astype(np.float32).astype(np.float64))
    assert len(found) == 1
    assert abs(found[0].place - 0.3) < 1e-6


def test_narrow_features_are_not_resolved():
    bump = lambda x: x + 0.1 * np.exp(-((x - 0.7) ** 2) / 1e-5)  # noqa: E731
    missed = unresolved(bump, scan(bump), ())
    assert len(missed) > 0
    assert (np.abs(missed - 0.7) < 0.03).all()
    assert len(unresolved(np.tanh, scan(np.tanh), ())) == 0


def test_differences_do_not_straddle_breaks():
    f = lambda x: np.where(x > 0.5, np.sin(x), x * x)  # noqa: E731
    x = np.concatenate([0.5 + np.geomspace(1e-6, 1, 50), 0.5 - np.geomspace(1e-6, 1, 50)])
    exact = np.where(x > 0.5, np.cos(x), 2 * x)
    np.testing.assert_allclose(difference_slope(f, (0.5,))(x), exact, rtol=1e-11)
    assert np.abs(difference_slope(f)(x) - exact).max() > 0.1


def test_differences_fit_between_near_breaks():
    f = lambda x: np.clip(x, 0.0, 0.01)  # noqa: E731
    slope = difference_slope(f, (0.0, 0.01))
    np.testing.assert_allclose(slope(np.array([-0.002, 0.001, 0.009, 0.012])), [0, 1, 1, 0],
                               atol=1e-11)  # fmt: skip
    assert slope(np.zeros((2, 3)) + 0.005).shape == (2, 3)


@pytest.mark.parametrize("frequency", [0.1, 1.0, 10.0, 50.0])
def test_the_step_fits_the_function(frequency):
    points = np.random.default_rng(0).uniform(-5, 5, 100)
    f = lambda x: np.sin(frequency * x)  # noqa: E731
    step, error = best_step(f, (), points)
    exact = frequency * np.cos(frequency * points)
    actual = relative_gap(exact, difference_slope(f, (), step)(points)).max()
    assert actual <= 3 * error + 1e-13
    assert error < 1e-9


def test_complex_step_is_exact_where_it_is_allowed():
    x = np.linspace(-3, 3, 31)
    slope = complex_step(lambda z: z * np.tanh(z), x)
    np.testing.assert_allclose(slope(x), np.tanh(x) + x / np.cosh(x) ** 2, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "raw",
    [np.cbrt, lambda z: np.asarray(z, dtype=np.float64), lambda z: z.real, lambda z: z[:2]],
    ids=["refuses", "casts", "drops", "cuts"],
)
def test_complex_step_is_left_where_numbers_are_dropped(raw):
    assert complex_step(raw, np.linspace(-1, 1, 5)) is None


def test_a_modulus_on_the_way_does_not_pass_for_a_derivative():
    found = examine(lambda x: x * np.abs(x) / (2 + x * x))
    assert found.about("derivative").value == "difference"
    x = np.linspace(-4, 4, 50)
    exact = 4 * np.abs(x) / (2 + x * x) ** 2
    np.testing.assert_allclose(found.activation.df(x), exact, rtol=1e-10)


MOMENTS = ("mean", "second_moment", "centred_energy", "linear", "slope_energy", "fourth_moment")


@pytest.mark.parametrize("known", [a for a in known_activations() if str(a) != "identity"], ids=str)
@pytest.mark.parametrize("q", [1e-3, 1.0, 100.0])
def test_statistics_of_scaled_activations(known, q):
    """The same function under another name: values only, against exact derivatives."""
    f = lambda x: 1.7 * known.f(x)  # noqa: E731
    found = probe(f, "mine")
    exact = Activation("exact", f, lambda x: 1.7 * known.df(x), known.kinks, known.jumps)
    assert found.name == "mine"
    np.testing.assert_allclose(found.breaks, known.breaks, atol=1e-10)
    assert found.jumps == known.jumps or not known.jumps
    np.testing.assert_allclose(found.corners, known.corners, atol=1e-10)
    ours, theirs = statistics(found, q), statistics(exact, q)
    for moment in MOMENTS:
        # Means of odd functions are rounding noise around 0.
        expected = getattr(theirs, moment)
        assert getattr(ours, moment) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_elu_of_another_depth_has_a_true_corner():
    found = probe(lambda x: 1.3 * activations.elu(2.0).f(x))
    assert found.corners == (0.0,)
    assert found.slope_left == pytest.approx(2.6, abs=1e-9)
    assert found.slope_right == pytest.approx(1.3, abs=1e-9)
