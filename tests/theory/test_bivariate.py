"""Expectations of two correlated Gaussians against closed forms, mpmath and Monte Carlo."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.bivariate import (
    correlated_second_moment,
    expectation2,
    product_expectation,
)
from equipoise.theory.hermite import hermite_coefficients, statistics

CORRELATIONS = [-1.0, -0.9999, -0.5, 0.0, 0.3, 0.999999, 1.0]
LEVELS = [1e-6, 1.0, 1e3, 1e6]


def step(z):
    return (z > 0).astype(float)


def _angle(c):
    c = mpmath.mpf(c)
    return c, mpmath.sqrt((1 - c) * (1 + c)), mpmath.acos(c)


def _linear(c, q1, q2):
    return mpmath.sqrt(q1 * q2) * c


def _step(c, q1, q2):
    _, _, angle = _angle(c)
    return (mpmath.pi - angle) / (2 * mpmath.pi)


def _relu(c, q1, q2):
    c, s, angle = _angle(c)
    return mpmath.sqrt(q1 * q2) * (s + (mpmath.pi - angle) * c) / (2 * mpmath.pi)


def _leaky(c, q1, q2, a=0.01):
    # f = (1 + a)/2 z + (1 - a)/2 |z|, and the two parts are orthogonal.
    a = mpmath.mpf(a)
    return (1 + a) ** 2 / 4 * _linear(c, q1, q2) + (1 - a) ** 2 / 4 * _abs(c, q1, q2)


def _abs(c, q1, q2):
    c, s, _ = _angle(c)
    return 2 / mpmath.pi * mpmath.sqrt(q1 * q2) * (s + c * mpmath.asin(c))


def _squared(c, q1, q2):
    c, s, angle = _angle(c)
    return q1 * q2 * (3 * s * c + (mpmath.pi - angle) * (1 + 2 * c * c)) / (2 * mpmath.pi)


def _erf(c, q1, q2):
    inside = 2 * mpmath.sqrt(q1 * q2) * c / mpmath.sqrt((1 + 2 * q1) * (1 + 2 * q2))
    return 2 / mpmath.pi * mpmath.asin(inside)


def _sin(c, q1, q2):
    return mpmath.exp(-(q1 + q2) / 2) * mpmath.sinh(mpmath.sqrt(q1 * q2) * c)


def _exact(form, c, q1, q2):
    with mpmath.workdps(40):
        return form(mpmath.mpf(c), mpmath.mpf(q1), mpmath.mpf(q2))


CLOSED = {
    "identity": (activations.identity().f, (), _linear),
    "step": (step, (0.0,), _step),
    "relu": (activations.relu().f, (0.0,), _relu),
    "leaky": (activations.leaky_relu().f, (0.0,), _leaky),
    "abs": (np.abs, (0.0,), _abs),
    "squared_relu": (activations.squared_relu().f, (0.0,), _squared),
    "erf": (activations.erf().f, (), _erf),
    "sin": (np.sin, (), _sin),
}


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize("name", CLOSED)
def test_products_with_closed_forms(name, c):
    """Within the stated error of the exact value, and that below 1e-7 of E |f1 f2|."""
    f, kinks, form = CLOSED[name]
    # Sine at larger levels has a test of its own.
    levels = [1e-6, 1.0, 1e2] if name == "sin" else LEVELS
    for q1 in levels:
        for q2 in levels:
            found = product_expectation(f, f, q1, q2, c, kinks, kinks)
            exact = _exact(form, c, q1, q2)
            assert abs(found.value - exact) <= found.error
            scale = math.sqrt(_variance(f, q1, kinks) * _variance(f, q2, kinks))
            # A product that does not change sign has E |f1 f2| as its value.
            size = exact if name in ("step", "relu", "abs", "squared_relu") else scale
            assert found.error <= 1e-7 * size


def _variance(f, q, kinks):
    return product_expectation(f, f, q, q, 1.0, kinks, kinks).value


@pytest.mark.parametrize("c", [-0.99, 0.4, 0.999999])
def test_sine_over_many_periods(c):
    found = correlated_second_moment(activations.sin(), 1e4, c)
    assert abs(found.value - _exact(_sin, c, 1e4, 1e4)) <= found.error
    assert found.error < 1e-7


def test_too_many_periods_are_said_and_not_guessed():
    found = correlated_second_moment(activations.sin(30.0), 1e6, 0.5)
    assert abs(found.value) <= found.error
    assert found.error > 1e-7


def test_too_many_periods_in_the_second_variable():
    """No panel of z1 shows it: the error of the means over z2 has to be carried along."""
    found = expectation2(lambda x, y: np.sin(1e4 * y) ** 2, 1.0, 1e6, 0.0)
    assert abs(found.value - 0.5) <= found.error
    assert found.error > 1e-3


@pytest.mark.parametrize("c", CORRELATIONS)
def test_polynomials_of_both(c):
    """Isserlis: E z1^2 z2^2, E z1 z2^3 and E (z1 - z2)^4."""
    q1, q2 = 2.5, 0.3
    k = c * math.sqrt(q1 * q2)
    cases = [
        (lambda x, y: x**2 * y**2, q1 * q2 + 2 * k * k),
        (lambda x, y: x * y**3, 3 * q2 * k),
        (lambda x, y: (x - y) ** 4, 3 * (q1 + q2 - 2 * k) ** 2),
    ]
    for g, exact in cases:
        found = expectation2(g, q1, q2, c)
        assert found.value == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_kinks_away_from_the_origin():
    """P(z1 > a, z2 > b) of the bivariate normal law, by one integral over its density."""
    for c, a, b in [(0.6, 0.7, -0.4), (-0.8, 0.2, 0.5), (0.99, 1.0, 1.2)]:
        with mpmath.workdps(25):
            s = mpmath.sqrt(1 - mpmath.mpf(c) ** 2)
            exact = float(
                mpmath.quad(
                    lambda x, c=c, b=b, s=s: mpmath.npdf(x) * mpmath.ncdf((c * x - b) / s),
                    [a, a + 0.5, a + 2, a + 5, 14],
                )
            )
        found = expectation2(lambda x, y, a=a, b=b: (x > a) * (y > b) * 1.0, 1, 1, c, (a,), (b,))
        assert found.value == pytest.approx(exact, rel=1e-10)
        assert abs(found.value - exact) <= found.error + 1e-15


def test_a_kink_on_an_oblique_line_is_found_by_refinement():
    """E max(z1 - z2, 0) = sqrt(Var(z1 - z2) / (2 pi))."""
    found = expectation2(lambda x, y: np.maximum(x - y, 0.0), 1.0, 2.0, 0.5, tolerance=1e-6)
    exact = math.sqrt((3 - math.sqrt(2)) / (2 * math.pi))
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert abs(found.value - exact) <= found.error


@pytest.mark.parametrize("activation", known_activations(), ids=str)
def test_hermite_series_of_every_activation(activation):
    """E f(z1) f(z2) = sum a_k^2 c^k (Mehler), at a correlation where 40 terms are enough."""
    q, c = 0.7, 0.4
    a = hermite_coefficients(activation, q, 40)
    a[0] += activation.value_at_zero
    found = correlated_second_moment(activation, q, c)
    assert found.value == pytest.approx(float(np.sum(a**2 * c ** np.arange(40))), rel=1e-8)


def test_many_kinks():
    """A polygon of 24 kinks: E z1 f(z2) = q c E f' (Stein), and the mean at correlation 0."""
    kinks = np.linspace(-2.5, 2.1, 24)
    signs = np.where(np.arange(24) % 3 == 0, 1.0, -0.4)

    def polygon(z):
        return np.maximum(z[:, None] - kinks, 0.0) @ signs

    def line(z):
        return z

    q, places = 1.7, tuple(kinks.tolist())
    std = math.sqrt(q)
    slope = float(signs @ special.ndtr(-kinks / std))
    found = product_expectation(line, polygon, q, q, 0.6, (), places)
    assert found.value == pytest.approx(0.6 * q * slope, rel=1e-10)
    density = np.exp(-(kinks**2) / (2 * q)) / math.sqrt(2 * math.pi)
    mean = float(signs @ (std * density - kinks * special.ndtr(-kinks / std)))
    found = product_expectation(polygon, polygon, q, q, 0.0, places, places)
    assert found.value == pytest.approx(mean**2, rel=1e-10)


