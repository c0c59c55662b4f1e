"""Frames that weights share, and mirrored layouts on them: formulas, laws, maps through layers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import (
    Frame,
    Framed,
    Mirrored,
    Orthogonal,
    Plain,
)


def _singular(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


# --- Frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "columns"), [(6, 6), (9, 3), (1, 1), (300, 2)])
def test_frames_are_orthonormal_and_kept(size, columns):
    streams = Streams(0, frames={"f": Frame("f", size, columns)})
    v = streams.columns("f")
    assert v.shape == (size, columns)
    np.testing.assert_allclose(v.T @ v, np.eye(columns), atol=1e-12)
    assert streams.columns("f") is v


def test_framed_is_its_formula():
    streams = Streams(9, frames={"a": Frame("a", 6, 6), "b": Frame("b", 4, 4)})
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


# --- Frames whose units share alike --------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "columns"), [(10, 4), (10, 1), (7, 3), (100, 8), (11, 10), (3, 2)]
)
def test_even_frames_are_orthonormal_with_rows_of_one_norm(size, columns):
    for seed in range(5):
        v = Streams(seed, frames={"f": Frame("f", size, columns, is_even=True)}).columns("f")
        np.testing.assert_allclose(v.T @ v, np.eye(columns), atol=1e-12)
        np.testing.assert_allclose(np.square(v).sum(axis=1), columns / size, rtol=1e-4)


def test_even_frames_have_no_preferred_direction():
    """Over draws every unit's row points everywhere alike: the mean outer product is a multiple."""
    rows = np.array([
        Streams(seed, frames={"f": Frame("f", 5, 2, is_even=True)}).columns("f")[3]
        for seed in range(400)
    ])  # fmt: skip
    outer = rows[:, :, None] * rows[:, None, :]
    error = outer.std(axis=0) / math.sqrt(len(rows))
    assert (np.abs(outer.mean(axis=0) - 0.2 * np.eye(2)) < 4 * error + 1e-6).all()
    assert (np.abs(rows.mean(axis=0)) < 4 * rows.std(axis=0) / math.sqrt(len(rows))).all()
