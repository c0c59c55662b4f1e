"""Shifted activations, stacks of them, and when they leave their linear range."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.hermite import statistics
from equipoise.theory.shift import departure, shift_for_departure, shifted
from equipoise.theory.structured import HiddenLayer, balance

X = np.linspace(-6.0, 6.0, 401) + 1e-3


@pytest.mark.parametrize(
    ("activation", "shift"),
    [
        (activations.relu(), 2.0), (activations.leaky_relu(0.1), -1.0), (activations.elu(), 0.5),
        (activations.gelu(), 1.5), (activations.tanh(), -0.7), (activations.sigmoid(), 0.0),
        (activations.hardtanh(), 0.25), (activations.softsign(), 0.0),
        (activations.hardshrink(), 2.0), (activations.elu(), 0.0), (activations.hardswish(), 4.0),
        (activations.squared_relu(), 1.0),
    ],
    ids=str,
)  # fmt: skip
def test_shifted_is_the_function_seen_from_a_point(activation, shift):
    at = shifted(activation, shift)
    here = float(activation.f(np.array([shift]))[0])
    np.testing.assert_allclose(at.f(X), activation.f(shift + X) - here, atol=1e-14)
    assert at.value_at_zero == 0.0
    h = 1e-5
    clear = np.ones_like(X, dtype=bool)
    for point in (*at.kinks, *at.jumps):
        clear &= np.abs(X - point) > 2 * h
    slope = (at.f(X + h) - at.f(X - h)) / (2 * h)
    np.testing.assert_allclose(at.df(X)[clear], slope[clear], rtol=1e-7, atol=1e-7)
    near = (at.f(np.array([1e-6])) - at.f(np.array([-1e-6]))) / 2e-6
    assert at.slope_left == at.slope_right == pytest.approx(float(near[0]), rel=1e-5)
    np.testing.assert_allclose(at.kinks, np.array(activation.kinks) - shift)
    np.testing.assert_allclose(at.jumps, np.array(activation.jumps) - shift)


def test_shift_by_nothing():
    assert shifted(activations.tanh(), 0.0) is activations.tanh()
    assert shifted(activations.linear(-2.0), 3.0) is activations.linear(-2.0)
    assert shifted(activations.sigmoid(), 0.0).value_at_zero == 0.0
    assert shifted(activations.tanh(), 1.0).parity == "none"
    assert "shift=2" in str(shifted(activations.relu(), 2.0))


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_shifts_add_up(a, b):
    x = np.linspace(-4, 4, 30)
    twice = shifted(shifted(activations.sigmoid(), a), b)
    np.testing.assert_allclose(twice.f(x), shifted(activations.sigmoid(), a + b).f(x), atol=1e-14)


@pytest.mark.parametrize(
    ("activation", "shift", "match"),
    [
        (activations.relu(), 0.0, "kink"),
        (activations.hardtanh(), 1.0, "kink"),
        (activations.hardtanh(), -1.0, "kink"),
        (activations.hardshrink(), 0.5, "jumps"),
        (activations.relu(), -1.0, "slope 0"),
        (activations.tanhshrink(), 0.0, "slope 0"),
        (activations.tanh(), math.nan, "shift must be finite"),
        (activations.tanh(), math.inf, "shift must be finite"),
        (activations.squared_relu(), 1e200, "range of floats"),
        (activations.squared_relu(), -1e200, "slope 0"),
    ],
    ids=str,
)
def test_refused_shifts(activation, shift, match):
    with pytest.raises(ArgumentError, match=match):
        shifted(activation, shift)


def test_a_listed_point_where_the_slope_is_continuous_is_no_kink():
    """A break of the second derivative away from 0: x + max(x - 1, 0)^2."""
    soft = Activation(
        "soft",
        lambda x: x + np.maximum(x - 1, 0.0) ** 2,
        lambda x: 1 + 2 * np.maximum(x - 1, 0.0),
        kinks=(1.0,),
        slope_left=1.0,
        slope_right=1.0,
        bends=(1.0,),
    )
    at = shifted(soft, 1.0)
    assert at.slope == 1.0
    assert at.kinks == at.bends == (0.0,)


def test_bounds_move_along():
    at = shifted(activations.sigmoid(), 1.0)
    values = at.f(np.linspace(-40, 40, 9))
    assert at.lower == pytest.approx(values[0], abs=1e-12)
    assert at.upper == pytest.approx(values[-1], abs=1e-12)


# --- Stacks of shifted units ---------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_shifted_moments_in_closed_form(slope):
    """E f_c^2 for f(c + v) = c + v above -c, c - c + slope (c + v) below: mpmath's integral."""
    c, q = 1.3, 0.8
    activation = activations.leaky_relu(slope)

    def cell(v):
        return v if v > -c else slope * (c + v) - c

    density = lambda v: mpmath.npdf(v, 0, math.sqrt(q))  # noqa: E731
    energy = mpmath.quad(lambda v: cell(v) ** 2 * density(v), [-12, -c, 0, 12])
    linear = mpmath.quad(density, [-c, 12]) + slope * mpmath.quad(density, [-12, -c])
    found = statistics(shifted(activation, c), q)
    assert found.centred_energy == pytest.approx(float(energy), rel=1e-10)
    assert found.linear == pytest.approx(float(linear), rel=1e-10)


