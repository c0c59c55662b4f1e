"""Random maps of which only what is asked for is drawn, moments of entries, middles."""

import math

import numpy as np
import pytest

from equipoise.plan.predict_entries import moments, power, whole
from equipoise.plan.predict_maps import Entries, Rotation, triangular
from equipoise.plan.typical import typical
from equipoise.schemes.laws import Normal, Sparse, TruncatedNormal, Uniform


@pytest.mark.parametrize(("size", "count"), [(16, 3), (16, 12), (5, 1), (4, 8)])
def test_maps_are_linear_and_their_transposes_fit(size, count):
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 40, size, count))
    axes = np.linalg.qr(rng.standard_normal((size, 2)))[0]
    for rotation in (Rotation(rng, size), Rotation(rng, size, np.eye(size, 2), axes)):
        z, w = rotation.forward(x), rotation.back(u)
        assert np.allclose(u.transpose(0, 2, 1) @ z, w.transpose(0, 2, 1) @ x)
        assert np.allclose(z.transpose(0, 2, 1) @ z, x.transpose(0, 2, 1) @ x)
        assert np.allclose(rotation.forward(3 * w), 3 * u)
    units = np.broadcast_to(np.eye(size, 2), (40, size, 2))
    assert np.allclose(rotation.forward(units), axes)
    entries = Entries(rng, 7, size, 0.5)
    v = rng.standard_normal((40, 7, count))
    z, w = entries.forward(x), entries.back(v)
    assert np.allclose(v.transpose(0, 2, 1) @ z, w.transpose(0, 2, 1) @ x)


def test_equal_and_dead_rows_are_no_new_directions():
    x = np.random.default_rng(0).standard_normal((3, 6, 4))
    x[:, :, 1], x[:, :, 2] = 2 * x[:, :, 0], 0.0
    q, r = triangular(x)
    assert np.allclose(q @ r, x)
    assert np.allclose((q**2).sum(axis=(1, 2)), 2)


@pytest.mark.parametrize(
    "law",
    [Normal(0.3, 0.2), Uniform(0.7, -0.1), Sparse(0.4, 0.5), TruncatedNormal(1.0, -0.5, 2.0, 0.3)],
)
def test_moments_of_entries(law):
    entries = whole(law, (4000, 5, 8), np.random.default_rng(0))
    mean, std = moments(law, 5)
    error = 4 * std / math.sqrt(entries.size)
    assert entries.mean() == pytest.approx(mean, abs=error)
    assert entries.std() == pytest.approx(std, rel=0.02)
    assert power(law, 8, 5) == pytest.approx(8 * float(np.mean(entries**2)), rel=0.03)


def test_few_single_inputs_do_not_blur_what_batches_know():
    """The middle of steady batches, whose control variate is known from a few noisy vectors."""
    rng = np.random.default_rng(0)
    found, error = typical(
        0.01 * rng.standard_normal((200, 1)), 0.01 * rng.standard_normal((200, 1)),
        0.5 + rng.standard_normal((24, 1)), None,
    )  # fmt: skip
    assert abs(found[0]) < 0.004
    assert error[0] < 0.001
