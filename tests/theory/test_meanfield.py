"""Mean-field maps, their fixed points and phases: closed forms, mpmath, other routes."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.lengthpoints import log_growth, search_range
from equipoise.theory.meanfield import (
    chi_1,
    correlation_fixed_point,
    correlation_map,
    depth_scale,
    length_fixed_points,
    length_map,
    mean_field,
)

CONTINUOUS = [a for a in known_activations() if not a.jumps]
ERF, TANH, RELU, GELU = (
    activations.erf(), activations.tanh(), activations.relu(), activations.gelu(),
)  # fmt: skip
SIN, SELU = activations.sin(), activations.selu()


def _erf_energy(q):
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


def _erf_correlated(c, q):
    return 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))


def test_tanh_in_high_precision():
    """Fixed point, chi_1 and slope at weight_var 1.5^2, bias_var 0.05, by mpmath."""
    w, b = 2.25, 0.05
    with mpmath.workdps(20):

        def mean(g, q):
            s = mpmath.sqrt(q)
            return 2 * mpmath.quad(lambda z: g(z) * mpmath.npdf(z, 0, s), [0, s, 4 * s, 12 * s])

        q = mpmath.findroot(lambda q: w * mean(lambda z: mpmath.tanh(z) ** 2, q) + b - q, 0.9)
        growth = w * mean(lambda z: mpmath.sech(z) ** 4, q)
        slope = w * mean(lambda z: z * mpmath.tanh(z) * mpmath.sech(z) ** 2, q) / q
    found = mean_field(TANH, w, b)
    assert found.q_star == pytest.approx(float(q), rel=1e-10)
    assert found.chi_1 == pytest.approx(float(growth), rel=1e-10)
    assert found.fixed_points[0].slope == pytest.approx(float(slope), rel=1e-9)
    assert found.xi_q == pytest.approx(float(-1 / mpmath.log(slope)), rel=1e-8)


def test_levels_that_see_a_nan_are_left_out():
    """A formula that overflows into nan beyond 709 has the fixed points of tanh and no other."""

    def naive(x):
        with np.errstate(over="ignore", invalid="ignore"):
            return (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))

    act = replace(activations.tanh(), name="naive", f=naive)
    wide = mean_field(act, 2.0)
    assert len(wide.fixed_points) == 2
    assert wide.q_star == pytest.approx(mean_field(activations.tanh(), 2.0).q_star, rel=1e-9)


@pytest.mark.parametrize(("w", "b"), [(3.0, 0.1), (2.0, 0.05), (8.0, 1.0), (1.4, 1e-3)])
def test_chaotic_erf(w, b):
    """Every number from the closed forms."""
    q = optimize.brentq(lambda q: w * _erf_energy(q) + b - q, 1e-3, 50.0, xtol=1e-14)
    c = optimize.brentq(lambda c: (w * _erf_correlated(c, q) + b) / q - c, 0.0, 1 - 1e-6)
    slope = w * 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    found = mean_field(ERF, w, b)
    assert found.phase == "chaotic"
    assert found.q_star == pytest.approx(q, rel=1e-10)
    assert found.c_star == pytest.approx(c, abs=1e-8)
    assert found.correlation_slope == pytest.approx(slope, rel=1e-7)
    assert found.xi_c == pytest.approx(-1 / math.log(slope), rel=1e-6)
    assert found.trainable_depth == 6 * found.xi_c
    assert "inputs part" in found.reason


@pytest.mark.parametrize("excess", [1e-2, 1e-4, 1e-6])
def test_correlation_next_to_criticality(excess):
    """1 - c* = 2 (chi_1 - 1) / C''(1) to first order, C''(1) = w q E f''^2, for sine."""
    q = 1.0
    w = (1 + excess) / (math.exp(-q) * math.cosh(q))
    b = q - w * math.exp(-q) * math.sinh(q)
    found = mean_field(SIN, w, b)
    first_order = 2 * excess / (w * q * math.exp(-q) * math.sinh(q))
    assert 1 - found.c_star == pytest.approx(first_order, rel=3 * excess + 1e-3)
    assert found.correlation_slope == pytest.approx(1 - excess, abs=2 * excess**2 + 1e-8)


def test_a_correlation_too_near_to_1_to_be_told_apart():
    """At a kink 1 - c* goes as (chi_1 - 1)^2: below 1e-15 it is 0 in floats."""
    hardtanh = activations.hardtanh()
    for excess, least, most in ((1e-3, 1e-7, 1e-4), (1e-9, 0.0, 1e-14)):
        w = (1 + excess) / chi_1(hardtanh, 1.0, 1.0)
        b = 1.0 - length_map(hardtanh, 1.0, w)
        assert least <= 1 - correlation_fixed_point(hardtanh, 1.0, w, b) <= most


@pytest.mark.parametrize("excess", [1e-3, 1e-5, 1e-6])
def test_correlation_next_to_criticality_with_kinks(excess):
    """Hardtanh: 1 - c' = chi_1 d - w (4/3) phi(1) d^(3/2) / sqrt(pi), d = 1 - c, to its root."""
    hardtanh = activations.hardtanh()
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    w = (1 + excess) / math.erf(1 / math.sqrt(2))
    b = 1.0 - length_map(hardtanh, 1.0, w)
    exact = math.pi * (3 * excess / (4 * w * density)) ** 2
    found = 1 - correlation_fixed_point(hardtanh, 1.0, w, b)
    assert found == pytest.approx(exact, rel=1e-8 / excess + 1e-5)


