"""Gaussian statistics against closed forms, a second quadrature, series and Monte Carlo."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.gaussian import expectation
from equipoise.theory.hermite import hermite_coefficients, mean_hermite_degree, statistics

KNOWN = known_activations()
ODD = [a for a in KNOWN if a.parity == "odd"]
LEVELS = [1e-6, 1e-3, 0.3, 1.0, 5.0, 1e3, 1e6]
# sin oscillates: beyond this level its panels would have to be counted by the million.
CALM = [(a, q) for a in KNOWN for q in LEVELS if not (a.name == "sin" and q > 100)]


def _phi(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(("activation", "q"), CALM, ids=str)
def test_every_moment_by_a_second_quadrature(activation, q, gaussian_mean):
    f, df, zero = activation.f, activation.df, activation.value_at_zero
    breaks = activation.kinks + activation.jumps
    found = statistics(activation, q)

    def mean(g):
        return gaussian_mean(g, q, breaks)

    assert found.second_moment == pytest.approx(mean(lambda z: f(z) ** 2), rel=1e-9)
    assert found.centred_energy == pytest.approx(mean(lambda z: (f(z) - zero) ** 2), rel=1e-9)
    assert found.fourth_moment == pytest.approx(mean(lambda z: f(z) ** 4), rel=1e-9)
    size = math.sqrt(found.second_moment)
    assert found.mean == pytest.approx(mean(f), rel=1e-9, abs=1e-12 * size)
    if activation.jumps:
        assert found.slope_energy == math.inf
        slope = mean(lambda z: z * (f(z) - zero)) / q
    else:
        assert found.slope_energy == pytest.approx(mean(lambda z: df(z) ** 2), rel=1e-9)
        slope = mean(df)  # Stein: another integrand than the one in the code
    # The slope may cancel: it is exact to 1e-9 of its Cauchy-Schwarz bound.
    bound = math.sqrt(found.centred_energy / q)
    assert found.linear == pytest.approx(slope, rel=1e-9, abs=1e-12 * bound)
    assert found.error < 1e-9


@pytest.mark.parametrize("q", LEVELS)
def test_erf(q):
    s = statistics(activations.erf(), q)
    assert s.second_moment == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-9)
    assert s.slope_energy == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-9)
    assert s.linear == pytest.approx(2 / math.sqrt(math.pi) / math.sqrt(1 + 2 * q), rel=1e-9)
    assert abs(s.mean) < 1e-15


@pytest.mark.parametrize("q", LEVELS)
@pytest.mark.parametrize("slope", [-1.0, -0.3, 0.0, 0.01, 0.5, 1.0])
def test_two_slopes(slope, q):
    s = statistics(activations.leaky_relu(slope), q)
    std = math.sqrt(q)
    assert s.mean == pytest.approx((1 - slope) * std / math.sqrt(2 * math.pi), abs=1e-9 * std)
    assert s.second_moment == pytest.approx((1 + slope**2) * q / 2, rel=1e-11)
    assert s.centred_energy == pytest.approx((1 + slope**2) * q / 2, rel=1e-11)
    assert s.linear == pytest.approx((1 + slope) / 2, rel=1e-11, abs=1e-14)
    assert s.slope_energy == pytest.approx((1 + slope**2) / 2, rel=1e-11)
    assert s.fourth_moment == pytest.approx(1.5 * (1 + slope**4) * q**2, rel=1e-11)
    assert s.mean_hermite_degree == pytest.approx(1.0, rel=1e-11)
    # theory: c = (6 r - 1) / 4 with r = (a^4 + b^4) / (a^2 + b^2)^2
    r = (1 + slope**4) / (1 + slope**2) ** 2
    assert s.log_norm_coefficient == pytest.approx((6 * r - 1) / 4, rel=1e-10)


@pytest.mark.parametrize("q", [1e-6, 0.01, 1.0, 4.0, 25.0])
def test_sin(q):
    s = statistics(activations.sin(), q)
    assert s.second_moment == pytest.approx(-math.expm1(-2 * q) / 2, rel=1e-9)
    assert s.slope_energy == pytest.approx((1 + math.exp(-2 * q)) / 2, rel=1e-9)
    assert s.linear == pytest.approx(math.exp(-q / 2), rel=1e-8)
    assert mean_hermite_degree(activations.sin(), q) == pytest.approx(q / math.tanh(q), rel=1e-9)


@pytest.mark.parametrize("frequency", [0.5, 3.0])
def test_frequency_rescales_the_level(frequency):
    q = 0.7
    scaled = q * frequency**2
    found = mean_hermite_degree(activations.sin(frequency), q)
    assert found == pytest.approx(scaled / math.tanh(scaled), rel=1e-9)


@pytest.mark.parametrize("q", LEVELS)
def test_hardtanh(q):
    """E clip(z, -1, 1)^2 by truncated normal moments."""
    a = 1 / math.sqrt(q)
    inside, tail = float(special.erf(a / math.sqrt(2))), float(special.erfc(a / math.sqrt(2)))
    s = statistics(activations.hardtanh(), q)
    # Wide Gaussians: q (P - 2 a phi) cancels to q (2 a^3 / 3) / sqrt(2 pi), so sum its series.
    if a > 0.01:
        core = q * (inside - 2 * a * _phi(a))
    else:
        core = q * 2 / math.sqrt(2 * math.pi) * (a**3 / 3 - a**5 / 10 + a**7 / 56)
    assert s.second_moment == pytest.approx(core + tail, rel=1e-9)
    assert s.slope_energy == pytest.approx(inside, rel=1e-9)
    assert s.linear == pytest.approx(inside, rel=1e-9)


@pytest.mark.parametrize("q", LEVELS)
def test_identity_and_power(q):
    line = statistics(activations.linear(-3.0), q)
    assert line.linear == pytest.approx(-3.0, rel=1e-12)
    assert line.mean_hermite_degree == pytest.approx(1.0, rel=1e-12)
    assert line.nonlinear_share == pytest.approx(0.0, abs=1e-12)
    assert line.log_norm_coefficient == pytest.approx(0.5, rel=1e-11)
    square = statistics(activations.squared_relu(), q)
    assert square.second_moment == pytest.approx(1.5 * q * q, rel=1e-11)
    assert square.slope_energy == pytest.approx(2 * q, rel=1e-11)
    assert square.linear == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-11)
    assert square.mean_hermite_degree == pytest.approx(4 / 3, rel=1e-11)


def test_softplus_slope_at_a_small_level():
    """E sigmoid = 1/2 by symmetry, E softplus' softplus' -> 1/4."""
    s = statistics(activations.softplus(), 1e-6)
    assert s.linear == pytest.approx(0.5, rel=1e-9)
    assert s.slope_energy == pytest.approx(0.25 + 1e-6 / 16, rel=1e-9)


@pytest.mark.parametrize("activation", [a for a in KNOWN if not a.jumps], ids=str)
@pytest.mark.parametrize("q", [0.2, 2.0])
def test_monte_carlo(activation, q):
    z = math.sqrt(q) * np.random.default_rng(7).standard_normal(100_000)
    s = statistics(activation, q)
    f, df = activation.f(z), activation.df(z)
    zero = activation.value_at_zero
    pairs = [
        (f, s.mean), (f**2, s.second_moment), ((f - zero) ** 2, s.centred_energy),
        (z * (f - zero) / q, s.linear), (df**2, s.slope_energy), (f**4, s.fourth_moment),
    ]  # fmt: skip
    for values, expected in pairs:
        sigma = values.std() / math.sqrt(len(z))
        assert abs(values.mean() - expected) < 4 * sigma + 1e-12


@pytest.mark.parametrize(
    "activation",
    [activations.tanh(), activations.erf(), activations.sin(), activations.sigmoid(),
     activations.gelu(), activations.softplus(), activations.inverse_sqrt()],
    ids=str,
)  # fmt: skip
def test_stein_series_of_smooth_functions(activation):
    """E f0^2 = sum a_k^2 and q E f'^2 = sum k a_k^2, a_k from a Gauss-Hermite rule of 200 nodes."""
    q, count = 0.3, 61
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / math.sqrt(2 * math.pi)
    f0 = activation.f(math.sqrt(q) * nodes) - activation.value_at_zero
    k = np.arange(count)
    polynomials = np.array([special.eval_hermitenorm(n, nodes) for n in k])
    a = (polynomials * (weights * f0)).sum(axis=1) / np.sqrt(special.factorial(k))
    s = statistics(activation, q)
    assert s.centred_energy == pytest.approx((a**2).sum(), rel=1e-8)
    assert q * s.slope_energy == pytest.approx((k * a**2).sum(), rel=1e-8)
    assert s.linear * math.sqrt(q) == pytest.approx(a[1], rel=1e-8)
    degree = (k * a**2).sum() / (a**2).sum()
    assert mean_hermite_degree(activation, q) == pytest.approx(degree, rel=1e-8)
    # Of the energy outside a line through the origin, the constant is part.
    share = (a**2).sum() - a[1] ** 2
    assert s.nonlinear_share == pytest.approx(share / (a**2).sum(), rel=1e-7)
    np.testing.assert_allclose(hermite_coefficients(activation, q, 20), a[:20], atol=1e-9)


