"""Laws of single matrices and what ties weights together: moments, shapes, order of drawing."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.draw import PROBES, Streams, draw
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import (
    BestOf,
    Constant,
    DiagonalNoise,
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
    DiagonalNoise(1.0, 0.1, "student_t", 3.0),
    Paired(Orthogonal(1.0), True, False),
    BestOf(Normal(0.3), 4, "leaky_relu(negative_slope=0.1)", -0.2, "before"),
    Taps(BestOf(Paired(Orthogonal(1.0)), 2), (1, 1), 2, True),
    OffsetBias("w", 0.5, "", 2.0),
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
    assert describe(OffsetBias("w", 0.5, "", 2.0)) == "2 -W (0.5)"
    assert describe(OffsetBias("w", 0.5)) == "-W (0.5)"


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


# --- Choices among draws -------------------------------------------------------------------------


def _chain(draws, depth=6, n=8):
    names = [f"w{i}" for i in range(depth)]
    return {
        name: (BestOf(Normal(0.5), draws, "relu", 0.0, names[i - 1] if i else ""), (n, n))
        for i, name in enumerate(names)
    }


@pytest.mark.parametrize("draws", [1, 5])
def test_chosen_weights_are_the_best_of_their_candidates(draws):
    """Against a loop that follows the probes by hand."""
    chain, n = _chain(draws), 8
    streams = Streams(3, weights=chain)
    signal = streams.rng("probes", "w0").standard_normal((n, PROBES))
    signal = signal / np.sqrt(np.square(signal).mean(axis=0))
    for name in chain:
        rng = Streams(3).rng("parameter", name)
        best = None
        for _ in range(draws):
            w = 0.5 * rng.standard_normal((n, n))
            sent = np.maximum(w @ signal, 0.0)
            rms = np.sqrt(np.square(sent).mean(axis=0))
            distance = abs(np.log(np.maximum(rms, 1e-150)).mean())
            if best is None or distance < best[0]:
                best = distance, w, sent
        np.testing.assert_array_equal(draw(*chain[name][:1], name, (n, n), streams), best[1])
        signal = best[2]


@pytest.mark.parametrize("order", [range(6), reversed(range(6)), [5, 0, 3, 3, 1, 4, 2]])
def test_chosen_weights_do_not_depend_on_the_order_of_drawing(order):
    chain = _chain(4)
    together = Streams(1, weights=chain)
    for i in order:
        law, shape = chain[f"w{i}"]
        alone = draw(law, f"w{i}", shape, Streams(1, weights=chain))
        np.testing.assert_array_equal(draw(law, f"w{i}", shape, together), alone)


def test_a_weight_deep_in_a_chain_can_be_drawn_alone():
    chain = _chain(1, depth=3000, n=2)
    law, shape = chain["w2999"]
    assert draw(law, "w2999", shape, Streams(0, weights=chain)).shape == (2, 2)


def test_choosing_along_the_path_keeps_the_norm_of_a_deep_network():
    """100 layers of width 16: the log norm of fresh inputs strays by 3 nats, chosen by a quarter.

    Where each weight is chosen on probes of its own, next to nothing is gained.
    """
    f = "leaky_relu(negative_slope=0.01)"

    def spread(draws, is_path, nets):
        laws = {
            f"w{i}": (
                BestOf(Normal(0.3861), draws, f, 0.0, f"w{i - 1}" if i and is_path else ""),
                (16, 16),
            )
            for i in range(100)
        }
        found = []
        for seed in range(nets):
            streams = Streams(seed, weights=laws)
            x = np.random.default_rng(100 + seed).standard_normal((16, 20))
            for name, (law, shape) in laws.items():
                z = draw(law, name, shape, streams) @ x
                x = np.where(z > 0, z, 0.01 * z)
            found.append(np.log(np.sqrt(np.square(x).mean(axis=0))).mean())
        return np.sqrt(np.square(found).mean())

    assert spread(1, True, 25) > 2.0
    assert spread(4, False, 15) > 1.5
    assert spread(4, True, 15) < 0.6


@pytest.mark.parametrize(
    "law", [Sparse(0.1, 1.0), Identity(), Paired(Normal(1.0)), BestOf(Normal(1.0), 2)]
)
def test_matrices_need_two_axes(law):
    with pytest.raises(PlanError, match="needs 2 axes"):
        draw(law, "w", (4, 4, 3), Streams(0))