def test_numbers_of_other_precision():
    w, b = np.float32(2.1), np.float32(0.1)
    found = mean_field(TANH, w, b)
    assert found == mean_field(TANH, float(w), float(b))
    assert type(found.chi_1) is type(found.correlation_slope) is float
    q = found.q_star
    assert correlation_fixed_point(TANH, q, w, b) == found.c_star


@pytest.mark.parametrize("w", [1e9, 1e13, 1e30])
def test_a_bounded_function_never_explodes(w):
    """tanh at large weights is a sign: E f^2 = 1 - 2 / sqrt(2 pi q) + ..., so q* ~ w."""
    found = mean_field(TANH, w, 0.1)
    assert found.phase == "chaotic"
    assert found.q_star == pytest.approx(w * (1 - math.sqrt(2 / math.pi / w)), rel=10 / w + 1e-9)


@pytest.mark.parametrize(("b", "q"), [(0.5, 1.0), (1e-20, 2e-20), (1e13, 2e13)])
def test_relu_with_bias(b, q):
    """q* = bias_var / (1 - weight_var / 2), chi_1 and slope weight_var / 2, at any level."""
    found = mean_field(RELU, 1.0, b)
    assert found.q_star == pytest.approx(q, rel=1e-10)
    assert (found.phase, found.c_star) == ("ordered", 1.0)
    assert found.chi_1 == pytest.approx(0.5, rel=1e-12)
    assert found.xi_q == pytest.approx(1 / math.log(2), rel=1e-9)
    assert found.xi_c == found.xi_q or found.xi_c == pytest.approx(found.xi_q, rel=1e-9)


@pytest.mark.parametrize(
    ("activation", "w"),
    [(RELU, 2.0), (activations.leaky_relu(0.1), 2 / 1.01), (activations.identity(), 1.0)],
    ids=str,
)
def test_homogeneous_functions_keep_every_level(activation, w):
    (every,) = length_fixed_points(activation, w)
    assert (every.q, every.q_high, every.slope, every.stable) == (0.0, math.inf, 1.0, "neutral")
    found = mean_field(activation, w)
    assert (found.q_star, found.phase, found.xi_c, found.xi_q) == (
        1.0, "critical", math.inf, math.inf,
    )  # fmt: skip
    assert found.reason.endswith("Every q from 0 to inf is a fixed point.")


def test_a_function_linear_near_zero_keeps_small_levels_to_rounding():
    (low,) = length_fixed_points(activations.hardtanh(), 1.0)
    assert low.q == 0.0
    assert 0.01 < low.q_high < 0.03
    assert "to rounding" in mean_field(activations.hardtanh(), 1.0).reason


def test_relu_above_its_critical_variance():
    found = mean_field(RELU, 3.0, 1.0)
    assert (found.q_star, found.phase, found.fixed_points) == (math.inf, "exploding", ())
    assert found.chi_1 == pytest.approx(1.5, rel=1e-9)
    assert math.isnan(found.c_star)
    assert math.isnan(found.xi_c)
    assert "no fixed point at all" in found.reason
    assert [p.stable for p in mean_field(RELU, 3.0).fixed_points] == ["unstable"]


