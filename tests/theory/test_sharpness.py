"""Sharpness of bends by quadrature of scipy, and the level at which one is reached."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.sharpness import sharp_level, sharpness


@pytest.mark.parametrize("std", [0.3, 1.0, 5.0])
def test_softplus_pairs_differ_by_a_tanh(std):
    """f'(v) - f'(-v) = tanh(v / 2), which is 1 far out."""
    wanted, _ = integrate.quad(
        lambda v: 2 * math.tanh(v / 2) * stats.norm.pdf(v, scale=std), 0, 12 * std, epsabs=1e-12
    )
    assert sharpness(activations.softplus(), std) == pytest.approx(wanted, rel=1e-3)


def test_gelu_by_monte_carlo():
    v = np.random.default_rng(0).standard_normal(400_000)
    seen = np.abs(stats.norm.cdf(v) - stats.norm.cdf(-v) + 2 * v * stats.norm.pdf(v))
    error = seen.std() / math.sqrt(len(v))
    assert abs(sharpness(activations.gelu(), 1.0) - seen.mean()) < 4 * error + 1e-3


def test_a_kink_is_sharp_at_any_level_and_an_odd_function_at_none():
    for std in (0.01, 1.0, 100.0):
        assert sharpness(activations.leaky_relu(0.1), std) == pytest.approx(1.0)
        assert math.isnan(sharpness(activations.tanh(), std))
    assert sharp_level(activations.relu(), 0.9, 0.3) == 0.3
    assert sharp_level(activations.tanh(), 0.9, 0.3) == 0.3


@pytest.mark.parametrize("f", [activations.softplus(), activations.silu(), activations.hardswish()])
def test_the_level_has_the_sharpness_that_is_wanted(f):
    level = sharp_level(f, 0.8, 0.5)
    assert level > 0.5
    assert sharpness(f, level) == pytest.approx(0.8, abs=1e-6)
    assert sharp_level(f, 0.999999, 1e-3) == pytest.approx(0.064)


def test_what_is_no_level_or_sharpness_is_refused():
    for call, name in (
        (lambda: sharpness(activations.relu(), 0.0), "std"),
        (lambda: sharp_level(activations.relu(), 1.5), "wanted"),
        (lambda: sharp_level(activations.relu(), 0.5, -1.0), "least"),
    ):
        with pytest.raises(ArgumentError, match=name):
            call()
