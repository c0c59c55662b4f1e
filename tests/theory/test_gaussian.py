"""Expectations against closed forms, high precision, QUADPACK and Monte Carlo."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.gaussian import (
    NODES,
    Expectation,
    expectation,
    kronrod_sums,
    panel_edges,
)

LEVELS = [1e-6, 1e-3, 0.1, 1.0, 7.3, 1e3, 1e6]


@pytest.mark.parametrize("q", LEVELS)
@pytest.mark.parametrize("power", [0, 2, 4, 6, 8])
def test_moments(q, power):
    found = expectation(lambda z: z**power, q)
    exact = special.factorial2(power - 1) * q ** (power / 2) if power else 1.0
    assert found.value == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("q", LEVELS)
def test_odd_functions_vanish(q):
    found = expectation(np.tanh, q)
    assert abs(found.value) < 1e-15


@pytest.mark.parametrize("q", LEVELS)
def test_kinks_and_jumps(q):
    s = math.sqrt(q)
    cases = [
        (np.abs, (0.0,), s * math.sqrt(2 / math.pi)),
        (lambda z: np.maximum(z, 0.0) ** 2, (0.0,), q / 2),
        # E max(z - a, 0) = s phi(a/s) - a Phi(-a/s)
        (lambda z: np.maximum(z - 0.7, 0.0), (0.7,), _above(0.7, s)),
        (lambda z: np.maximum(z + 2.0, 0.0), (-2.0,), _above(-2.0, s)),
        (lambda z: (z > 0.3).astype(float), (0.3,), special.ndtr(-0.3 / s)),
    ]
    for g, kinks, exact in cases:
        value = expectation(g, q, kinks).value
        if exact > 1e-25:
            assert value == pytest.approx(exact, rel=1e-9)
        else:
            assert abs(value) < 1e-25


def _above(a, s):
    tail = math.exp(-0.5 * (a / s) ** 2) / math.sqrt(2 * math.pi)
    return s * tail - a * float(special.ndtr(-a / s))


@pytest.mark.parametrize("q", LEVELS)
def test_smooth_functions(q):
    cases = [
        (lambda z: special.erf(z) ** 2, 2 / math.pi * math.asin(2 * q / (1 + 2 * q))),
        (lambda z: np.exp(-z * z), 1 / math.sqrt(1 + 2 * q)),
        (lambda z: 1 / (1 + z * z), _cauchy(q)),
    ]
    for g, exact in cases:
        found = expectation(g, q)
        assert found.value == pytest.approx(exact, rel=1e-9)


def _cauchy(q):
    # E 1/(1+z^2) = sqrt(pi/(2q)) erfcx(1/sqrt(2q))
    return math.sqrt(math.pi / (2 * q)) * float(special.erfcx(1 / math.sqrt(2 * q)))


@pytest.mark.parametrize("q", [0.01, 1.0, 30.0])
def test_oscillation(q):
    """E cos(w z) = exp(-w^2 q / 2); the absolute tolerance is that of E |cos|."""
    for w in (0.5, 3.0, 10.0):
        found = expectation(lambda z, w=w: np.cos(w * z), q)
        assert found.value == pytest.approx(math.exp(-w * w * q / 2), abs=1e-10)


@pytest.mark.parametrize("q", [1e-4, 1.0, 50.0])
def test_high_precision(q):
    with mpmath.workdps(25):
        s = mpmath.sqrt(mpmath.mpf(q))
        edges = [-12 * s, -s, 0, s, 12 * s]

        def integrand(z):
            gate = mpmath.tanh(z) * mpmath.log1p(mpmath.exp(z))
            return gate**2 * mpmath.npdf(z, 0, s)

        exact = float(mpmath.quad(integrand, edges))
    found = expectation(lambda z: (np.tanh(z) * np.logaddexp(0, z)) ** 2, q)
    assert found.value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("q", [0.2, 40.0])
def test_against_quadpack(q):
    def g(z):
        return np.arctan(np.maximum(z - 0.4, 0.0)) * np.exp(0.1 * z)

    def integrand(z):
        return float(g(np.array(z))) * math.exp(-z * z / (2 * q)) / math.sqrt(2 * math.pi * q)

    exact, _ = integrate.quad(integrand, 0.4, 12 * math.sqrt(q) + 4 * q, epsabs=0, epsrel=1e-11)
    assert expectation(g, q, (0.4,)).value == pytest.approx(exact, rel=1e-9)


def test_monte_carlo():
    z = math.sqrt(2.0) * np.random.default_rng(1).standard_normal(400_000)
    values = np.sqrt(np.abs(z - 1.0))
    found = expectation(lambda x: np.sqrt(np.abs(x - 1.0)), 2.0, (1.0,))
    assert abs(found.value - values.mean()) < 4 * values.std() / math.sqrt(len(z))


@pytest.mark.parametrize("kinks", [(0.37,), ()])
def test_error_is_a_bound(kinks):
    """With the kink declared and without: the true error stays below the stated one."""
    exact = _above(0.37, 1.0)
    found = expectation(lambda z: np.maximum(z - 0.37, 0.0), 1.0, kinks)
    assert abs(found.value - exact) <= found.error + 1e-16
    assert found.error < 1e-8


def test_a_kink_that_is_not_declared_is_found_by_refinement():
    exact = _above(0.37, 1.0)
    found = expectation(lambda z: np.maximum(z - 0.37, 0.0), 1.0)
    assert found.value == pytest.approx(exact, rel=1e-8)


def test_kinks_out_of_reach_change_nothing():
    near = expectation(np.cosh, 1e-4)
    far = expectation(np.cosh, 1e-4, (3.0, -3.0))
    assert near == far


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    log_q=st.floats(-6.0, 6.0),
    a=st.floats(-3.0, 3.0),
    low=st.floats(-2.0, 2.0),
    high=st.floats(-2.0, 2.0),
)
def test_any_pair_of_slopes_around_any_kink(log_q, a, low, high):
    """E g(z)^2 for g = low (z - a) below a and high (z - a) above it, by truncated moments."""
    q = 10.0**log_q
    s = math.sqrt(q)
    found = expectation(lambda z: (np.where(z > a, high, low) * (z - a)) ** 2, q, (a,))
    density = math.exp(-0.5 * (a / s) ** 2) / math.sqrt(2 * math.pi)
    above, below = float(special.ndtr(-a / s)), float(special.ndtr(a / s))
    # E (z-a)^2 1[z>a] = (q + a^2) Phi(-a/s) - a s phi(a/s), and the mirror image below.
    right = (q + a * a) * above - a * s * density
    left = (q + a * a) * below + a * s * density
    exact = high * high * right + low * low * left
    # The closed form itself cancels where the kink lies far out.
    assert found.value == pytest.approx(exact, rel=1e-9, abs=1e-13 * (q + a * a) * 4)


# The other rule steps over the oscillation of sine at larger levels: closed forms below.
PAIRS = [
    (a, q)
    for a in known_activations()
    for q in (1e-6, 1e-2, 1.0, 1e3, 1e6)
    if a.name != "sin" or q <= 1.0
]


@pytest.mark.parametrize(("activation", "q"), PAIRS, ids=str)
def test_moments_of_every_activation(activation, q, gaussian_mean):
    """f^2, f'^2 and z f against an independent rule, and the stated error above the gap."""
    breaks = activation.kinks + activation.jumps
    for g in (
        lambda z: activation.f(z) ** 2,
        lambda z: activation.df(z) ** 2,
        lambda z: z * activation.f(z),
    ):
        found = expectation(g, q, breaks)
        other = gaussian_mean(g, q, breaks)
        scale = gaussian_mean(lambda z, g=g: np.abs(g(z)), q, breaks)
        assert abs(found.value - other) <= found.error + 1e-13 * scale
        assert found.error <= 1e-9 * scale + 1e-40


