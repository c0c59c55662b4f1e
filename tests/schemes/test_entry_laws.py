"""Laws of single matrices and biases: moments, shapes, words and JSON."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import (
    BestOf,
    Constant,
    DiagonalNoise,
    Directions,
    Frame,
    Framed,
    Identity,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Paired,
    Plain,
    Sparse,
    SpreadBias,
    Taps,
    TruncatedNormal,
    Uniform,
)
from equipoise.schemes.variance import independent, truncated_std

LAWS = [
    Constant(0.5),
    Normal(0.2, 1.0),
    Uniform(0.2, -1.0),
    TruncatedNormal(0.1, -0.2, 0.3, 0.05),
    Sparse(0.3, 0.1),
    Identity(2.0),
    Directions(1.5),
    DiagonalNoise(1.0, 0.1, "student_t", 3.0),
    Paired(Orthogonal(1.0), True, False),
    BestOf(Normal(0.3), 4, "leaky_relu(negative_slope=0.1)", -0.2, "before"),
    Taps(BestOf(Paired(Orthogonal(1.0)), 2), (1, 1), 2, True),
    OffsetBias("w", 0.5, "mean", 2.0, 0.1),
    SpreadBias("w", "w:out", 0.3, "v:out", 0.2, 1.1, "mean"),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_laws_go_through_json_and_into_words(law):
    assert law_from_dict(json.loads(json.dumps(law_to_dict(law)))) == law
    assert describe(law)


def test_words():
    assert describe(Normal(0.5)) == "normal, std 0.5"
    assert describe(Normal(0.5, 2.0)) == "normal, std 0.5 around 2"
    assert describe(OffsetBias("w", 0.0, "", 2.0)) == "2"
    assert describe(OffsetBias("w", 0.5, "", 2.0)) == "2 - W (0.5)"
    assert describe(OffsetBias("w", 0.5)) == "-W (0.5)"
    assert describe(OffsetBias("w", 0.5, "mean", 2.0, 0.1)) == (
        "2 - W (0.5 + input mean) + normal, std 0.1"
    )
    assert describe(OffsetBias("w", std=0.1)) == "normal, std 0.1"
    assert describe(OffsetBias("w")) == "0"
    assert describe(Directions(1.5)) == "directions spread evenly, norm 1.5"
    assert describe(SpreadBias("w")) == "0"
    assert describe(SpreadBias("w", "w:out", 0.3, "v:out", 0.2, 1.1, "mean")) == (
        "kinks of pairs spread by 0.3, 0.2 of the pairs before taken away, input mean taken away"
    )


# --- Entries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-2, 2), (-1, 4), (2, 3), (-40, -38), (30, math.inf)])
def test_truncated_entries(low, high):
    x = draw(TruncatedNormal(0.5, 0.5 * low + 1, 0.5 * high + 1, 1.0), "w", (4000,), Streams(0))
    assert stats.kstest(x, stats.truncnorm(low, high, 1.0, 0.5).cdf).pvalue > 1e-4
    assert 0.5 * low + 1 <= x.min() <= x.max() <= 0.5 * high + 1


@pytest.mark.parametrize("bound", [0.1, 0.7, 2.0, 3.0, 8.0])
def test_std_of_a_cut_normal_law(bound):
    density = stats.norm.pdf(bound)
    closed = math.sqrt(1 - 2 * bound * density / (2 * stats.norm.cdf(bound) - 1))
    assert truncated_std(bound) == pytest.approx(closed, rel=1e-9)
    assert truncated_std(bound) == pytest.approx(stats.truncnorm(-bound, bound).std(), rel=1e-9)


def test_independent_entries_have_the_std_named():
    for distribution in ("normal", "uniform", "truncated"):
        x = draw(independent(0.3, distribution, 1.5), "w", (60_000,), Streams(1))
        assert x.std() == pytest.approx(0.3, rel=4 / math.sqrt(2 * len(x)) * 1.2)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.05, math.nan])
def test_bounds_must_leave_something(value):
    with pytest.raises(ArgumentError, match="bound must be"):
        truncated_std(value)


def test_unknown_words():
    with pytest.raises(ArgumentError, match="distribution must be one of"):
        independent(1.0, "cauchy")
    with pytest.raises(ArgumentError, match="std must be finite and not negative"):
        independent(-1.0)


@pytest.mark.parametrize("shape", [(10, 4), (4, 10), (1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_sparse_columns(shape, share):
    x = draw(Sparse(share, 2.0), "w", shape, Streams(2))
    assert ((x == 0).sum(axis=0) == math.ceil(share * shape[0])).all()


def test_zeros_of_sparse_columns_fall_anywhere():
    x = np.array([draw(Sparse(0.25, 1.0), "w", (8, 5), Streams(s)) == 0 for s in range(400)])
    share = x.mean(axis=0)
    assert np.abs(share - 0.25).max() < 4.5 * math.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_constant_and_identity(shape):
    np.testing.assert_array_equal(draw(Constant(0.7), "w", shape, Streams(0)), np.full(shape, 0.7))
    np.testing.assert_array_equal(draw(Identity(2.0), "w", shape, Streams(0)), 2 * np.eye(*shape))


@pytest.mark.parametrize(
    ("noise", "parameter", "law"),
    [
        ("uniform", 0.0, stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))),
        ("laplace", 0.0, stats.laplace(0, math.sqrt(0.5))),
        ("truncated_normal", 1.0, stats.truncnorm(-1, 1, 0, 1 / stats.truncnorm(-1, 1).std())),
        ("student_t", 3.0, stats.t(3, 0, 1 / math.sqrt(3))),
        ("student_t", 0.0, stats.t(5, 0, math.sqrt(3 / 5))),
    ],
)
def test_noise_of_other_laws(noise, parameter, law):
    x = draw(DiagonalNoise(1.0, 0.2, noise, parameter), "w", (60, 50), Streams(3))
    ones = np.array([[float(i % 50 == j) for j in range(50)] for i in range(60)])
    assert stats.kstest(((x - ones) / 0.2).ravel(), law.cdf).pvalue > 1e-4


def test_truncated_entries_beyond_all_floats_lie_at_the_nearer_bound():
    for low, high, nearer in ((1.0, 2.0, 1.0), (-3.0, -1.0, -1.0)):
        x = draw(TruncatedNormal(1e-300, low, high), "w", (5,), Streams(0))
        np.testing.assert_array_equal(x, nearer)


def test_uniform_entries_on_the_widest_range():
    x = draw(Uniform(1.5e308), "w", (4000,), Streams(0))
    assert stats.kstest(x / 1.5e308, stats.uniform(-1, 2).cdf).pvalue > 1e-4


# --- Directions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_two_inputs_are_seen_at_even_angles_over_a_half_turn(rows):
    w = draw(Directions(2.5), "w", (rows, 2), Streams(rows))
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 2.5, rtol=1e-12)
    angles = np.sort(np.mod(np.arctan2(w[:, 1], w[:, 0]), np.pi))
    np.testing.assert_allclose(np.diff(angles), np.pi / rows, rtol=1e-9)


def test_one_row_looks_in_any_direction():
    """Offset, order and sign: the first row's angle is uniform over the whole turn."""
    rows = np.array([draw(Directions(1.0), "w", (4, 2), Streams(s))[0] for s in range(1000)])
    turn = np.mod(np.arctan2(rows[:, 1], rows[:, 0]), 2 * np.pi) / (2 * np.pi)
    assert stats.kstest(turn, "uniform").pvalue > 1e-4
    # Neighbours are in random order: the angle from the first row to the second is any of three.
    both = np.array([draw(Directions(1.0), "w", (4, 2), Streams(s))[:2] for s in range(300)])
    step = np.mod(np.diff(np.arctan2(both[:, :, 1], both[:, :, 0]), axis=1), np.pi) / (np.pi / 4)
    counts = np.bincount(np.rint(step).astype(int).ravel(), minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 100 - 4 * math.sqrt(300 * 2 / 9)


@pytest.mark.parametrize("inputs", [3, 5])
@pytest.mark.parametrize("rows", [2, 5, 13])
def test_more_inputs_are_seen_in_orthonormal_blocks(rows, inputs):
    w = draw(Directions(2.0), "w", (rows, inputs), Streams(1))
    assert w.shape == (rows, inputs)
    for start in range(0, rows, inputs):
        block = w[start : start + inputs]
        np.testing.assert_allclose(block @ block.T, 4 * np.eye(len(block)), atol=1e-12)
    assert rows <= inputs or abs(w[0] @ w[inputs]) > 1e-6


def test_one_input_is_seen_with_either_sign():
    w = draw(Directions(2.0), "w", (400, 1), Streams(0))
    np.testing.assert_array_equal(np.abs(w), 2.0)
    assert abs(int(np.sign(w).sum())) < 4 * math.sqrt(400)


# --- Pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (7, 8), (8, 7), (7, 9)])
def test_paired_entry_by_entry(rows, columns, shape):
    w = draw(Paired(Orthogonal(1.5), rows, columns), "w", shape, Streams(4))
    m = shape[0] // 2 if rows else shape[0]
    n = shape[1] // 2 if columns else shape[1]
    core = w[:m, :n]
    np.testing.assert_allclose(np.linalg.svd(core, compute_uv=False), 1.5, rtol=1e-12)
    if columns:
        np.testing.assert_array_equal(w[:m, n : 2 * n], -core)
        np.testing.assert_array_equal(w[:, 2 * n :], 0.0)
    if rows:
        np.testing.assert_array_equal(w[m : 2 * m], -w[:m])
        assert np.linalg.norm(w[2 * m :]) > 0 or shape[0] == 2 * m


def test_spread_pairs_stay_linear_and_bend_apart():
    """Three layers of ReLU pairs with spread kinks are the linear map of their cores."""
    widths, std = [5, 8, 7, 4], [0.0, 0.9, 0.6, 0.0]
    frames = {str(i): Frame(str(i), n // 2 if 0 < i < 3 else n, 3) for i, n in enumerate(widths)}
    layouts = [Plain(), Mirrored(), Mirrored(), Plain()]
    mean = np.arange(5.0)
    weights = {
        f"w{i}": (
            Framed(str(i + 1), str(i), 3, 1.3, layouts[i + 1], layouts[i]),
            (widths[i + 1], widths[i]),
        )
        for i in range(3)
    }
    streams = Streams(6, frames, {"mean": mean}, weights)
    space = ["", "one", "two", ""]
    x = np.random.default_rng(0).standard_normal((5, 40))
    h, linear = x, x - mean[:, None]
    for i in range(3):
        law, shape = weights[f"w{i}"]
        w = draw(law, f"w{i}", shape, streams)
        bias = draw(
            SpreadBias(f"w{i}", space[i + 1], std[i + 1], space[i], std[i], 1.0,
                       "mean" if i == 0 else ""),
            f"b{i}", (shape[0],), streams,
        )  # fmt: skip
        z = w @ h + bias[:, None]
        if i < 2:
            pairs = shape[0] // 2
            np.testing.assert_allclose(z[:pairs], -z[pairs : 2 * pairs], atol=1e-12)
            kinks = draw(law, f"w{i}", shape, streams)[:pairs, : max(1, widths[i] // 2)]
            assert kinks.any()
            assert bias[:pairs].std() > 0.1
        h = np.maximum(z, 0.0)
        core = w[: frames[str(i + 1)].size, : frames[str(i)].size]
        linear = core @ linear
    np.testing.assert_allclose(z, linear, atol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_units_are_brought_to_a_level(constant):
    streams = Streams(0, weights={"w": (Orthogonal(1.2), (4, 6))})
    w = draw(Orthogonal(1.2), "w", (4, 6), streams)
    b = draw(OffsetBias("w", constant, "", 3.0), "b", (4,), streams)
    np.testing.assert_allclose(w @ np.full(6, constant) + b, 3.0, atol=1e-14)


def test_noise_of_a_bias_comes_from_its_own_stream():
    streams = Streams(7, weights={"w": (Normal(0.3), (4000, 3))})
    w = draw(Normal(0.3), "w", (4000, 3), streams)
    quiet = draw(OffsetBias("w", 0.5, "", 1.0), "b", (4000,), streams)
    np.testing.assert_allclose(quiet, 1.0 - 0.5 * w.sum(axis=1), atol=1e-12)
    noise = (draw(OffsetBias("w", 0.5, "", 1.0, 0.7), "b", (4000,), streams) - quiet) / 0.7
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    assert np.abs(noise @ w).max() / 4000 < 4 * 0.3 / math.sqrt(4000)
    np.testing.assert_allclose(noise, streams.rng("parameter", "b").standard_normal(4000))
    other = draw(OffsetBias("w", 0.5, "", 1.0, 0.7), "c", (4000,), streams) - quiet
    assert abs(np.corrcoef(noise, other)[0, 1]) < 4 / math.sqrt(4000)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "groups"), [((3,), 1), ((5, 1), 1), ((0, 1), 1), ((1, 1), 3)])
def test_blocks_and_groups_must_fit_the_kernel(block, groups):
    with pytest.raises(PlanError, match=r"'w' has shape .* it must hold a block of"):
        draw(Taps(Normal(1.0), block, groups), "w", (4, 2, 3, 3), Streams(0))


@pytest.mark.parametrize(
    "law", [Sparse(0.1, 1.0), Identity(), Directions(1.0), Paired(Normal(1.0)),
            BestOf(Normal(1.0), 2)],
)  # fmt: skip
def test_matrices_need_two_axes(law):
    with pytest.raises(PlanError, match="needs 2 axes"):
        draw(law, "w", (4, 4, 3), Streams(0))