@pytest.mark.parametrize("q", [0.25, 1.0, 9.0])
def test_coefficients_of_relu(q):
    """At q = 1: 1/sqrt(2 pi), 1/2, then a_2m = (-1)^(m+1) (2m-3)!! / sqrt(2 pi (2m)!)."""
    expected = np.zeros(16)
    expected[0], expected[1] = 1 / math.sqrt(2 * math.pi), 0.5
    for m in range(1, 8):
        odd = special.factorial2(2 * m - 3) if m > 1 else 1.0
        expected[2 * m] = (-1) ** (m + 1) * odd / math.sqrt(2 * math.pi * math.factorial(2 * m))
    found = hermite_coefficients(activations.relu(), q, 16)
    np.testing.assert_allclose(found, math.sqrt(q) * expected, atol=1e-9)


@pytest.mark.parametrize("q", [0.5, 2.0])
def test_coefficients_of_sin(q):
    """a_k = exp(-q/2) q^(k/2) sin(k pi/2) / sqrt(k!)."""
    k = np.arange(64)
    log_size = -q / 2 + k / 2 * math.log(q) - special.gammaln(k + 1) / 2
    expected = np.exp(log_size) * np.array([0, 1, 0, -1] * 16)
    found = hermite_coefficients(activations.sin(), q, 64)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_coefficients_are_centred():
    found = hermite_coefficients(activations.sigmoid(), 1.0, 3)
    np.testing.assert_allclose(found[[0, 2]], 0.0, atol=1e-12)


