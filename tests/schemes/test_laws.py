"""Laws: moments, singular values, Haar measure, streams, frames and mirrored maps."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

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


# --- Frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "columns"), [(6, 6), (9, 3), (1, 1), (300, 2)])
def test_frames_are_orthonormal_and_kept(size, columns):
    streams = Streams(0, frames={"f": Frame("f", size, columns)})
    v = streams.columns("f")
    assert v.shape == (size, columns)
    np.testing.assert_allclose(v.T @ v, np.eye(columns), atol=1e-12)
    assert streams.columns("f") is v


def test_framed_is_its_formula():
    streams = _net_streams()
    a, b = streams.columns("a"), streams.columns("b")
    np.testing.assert_allclose(
        draw(Framed("b", "a", 3, 1.5), "w", (4, 6), streams), 1.5 * b[:, :3] @ a[:, :3].T,
        atol=1e-14,
    )  # fmt: skip


def test_framed_of_equal_widths_is_haar():
    draws = np.array([
        draw(
            Framed("b", "a", 3, 1.0), "w", (3, 3),
            Streams(s, frames={n: Frame(n, 3, 3) for n in "ab"}),
        )
        for s in range(1500)
    ])  # fmt: skip
    corner, trace = draws[:, 0, 0], np.trace(draws, axis1=1, axis2=2)
    for values, expected in (
        (corner, 0.0), (corner**2, 1 / 3), (corner**4, 3 / 15), (trace, 0.0), (trace**2, 1.0),
    ):  # fmt: skip
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(draws))


def test_frames_follow_given_axes_in_order():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((10, 10)))[0].T[:5]
    streams = Streams(
        0,
        frames={"in": Frame("in", 10, 5, basis="axes"), "out": Frame("out", 5, 5)},
        arrays={"axes": axes},
    )
    np.testing.assert_allclose(streams.columns("in"), axes.T, atol=1e-12)
    w = draw(Framed("out", "in", 5, 2.0), "w", (5, 10), streams)
    np.testing.assert_allclose(w @ axes.T, 2 * streams.columns("out"), atol=1e-12)


def test_more_axes_than_columns_are_left_and_fewer_are_filled_up():
    axes = np.eye(8)[[3, 1, 6]]
    frames = {"few": Frame("few", 8, 2, basis="axes"), "many": Frame("many", 8, 6, basis="axes")}
    streams = Streams(0, frames=frames, arrays={"axes": axes})
    np.testing.assert_allclose(streams.columns("few"), axes[:2].T, atol=1e-14)
    many = streams.columns("many")
    np.testing.assert_allclose(many[:, :3], axes.T, atol=1e-14)
    np.testing.assert_allclose(many.T @ many, np.eye(6), atol=1e-12)


# --- Mirrored layouts ----------------------------------------------------------------------------


def test_mirrored_layout_entry_by_entry():
    """[[O, -O], [-O, O]] for even widths."""
    streams = Streams(0, frames={"a": Frame("a", 3, 2), "b": Frame("b", 2, 2)})
    core = draw(Framed("b", "a", 2, 1.3), "w", (2, 3), streams)
    both = draw(Framed("b", "a", 2, 1.3, Mirrored(), Mirrored()), "w", (4, 6), streams)
    np.testing.assert_array_equal(both, np.block([[core, -core], [-core, core]]))
    rows = draw(Framed("b", "a", 2, 1.3, Mirrored(), Plain()), "w", (4, 3), streams)
    np.testing.assert_array_equal(rows, np.concatenate([core, -core]))
    columns = draw(Framed("b", "a", 2, 1.3, Plain(), Mirrored()), "w", (2, 6), streams)
    np.testing.assert_array_equal(columns, np.concatenate([core, -core], axis=1))


def test_odd_leftover_unit_listens_and_stays_silent():
    streams = Streams(0, frames={"a": Frame("a", 3, 2), "b": Frame("b", 2, 2)})
    law = Framed("b", "a", 2, 1.3, Mirrored(), Mirrored())
    even = draw(law, "w", (4, 6), streams)
    odd = draw(law, "w", (5, 7), streams)
    np.testing.assert_array_equal(odd[:4, :6], even)
    np.testing.assert_array_equal(odd[:, 6], 0.0)
    rms = math.sqrt(np.square(even).sum(axis=1).mean())
    assert np.linalg.norm(odd[4]) == pytest.approx(rms, rel=1e-12)
    other = draw(law, "v", (5, 7), streams)
    assert not np.allclose(other[4], odd[4])


def _gelu(x):
    return x * special.ndtr(x)


GATES = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": _gelu,
    "silu": lambda x: x * special.expit(x),
}


def _mirrored_net(widths, fan_in, fan_out, seed=0):
    """Weights of mirrored hidden layers between plain ends, gain 1."""
    sizes = [fan_in, *(n // 2 for n in widths), fan_out]
    shapes = [fan_in, *widths, fan_out]
    layouts = [Plain(), *(Mirrored() for _ in widths), Plain()]
    frames = {str(i): Frame(str(i), n, n) for i, n in enumerate(sizes)}
    streams = Streams(seed, frames=frames)
    return [
        draw(
            Framed(str(i + 1), str(i), min(sizes[i : i + 2]), 1.0, layouts[i + 1], layouts[i]),
            f"w{i}", (shapes[i + 1], shapes[i]), streams,
        )
        for i in range(len(sizes) - 1)
    ]  # fmt: skip


def _send(weights, f, x):
    for w in weights[:-1]:
        x = f(w @ x)
    return weights[-1] @ x


@pytest.mark.parametrize("gate", GATES)
def test_mirrored_gates_are_an_isometry_through_fifty_layers(gate):
    """Linear exactly, so the images of any basis are the columns of the Jacobian."""
    f = GATES[gate]
    weights = _mirrored_net([16] * 50, 8, 8)
    jacobian = _send(weights, f, np.eye(8))
    np.testing.assert_allclose(_singular(jacobian), 1.0, atol=1e-10)
    x = 5 * np.random.default_rng(0).standard_normal((8, 30))
    np.testing.assert_allclose(_send(weights, f, x), jacobian @ x, atol=1e-10)
    # and once more as a true derivative, away from the origin
    h = 1e-6
    for k in range(8):
        step = h * np.eye(8)[:, k : k + 1]
        difference = (_send(weights, f, x[:, :1] + step) - _send(weights, f, x[:, :1] - step)) / (
            2 * h
        )
        np.testing.assert_allclose(difference[:, 0], jacobian[:, k], atol=1e-7)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    ("widths", "kept"),
    [([15] * 30, 7), ([16, 4] * 50, 2), ([32, 8] * 50, 4), ([21, 9, 33], 4), ([3, 2, 3], 1)],
    ids=str,
)
def test_mirrored_gates_keep_the_narrowest_width(gate, widths, kept):
    weights = _mirrored_net(widths, 16, 12)
    values = _singular(_send(weights, GATES[gate], np.eye(16)))
    np.testing.assert_allclose(values[:kept], 1.0, atol=1e-10)
    np.testing.assert_allclose(values[kept:], 0.0, atol=1e-10)


def test_alternating_widths_keep_four_singular_values():
    """Independent semi-orthogonal factors would lose them all; frames that telescope lose none."""
    widths = [16, 4] * 50
    frames = {str(i): Frame(str(i), n, 4) for i, n in enumerate(widths)}
    streams = Streams(0, frames=frames)
    telescoped, independent = np.eye(16), np.eye(16)
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        law = Framed(str(i + 1), str(i), 4, 1.0)
        telescoped = draw(law, f"w{i}", (m, n), streams) @ telescoped
        independent = draw(Orthogonal(1.0), f"w{i}", (m, n), streams) @ independent
    values = _singular(telescoped)
    np.testing.assert_allclose(values[:4], 1.0, atol=1e-10)
    assert (values[4:] < 1e-12).all()
    assert _singular(independent).max() < 1e-6


WIDTHS = st.lists(st.integers(1, 12), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(widths=WIDTHS, seed=st.integers(0, 2**31))
def test_any_widths_telescope(widths, seed):
    frames = {str(i): Frame(str(i), n, n) for i, n in enumerate(widths)}
    streams = Streams(seed, frames=frames)
    product = np.eye(widths[0])
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        product = (
            draw(Framed(str(i + 1), str(i), min(n, m), 1.0), f"w{i}", (m, n), streams) @ product
        )
    values = _singular(product)
    kept = min(widths)
    np.testing.assert_allclose(values[:kept], 1.0, atol=1e-10)
    np.testing.assert_allclose(values[kept:], 0.0, atol=1e-10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(2, 12), min_size=1, max_size=8),
    ends=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**31),
)
def test_any_mirrored_widths_telescope(widths, ends, seed):
    weights = _mirrored_net(widths, *ends, seed)
    values = _singular(_send(weights, GATES["relu"], np.eye(ends[0])))
    kept = min([*ends, *(n // 2 for n in widths)])
    np.testing.assert_allclose(values[:kept], 1.0, atol=1e-10)
    np.testing.assert_allclose(values[kept:], 0.0, atol=1e-10)


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