def test_correlation_in_single_precision():
    single = np.float32(0.9)
    found = correlated_second_moment(activations.erf(), 1.0, single)
    assert found == correlated_second_moment(activations.erf(), 1.0, float(single))


@pytest.mark.parametrize("q", [1e-2, 1.0, 50.0])
@pytest.mark.parametrize("activation", known_activations(), ids=str)
def test_ends_and_middle_are_moments_of_one_variable(activation, q):
    s = statistics(activation, q)
    one = correlated_second_moment(activation, q, 1.0)
    assert one.value == pytest.approx(s.second_moment, rel=1e-10)
    zero = correlated_second_moment(activation, q, 0.0)
    assert zero.value == pytest.approx(s.mean**2, rel=1e-8, abs=1e-12 * s.second_moment)
    near = correlated_second_moment(activation, q, 1 - 1e-12)
    # Jumps cost sqrt(1 - c), everything else less.
    assert near.value == pytest.approx(s.second_moment, rel=1e-4 if activation.jumps else 1e-8)


@pytest.mark.parametrize("c", [-0.7, 0.2, 0.95])
def test_monte_carlo(c):
    rng = np.random.default_rng(5)
    x, noise = rng.standard_normal((2, 400_000))
    y = c * x + math.sqrt(1 - c * c) * noise

    def g(a, b):
        return np.tanh(a + np.abs(b - 0.3)) * np.exp(-a * a)

    samples = g(math.sqrt(2.0) * x, math.sqrt(0.5) * y)
    found = expectation2(g, 2.0, 0.5, c, (), (0.3,))
    assert abs(found.value - samples.mean()) < 4 * samples.std() / math.sqrt(samples.size)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    log_q1=st.floats(-6.0, 6.0),
    log_q2=st.floats(-6.0, 6.0),
    c=st.floats(-1.0, 1.0),
    a=st.floats(-1.0, 1.0),
)
def test_symmetry_scaling_and_bounds(log_q1, log_q2, c, a):
    q1, q2 = 10.0**log_q1, 10.0**log_q2
    f, kink = (lambda z: np.maximum(z, a * z)), (0.0,)
    found = product_expectation(f, np.tanh, q1, q2, c, kink)
    swapped = product_expectation(np.tanh, f, q2, q1, c, (), kink)
    assert abs(found.value - swapped.value) <= found.error + swapped.error
    # f is homogeneous: four times the variance doubles it.
    larger = product_expectation(f, np.tanh, 4 * q1, q2, c, kink)
    assert larger.value == pytest.approx(2 * found.value, rel=1e-8, abs=1e-8 * math.sqrt(q1 * q2))
    # Cauchy and Schwarz.
    bound = math.sqrt(_variance(f, q1, kink) * _variance(np.tanh, q2, ()))
    assert abs(found.value) <= bound * (1 + 1e-9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(c=st.floats(-0.999, 0.998), step_=st.floats(1e-3, 1.0))
def test_odd_functions_correlate_monotonically(c, step_):
    higher = min(c + step_, 1.0)
    low = correlated_second_moment(activations.tanh(), 2.0, c).value
    assert correlated_second_moment(activations.tanh(), 2.0, higher).value > low
    mirrored = correlated_second_moment(activations.tanh(), 2.0, -c).value
    assert mirrored == pytest.approx(-low, abs=1e-10)


def test_a_kink_out_of_reach_changes_nothing():
    near = product_expectation(np.tanh, special.erf, 1e-4, 1e-4, 0.5)
    far = product_expectation(np.tanh, special.erf, 1e-4, 1e-4, 0.5, (3.0,), (-3.0,))
    assert near == far


def test_functions_that_vanish_cost_nothing_and_give_zero():
    found = product_expectation(np.zeros_like, np.tanh, 1.0, 1.0, 0.5)
    assert (found.value, found.error) == (0.0, 0.0)


def test_values_beyond_floats_are_passed_on():
    assert not math.isfinite(expectation2(lambda x, y: np.exp(x * x), 1e4, 1.0, 0.5).value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, 1.0, 0.5), "q1 must be positive and finite"),
        ((1.0, math.nan, 0.5), "q2 must be positive and finite"),
        ((1.0, 1.0, 1.01), "correlation must be from -1 to 1, got 1.01"),
        ((1.0, 1.0, math.nan), "correlation must be from -1 to 1, got nan"),
        ((1.0, 1.0, 0.5, (), (), 0.0), "tolerance must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        expectation2(lambda x, y: x * y, *arguments)
    with pytest.raises(ArgumentError, match=text):
        product_expectation(np.tanh, np.tanh, *arguments)