def test_selu_has_its_fixed_point_at_1():
    """Mean 0 and variance 1 are kept by construction, arXiv 1706.02515."""
    zero, one = length_fixed_points(SELU, 1.0)
    assert (zero.q, zero.stable) == (0.0, "unstable")
    assert one.q == pytest.approx(1.0, rel=1e-9)
    assert one.stable == "stable"
    found = mean_field(SELU, 1.0)
    assert found.c_star == pytest.approx(0.0, abs=1e-9)


def test_squared_relu_has_two_levels():
    """V = 3 q^2 / 2: fixed points 0 and 2 / (3 w), or the roots of 3 w q^2 / 2 - q + b."""
    w, b = 0.5, 0.1
    zero, high = length_fixed_points(activations.squared_relu(), w)
    assert (zero.q, zero.slope, zero.stable) == (0.0, 0.0, "stable")
    assert high.q == pytest.approx(2 / (3 * w), rel=1e-10)
    assert (high.slope, high.stable) == (pytest.approx(2.0, rel=1e-9), "unstable")
    roots = np.sort(np.roots([1.5 * w, -1.0, b]))
    found = length_fixed_points(activations.squared_relu(), w, b)
    np.testing.assert_allclose([p.q for p in found], roots, rtol=1e-10)
    assert mean_field(activations.squared_relu(), w, b).q_star == found[0].q
    assert "2 fixed points" in mean_field(activations.squared_relu(), w, b).reason


@pytest.mark.parametrize("apart", [1e-4, 1e-8, 0.0, -1e-4])
def test_pairs_closer_than_the_grid_and_tangencies(apart):
    """For squared ReLU the pair meets at b = 1 / (6 w): found before, once at it, none after."""
    w = 0.5
    b = (1 - apart) / (6 * w)
    found = length_fixed_points(activations.squared_relu(), w, b)
    if apart > 0:
        # q = (1 -+ sqrt(apart)) / (3 w)
        exact = [(1 - math.sqrt(apart)) / (3 * w), (1 + math.sqrt(apart)) / (3 * w)]
        np.testing.assert_allclose([p.q for p in found], exact, rtol=1e-7)
        assert [p.stable for p in found] == ["stable", "unstable"]
    elif apart == 0:
        assert all(p.q == pytest.approx(1 / (3 * w), rel=1e-5) for p in found)
        assert 1 <= len(found) <= 2
    else:
        assert found == ()


def test_of_several_levels_below_1_the_highest_is_reached():
    """E f^2 starts as q^2 and saturates: 0 and a level in the middle attract."""
    gate = Activation(
        "gate",
        lambda z: 0.7 * np.tanh(8 * z * z),
        lambda z: 11.2 * z / np.cosh(np.minimum(8 * z * z, 300)) ** 2,
        parity="even",
    )
    found = mean_field(gate, 1.0)
    assert [p.stable for p in found.fixed_points] == ["stable", "unstable", "stable"]
    q = 1.0
    for _ in range(100):
        q = length_map(gate, q, 1.0)
    assert found.q_star == pytest.approx(q, rel=1e-9)
    assert found.q_star == found.fixed_points[-1].q < 1.0


def test_of_several_levels_above_1_the_lowest_is_reached():
    bent = Activation(
        "bent", lambda z: 2 * np.tanh(z) + 1e-3 * z**3, lambda z: 2 / np.cosh(z) ** 2 + 3e-3 * z * z
    )
    low, high = (p for p in length_fixed_points(bent, 1.0) if p.q > 0)
    assert 1.0 < low.q < high.q
    assert mean_field(bent, 1.0).q_star == low.q


def test_a_root_on_a_node_of_the_grid():
    low, high = search_range(RELU, 1.0, 0.5)
    x = np.linspace(low, high, math.ceil((high - low) * 3) + 1)
    q = math.exp(x[60])
    (found,) = length_fixed_points(RELU, 1.0, q / 2)
    assert found.q == pytest.approx(q, rel=1e-11)


@pytest.mark.parametrize("w", [0.3, 0.9, 1.0])
def test_tanh_at_low_weights_vanishes(w):
    found = mean_field(TANH, w)
    assert (found.q_star, found.c_star) == (0.0, 1.0)
    assert found.chi_1 == pytest.approx(w, rel=1e-15)
    assert found.phase == ("critical" if w == 1.0 else "vanishing")
    assert found.xi_c == (math.inf if w == 1.0 else pytest.approx(-1 / math.log(w)))


