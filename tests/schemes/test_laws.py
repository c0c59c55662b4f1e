"""Laws: moments, singular values, Haar measure, streams and biases."""

import math

import numpy as np
import pytest

from equipoise.errors import PlanError
from equipoise.schemes.draw import Streams, draw, semi_orthogonal
from equipoise.schemes.laws import (
    DiagonalNoise,
    Frame,
    Framed,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Plain,
    Uniform,
    Zero,
)

SHAPES = [(7, 7), (12, 5), (5, 12), (1, 9), (9, 1), (1, 1), (64, 256)]


def _singular(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


# --- Independent entries -------------------------------------------------------------------------


def test_zero():
    assert not draw(Zero(), "b", (3,), Streams(0)).any()


@pytest.mark.parametrize("shape", [(400, 300), (120_000,), (40, 30, 10, 10)])
def test_normal_and_uniform_moments(shape):
    n = math.prod(shape)
    for law, variance, kurtosis in ((Normal(0.3), 0.09, 3.0), (Uniform(0.6), 0.12, 9 / 5)):
        x = draw(law, "w", shape, Streams(3))
        assert x.shape == shape
        assert x.dtype == np.float64
        assert abs(x.mean()) < 4 * math.sqrt(variance / n)
        spread = 4 * variance * math.sqrt((kurtosis - 1) / n)
        assert abs(np.square(x).mean() - variance) < spread
    assert np.abs(draw(Uniform(0.6), "w", shape, Streams(3))).max() <= 0.6


@pytest.mark.parametrize("shape", SHAPES)
def test_diagonal_noise_entry_by_entry(shape):
    """The published rule as a loop, on the same normals."""
    streams = Streams(11)
    normals = streams.rng("parameter", "w").standard_normal(shape)
    expected = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[i, j] = 0.2 * normals[i, j]
            if i % shape[1] == j:
                expected[i, j] += 0.7
    np.testing.assert_allclose(
        draw(DiagonalNoise(0.7, 0.2), "w", shape, streams), expected, rtol=1e-15
    )


# --- Haar ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_singular_values(shape):
    w = draw(Orthogonal(1.7), "w", shape, Streams(0))
    assert w.shape == shape
    np.testing.assert_allclose(_singular(w), 1.7, rtol=1e-12)


@pytest.fixture(scope="module")
def haar_draws():
    """3000 square draws of width 4."""
    return np.array([draw(Orthogonal(1.0), f"w{i}", (4, 4), Streams(1)) for i in range(3000)])


def test_haar_moments(haar_draws):
    """E w^2 = 1/n, E w^4 = 3/(n(n+2)), E tr = 0, E tr^2 = 1, and determinants of both signs."""
    count, n = haar_draws.shape[:2]
    trace = np.trace(haar_draws, axis1=1, axis2=2)
    corner = haar_draws[:, 0, 0]
    last = haar_draws[:, -1, -1]
    expectations = [
        (corner, 0.0), (last, 0.0), (corner**2, 1 / n), (last**2, 1 / n),
        (corner**4, 3 / (n * (n + 2))), (trace, 0.0), (trace**2, 1.0),
        (np.linalg.det(haar_draws), 0.0), (corner * last, 0.0),
    ]  # fmt: skip
    for values, expected in expectations:
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(count)


def test_haar_corner_is_symmetric(haar_draws):
    """Without folding the signs of R into Q the corner would have one sign only."""
    positive = (haar_draws[:, 0, 0] > 0).sum()
    count = len(haar_draws)
    assert abs(positive - count / 2) < 4 * math.sqrt(count) / 2


def test_haar_is_unchanged_by_rotation(haar_draws):
    """E |e^T W u|^4 is that of any direction of the sphere, here of u = (1, 1, 1, 1) / 2."""
    along = haar_draws[:, 0].sum(axis=1) / 2
    for values, expected in ((along, 0.0), (along**2, 1 / 4), (along**4, 3 / 24)):
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(along))


@pytest.mark.parametrize("shape", [(2, 5), (5, 2)])
def test_rectangular_haar_moments(shape):
    """Entries of a semi-orthogonal matrix: E w^2 = 1/max, E w^4 = 3/(max (max + 2))."""
    n = max(shape)
    draws = np.array([draw(Orthogonal(1.0), f"w{i}", shape, Streams(2)) for i in range(2000)])
    for place in ((0, 0), (-1, -1)):
        w = draws[:, place[0], place[1]]
        for values, expected in ((w, 0.0), (w**2, 1 / n), (w**4, 3 / (n * (n + 2)))):
            assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(w))


