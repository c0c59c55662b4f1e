"""Second moments of sums, against values drawn at large: 4 standard errors."""

import math

import numpy as np
import pytest

from equipoise.plan.covariance import Covariances, normal_moments
from equipoise.plan.levels import Levels
from equipoise.plan.nodes import (
    Affine,
    Gain,
    Merge,
    Nonlinearity,
    Norm,
    Permute,
    Pool,
    Product,
    Shift,
    reads,
)
from equipoise.plan.trace import Trace
from equipoise.theory import activations

RELU, TANH = activations.relu(), activations.tanh()
DRAWS = 400_000


def rng():
    return np.random.default_rng(0)


def level_of(nodes, planned, value):
    """What ``Levels`` finds for a value, the outputs of weights given."""
    inputs = {v for n in nodes for v in reads(n)} - {n.output for n in nodes}
    levels = Levels(Trace(tuple(nodes), tuple(inputs), (value,), (8,), ()), {})
    for v, q in planned.items():
        levels.set_level(v, q)
    return levels.of(value)


def weight(source, output):
    return Affine("", f"{output}", "", source, output, 0, 0, 8, 8)


def function(f, source, output):
    return Nonlinearity("", f, source, output, 0)


def agrees(found, values):
    squares = np.square(values)
    error = 4 * squares.std() / math.sqrt(squares.size)
    assert found == pytest.approx(squares.mean(), abs=error)


def test_branches_of_fresh_weights_add_up():
    nodes = [weight(0, 1), weight(1, 2), Merge((1, 2), 3, 0), weight(3, 4), Merge((3, 4), 5, 0)]
    assert level_of(nodes, {1: 1.0, 2: 0.5, 4: 0.25}, 5) == pytest.approx(1.75)


def test_what_two_terms_share_counts_twice():
    """h + (h + a): 4 times h's second moment."""
    nodes = [weight(0, 1), weight(1, 2), Merge((1, 2), 3, 0), Merge((1, 3), 4, 0)]
    assert level_of(nodes, {1: 1.0, 2: 0.5}, 4) == pytest.approx(4.5)


def test_functions_of_the_stream_itself():
    x = rng().standard_normal(DRAWS)
    for f in (RELU, TANH, activations.gelu()):
        nodes = [weight(0, 1), function(f, 1, 2), Merge((1, 2), 3, 0)]
        agrees(level_of(nodes, {1: 1.0}, 3), x + f.f(x))


def test_two_branches_that_end_in_a_relu_have_means_in_common():
    g = rng()
    a, b = g.standard_normal(DRAWS), 2.0 * g.standard_normal(DRAWS)
    nodes = [weight(0, 1), function(RELU, 1, 2), weight(2, 3), function(RELU, 3, 4),
             Merge((2, 4), 5, 0)]  # fmt: skip
    agrees(level_of(nodes, {1: 1.0, 3: 4.0}, 5), np.maximum(a, 0) + np.maximum(b, 0))


def test_norms_gains_and_lines_keep_what_they_scale():
    line = activations.linear(3.0)
    nodes = [weight(0, 1), function(line, 1, 2), Merge((1, 2), 3, 0),
             Norm("", "rms", "", "", 3, 4, 0), Merge((3, 4), 5, 0),
             Gain("", "", 5, 6, 0, 0.25), Merge((5, 6), 7, 0)]  # fmt: skip
    # 4 x at RMS 4, and its norm of RMS 1: 5, and 1.5 times that.
    assert level_of(nodes, {1: 1.0}, 7) == pytest.approx(7.5**2)


def test_products_and_offsets():
    g = rng()
    x, w = g.standard_normal(DRAWS), g.standard_normal(DRAWS)
    gate = np.maximum(w, 0)
    nodes = [weight(0, 1), weight(0, 2), function(RELU, 2, 3), Product((1, 3), 4, 0),
             Merge((1, 4), 5, 0), Shift("", "", 5, 6, 0, 0.25), Merge((5, 6), 7, 0)]  # fmt: skip
    agrees(level_of(nodes, {1: 1.0, 2: 1.0}, 5), x + x * gate)
    agrees(level_of(nodes, {1: 1.0, 2: 1.0}, 7),
           2 * (x + x * gate) + 0.5 * g.standard_normal(DRAWS))  # fmt: skip