def test_tanhshrink_kills_small_signals():
    found = mean_field(activations.tanhshrink(), 1.0)
    assert (found.q_star, found.chi_1, found.xi_c, found.xi_q) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("start", "w"), [(1.0, 1.3), (1.0, 4.0)])
def test_iteration_from_1_reaches_the_level(start, w):
    for activation in (TANH, activations.sigmoid(), activations.elu(), activations.softsign()):
        target = mean_field(activation, w, 0.05)
        q = start
        for _ in range(600):
            q = length_map(activation, q, w, 0.05) if q < 1e9 else math.inf
        if math.isfinite(target.q_star):
            assert q == pytest.approx(target.q_star, rel=1e-6)
        else:
            assert q == math.inf


@settings(max_examples=12, deadline=None, derandomize=True)
@given(w=st.floats(0.2, 8.0), b=st.floats(0.0, 1.0), pick=st.sampled_from([TANH, SIN, RELU, GELU]))
def test_correlation_settles_at_c_star(w, b, pick):
    """C(c*) = c*, and c* attracts: below it correlations rise, above it they fall."""
    found = mean_field(pick, w, b)
    if not math.isfinite(found.q_star) or found.q_star == 0.0:
        return
    q, c = found.q_star, found.c_star
    assert correlation_map(pick, c, q, w, b) == pytest.approx(c, abs=1e-7)
    assert 0 <= c <= 1
    assert abs(found.correlation_slope) <= 1 + 1e-8
    if found.phase == "chaotic" and c > 0.01:
        assert correlation_map(pick, 0.9 * c, q, w, b) > 0.9 * c
    if found.phase == "chaotic":
        assert correlation_map(pick, (1 + c) / 2, q, w, b) < (1 + c) / 2


def test_correlation_fixed_point_of_the_ordered_side_is_1():
    assert correlation_fixed_point(RELU, 1.0, 1.0, 0.5) == 1.0
    assert correlation_fixed_point(activations.tanhshrink(), 3.0, 9.0) == 0.0


def test_wide_random_networks_follow_the_maps():
    """Two inputs through 4 layers of width 1500, 24 draws: q and c within 4 standard errors."""
    rng = np.random.default_rng(2)
    n, w, b, c0 = 1500, 2.0, 0.1, 0.6
    draws = []
    for _ in range(24):
        z = rng.standard_normal((n, 2)) @ np.array([[1.0, c0], [0.0, math.sqrt(1 - c0**2)]])
        for _ in range(3):
            weights = rng.standard_normal((n, n), dtype=np.float32)
            z = weights @ np.tanh(z).astype(np.float32) * math.sqrt(w / n)
            z = z + math.sqrt(b) * rng.standard_normal((n, 1))
        draws.append([np.mean(z**2), np.mean(z[:, 0] * z[:, 1])])
    q, c = 1.0, c0
    for _ in range(3):
        c, q = correlation_map(TANH, c, q, w, b), length_map(TANH, q, w, b)
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / math.sqrt(24)
    assert abs(mean[0] - q) < 4 * error[0] + 3 / n
    assert abs(mean[1] - q * c) < 4 * error[1] + 3 / n


def test_log_growth_at_its_ends():
    zero = Activation("zero", np.zeros_like, np.zeros_like)
    assert log_growth(zero, 1.0, 0.0, 0.0) == -math.inf
    assert mean_field(zero, 1.0).phase == "vanishing"
    growing = Activation("exp", np.exp, np.exp, slope_left=1.0, slope_right=1.0)
    assert log_growth(growing, 1.0, 0.0, 10.0) == math.inf
    assert mean_field(growing, 1.0).phase == "exploding"
    # w exp(2 q) = q at q = 0.5 for w = 1 / (2 e), and twice below it.
    assert len(length_fixed_points(growing, 0.9 / (2 * math.e))) == 2


def test_depth_scales_at_their_ends():
    assert (depth_scale(0.0), depth_scale(1.0), depth_scale(-1.0)) == (0.0, math.inf, math.inf)
    assert depth_scale(-0.5) == depth_scale(0.5) == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: length_fixed_points(RELU, math.inf), "weight_var must be positive"),
        (lambda: mean_field(activations.hardshrink(), 1.0), "which jumps"),
    ],
)
def test_arguments_out_of_range_are_refused(call, text):
    with pytest.raises(ArgumentError, match=text):
        call()