@pytest.mark.parametrize("q", [1e-6, 1e-2, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("frequency", [1.0, 30.0])
def test_moments_of_sine(frequency, q):
    """Tens of thousands of periods; the odd moment z sin cancels, so it is held to E |z sin|."""
    a, w = activations.sin(frequency), frequency
    fall = math.exp(-2 * w * w * q)
    cases = [
        (lambda z: a.f(z) ** 2, -math.expm1(-2 * w * w * q) / 2, None),
        (lambda z: a.df(z) ** 2, w * w * (1 + fall) / 2, None),
        (lambda z: z * a.f(z), w * q * math.exp(-w * w * q / 2), min(w * q, math.sqrt(q))),
    ]
    for g, exact, scale in cases:
        found = expectation(g, q)
        assert abs(found.value - exact) <= found.error
        assert found.error <= 1e-9 * (scale or exact)


@pytest.mark.parametrize("q", [1e-3, 1e-2, 0.3])
def test_a_function_that_vanishes_around_the_origin(q):
    """E softshrink^2 is as small as 1e-60: 2 ((q + t^2) Phi(-t/s) - t s phi(t/s)), t = 1/2."""
    a = activations.softshrink()
    with mpmath.workdps(60):
        s, t = mpmath.sqrt(mpmath.mpf(q)), mpmath.mpf(0.5)
        tail = mpmath.erfc(t / s / mpmath.sqrt(2)) / 2
        exact = float(2 * ((s * s + t * t) * tail - t * s * mpmath.npdf(t / s)))
    found = expectation(lambda z: a.f(z) ** 2, q, a.kinks)
    assert abs(found.value - exact) <= found.error + 1e-12 * exact
    assert found.error <= 1e-9 * exact


@settings(max_examples=40, deadline=None, derandomize=True)
@given(log_q=st.floats(-4.0, 6.0), frequency=st.floats(0.1, 40.0), phase=st.floats(0.0, 6.3))
def test_the_stated_error_bounds_oscillations(log_q, frequency, phase):
    """E cos^2(w z + p) = (1 + exp(-2 w^2 q) cos 2p) / 2, at any number of periods."""
    q = 10.0**log_q
    found = expectation(lambda z: np.cos(frequency * z + phase) ** 2, q, tolerance=1e-6)
    exact = (1 + math.exp(-2 * frequency**2 * q) * math.cos(2 * phase)) / 2
    assert abs(found.value - exact) <= found.error


def test_too_many_periods_are_said_and_not_guessed():
    found = expectation(lambda z: np.sin(1e4 * z) ** 2, 1e6)
    assert found.error > 1e-3
    assert abs(found.value - 0.5) <= found.error


def test_values_beyond_floats_are_passed_on():
    assert expectation(lambda z: np.exp(z * z), 1e4).value == math.inf
    assert math.isnan(expectation(lambda z: np.where(np.abs(z) < 1, math.nan, z), 1.0).value)


@pytest.mark.parametrize("q", [1e-4, 1.0, 1e4])
def test_many_kinks(q):
    """A sum of 60 ramps, by the closed form of each."""
    kinks = tuple(np.linspace(-3.0, 2.9, 60).tolist())
    found = expectation(lambda z: np.maximum(z[:, None] - kinks, 0.0).sum(axis=1), q, kinks)
    exact = sum(_above(k, math.sqrt(q)) for k in kinks)
    assert found.value == pytest.approx(exact, rel=1e-12)
    assert found.error < 1e-10 * exact


@pytest.mark.parametrize("steepness", [1e2, 1e4])
def test_a_steep_function_at_the_origin(steepness):
    """E w^2 sech^4(w z) = (4 w / 3) / sqrt(2 pi q) up to terms of 1 / (w^2 q)."""
    w, q = steepness, 1e6
    found = expectation(lambda z: w * w / np.cosh(np.clip(w * z, -300, 300)) ** 4, q)
    assert found.value == pytest.approx(4 * w / 3 / math.sqrt(2 * math.pi * q), rel=1e-9)


def test_panels_are_as_wide_as_structure_is_far():
    scales = {-2.0: 1.0, 0.0: 1.0, 0.01: 1e-4, 40.0: 1.0, 1e9: 1.0}
    edges = panel_edges(scales, 100.0)
    assert {-2.0, 0.0, 0.01, 40.0} <= set(edges.tolist())
    assert np.abs(edges).max() <= 100.0
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    for at in (-2.0, 0.0, 0.01, 40.0):
        # The fine scale at 0.01 is that of its neighbour at 0 too, up to their distance.
        far = np.abs(middle - at) > 1.0
        assert (width[far] <= 2 * np.abs(middle - at)[far]).all()
    beside = np.abs(edges - 0.01)
    assert np.isclose(beside[beside > 0].min(), 1e-4 / 4)
    assert np.isclose(-edges[edges < 0].max(), 0.01 / 4)


def test_panels_mirror():
    scales = {-2.0: 1.0, 0.0: 0.3, 0.01: 1e-4, 40.0: 1.0}
    mirrored = panel_edges({-a: s for a, s in scales.items()}, 100.0)
    np.testing.assert_array_equal(mirrored, -panel_edges(scales, 100.0)[::-1])


def test_panels_grow_in_number_as_the_abscissae_do():
    few, many = (len(panel_edges(dict.fromkeys(range(n), 1.0), 1e3)) for n in (100, 200))
    assert many - few <= 5 * 100


def test_kronrod_sums_of_polynomials():
    """Exact up to degree 31; a gap appears from degree 19 (odd) and 20 (even) on."""
    for degree in range(32):
        value, size, error = kronrod_sums(NODES[None, :] ** degree)
        assert value[0] == pytest.approx((1 + (-1) ** degree) / (degree + 1), abs=1e-15)
        assert size[0] == pytest.approx(2 / (degree + 1), rel=0.01)
        assert (error[0] > 1e-12) == (degree >= 19)


def test_rules_that_disagree_give_the_whole_panel_as_error():
    terms = np.cos(80 * NODES)[None, :]
    _, size, error = kronrod_sums(terms)
    assert error[0] >= size[0]


def test_floor_stops_the_refinement_of_rounding_noise():
    calls = [0]

    def noise(z):
        calls[0] += z.size
        return (np.sqrt(z * z) * (1 + 1e-16) - np.abs(z) + 1e-16 * np.cos(1e9 * z)) ** 2

    expectation(noise, 1.0, floor=1e-20)
    few, calls[0] = calls[0], 0
    expectation(noise, 1.0)
    assert few < calls[0]


@pytest.mark.parametrize("q", [0.0, -1.0, math.nan, math.inf])
def test_variance_must_be_positive_and_finite(q):
    with pytest.raises(ArgumentError, match="q must be positive and finite"):
        expectation(np.tanh, q)


@pytest.mark.parametrize("tolerance", [0.0, -1e-9, math.nan])
def test_tolerance_must_be_positive(tolerance):
    with pytest.raises(ArgumentError, match="tolerance must be positive and finite"):
        expectation(np.tanh, 1.0, tolerance=tolerance)


def test_result_is_data():
    assert expectation(np.ones_like, 1.0) == expectation(np.ones_like, 1.0)
    assert isinstance(expectation(np.ones_like, 1.0), Expectation)