def test_a_jump_has_infinite_degree():
    s = statistics(activations.hardshrink(), 1.0)
    assert s.slope_energy == math.inf
    assert mean_hermite_degree(activations.hardshrink(), 1.0) == math.inf
    # E z^2 1[|z| > t] = 2 (t phi(t) + Phi(-t))
    exact = 2 * (0.5 * _phi(0.5) + float(special.ndtr(-0.5)))
    assert s.second_moment == pytest.approx(exact, rel=1e-9)


def test_a_constant_has_no_degree():
    constant = Activation("constant", lambda x: np.full_like(x, 2.0), np.zeros_like)
    s = statistics(constant, 1.0)
    assert s.mean == pytest.approx(2.0, rel=1e-12)
    assert math.isnan(s.mean_hermite_degree)
    assert math.isnan(s.nonlinear_share)
    assert s.log_norm_coefficient == pytest.approx(0.0, abs=1e-12)


def test_the_zero_function_has_statistics():
    s = statistics(activations.linear(0.0), 1.0)
    assert s.second_moment == s.slope_energy == s.centred_energy == 0.0
    assert math.isnan(s.mean_hermite_degree)
    assert math.isnan(s.nonlinear_share)
    assert math.isnan(s.log_norm_coefficient)


def test_stated_error_is_that_of_the_worst_moment():
    """A kink that is not declared: the square of the slope has most of the error."""
    ramp = Activation("ramp", lambda x: np.maximum(x - 0.37, 0.0), lambda x: (x > 0.37) * 1.0)
    s = statistics(ramp, 1.0)
    exact = float(special.ndtr(-0.37))
    worst = expectation(lambda z: ramp.df(z) ** 2, 1.0)
    assert s.error >= worst.error / worst.value >= abs(s.slope_energy - exact) / exact
    square = expectation(lambda z: ramp.f(z) ** 2, 1.0)
    assert s.error > square.error / square.value > 0


@pytest.mark.parametrize("q", [1e-170, 1e160])
def test_fourth_moments_beyond_floats_have_no_coefficient(q):
    assert math.isnan(statistics(activations.relu(), q).log_norm_coefficient)


def test_moments_too_small_to_square():
    """E f^2 = 1e-181: its square is 0 in floats, the ratio is not."""
    s = statistics(activations.softshrink(), 3e-4)
    assert s.second_moment < 1e-170
    expected = math.log(s.fourth_moment) - 2 * math.log(s.second_moment) - math.log(4)
    assert math.log(s.log_norm_coefficient) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_level_of_another_precision(kind):
    """The same numbers as for the float, and no single precision left in the cache."""
    narrow = kind(0.3)
    found = statistics(activations.tanh(0.9), narrow)
    assert type(found.q) is float
    assert type(found.mean_hermite_degree) is float
    assert found == statistics(activations.tanh(0.9), float(narrow))
    assert statistics(activations.relu(), np.int64(2)).second_moment == pytest.approx(1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(activation=st.sampled_from(ODD), log_q=st.floats(-5.0, 3.0))
def test_degree_of_odd_functions_is_at_least_one(activation, log_q):
    s = statistics(activation, 10.0**log_q)
    if s.centred_energy == 0.0:  # shrinking functions vanish on all that a narrow Gaussian reaches
        assert math.isnan(s.mean_hermite_degree)
    else:
        assert s.mean_hermite_degree >= 1 - 1e-9


def test_results_are_cached():
    assert statistics(activations.tanh(), 0.5) is statistics(activations.tanh(), 0.5)


@pytest.mark.parametrize("q", [0.0, -1.0, math.nan])
def test_level_must_be_positive(q):
    for call in (
        lambda: statistics(activations.tanh(), q),
        lambda: mean_hermite_degree(activations.tanh(), q),
        lambda: hermite_coefficients(activations.tanh(), q, 3),
    ):
        with pytest.raises(ArgumentError, match="q must be positive and finite"):
            call()


def test_a_count_may_be_a_whole_float():
    assert hermite_coefficients(activations.tanh(), 1.0, 3.0).shape == (3,)


@pytest.mark.parametrize("count", [0, -1, 65, 2.5])
def test_count_must_be_in_range(count):
    with pytest.raises(ArgumentError, match="count must be"):
        hermite_coefficients(activations.tanh(), 1.0, count)