def test_balanced_shifted_stack_spends_its_budget_on_departures():
    """The kink is far out: gains are near 1 and the level is small against the shift."""
    c = 2.0
    layers = [HiddenLayer(16, shifted(activations.relu(), c))] * 60
    stack = balance(layers, 16, 16, 0.3)
    assert stack.reached
    assert stack.gradient_log_growth == pytest.approx(0.3, abs=1e-7)
    assert 1.0 < stack.gains[0] < 1.01
    rate = departure(c / math.sqrt(stack.q[0]), 16, 60)
    assert rate.unit < 0.02


def test_shifted_networks_are_the_orthogonal_map_while_no_unit_departs():
    """W_l = O_l / f'(c), b_l = c - W_l f(c): the whole map is the product of the O_l."""
    rng = np.random.default_rng(0)
    n, depth, slope, c = 8, 100, 1.0, 12.0
    x = rng.standard_normal((50, n))
    h, linear = x, x
    for i in range(depth):
        o, _ = np.linalg.qr(rng.standard_normal((n, n)))
        weight = o / slope
        bias = c * np.ones(n) - (weight @ (c * np.ones(n)) if i else 0.0)
        h = np.maximum((h @ weight.T if i else h @ o.T) + bias, 0.0)
        linear = linear @ o.T
    np.testing.assert_allclose(h - c, linear, atol=1e-11)


# --- Departure -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "depth", "c"), [(4, 20, 2.2), (8, 50, 2.9), (16, 200, 3.2),
                                               (64, 20, 3.3), (1, 3, 0.8)])  # fmt: skip
def test_departure_of_drawn_signals(n, depth, c):
    rng = np.random.default_rng(n)
    draws = 6000
    norm = np.sqrt(rng.chisquare(n, draws))
    units = {"gaussian": 0.0, "one_norm": 0.0}
    gone = {kind: np.zeros(draws, dtype=bool) for kind in units}
    for _ in range(depth):
        u = rng.standard_normal((draws, n))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        for kind, r in (("gaussian", norm[:, None]), ("one_norm", math.sqrt(n))):
            out = u * r < -c
            units[kind] += float(out.mean()) / depth
            gone[kind] |= out.any(axis=1)
    for kind, found in gone.items():
        law = departure(c, n, depth, kind)
        error = 4 * math.sqrt(max(law.stack * (1 - law.stack), 1e-9) / draws)
        # Two units of a layer are not independent: a share n p of the departures.
        assert abs(found.mean() - law.stack) < error + 2 * n * law.unit * law.stack
        # Units of one draw share its norm, so only draws count.
        spread = 4 * math.sqrt(law.unit / draws) + 1e-9
        assert abs(units[kind] - law.unit) < spread


@pytest.mark.parametrize("n", [2, 3, 7, 40])
@pytest.mark.parametrize("c", [-1.1, 0.0, 0.4, 1.2])
def test_unit_at_one_norm_is_a_beta_tail(n, c):
    """The density of a coordinate of the sphere of radius sqrt(n), integrated by mpmath."""
    density = lambda v: abs(1 - v * v / n) ** mpmath.mpf((n - 3) / 2)  # noqa: E731
    top = mpmath.sqrt(n)
    whole = mpmath.quad(density, [-top, 0, top])
    expected = mpmath.quad(density, [c, (c + top) / 2, top]) / whole
    assert departure(c, n, 1, "one_norm").unit == pytest.approx(float(expected), rel=1e-7)


@pytest.mark.parametrize(("n", "c"), [(1, 0.7), (3, 2.5), (16, 3.5), (100, 5.0)])
def test_one_unit_averaged_over_the_norm_is_gaussian(n, c):
    law = departure(c, n, 1)
    assert law.unit == pytest.approx(stats.norm.sf(c), rel=1e-12)
    assert law.layer == pytest.approx(1 - stats.norm.cdf(c) ** n, rel=1e-9)
    assert law.stack == pytest.approx(law.layer, rel=2 * n * law.unit)