def test_moved_entries_meet_others():
    nodes = [weight(0, 1), Permute(1, 2, 0, (1, 0)), Merge((1, 2), 3, 0)]
    assert level_of(nodes, {1: 1.0}, 3) == pytest.approx(2.0)


def test_a_long_stream_is_found_without_much_recursion():
    """A post-activation stream of 2,000 sums, and one skip around all of it."""
    nodes, planned, now = [weight(0, 1), function(RELU, 1, 2)], {1: 1.0}, 2
    for _ in range(2000):
        nodes += [weight(now, now + 1), Merge((now, now + 1), now + 2, 0),
                  function(RELU, now + 2, now + 3)]  # fmt: skip
        planned[now + 1] = 1e-4
        planned[now + 2] = planned[now + 3] = 0.6
        now += 3
    nodes.append(Merge((2, now), now + 1, 0))
    assert 0.6 < level_of(nodes, planned, now + 1) < 2.4


def test_sums_of_unknown_terms_are_unknown():
    assert math.isnan(level_of([weight(0, 1), Merge((0, 1), 2, 0)], {1: 1.0}, 2))


@pytest.mark.parametrize("mean", [0.0, 0.5, -0.9, 1.0])
@pytest.mark.parametrize("f", [RELU, TANH, activations.sigmoid()])
def test_moments_of_a_function_around_a_mean(f, mean):
    z = mean + math.sqrt(max(0.0, 1.0 - mean**2)) * rng().standard_normal(DRAWS)
    found = normal_moments(f, 1.0, mean)
    for value, samples in zip(found, (f.f(z), f.df(z), f.f(z) ** 2), strict=True):
        error = 4 * samples.std() / math.sqrt(DRAWS) + 1e-6
        assert value == pytest.approx(samples.mean(), abs=error)


def test_forgotten_values_are_found_anew():
    made = Covariances()
    made.begin(0, 0.5, 1.0)
    assert made.knows(0)
    assert made.mean(0) == 0.5
    made.forget(0)
    assert not made.knows(0)
    assert made.mean(0) == 0.0


def pooled(sites, source, output):
    return Pool("", "average", (sites,), (sites,), source, output, 0, (sites,), (1,))


@pytest.mark.parametrize(("sites", "common"), [(1, 0.0), (6, 0.0), (6, 0.5)])
def test_the_mean_of_sites_is_taken_off(sites, common):
    generator = rng()
    shape = DRAWS // sites
    own = generator.standard_normal((shape, sites))
    x = math.sqrt(common) * generator.standard_normal((shape, 1)) + math.sqrt(1 - common) * own
    nodes = [weight(0, 1), pooled(sites, 1, 2), Merge((1, 2), 3, 0, (1,)), Merge((1, 2), 4, 0)]
    levels = Levels(Trace(tuple(nodes), (0,), (3,), (8,), ()), {})
    levels.set_level(1, 1.0)
    levels.set_shares(1, common, 0.0)
    mean = x.mean(axis=1, keepdims=True)
    agrees(levels.of(4), x + mean)
    if sites == 1:
        assert levels.of(3) == 0.0
    else:
        agrees(levels.of(3), x - mean)


def test_a_difference_of_a_value_and_its_function():
    z = rng().standard_normal(DRAWS)
    nodes = [function(RELU, 0, 1), Merge((0, 1), 2, 0, (0,)), Merge((0, 0), 3, 0, (1,))]
    agrees(level_of(nodes, {0: 1.0}, 2), np.maximum(z, 0) - z)
    assert level_of(nodes, {0: 1.0}, 3) == 0.0
