"""Principal axes and means of what enters."""

import numpy as np
import pytest

from equipoise.plan.entry import mean_matters, principal_axes


def rows(count, size, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size)) * np.linspace(2, 0.1, size)


@pytest.mark.parametrize(("count", "size"), [(300, 20), (40, 200), (2000, 1500)])
def test_axes_are_those_of_a_singular_value_decomposition(count, size):
    x = rows(count, size) + 1.0
    found = principal_axes(x, 5)
    used = x if size <= 1024 else x[np.linspace(0, count - 1, 1024).astype(int)]
    _, s, vt = np.linalg.svd(used - used.mean(0), full_matrices=False)
    assert np.allclose(np.abs(found.axes @ vt[:5].T), np.eye(5), atol=1e-6)
    assert np.allclose(found.variances, s[:5] ** 2 / len(used))
    assert found.total_variance == pytest.approx((s**2).sum() / len(used))
    assert np.allclose(found.mean, used.mean(0))


def test_rows_that_cannot_settle_the_axes_give_none():
    assert principal_axes(rows(11, 20), 5) is None
    assert principal_axes(np.ones((50, 4)), 2) is None


def test_rows_that_vary_in_few_directions_give_few_axes_and_their_mean():
    flat = rows(100, 20) + 2.0
    flat[:, 3:] = 1.0
    found = principal_axes(flat, 5)
    assert found.axes.shape == (3, 20)
    assert found.mean[10] == 1.0


def test_participation_counts_directions():
    isotropic = np.random.default_rng(0).standard_normal((20000, 6))
    assert principal_axes(isotropic, 2).participation == pytest.approx(6, rel=0.01)
    assert principal_axes(isotropic * [1, 0, 0, 0, 0, 0], 1).participation == pytest.approx(1)


def test_signs_of_axes_are_settled():
    found = principal_axes(rows(300, 20), 5)
    largest = np.abs(found.axes).argmax(axis=1)
    assert (found.axes[np.arange(5), largest] > 0).all()


def test_a_mean_matters_beyond_what_sampling_explains():
    x = rows(400, 10)
    assert not mean_matters(principal_axes(x, 3), 400)
    assert mean_matters(principal_axes(x + 1.0, 3), 400)