@pytest.mark.parametrize("depth", [1, 3, 20])
@pytest.mark.parametrize("c", [0.3, 1.5, 6.0])
def test_departure_at_width_one(depth, c):
    """One unit is plus or minus the norm: it departs with 1 - 2^-L where the norm exceeds c."""
    found = departure(c, 1, depth).stack
    assert found == pytest.approx(2 * stats.norm.sf(c) * (1 - 0.5**depth), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(
    ("c", "n", "depth"),
    [(2.0, 2, 50), (1e-3, 2, 5), (3.0, 4, 40), (-1.0, 3, 2), (7.0, 16, 10**12), (4.0, 16, 200)],
)
def test_average_over_the_norm_by_mpmath(c, n, depth):
    """A start as a power (n - 1) / 2 of R - c, which polynomials do not follow."""

    def leaves(r):
        u = c / r
        if abs(u) >= 1:
            return mpmath.mpf(u < 0)
        tail = mpmath.betainc((n - 1) / 2, 0.5, 0, 1 - u * u, regularized=True) / 2
        return -mpmath.expm1(n * depth * mpmath.log1p(-(tail if u > 0 else 1 - tail)))

    def density(r):
        return r ** (n - 1) * mpmath.exp(-r * r / 2) / (2 ** (n / 2 - 1) * mpmath.gamma(n / 2))

    steps = [abs(c) * (1 + mpmath.mpf(2) ** k) for k in range(-26, 14, 2)]
    start = [mpmath.mpf(0), abs(c) / 2] if c < 0 else []
    inside = [x for x in [*steps, *range(1, 14)] if abs(c) < x < 14]
    edges = sorted({*start, abs(c), *inside, 14, 24})
    expected = mpmath.quad(lambda r: density(r) * leaves(r), edges)
    found = departure(c, n, depth)
    assert found.stack == pytest.approx(max(float(expected), found.layer), rel=1e-10)


def test_wide_layers_keep_their_digits():
    """One layer of many units far out: nearly a Poisson number of departures n Phi(-c)."""
    for n in (10**6, 10**10):
        c = -stats.norm.ppf(1.0 / n)
        assert departure(c, n, 1).stack == pytest.approx(-math.expm1(-1.0), rel=40 / math.sqrt(n))
        assert departure(-1.0, n, 1).stack == pytest.approx(1.0, abs=1e-14)


def test_departure_at_the_ends():
    assert departure(50.0, 8, 10).stack == 0.0
    assert departure(-60.0, 8, 10).stack == pytest.approx(1.0, abs=1e-9)
    assert departure(-3.0, 4, 10, "one_norm").stack == 1.0
    assert departure(4.0, 16, 10**6, "one_norm").stack == 0.0
    assert departure(0.0, 1, 3).stack == pytest.approx(1 - 0.5**3, abs=1e-9)
    for tiny in (5e-324, -5e-324, 1e-90):
        assert departure(tiny, 5, 2).stack == pytest.approx(departure(0.0, 5, 2).stack, rel=1e-9)
    for inputs in ("gaussian", "one_norm"):
        assert departure(1e300, 5, 2, inputs).stack == 0.0
        assert departure(-1e300, 5, 2, inputs).stack == pytest.approx(1.0, abs=1e-9)
    low = departure(-1.0, 4, 1)
    assert low.stack == low.layer


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 6), st.floats(0.01, 2), st.integers(1, 60), st.integers(1, 300))
def test_departure_is_monotone(c, step, n, depth):
    here = departure(c, n, depth)
    # One unit is a layer, and the average over the norm keeps all but the last digits.
    assert 0.0 <= here.unit <= here.layer + 1e-12 <= here.stack + 2e-12 <= 1.0 + 3e-12
    assert departure(c + step, n, depth).stack <= here.stack + 1e-12
    assert departure(c, n, depth + 1).stack >= here.stack - 1e-12


@pytest.mark.parametrize("inputs", ["gaussian", "one_norm"])
@pytest.mark.parametrize("probability", [1e-9, 1e-3, 0.5, 0.99])
@pytest.mark.parametrize(("n", "depth"), [(4, 40), (16, 200), (128, 3)])
def test_shift_for_departure_inverts(inputs, probability, n, depth):
    c = shift_for_departure(probability, n, depth, inputs)
    assert departure(c, n, depth, inputs).stack == pytest.approx(probability, rel=1e-5)


def test_refusals_of_departure():
    with pytest.raises(ArgumentError, match="shift must be finite"):
        departure(math.nan, 4, 4)
    with pytest.raises(ArgumentError, match="width must be"):
        departure(1.0, 0, 4)
    with pytest.raises(ArgumentError, match="depth must be"):
        departure(1.0, 4, 0)
    with pytest.raises(ArgumentError, match="inputs must be"):
        departure(1.0, 4, 4, "uniform")
    for p in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ArgumentError, match="probability must be between"):
            shift_for_departure(p, 4, 4)
