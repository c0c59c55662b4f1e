"""Diagonal + noise against a literal transcription of the published rule, and its energy."""

import math

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.schemes.diagonal_noise import PUBLISHED_ALPHA, diagonal_noise
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.fans import Fans
from equipoise.theory import activations

SHAPES = [(16, 16), (40, 16), (16, 40), (1, 5), (5, 1)]


def _published(shape, alpha, omega, normals):
    """W = omega D + Z, D_ij = 1 if i = j (mod n_in), Z_ij ~ N(0, alpha^2 / n_in), as a loop."""
    rows, columns = shape
    w = np.zeros(shape)
    for i in range(rows):
        for j in range(columns):
            d = 1.0 if (i - j) % columns == 0 else 0.0
            w[i, j] = omega * d + alpha / math.sqrt(columns) * normals[i, j]
    return w


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("activation", "omega"),
    [
        (activations.tanh(), 1.0),
        (activations.sigmoid(), 4.0),
        (activations.tanh(2.0), 0.5),
        (activations.gelu(), 2.0),
        (activations.linear(-2.0), -0.5),
    ],
    ids=str,
)
def test_draws_equal_the_published_loop(shape, activation, omega):
    law = diagonal_noise(Fans(shape[1], shape[0]), activation)
    streams = Streams(3)
    normals = streams.rng("parameter", "w").standard_normal(shape)
    np.testing.assert_allclose(
        draw(law, "w", shape, streams),
        _published(shape, 0.085, omega, normals),
        rtol=1e-14,
        atol=1e-16,
    )


def test_published_scale():
    assert PUBLISHED_ALPHA == 0.085
    assert diagonal_noise(Fans(100, 7), activations.tanh()).noise_std == pytest.approx(0.0085)
    assert diagonal_noise(Fans(4, 9), activations.tanh(), 0.3).noise_std == pytest.approx(0.15)


@pytest.mark.parametrize("shape", [(16, 16), (40, 16), (16, 40)])
def test_energy(shape):
    """E ||D + Z||_F^2 = sum D_ij + n_out n_in sigma^2, sigma^2 = alpha^2 / n_in."""
    alpha = 0.8
    law = diagonal_noise(Fans(shape[1], shape[0]), activations.tanh(), alpha)
    draws = np.array([draw(law, "w", shape, Streams(s)) for s in range(400)])
    energy = np.square(draws).sum(axis=(1, 2))
    ones = shape[0]  # i mod n_in is a column for every row i
    expected = ones + shape[0] * alpha**2
    assert abs(energy.mean() - expected) < 4 * energy.std(ddof=1) / math.sqrt(len(energy))


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_moments(shape):
    law = diagonal_noise(Fans(shape[1], shape[0]), activations.tanh(), 0.5)
    mean = np.array([[1.0 if i % shape[1] == j else 0.0 for j in range(shape[1])]
                     for i in range(shape[0])])  # fmt: skip
    noise = np.array([draw(law, "w", shape, Streams(s)) - mean for s in range(300)]).ravel()
    variance = 0.25 / shape[1]
    assert abs(noise.mean()) < 4 * math.sqrt(variance / noise.size)
    assert abs(np.square(noise).mean() - variance) < 4 * variance * math.sqrt(2 / noise.size)


def test_level_it_settles_at():
    """Coordinates of tanh nets do not mix: E x^2 -> 0.2285 alpha^2 / c with c = 1/3 (quartic well).

    The law of the level is that of a Langevin equation, for small alpha; its relaxation takes
    1 / (0.478 alpha^2) layers.
    """
    alpha, n, depth = 0.25, 128, 300
    law = diagonal_noise(Fans(n, n), activations.tanh(), alpha)
    expected = 0.2285 * alpha**2 * 3
    levels = []
    for seed in range(6):
        streams = Streams(seed)
        x = math.sqrt(expected) * np.random.default_rng(seed).standard_normal((n, 1))
        for layer in range(depth):
            x = np.tanh(draw(law, f"w{layer}", (n, n), streams) @ x)
            if layer >= depth // 2:
                levels.append(float(np.square(x).mean()))
    # Corrections in alpha and in 1 / n, and the spread of few relaxation times: within a fifth.
    assert np.mean(levels) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    "activation",
    [activations.tanhshrink(), activations.leaky_relu(-1.0), activations.softshrink()],
    ids=str,
)
def test_a_slope_is_needed(activation):
    with pytest.raises(ArgumentError, match="non-zero slope at 0"):
        diagonal_noise(Fans(4, 4), activation)


@pytest.mark.parametrize("alpha", [0.0, -0.1, math.nan])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ArgumentError, match="alpha must be positive"):
        diagonal_noise(Fans(4, 4), activations.tanh(), alpha)
