"""The chance of a usable draw: chi laws, another inversion, the central limit, drawn chains."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.inversion import third_cumulant
from equipoise.theory.lyapunov import LogGain, log_gain
from equipoise.theory.moments import critical_scale
from equipoise.theory.odds import (
    largest_depth,
    mean_death_layer,
    survival_probability,
    usable_odds,
    usable_odds_normal,
)


def leaky(slope):
    return activations.leaky_relu(slope)


@pytest.mark.parametrize("shift", [1.0, 1.5, 0.2])
@pytest.mark.parametrize("width", [1, 2, 5, 16, 64, 300, 4096])
def test_one_linear_layer_has_the_chi_law(width, shift):
    act = activations.identity()
    scale = shift * critical_scale(act, width)
    decades = min(0.3, 2 / math.sqrt(2 * width) / math.log(10))
    low, high = 10**-decades * math.sqrt(1.0) / scale, 10**decades / scale
    exact = stats.chi.cdf(high, width) - stats.chi.cdf(low, width)
    assert usable_odds(act, width, 1, scale, decades=decades) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("width", [100_000, 1_000_000])
def test_very_narrow_laws_use_their_expansion(width):
    act = activations.identity()
    scale, decades = critical_scale(act, width), 1.3 / math.sqrt(2 * width) / math.log(10)
    exact = stats.chi.cdf(10**decades / scale, width) - stats.chi.cdf(10**-decades / scale, width)
    assert usable_odds(act, width, 1, scale, decades=decades) == pytest.approx(exact, abs=1e-5)
    # Off the middle of the band the skewness of the law counts.
    scale *= math.exp(1 / math.sqrt(2 * width))
    exact = stats.chi.cdf(10**decades / scale, width) - stats.chi.cdf(10**-decades / scale, width)
    assert usable_odds(act, width, 1, scale, decades=decades) == pytest.approx(exact, abs=1e-5)
    # Orthogonal: 2 of 3 units of a direction have a beta law, here in high dimension.
    half = usable_odds(leaky(0.5), width, 1, critical_scale(leaky(0.5), width, law="haar"), "haar")
    assert half == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
def test_third_cumulant_of_two_orthogonal_units_by_their_angle(slope):
    """Quadrants count alike; for ReLU the three that survive do."""
    t = (np.arange(200_000) + 0.5) / 200_000
    # One quadrant of each kind: both alive, one of two (twice), none.
    angle = math.pi / 2 * t
    weight = np.ones_like(t)
    parts = [(np.zeros_like(t), weight)]
    one = 0.5 * np.log(np.cos(angle) ** 2 + (slope * np.sin(angle)) ** 2)
    parts.append((one, 2 * weight))
    if slope > 0:
        parts.append((np.full_like(t, math.log(slope)), weight))
    x, w = (np.concatenate(c) for c in zip(*parts, strict=True))
    mean = np.average(x, weights=w)
    third = np.average((x - mean) ** 3, weights=w)
    assert third_cumulant(2, slope, "haar") == pytest.approx(third, rel=1e-3, abs=1e-9)


def test_two_linear_layers_by_numerical_convolution():
    width, scale = 3, 0.6
    u = np.linspace(-25, 6, 200_001)
    density = stats.chi.pdf(np.exp(u), width) * np.exp(u)
    cdf = stats.chi.cdf(np.exp(math.log(10) - 2 * math.log(scale) - u), width)
    cdf -= stats.chi.cdf(np.exp(-math.log(10) - 2 * math.log(scale) - u), width)
    exact = (
        np.trapezoid(density * cdf, u) if hasattr(np, "trapezoid") else np.trapz(density * cdf, u)
    )
    assert usable_odds(activations.identity(), width, 2, scale) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(
    ("slope", "width", "depth", "law"),
    [
        (0.0, 1, 1, "gaussian"),
        (0.01, 1, 3, "gaussian"),
        (0.0, 3, 5, "gaussian"),
        (0.0, 8, 40, "gaussian"),
        (0.01, 4, 30, "gaussian"),
        (0.2, 4, 30, "haar"),
        (0.0, 6, 10, "haar"),
    ],
)
def test_drawn_chains(slope, width, depth, law):
    """Increments of the norm are those of a fresh Gaussian vector, whatever the direction."""
    rng = np.random.default_rng(width * depth)
    count = 200_000 // depth
    scale = 1.1 * critical_scale(leaky(slope), width, law=law)
    g = rng.standard_normal((count, depth, width))
    if law == "haar":
        g /= np.linalg.norm(g, axis=2, keepdims=True)
    with np.errstate(divide="ignore"):  # what dies has log norm -inf, which is not usable
        logs = np.log(scale * np.linalg.norm(leaky(slope).f(g), axis=2)).sum(axis=1)
    share = float(np.mean(np.abs(logs) <= 0.5 * math.log(10)))
    exact = usable_odds(leaky(slope), width, depth, scale, law, decades=0.5)
    assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / count))


def test_published_example():
    """Width 16, depth 100, slope 0.01, one decade: He, Lyapunov, orthogonal Lyapunov."""
    act = leaky(0.01)
    he = critical_scale(act, 16, order=2.0)
    assert usable_odds(act, 16, 100, he) == pytest.approx(0.02, abs=0.005)
    assert usable_odds(act, 16, 100, critical_scale(act, 16)) == pytest.approx(0.52, abs=0.005)
    haar = critical_scale(act, 16, law="haar")
    assert usable_odds(act, 16, 100, haar, "haar") == pytest.approx(0.61, abs=0.005)


@pytest.mark.parametrize("law", ["gaussian", "haar"])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(
    ("width", "allowed"), [(8, 0.02), (16, 0.01), (64, 0.01), (300, 0.01), (2000, 0.01)]
)
def test_the_central_limit_is_near(width, allowed, slope, law):
    act = leaky(slope)
    for depth in (20, 200):
        scale = critical_scale(act, width, law=law)
        exact = usable_odds(act, width, depth, scale, law)
        normal = usable_odds_normal(log_gain(act, width, None, scale, law), depth)
        assert normal == pytest.approx(exact, abs=allowed)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(4, 200), st.floats(0.01, 0.9), st.integers(1, 300), st.floats(0.2, 3.0),
    st.floats(-0.2, 0.2), st.sampled_from(["gaussian", "haar"]),
)  # fmt: skip
def test_odds_are_probabilities_that_grow_with_the_band(width, slope, depth, decades, drift, law):
    act = leaky(slope)
    scale = critical_scale(act, width, law=law) * math.exp(drift)
    odds = [usable_odds(act, width, depth, scale, law, k) for k in (decades, 1.3 * decades)]
    # Atoms of few orthogonal layers of few units leave 1e-3, of more units 1e-5.
    error = 1e-8 if law == "gaussian" else 1e-3 if width < 8 else 1e-5
    assert 0.0 <= odds[0] <= min(odds[1] + error, 1.0)
    if law == "gaussian" and width >= 16:
        # Below, and with atoms, the law of few layers has peaks that may enter the band later.
        assert usable_odds(act, width, depth + 5, scale, law, decades) <= odds[0] + 1e-8


def test_two_orthogonal_layers_of_two_units_by_their_angles():
    """Products of two gains, each a function of one uniform angle; a grid over both."""
    act, scale, steps = leaky(0.3), 1.4, 4000
    angle = (np.arange(steps) + 0.5) * 2 * math.pi / steps
    gains = np.linalg.norm(act.f(np.stack([np.cos(angle), np.sin(angle)])), axis=0)
    logs = np.sort(np.log(scale * gains))
    edge = 0.25 * math.log(10)
    inside = np.searchsorted(logs, edge - logs, "right") - np.searchsorted(logs, -edge - logs)
    exact = float(inside.mean() / steps)
    assert usable_odds(act, 2, 2, scale, "haar", 0.25) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.7])
@pytest.mark.parametrize(("scale", "decades"), [(1.3, 0.2), (2.0, 0.1), (1.0, 0.3)])
def test_one_orthogonal_layer_of_two_units_by_its_angle(slope, scale, decades):
    steps = 400_000
    angle = (np.arange(steps) + 0.5) * 2 * math.pi / steps
    gains = scale * np.linalg.norm(leaky(slope).f(np.stack([np.cos(angle), np.sin(angle)])), axis=0)
    exact = float(np.mean((gains >= 10**-decades) & (gains <= 10**decades)))
    assert usable_odds(leaky(slope), 2, 1, scale, "haar", decades) == pytest.approx(exact, abs=2e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_one_orthogonal_unit_has_atoms_only(depth):
    """Each layer multiplies by 1 or 0.1; one decade, its edge included, allows one."""
    odds = usable_odds(leaky(0.1), 1, depth, 1.0, "haar", 1.0)
    assert odds == pytest.approx((1 + depth) / 2.0**depth, rel=1e-13)
    assert usable_odds(leaky(0.1), 1, depth, 100.0**depth, "haar", 0.5) == 0.0


def test_atoms_of_very_deep_stacks():
    """A fair coin for each layer: the normal law of 10^12 throws is as good as exact."""
    depth, decades = 10**12, 4e5
    odds = usable_odds(leaky(0.5), 1, depth, math.sqrt(2), "haar", decades)
    z = decades * math.log(10) / (math.log(2) * math.sqrt(depth) / 2)
    assert odds == pytest.approx(2 * stats.norm.cdf(z) - 1, abs=1e-5)


@pytest.mark.parametrize("width", [0.25, 0.5, 1, 3])
def test_narrow_lines_have_the_chi_law(width):
    exact = stats.chi.cdf(2.0, width) - stats.chi.cdf(0.5, width)
    odds = usable_odds(activations.identity(), width, 1, 1.0, decades=math.log10(2))
    assert odds == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("slope", [1e-6, 1e-20])
def test_very_flat_slopes_fall_out_of_the_band(slope):
    """Width 1: half of the draws are chi of one, the others far below."""
    exact = (stats.chi.cdf(3.0, 1) - stats.chi.cdf(1 / 3, 1)) / 2
    if slope > 1e-9:
        exact += (stats.chi.cdf(3.0 / slope, 1) - stats.chi.cdf(1 / 3 / slope, 1)) / 2
    odds = usable_odds(leaky(slope), 1, 1, 1.0, decades=math.log10(3))
    assert odds == pytest.approx(exact, abs=1e-10)


def test_largest_depth_is_where_the_odds_cross():
    act = leaky(0.01)
    scale = critical_scale(act, 16)
    depth = largest_depth(act, 16, 0.7, scale)
    assert usable_odds(act, 16, depth, scale) >= 0.7 > usable_odds(act, 16, depth + 1, scale)
    # Here the central limit promises two layers too many.
    scale = critical_scale(act, 4, law="haar")
    depth = largest_depth(act, 4, 0.5, scale, "haar")
    odds = [usable_odds(act, 4, layers, scale, "haar") for layers in (depth, depth + 1)]
    assert odds[0] >= 0.5 > odds[1]
    assert usable_odds_normal(log_gain(act, 4, None, scale, "haar"), depth + 2) > 0.5
    assert largest_depth(act, 1, 0.999, 1.0) == 0
    assert largest_depth(activations.identity(), 4, 0.5, 1.0, "haar") == 2**40
    # A sure drift of 0.1 nats per layer leaves one decade after 23 layers.
    assert largest_depth(activations.identity(), 4, 0.5, math.exp(0.1), "haar") == 23


def test_survival_of_relu():
    assert survival_probability(4, 100) == pytest.approx((1 - 2.0**-4) ** 100, rel=1e-13)
    assert survival_probability(4, 0) == 1.0
    rng = np.random.default_rng(0)
    alive = (rng.random((20_000, 30, 4)) < 0.5).any(axis=2).all(axis=1).mean()
    exact = survival_probability(4, 30)
    assert alive == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    layers = 1 + np.arange(3000)
    assert mean_death_layer(6) == pytest.approx(
        float((layers * 2.0**-6 * (1 - 2.0**-6) ** (layers - 1)).sum()), rel=1e-12
    )
    assert mean_death_layer(5000) == math.inf


def test_nothing_survives_a_thousand_layers_of_one_unit():
    assert usable_odds(activations.relu(), 1, 2000, 1.0) == 0.0


def test_far_from_the_band_nothing_is_left():
    assert usable_odds(leaky(0.5), 64, 50, 9.0) == 0.0


def test_normal_odds_without_spread():
    assert usable_odds_normal(LogGain(0.02, 0.0, 1.0), 100) == 1.0
    assert usable_odds_normal(LogGain(0.03, 0.0, 0.5), 100) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: usable_odds(leaky(0.1), 8, 0, 1.0), "depth must be an integer of at least 1"),
        (lambda: usable_odds(leaky(0.1), 8, 3, 1.0, decades=0.0), "decades must be positive"),
        (lambda: usable_odds(leaky(0.1), 8.5, 3, 1.0, "haar"), "width must be an integer"),
        (lambda: usable_odds(leaky(0.1), 0.2, 3, 1.0), "width must be at least 0.25 for odds"),
        (lambda: usable_odds(leaky(1e-101), 2, 3, 1.0), "activation must have slopes of ratio"),
        (lambda: usable_odds_normal(LogGain(0, 1, 1), 0.0), "depth must be positive"),
        (lambda: largest_depth(leaky(0.1), 8, 1.0, 1.0), "odds must lie between 0 and 1"),
        (lambda: survival_probability(0.0, 3), "width must be positive"),
        (lambda: survival_probability(3, -1.0), "depth must be finite and not negative"),
        (lambda: mean_death_layer(-1), "width must be positive"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
