"""Circular convolutions: exact ends, the mean square, and drawn images in between."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.convolution import circular_drift, independent_positions
from equipoise.theory.lyapunov import log_gain


def convolve(rng, x, taps, scale):
    """Circular convolution with fresh Gaussian kernels; x has shape (rows, channels, positions)."""
    rows, channels, _ = x.shape
    w = scale * rng.standard_normal((rows, channels, channels * taps))
    patches = [np.roll(x, t - taps // 2, axis=2) for t in range(taps)]
    return w @ np.concatenate(patches, axis=1), sum(
        np.einsum("rcs,rct->rst", p, p) for p in patches
    )


def norms(x):
    return np.sqrt((x**2).sum(axis=(1, 2)))


@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_equal_positions_reach_the_lower_bound(slope):
    rng = np.random.default_rng(0)
    act, scale, rows = activations.leaky_relu(slope), 0.3, 20_000
    x = np.repeat(rng.standard_normal((rows, 4, 1)), 6, axis=2)
    z, _ = convolve(rng, x, 3, scale)
    logs = np.log(norms(act.f(z)) / norms(x))
    one = circular_drift(act, 4, 3, scale)
    assert logs.mean() == pytest.approx(one.lower, abs=4 * logs.std() / math.sqrt(rows))
    assert one.estimate == one.lower
    assert one.effective_width == 4


def test_mean_square_is_the_upper_bound():
    rng = np.random.default_rng(1)
    act, scale, rows = activations.relu(), 0.3, 20_000
    x = rng.standard_normal((1, 4, 6)).repeat(rows, axis=0)
    z, _ = convolve(rng, x, 3, scale)
    growth = (norms(act.f(z)) / norms(x)) ** 2
    upper = circular_drift(act, 4, 3, scale).upper
    assert growth.mean() == pytest.approx(
        math.exp(2 * upper), abs=4 * growth.std() / math.sqrt(rows)
    )


@pytest.mark.parametrize(("channels", "allowed"), [(4, 0.04), (8, 0.02), (16, 0.01)])
@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_the_estimate_on_drawn_images(channels, allowed, slope):
    """Through 12 layers from white images, with p of the images themselves."""
    rng = np.random.default_rng(channels)
    act, rows = activations.leaky_relu(slope), 1500
    scale = 1 / math.sqrt(3 * channels * (1 + slope**2) / 2)
    x = rng.standard_normal((rows, channels, 16))
    for _ in range(12):
        z, covariance = convolve(rng, x, 3, scale)
        after = act.f(z)
        logs = np.log(norms(after) / norms(x))
        x = after / norms(after)[:, None, None]
        p = np.trace(covariance, axis1=1, axis2=2) ** 2 / (covariance**2).sum(axis=(1, 2))
        one = circular_drift(act, channels, 3, scale, float(p.mean()))
        assert one.lower <= one.estimate <= one.upper
        error = 4 * logs.std() / math.sqrt(rows)
        assert logs.mean() == pytest.approx(one.estimate, abs=allowed + error)
        assert one.lower - error <= logs.mean() <= one.upper + error


@given(st.integers(1, 500), st.integers(1, 49), st.floats(0.0, 1.0), st.floats(1.0, 1e4))
def test_bounds_and_limits(channels, taps, slope, positions):
    act = activations.leaky_relu(slope)
    one = circular_drift(act, channels, taps, 0.1, positions)
    if slope > 0 or channels >= 3:
        assert one.lower <= one.estimate + 1e-12
    assert one.estimate <= one.upper
    one_tap = circular_drift(act, channels, 1, 0.1)
    assert one_tap.lower == pytest.approx(log_gain(act, channels, scale=0.1).mean, abs=1e-12)


def test_one_relu_channel_of_survivors_may_fall_below_the_lower_bound():
    """Two independent positions: one or two of two units survive, and the norm of one is small."""
    rng = np.random.default_rng(2)
    out = np.maximum(rng.standard_normal((400_000, 2)), 0)
    norm = np.linalg.norm(out, axis=1)
    logs = np.log(norm[norm > 0]) - math.log(2) / 2
    one = circular_drift(activations.relu(), 1, 1, 1.0, 2.0)
    assert logs.mean() == pytest.approx(one.estimate, abs=4 * logs.std() / math.sqrt(len(logs)))
    for channels in (1, 2, 3):
        lowest = min(
            circular_drift(activations.relu(), channels, 1, 1.0, p).estimate
            for p in np.linspace(1.0, 4.0, 200)
        )
        floor = math.log(channels) / 2 - 0.756
        assert floor < lowest
        assert (lowest < circular_drift(activations.relu(), channels, 1, 1.0).lower) == (
            channels < 3
        )


def test_the_correlation_map_of_positions():
    """Against two Gaussian numbers drawn at each correlation."""
    rng = np.random.default_rng(5)
    act, count = activations.leaky_relu(0.2), 400_000
    found = independent_positions(act, 9, 4, correlation=0.3)
    r = 0.3
    for p in found[:3]:
        assert p == pytest.approx(9 / (1 + 8 * r * r), rel=0.02)
        g = rng.standard_normal((2, count))
        second = r * g[0] + math.sqrt(1 - r * r) * g[1]
        r = float(np.mean(act.f(g[0]) * act.f(second)) / np.mean(act.f(g[0]) ** 2))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 64))
def test_positions_become_alike(slope, correlation, positions):
    found = independent_positions(activations.leaky_relu(slope), positions, 20, correlation)
    assert len(found) == 21
    assert all(1.0 - 1e-12 <= b <= a + 1e-9 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: circular_drift(a, 0, 3, 1.0), "channels must be an integer"),
        (lambda a: circular_drift(a, 4, 0, 1.0), "taps must be an integer"),
        (lambda a: circular_drift(a, 4, 3, 0.0), "scale must be positive"),
        (lambda a: circular_drift(a, 4, 3, 1.0, 0.5), "positions must be finite and at least 1"),
        (lambda a: independent_positions(a, 0, 3), "positions must be an integer"),
        (lambda a: independent_positions(a, 4, 0), "depth must be an integer"),
        (lambda a: independent_positions(a, 4, 3, 1.1), "correlation must lie between 0 and 1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call(activations.relu())