def test_semi_orthogonal_is_gram_schmidt():
    """The signs make it the Gram-Schmidt basis of the columns, in order."""
    normals = np.random.default_rng(0).standard_normal((6, 4))
    basis = np.zeros_like(normals)
    for j in range(4):
        v = normals[:, j] - basis @ (basis.T @ normals[:, j])
        basis[:, j] = v / np.linalg.norm(v)
    np.testing.assert_allclose(semi_orthogonal(normals, (6, 4)), basis, atol=1e-12)
    np.testing.assert_allclose(semi_orthogonal(normals, (4, 6)), basis.T, atol=1e-12)


# --- Streams -------------------------------------------------------------------------------------

NET_FRAMES = {f.id: f for f in (Frame("a", 6, 6), Frame("b", 4, 4), Frame("c", 8, 4))}
NET = {
    "w1": (Framed("b", "a", 4, 1.5), (4, 6)),
    "b1": (OffsetBias("w1", 0.5), (4,)),
    "w2": (Framed("c", "b", 4, 2.0, Mirrored()), (17, 4)),
    "w3": (Orthogonal(1.0), (3, 17)),
    "w4": (DiagonalNoise(1.0, 0.1), (5, 3)),
    "w5": (Normal(1.0), (5, 5)),
    "w6": (Uniform(1.0), (5, 5)),
}


def _net_streams(seed=9):
    return Streams(seed, frames=NET_FRAMES, weights={n: NET[n] for n in NET if n[0] == "w"})


@pytest.mark.parametrize("order", [list(NET), list(NET)[::-1], [*NET, *NET]])
def test_drawing_alone_equals_drawing_among_others(order):
    together = _net_streams()
    drawn = {name: draw(NET[name][0], name, NET[name][1], together) for name in order}
    for name, (law, shape) in NET.items():
        alone = draw(law, name, shape, _net_streams())
        np.testing.assert_array_equal(drawn[name], alone)


def test_seeds_names_and_kinds_have_streams_of_their_own():
    keys = [(s, k, n) for s in (0, 1, 2**40) for k in ("parameter", "frame") for n in ("a", "b")]
    draws = np.array([Streams(s).rng(k, n).standard_normal(2000) for s, k, n in keys])
    correlations = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)


def test_streams_can_be_drawn_again():
    streams = Streams(4)
    first = streams.rng("parameter", "w").standard_normal(5)
    np.testing.assert_array_equal(first, streams.rng("parameter", "w").standard_normal(5))


# --- Biases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [Orthogonal(1.4), Normal(0.3), Framed("out", "in", 3, 2.0)])
@pytest.mark.parametrize(("constant", "centre"), [(0.5, ""), (0.0, "mean"), (-0.25, "mean")])
def test_offset_bias(law, constant, centre):
    mean = np.array([1.0, -2.0, 0.5, 3.0])
    streams = Streams(
        5,
        frames={"in": Frame("in", 4, 3), "out": Frame("out", 3, 3)},
        arrays={"mean": mean},
        weights={"w": (law, (3, 4))},
    )
    w = draw(law, "w", (3, 4), streams)
    b = draw(OffsetBias("w", constant, centre), "b", (3,), streams)
    point = constant * np.ones(4) + (mean if centre else 0.0)
    np.testing.assert_allclose(w @ point + b, 0.0, atol=1e-14)
    assert np.abs(b).max() > 0


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3, 3), ()])
@pytest.mark.parametrize(
    "law", [Orthogonal(1.0), DiagonalNoise(1.0, 0.1), Framed("b", "a", 4, 1.0)]
)
def test_matrix_laws_need_two_axes(law, shape):
    with pytest.raises(PlanError, match="needs 2 axes"):
        draw(law, "w", shape, _net_streams())


@pytest.mark.parametrize(
    ("law", "shape"),
    [
        (Framed("b", "a", 4, 1.0), (6, 4)),
        (Framed("b", "a", 4, 1.0), (4, 7)),
        (Framed("b", "a", 4, 1.0, Mirrored()), (4, 6)),
        (Framed("b", "a", 4, 1.0, Mirrored()), (10, 6)),
        (Framed("b", "a", 4, 1.0, Plain(), Mirrored()), (4, 11)),
    ],
)
def test_frames_must_fit_the_shape(law, shape):
    with pytest.raises(PlanError, match=r"'w' has shape .* but its frames make"):
        draw(law, "w", shape, _net_streams())


def test_what_is_no_law_is_refused():
    with pytest.raises(AssertionError, match="unreachable"):
        draw(object(), "w", (2, 2), Streams(0))
