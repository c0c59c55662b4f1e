"""Fractional moments: mixtures of chi laws, even moments in closed form, limits, chance."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.lyapunov import log_gain
from equipoise.theory.moments import critical_scale, fractional_moment, log_moment

ORDERS = [1e-9, 1e-3, 0.0999, 0.1, 0.5, 1.0, 2.0, 2.7, 3.0, 4.0, 5.3, 9.0, 20.0]


def leaky(slope):
    return activations.leaky_relu(slope)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("width", [1, 2, 7, 30])
def test_relu_is_a_mixture_of_chi(width, order):
    with mpmath.workdps(30):
        s = mpmath.mpf(order)
        terms = [
            mpmath.binomial(width, k)
            * 2 ** (s / 2)
            * mpmath.gamma((k + s) / 2)
            / mpmath.gamma(mpmath.mpf(k) / 2)
            for k in range(1, width + 1)
        ]
        exact = float(mpmath.log(sum(terms) / mpmath.mpf(2) ** width))
    assert log_moment(activations.relu(), order, width) == pytest.approx(
        exact, rel=1e-12, abs=1e-12
    )
    alive = log_moment(activations.relu(), order, width, given_survival=True)
    assert alive == pytest.approx(exact - math.log1p(-(2.0**-width)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("order", [-2.9, -1.0, -1e-7, *ORDERS])
def test_a_line_has_the_moments_of_chi(order):
    with mpmath.workdps(30):
        s = mpmath.mpf(order)
        exact = float(mpmath.log(2 ** (s / 2) * mpmath.gamma((3 + s) / 2) / mpmath.gamma(1.5)))
    got = log_moment(activations.identity(), order, 3)
    assert got == pytest.approx(exact, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("width", [0.001, 0.1, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("order", [1e-5, 0.0999, 1.0, 2.7, 17.0, 19.0, 20.0])
def test_lines_of_extreme_width(width, order):
    """Integrands of wide layers underflow, those of narrow ones reach far."""
    with mpmath.workdps(40):
        s, d = mpmath.mpf(order), mpmath.mpf(width)
        exact = mpmath.log(2) * s / 2 + mpmath.loggamma((d + s) / 2) - mpmath.loggamma(d / 2)
    got = log_moment(activations.identity(), order, width)
    assert got == pytest.approx(float(exact), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("order", [-0.999, -0.9, -0.1, -1e-6])
@pytest.mark.parametrize("width", [1, 2, 40])
def test_surviving_relu_near_its_pole(width, order):
    with mpmath.workdps(30):
        s = mpmath.mpf(order)
        terms = [
            mpmath.binomial(width, k)
            * 2 ** (s / 2)
            * mpmath.gamma((k + s) / 2)
            / mpmath.gamma(mpmath.mpf(k) / 2)
            for k in range(1, width + 1)
        ]
        exact = float(mpmath.log(sum(terms) / (mpmath.mpf(2) ** width - 1)))
    got = log_moment(activations.relu(), order, width, given_survival=True)
    assert got == pytest.approx(exact, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("order", [-0.5, 1.0, 4.0])
def test_very_flat_slopes(order):
    """Width 1: half of the draws have the slope 1e-200 as a factor."""
    chi = log_moment(activations.identity(), order, 1)
    exact = chi + np.logaddexp(0.0, order * math.log(1e-200)) - math.log(2)
    assert log_moment(leaky(1e-200), order, 1) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("width", [1.0, 2.5, 16.0, 1e5])
@pytest.mark.parametrize("slope", [0.01, 0.3, 1.0])
def test_even_moments(width, slope):
    """Moments of a sum of independent squares, for real widths by analytic continuation."""
    x1, x2, x3 = ((2 * k - 1) * f for k, f in zip((1, 2, 3), (1, 1, 3), strict=True))
    x1, x2, x3 = (
        x * (1 + slope ** (2 * k)) / 2 for k, x in zip((1, 2, 3), (x1, x2, x3), strict=True)
    )
    d = width
    second, fourth = d * x1, d * x2 + d * (d - 1) * x1**2
    sixth = d * x3 + 3 * d * (d - 1) * x2 * x1 + d * (d - 1) * (d - 2) * x1**3
    for order, exact in ((2, second), (4, fourth), (6, sixth)):
        assert log_moment(leaky(slope), order, d) == pytest.approx(math.log(exact), abs=1e-12)


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("order", [-1.5, 0.3, 1.0, 3.0])
def test_drawn_layers(order, law):
    rng = np.random.default_rng(3)
    g = rng.standard_normal((200_000, 6))
    if law == "haar":
        g /= np.linalg.norm(g, axis=1, keepdims=True)
    # 4 of 6 rows: a semi-orthogonal matrix keeps the first coordinates of a uniform direction.
    powers = (1.3 * np.linalg.norm(leaky(0.2).f(g[:, :4]), axis=1)) ** order
    exact = fractional_moment(leaky(0.2), order, 4, 6, 1.3, law)
    assert powers.mean() == pytest.approx(exact, abs=4 * powers.std() / math.sqrt(len(powers)))


@given(st.floats(1.0, 1e4), st.floats(0.001, 1.0), st.floats(0.01, 8.0), st.floats(1.01, 2.0))
def test_root_moments_grow_with_their_order(width, slope, order, factor):
    act = leaky(slope)
    low = log_moment(act, order, width) / order
    assert low <= log_moment(act, order * factor, width) / (order * factor) + 1e-12
    assert log_gain(act, width).mean <= low + 1e-12


@given(st.floats(1.0, 1e4), st.floats(0.001, 1.0))
def test_the_limit_of_small_orders(width, slope):
    """log E X^s / s = mean + s variance / 2 + O(s^2)."""
    act, s = leaky(slope), 1e-6
    one = log_gain(act, width)
    root = log_moment(act, s, width) / s
    assert root == pytest.approx(one.mean + s * one.variance / 2, abs=1e-9)


def test_he_and_lyapunov_are_members():
    assert critical_scale(activations.relu(), 64, 16, order=2.0) == pytest.approx(
        math.sqrt(2 / 16), rel=1e-13
    )
    assert critical_scale(activations.identity(), 5, law="haar") == pytest.approx(1.0, rel=1e-14)
    wide = critical_scale(activations.relu(), 1e6) / critical_scale(
        activations.relu(), 1e6, order=2.0
    )
    assert math.log(wide) * 1e6 == pytest.approx(1.25, rel=1e-4)


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("order", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("fan_out", "fan_in"), [(8, 8), (4, 16), (16, 4)])
def test_critical_scales_keep_the_moment_of_the_rms(fan_out, fan_in, order, law):
    act = leaky(0.1)
    scale = critical_scale(act, fan_out, fan_in, law, order)
    shift = 0.5 * math.log(fan_in / fan_out)
    if order == 0.0:
        kept = log_gain(act, fan_out, fan_in, scale, law).mean + shift
    else:
        kept = log_moment(act, order, fan_out, fan_in, scale, law) / order + shift
    assert kept == pytest.approx(0.0, abs=1e-12)


def test_the_typical_draw_decays_by_its_own_spread():
    act = leaky(0.1)
    for order in (0.01, 0.02):
        one = log_gain(act, 16, scale=critical_scale(act, 16, order=order))
        assert one.mean == pytest.approx(-order * one.variance / 2, rel=2 * order)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_moment(leaky(0.1), -3.0, 3), "order must be above -3"),
        (lambda: log_moment(activations.relu(), -0.5, 3), "order must be above 0"),
        (lambda: log_moment(activations.relu(), -1.0, 3, given_survival=True), "above -1"),
        (lambda: log_moment(leaky(0.1), 21.0, 3), "at most 20"),
        (lambda: log_moment(leaky(0.1), math.nan, 3), "order must be above"),
        (lambda: log_moment(leaky(0.1), -2.9999, 3), "by 0.0002 at a pole"),
        (lambda: fractional_moment(activations.linear(1e99), 20.0, 3), "order must keep the"),
        (lambda: critical_scale(activations.identity(), 1e-3), "fan_out must keep the result"),
        (lambda: critical_scale(activations.gelu(), 3), "a line on each side"),
        (lambda: fractional_moment(leaky(0.1), 1.0, 3, law="levy"), "law must be one of"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
