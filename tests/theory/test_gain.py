"""Gains against sampled weights, closed forms and quadrature; the noise laws."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from equipoise.errors import ArgumentError
from equipoise.theory import activations, noiselaw
from equipoise.theory.fixedpoint import fixed_points
from equipoise.theory.gain import (
    gain_band,
    gain_sweep,
    gaussian_signal_gains,
    given_signal_gains,
    stationary_gains,
    unit_gains,
)

LAWS = [
    noiselaw.normal(), noiselaw.uniform(), noiselaw.truncated_normal(), noiselaw.laplace(),
    noiselaw.student_t(9.0),
]  # fmt: skip


def _within(share, p, draws):
    assert abs(share - p) < 4 * math.sqrt(max(p * (1 - p), 1 / draws) / draws)


def _gains(x, alpha, omega, draws, rng, law=None):
    """a_i of W = omega D + Z drawn in full, shape (draws, n)."""
    n = len(x)
    z = (law or noiselaw.normal()).draw(rng, (draws, n, n)) * alpha / math.sqrt(n)
    return (omega * x + z @ x) / x


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_moments_of_unit_gains_from_real_weights(law):
    rng = np.random.default_rng(3)
    x, draws = np.array([0.5, -1.0, 2.0, 0.1]), 40000
    a = _gains(x, 0.3, 1.2, draws, rng, law)
    found = unit_gains(x, 0.3, 1.2, law=law)
    assert np.all(np.abs(a.mean(axis=0) - found.mean) < 4 * found.std / math.sqrt(draws))
    centred = (a - a.mean(axis=0)) / found.std
    for power, expected in ((2, 1.0), (4, 3 + found.excess_kurtosis)):
        sample = centred**power
        error = sample.std(axis=0) / math.sqrt(draws)
        assert np.all(np.abs(sample.mean(axis=0) - expected) < 4 * error)


def test_gains_given_the_diagonal():
    """The published law: Z_ii known, the rest random."""
    rng = np.random.default_rng(4)
    x, draws, n = np.array([0.5, -1.0, 2.0]), 40000, 3
    diagonal = np.array([0.2, -0.1, 0.05])
    z = rng.standard_normal((draws, n, n)) * 0.3 / math.sqrt(n)
    z[:, np.arange(n), np.arange(n)] = diagonal
    a = (x + z @ x) / x
    found = unit_gains(x, 0.3, diagonal=diagonal)
    np.testing.assert_allclose(found.mean, 1 + diagonal, rtol=1e-15)
    assert np.all(np.abs(a.mean(axis=0) - found.mean) < 4 * found.std / math.sqrt(draws))
    error = found.std / math.sqrt(2 * draws)
    assert np.all(np.abs(a.std(axis=0) - found.std) < 4 * error)
    whole = unit_gains(x, 0.3)
    np.testing.assert_allclose(whole.std**2, found.std**2 + 0.09 / n, rtol=1e-13)
    assert whole.excess_kurtosis == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_gains_do_not_depend_on_the_size_of_the_signal(scale):
    x, diagonal = np.array([0.5, -1.0, 2.0, 1e-9]), np.zeros(4)
    for given_diagonal in (None, diagonal):
        plain = unit_gains(x, 0.3, diagonal=given_diagonal, law=noiselaw.laplace())
        scaled = unit_gains(scale * x, 0.3, diagonal=given_diagonal, law=noiselaw.laplace())
        np.testing.assert_allclose(scaled.std, plain.std, rtol=1e-14)
        assert scaled.excess_kurtosis == pytest.approx(plain.excess_kurtosis, rel=1e-13)
    # The others of a unit that holds nearly all: 1 + 4 beside 1e18, which no difference sees.
    most = unit_gains(np.array([1.0, 1e9, 2.0]), math.sqrt(3), diagonal=np.zeros(3)).std[1]
    assert most == pytest.approx(math.sqrt(5.0) * 1e-9, rel=1e-14)


def test_given_signal_is_a_mixture():
    rng = np.random.default_rng(5)
    x, draws = np.array([0.5, -1.0, 2.0, 0.1, 1.0]), 20000
    law = given_signal_gains(x, 0.2, 0.9)
    a = _gains(x, 0.2, 0.9, draws, rng)
    # Units of one draw share no row of Z, so all are independent.
    _within(np.mean((a > 0.78) & (a < 1.27)), law.share_in_band(0.78, 1.27), a.size)
    _within(np.mean(a < 0), law.share_negative(), a.size)
    expected = np.mean(stats.norm.cdf(1.1, 0.9, unit_gains(x, 0.2).std))
    assert law.cdf(1.1) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("width", [1, 2, 3, 16, 200])
@pytest.mark.parametrize("alpha", [0.085, 0.7])
def test_gaussian_signals_by_the_density(width, alpha):
    """Density of g / sqrt(B), B ~ Beta(1/2, (n-1)/2): a confluent hypergeometric function."""
    law, scale = gaussian_signal_gains(width, alpha, 0.8), alpha / math.sqrt(width)
    if width == 1:
        assert law.cdf(0.9) == pytest.approx(special.ndtr(0.1 / scale), rel=1e-14)
        return
    b = (width - 1) / 2
    norm = special.beta(1.0, b) / special.beta(0.5, b) / math.sqrt(2 * math.pi)
    for gain in (0.78, 0.83, 1.27, -0.2):
        end = abs(gain - 0.8) / scale
        half, _ = integrate.quad(
            lambda t: norm * special.hyp1f1(1.0, b + 1, -t * t / 2), 0.0, end,
            epsabs=1e-13, epsrel=1e-12, limit=400,
        )  # fmt: skip
        assert law.cdf(gain) == pytest.approx(0.5 + math.copysign(half, gain - 0.8), abs=1e-11)


def test_gaussian_signals_by_mpmath_at_width_two():
    """B = sin^2 of a uniform angle: cdf(omega + t) is the mean of Phi(t sin / s)."""
    scale, t = 0.085 / math.sqrt(2), 0.1
    mean = mpmath.quad(lambda a: mpmath.ncdf(t * mpmath.sin(a) / scale), [0, 0.1, mpmath.pi / 2])
    expected = float(mean / (mpmath.pi / 2))
    assert gaussian_signal_gains(2, 0.085).cdf(1.1) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("width", [1, 4, 16])
def test_gaussian_signals_from_real_weights(width):
    rng = np.random.default_rng(6)
    draws = 40000
    law = gaussian_signal_gains(width, 0.3)
    x = rng.standard_normal((draws, width))
    row = rng.standard_normal((draws, width)) * 0.3 / math.sqrt(width)
    a = 1.0 + np.einsum("ri,ri->r", row, x) / x[:, 0]
    _within(np.mean((a > 0.78) & (a < 1.27)), law.share_in_band(0.78, 1.27), draws)
    _within(np.mean(a < 0), law.share_negative(), draws)


def test_wide_gains_are_cauchy():
    for width in (16, 256, 4096, 10**9):
        law = gaussian_signal_gains(width, 0.085)
        for t in (0.02, 0.085, 0.27, 1.0):
            cauchy = 0.5 + math.atan(t / 0.085) / math.pi
            assert abs(law.cdf(1 + t) - cauchy) < 0.1 / width + 1e-12
    # No mean: the tail P(a > omega + t) falls as 1/t.
    law = gaussian_signal_gains(8, 0.085)
    assert (1 - law.cdf(1 + 1e4)) / (1 - law.cdf(1 + 1e5)) == pytest.approx(10.0, rel=1e-4)


@pytest.mark.parametrize("order", [2, 3])
def test_stationary_gains(order):
    def density(y):
        return math.exp(-(y ** (order + 1)) / (order + 1))

    total, _ = integrate.quad(density, 0, 8)
    square, _ = integrate.quad(lambda y: y * y * density(y), 0, 8)
    std = 0.085 * math.sqrt(square / total)
    law = stationary_gains(0.085, 1.0, order)
    for gain in (0.78, 1.02, 1.27, 0.0):
        mean, _ = integrate.quad(
            lambda y, gain=gain: density(y) * special.ndtr((gain - 1) * y / std), 0, 8,
            points=[0.05, 0.3], epsabs=1e-13,
        )  # fmt: skip
        assert law.cdf(gain) == pytest.approx(mean / total, abs=1e-11)
    rng = np.random.default_rng(7)
    draws = 50000
    # |y|^(p+1) / (p+1) is Gamma(1 / (p+1)).
    y = ((order + 1) * rng.gamma(1 / (order + 1), size=draws)) ** (1 / (order + 1))
    a = 1 + std * rng.standard_normal(draws) / y
    _within(np.mean((a > 0.78) & (a < 1.27)), law.share_in_band(0.78, 1.27), draws)


@settings(deadline=None, max_examples=30)
@given(
    alpha=st.floats(0.01, 2.0), width=st.integers(1, 300), omega=st.floats(0.2, 3.0),
    t=st.floats(0.0, 5.0),
)  # fmt: skip
def test_symmetry_scaling_and_order(alpha, width, omega, t):
    law = gaussian_signal_gains(width, alpha, omega)
    assert law.cdf(omega + t) + law.cdf(omega - t) == pytest.approx(1.0, abs=1e-12)
    scaled = gaussian_signal_gains(width, 2 * alpha, omega)
    assert scaled.cdf(omega + 2 * t) == pytest.approx(law.cdf(omega + t), abs=1e-12)
    # More noise, fewer gains near the centre.
    assert scaled.cdf(omega + t) <= law.cdf(omega + t) + 1e-12


def test_sweep_is_monotonic_and_adds_up():
    rows = gain_sweep([0.01, 0.03, 0.085, 0.3, 1.2], 64, 0.78, 1.27)
    for row in rows:
        assert row.negative + row.low + row.in_band + row.high == pytest.approx(1.0, abs=1e-13)
    inside = [row.in_band for row in rows]
    assert inside == sorted(inside, reverse=True)
    for name in ("negative", "high"):
        outside = [getattr(row, name) for row in rows]
        assert outside == sorted(outside)
    assert [row.alpha for row in rows] == [0.01, 0.03, 0.085, 0.3, 1.2]


@pytest.mark.parametrize(
    "activation", [activations.tanh(), activations.erf(), activations.softsign()], ids=str
)
def test_band_does_what_it_says(activation):
    low, high = gain_band(activation, 40, 0.1, 0.7)
    x = 1e-6
    for _ in range(40):
        x = float(activation.f(np.array([low * x]))[0])
    assert x == pytest.approx(1e-7, rel=1e-4)
    top = float(activation.f(np.array([1e12]))[0])
    found = fixed_points(activation, high).points[-1].x
    assert found == pytest.approx(0.7 * top, rel=1e-9)


def test_band_of_softsign_in_closed_form():
    """f^-1(s) / s = 1 / (1 - s), also where the level is nearly all of sup f = 1."""
    assert gain_band(activations.softsign(), 5, 0.5, 0.999)[1] == pytest.approx(1000.0, rel=1e-10)


def test_published_band_needs_two_free_numbers():
    """tanh: upper edge atanh(s) / s, so s = 0.728; the lower one fits any depth."""
    low, high = gain_band(activations.tanh(), 10, 0.78**10, 0.728)
    assert high == pytest.approx(math.atanh(0.728) / 0.728, rel=1e-9)
    assert (round(low, 2), round(high, 2)) == (0.78, 1.27)
    assert gain_band(activations.tanh(), 100, 0.78**100, 0.728)[0] == pytest.approx(low, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: unit_gains(np.array([1.0, 0.0]), 0.1), "x must"),
        (lambda: unit_gains(np.array([[1.0]]), 0.1), "x must"),
        (lambda: unit_gains(np.array([]), 0.1), "x must"),
        (lambda: unit_gains(np.array([1.0]), -0.1), "alpha must"),
        (lambda: unit_gains(np.array([1.0]), 0.1, math.nan), "omega must"),
        (lambda: unit_gains(np.ones(2), 0.1, diagonal=np.array([0.0, math.nan])), "diagonal must"),
        (lambda: gaussian_signal_gains(3, 0.1, math.inf), "omega must"),
        (lambda: stationary_gains(0.1, math.nan), "omega must"),
        (lambda: unit_gains(np.ones(2), 0.1, diagonal=np.ones(3)), "diagonal must"),
        (lambda: gaussian_signal_gains(0, 0.1), "width must"),
        (lambda: gaussian_signal_gains(3, 0.0), "alpha must"),
        (lambda: gaussian_signal_gains(3, 0.1).share_in_band(1.0, 1.0), "high must"),
        (lambda: stationary_gains(0.1, order=1), "order must"),
        (lambda: stationary_gains(-0.1), "alpha must"),
        (lambda: gain_sweep([0.1], 3, -1.0, 1.0), "low must"),
        (lambda: gain_band(activations.tanh(), 0, 0.1, 0.5), "depth must"),
        (lambda: gain_band(activations.tanh(), 5, 1.0, 0.5), "kept must"),
        (lambda: gain_band(activations.tanh(), 5, 0.5, 1.0), "level must"),
        (lambda: gain_band(activations.sin(), 5, 0.5, 0.5), "activation must.*increasing"),
        (lambda: noiselaw.student_t(2.0), "degrees must"),
        (lambda: noiselaw.truncated_normal(0.001), "bound must"),
    ],
)
def test_refusals(call, word):
    with pytest.raises(ArgumentError, match=f"^{word}"):
        call()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_noise_laws_are_standardised(law):
    draws = 200_000
    z = law.draw(np.random.default_rng(8), (draws // 100, 100))
    assert z.shape == (draws // 100, 100)
    for power, expected in ((1, 0.0), (2, 1.0), (4, 3 + law.excess_kurtosis)):
        sample = z**power
        assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(draws)
    assert law.is_gaussian == (law.name == "normal")


@pytest.mark.parametrize("bound", [0.01, 0.5, 2.0, 6.0])
def test_truncated_moments_by_mpmath(bound):
    def moment(k):
        return mpmath.quad(lambda z: z**k * mpmath.npdf(z), [-bound, 0, bound])

    expected = float(moment(4) * moment(0) / moment(2) ** 2 - 3)
    found = noiselaw.truncated_normal(bound)
    assert found.excess_kurtosis == pytest.approx(expected, abs=1e-11)
    assert found.parameters == (("bound", bound),)


def test_heavy_tails():
    assert noiselaw.student_t(3.0).excess_kurtosis == math.inf
    assert noiselaw.student_t(6.0).excess_kurtosis == pytest.approx(
        float(stats.t.stats(6, moments="k"))
    )
    assert noiselaw.laplace().excess_kurtosis == float(stats.laplace.stats(moments="k"))
    assert noiselaw.uniform().excess_kurtosis == pytest.approx(
        float(stats.uniform.stats(moments="k"))
    )


def test_laws_of_one_name_and_parameters_are_equal():
    assert noiselaw.normal() == noiselaw.normal()
    assert noiselaw.student_t(8.0) == noiselaw.student_t(8.0) != noiselaw.student_t(9.0)
    assert noiselaw.normal() != noiselaw.uniform()
