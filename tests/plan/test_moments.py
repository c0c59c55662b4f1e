"""Second moments and common shares against drawn values: four standard errors of the draws."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from equipoise.plan.moments import Weights, behind, second_moment, share_of
from equipoise.plan.nodes import (
    Affine,
    Attention,
    Concat,
    Constant,
    Contract,
    Dropout,
    Gain,
    Lookup,
    Merge,
    Nonlinearity,
    Norm,
    Opaque,
    Pool,
    Product,
    Reshape,
    Shift,
    Softmax,
    Spread,
    Take,
)
from equipoise.plan.steady import is_steady, is_told
from equipoise.schemes.convolution import Convolution
from equipoise.theory import activations

NAN = math.nan


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_mean(draws, expected, bias=0.0):
    """The mean of independent draws is as expected, up to 4 standard errors and a known bias."""
    error = 4 * np.std(draws, ddof=1) / math.sqrt(len(draws)) + bias * abs(expected)
    assert np.mean(draws) == pytest.approx(expected, abs=error)


def with_share(generator, shape, q, share, axis=-2):
    """Normal values of second moment q of which a share is the same along an axis."""
    common = list(shape)
    common[axis] = 1
    return math.sqrt(q) * (
        math.sqrt(share) * generator.standard_normal(common)
        + math.sqrt(1 - share) * generator.standard_normal(shape)
    )


def measured_share(x):
    """Mean product of values at two sites over their mean square, for x of (draws, sites, n)."""
    return (x[:, 0] * x[:, 1]).mean(axis=-1)


# What moves entries, and what scales them.


@pytest.mark.parametrize("node", [Reshape(0, 1, 0, 0, 4), Take(0, 1, 0), Spread(0, 1, 0)])
def test_what_moves_entries_keeps_both(node):
    assert second_moment(node, [2.5], [0.3], NAN) == 2.5
    assert share_of(node, [2.5], [0.3], 2.5) == 0.3


@pytest.mark.parametrize(("active", "expected"), [(True, 2.0 / 0.7), (False, 2.0)])
def test_dropout_divides_what_it_keeps(active, expected):
    node = Dropout("", 0.3, active, 0, 1, 0)
    found = second_moment(node, [2.0], [0.0], NAN)
    x = math.sqrt(2) * rng().standard_normal((400, 500))
    kept = rng(1).random(x.shape) < 0.7
    drawn = np.square(np.where(kept, x / 0.7, 0.0) if active else x).mean(axis=1)
    assert found == pytest.approx(expected, rel=1e-12)
    assert_mean(drawn, found)


def test_dropout_of_everything_has_no_second_moment():
    assert math.isnan(second_moment(Dropout("", 1.0, True, 0, 1, 0), [2.0], [0.0], NAN))


def test_nonlinearity_of_normal_values():
    node = Nonlinearity("", activations.gelu(), 0, 1, 0)
    x = math.sqrt(1.7) * rng().standard_normal((400, 1000))
    drawn = np.square(activations.gelu().f(x)).mean(axis=1)
    assert_mean(drawn, second_moment(node, [1.7], [0.0], NAN))
    assert math.isnan(second_moment(node, [NAN], [0.0], NAN))


def test_gains_shifts_and_constants():
    gain, shift = Gain("", "g", 0, 1, 0, 3.0), Shift("", "s", 0, 1, 0, 3.0)
    generator = rng()
    x = math.sqrt(2) * generator.standard_normal((4000, 64))
    factor = math.sqrt(3) * generator.standard_normal((4000, 64))
    assert_mean(np.square(x * factor).mean(axis=1), second_moment(gain, [2.0], [0.0], 3.0))
    assert_mean(np.square(x + factor).mean(axis=1), second_moment(shift, [2.0], [0.0], 3.0))
    assert second_moment(Constant(0, 0.5), [], [], NAN) == 0.5
    assert share_of(Constant(0, 0.5), [], [], 0.5) == 0.0


def test_a_product_of_independent_values():
    generator = rng()
    x = with_share(generator, (4000, 2, 64), 2.0, 0.5)
    y = with_share(generator, (4000, 2, 64), 0.7, 0.4)
    node = Product((0, 1), 2, 0)
    level = second_moment(node, [2.0, 0.7], [0.5, 0.4], NAN)
    assert_mean(np.square(x * y).mean(axis=(1, 2)), level)
    assert_mean(measured_share(x * y), level * share_of(node, [2.0, 0.7], [0.5, 0.4], level))


def test_sums_and_concatenations():
    generator = rng()
    x = with_share(generator, (4000, 2, 64), 2.0, 0.5)
    y = with_share(generator, (4000, 2, 64), 0.7, 0.1)
    merge = Merge((0, 1), 2, 0)
    level = second_moment(merge, [2.0, 0.7], [0.5, 0.1], NAN)
    assert_mean(np.square(x + y).mean(axis=(1, 2)), level)
    assert_mean(measured_share(x + y), level * share_of(merge, [2.0, 0.7], [0.5, 0.1], level))
    joined = np.concatenate([x, y[..., :32]], axis=-1)
    concat = Concat((0, 1), 2, 0, -1, (64, 32))
    level = second_moment(concat, [2.0, 0.7], [0.5, 0.1], NAN)
    assert_mean(np.square(joined).mean(axis=(1, 2)), level)


def test_the_common_share_of_a_concatenation_counts_sizes():
    x, y = with_share(rng(), (4000, 2, 90), 1.0, 0.9), with_share(rng(1), (4000, 2, 10), 1.0, 0.0)
    concat = Concat((0, 1), 2, 0, -1, (90, 10))
    assert_mean(
        measured_share(np.concatenate([x, y], -1)), share_of(concat, [1.0, 1.0], [0.9, 0.0], 1.0)
    )


def test_an_empty_part_of_a_concatenation_says_nothing():
    concat = Concat((0, 1), 2, 0, -2, (0, 6))
    assert second_moment(concat, [NAN, 2.0], [0.0, 0.0], NAN) == 2.0
    assert math.isnan(second_moment(Concat((), 0, 0, -1, ()), [], [], NAN))


# Norms.


def test_rms_norm_of_a_quiet_signal_stays_below_1():
    epsilon, q = 1e-2, 3e-2
    x = math.sqrt(q) * rng().standard_normal((400, 2000))
    drawn = np.square(x / np.sqrt(np.square(x).mean(1, keepdims=True) + epsilon)).mean(axis=1)
    # E q' / (q' + eps) for q' that strays by sqrt(2 / n) is lower by under 1 / n.
    found = second_moment(Norm("", "rms", "", "", 0, 1, 0, epsilon), [q], [0.0], NAN)
    assert_mean(drawn, found, bias=1 / 2000)


def test_layer_norm_divides_by_the_standard_deviation():
    x = math.sqrt(5) * rng().standard_normal((400, 2000))
    centred = x - x.mean(1, keepdims=True)
    drawn = np.square(centred / np.sqrt(x.var(1, keepdims=True) + 0.5)).mean(axis=1)
    found = second_moment(Norm("", "layer", "", "", 0, 1, 0, 0.5), [5.0], [0.0], NAN)
    assert_mean(drawn, found, bias=1 / 2000)


def test_a_norm_needs_no_known_level():
    node = Norm("", "layer", "", "", 0, 1, 0, 1e-5)
    assert second_moment(node, [NAN], [0.0], NAN) == 1.0
    tracked = Norm("", "batch", "", "", 0, 1, 0, 1e-5, is_tracked=True)
    assert second_moment(tracked, [3.0], [0.0], NAN) == 3.0


# Softmax, contractions and attention.


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3, 1.0])
def test_participation_of_a_softmax(spread):
    """E sum p^2 = exp(v) / n for scores of variance v, to the next order in exp(v) / n."""
    size = 2000
    scores = math.sqrt(spread) * rng().standard_normal((400, size))
    drawn = np.square(softmax(scores, axis=1)).mean(axis=1)
    found = second_moment(Softmax("", 0, 1, 0, size), [spread], [0.0], NAN)
    assert_mean(drawn, found, bias=6 * math.exp(2 * spread) / size)


def test_a_softmax_takes_at_most_all():
    for spread in (3.0, 100.0, NAN):
        found = second_moment(Softmax("", 0, 1, 0, 4), [spread], [0.0], NAN)
        assert 1 / 16 <= found <= 1 / 4
    assert second_moment(Softmax("", 0, 1, 0, 4), [100.0], [0.0], NAN) > 0.8 / 4


def test_scores_are_sums_of_products():
    generator = rng()
    q = math.sqrt(2.0) * generator.standard_normal((400, 10, 32))
    k = math.sqrt(0.5) * generator.standard_normal((400, 10, 32))
    found = second_moment(Contract((0, 1), 2, 0, 32), [2.0, 0.5], [0.0, 0.0], NAN)
    assert_mean(np.square(q @ k.swapaxes(1, 2)).mean(axis=(1, 2)), found)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_averages_keep_what_all_sites_share(share):
    """Written out: a softmax over scores of variance v, then a product with the values."""
    sites, spread = 400, 0.3
    generator = rng()
    weights = softmax(math.sqrt(spread) * generator.standard_normal((300, 2, sites)), axis=-1)
    values = with_share(generator, (300, sites, 16), 2.0, share)
    made = weights @ values
    one_weight = second_moment(Softmax("", 0, 1, 0, sites), [spread], [0.0], NAN)
    node = Contract((1, 2), 3, 0, sites)
    weighted = Weights(0, 1 / sites)
    level = second_moment(node, [one_weight, 2.0], [0.0, share], NAN, weighted)
    bias = 6 * math.exp(2 * spread) / sites
    assert_mean(np.square(made).mean(axis=(1, 2)), level, bias)
    # Both queries see the same values: their averages have those in common by chance too.
    common = level * share_of(node, [one_weight, 2.0], [0.0, share], level, weighted)
    assert_mean(measured_share(made), common, bias)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_called_as_such_averages_alike(causal):
    """Independent keys and queries, heads of 64, scores of variance 0.5 * 0.8."""
    sites, size = 64, 64
    generator = rng()
    q = math.sqrt(0.5) * generator.standard_normal((400, sites, size))
    k = math.sqrt(0.8) * generator.standard_normal((400, sites, size))
    v = with_share(generator, (400, sites, size), 2.0, 0.25)
    scores = q @ k.swapaxes(1, 2) / math.sqrt(size)
    visible = 1 / sites
    if causal:
        scores = np.where(np.tri(sites, dtype=bool), scores, -np.inf)
        visible = float(np.mean(1 / np.arange(1, sites + 1)))
    drawn = np.square(softmax(scores, axis=-1) @ v).mean(axis=(1, 2))
    node = Attention("", (0, 1, 2), 3, 0, size, sites, size**-0.5, visible)
    level = second_moment(node, [0.5, 0.8, 2.0], [0.0, 0.0, 0.25], NAN)
    # Few visible keys hold less than exp(v) / n: a twentieth of the whole, measured.
    assert_mean(drawn, level, bias=0.08)


def test_attention_to_one_key_returns_its_value():
    node = Attention("", (0, 1, 2), 3, 0, 64, 1, 0.125, 1.0)
    assert second_moment(node, [1.0, 1.0, 2.0], [0.0, 0.0, 0.0], NAN) == 2.0
    # The same one for every query.
    assert share_of(node, [1.0, 1.0, 2.0], [0.0, 0.0, 0.5], 2.0) == 1.0


# Pools.


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_means_over_sites(share):
    generator = rng()
    x = with_share(generator, (2000, 12, 32), 1.5, share)
    pooled = x.reshape(2000, 2, 6, 32).mean(axis=2)
    node = Pool("", "average", (6,), (6,), 0, 1, 0, (12,), (2,))
    level = second_moment(node, [1.5], [share], NAN)
    assert_mean(np.square(pooled).mean(axis=(1, 2)), level)
    assert_mean(measured_share(pooled), level * share_of(node, [1.5], [share], level))


def test_maxima_are_not_known():
    node = Pool("", "maximum", (6,), (6,), 0, 1, 0, (12,), (2,))
    assert math.isnan(second_moment(node, [1.5], [0.0], NAN))
    assert math.isnan(second_moment(Opaque("", "", (), (0,), (1,)), [1.5], [0.0], NAN))
    assert share_of(Opaque("", "", (), (0,), (1,)), [1.5], [0.9], NAN) == 0.0


# Shares.


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "sigmoid", "softplus"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.97, 1.0])
def test_the_share_behind_a_function(name, share):
    """E f(u) f(v) for jointly normal u and v of correlation c is the series of c."""
    f, q = getattr(activations, name)(), 1.3
    generator = rng()
    x = f.f(with_share(generator, (400, 2, 1000), q, share))
    node = Nonlinearity("", f, 0, 1, 0)
    level = second_moment(node, [q], [share], NAN)
    found = level * share_of(node, [q], [share], level)
    # A kink's coefficients fall like k^(-5/2): what 24 of them leave out near c = 1.
    assert_mean(measured_share(x), found, bias=2e-3)


def test_shares_where_the_level_is_not_known():
    node = Nonlinearity("", activations.relu(), 0, 1, 0)
    assert share_of(node, [NAN], [0.3], NAN) == 0.3
    assert share_of(Merge((0, 1), 2, 0), [NAN, NAN], [0.3, 0.1], NAN) == 0.0
    assert share_of(Pool("", "average", (2,), (2,), 0, 1, 0, (2,), (1,)), [NAN], [0.3], NAN) == 0.3
    assert share_of(Lookup("", "w", 0, 0, 9, 4, 0.2), [], [], 1.0) == 0.2


def test_a_random_matrix_keeps_the_share():
    generator = rng()
    x = with_share(generator, (2000, 2, 32), 1.0, 0.6)
    weights = generator.standard_normal((2000, 32, 16)) / math.sqrt(32)
    node = Affine("", "w", "", 0, 1, 0, 1, 32, 16)
    assert_mean(measured_share(x @ weights), share_of(node, [1.0], [0.6], 1.0))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [4, 10, 64])
def test_two_queries_share_what_their_weights_have_in_common(spread, size):
    generator = rng()
    scores = math.sqrt(spread) * generator.standard_normal((4000, 2, size))
    made = softmax(scores, -1) @ generator.standard_normal((4000, size, 16))
    q = spread / 4.0
    node = Attention("", (0, 1, 2), 3, 0, 4, size, 1.0, 1.0 / size)
    levels, shares = [q, 1.0, 1.0], [0.0, 0.0, 0.0]
    level = second_moment(node, levels, shares, NAN)
    assert_mean(np.square(made).mean(axis=(1, 2)), level)
    assert_mean(measured_share(made), level * share_of(node, levels, shares, level))


def test_scores_share_what_all_keys_have_in_common_and_a_softmax_drops_it():
    scores = Contract((0, 1), 2, 0, 8)
    assert share_of(scores, [1.0, 1.0], [0.2, 0.75], 8.0) == 0.75
    found = second_moment(Softmax("", 0, 1, 0, 10), [4.0], [0.75], NAN)
    assert found == second_moment(Softmax("", 0, 1, 0, 10), [1.0], [0.0], NAN)


# Weights that add up to 1 along another axis, and values that a norm or a few units silence.


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_weights_over_another_axis_are_no_average(share):
    """A softmax over the queries, of which there are twice as many as keys."""
    queries, keys, spread = 200, 100, 0.3
    generator = rng()
    scores = math.sqrt(spread) * generator.standard_normal((300, queries, keys))
    values = with_share(generator, (300, keys, 16), 2.0, share)
    made = softmax(scores, axis=1) @ values
    one_weight = second_moment(Softmax("", 0, 1, 0, queries), [spread], [0.0], NAN)
    node, weighted = Contract((1, 2), 3, 0, keys), Weights(0, 1 / queries)
    level = second_moment(node, [one_weight, 2.0], [0.0, share], NAN, weighted)
    bias = 6 * math.exp(2 * spread) / queries
    assert_mean(np.square(made).mean(axis=(1, 2)), level, bias)
    # The weights may as well be the second factor.
    turned = second_moment(
        Contract((2, 1), 3, 0, keys), [2.0, one_weight], [share, 0.0], NAN, Weights(1, 1 / queries)
    )
    assert turned == level


def test_weights_have_their_mean_in_common():
    sites, spread = 400, 0.3
    weights = softmax(math.sqrt(spread) * rng().standard_normal((400, 2, sites)), axis=-1)
    node = Softmax("", 0, 1, 0, sites)
    level = second_moment(node, [spread], [0.0], NAN)
    common = level * share_of(node, [spread], [0.0], level)
    assert_mean(measured_share(weights), common, 1e-2)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_blended_neighbours(share):
    """Each new site is .75 of one and .25 of another."""
    x = with_share(rng(), (4000, 2, 64), 1.5, share)
    made = 0.75 * x[:, :1] + 0.25 * x[:, 1:]
    node = Spread(0, 1, 0, 0.75**2 + 0.25**2)
    level = second_moment(node, [1.5], [share], NAN)
    assert_mean(np.square(made).mean(axis=(1, 2)), level)
    assert level * share_of(node, [1.5], [share], level) == pytest.approx(1.5 * share)


def test_dropout_strikes_sites_apart():
    generator = rng()
    x = with_share(generator, (4000, 2, 64), 2.0, 0.5)
    dropped = x * (generator.random(x.shape) < 0.7) / 0.7
    node = Dropout("", 0.3, True, 0, 1, 0)
    level = second_moment(node, [2.0], [0.5], NAN)
    assert_mean(measured_share(dropped), level * share_of(node, [2.0], [0.5], level))


def test_sites_behind_an_instance_norm_add_up_to_0():
    norm = Norm("", "instance", "", "", 0, 1, 0, size=12)
    share = share_of(norm, [3.0], [0.9], 1.0)
    x = rng().standard_normal((4000, 12, 8)) + 1.0
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    assert_mean(measured_share(x), share)
    pooled = Pool("", "average", (12,), (12,), 1, 2, 0, (12,), (1,))
    assert second_moment(pooled, [1.0], [share], NAN) == 0.0
    halves = Pool("", "average", (6,), (6,), 1, 2, 0, (12,), (2,))
    drawn = np.square(x.reshape(4000, 2, 6, 8).mean(axis=2)).mean(axis=(1, 2))
    assert_mean(drawn, second_moment(halves, [1.0], [share], NAN))


def test_what_a_batch_norm_leaves_in_common_is_not_known():
    share = share_of(Norm("", "batch", "", "", 0, 1, 0, size=64), [3.0], [0.9], 1.0)
    assert math.isnan(share)
    pooled = Pool("", "average", (4,), (4,), 1, 2, 0, (4,), (1,))
    assert math.isnan(second_moment(pooled, [1.0], [share], NAN))
    # A rectifier's own mean is most of what its sites have in common.
    relu = Nonlinearity("", activations.relu(), 0, 1, 0)
    assert 0.5 < share_of(relu, [1.0], [share], 0.5) < 0.7
    assert math.isnan(share_of(Nonlinearity("", activations.tanh(), 0, 1, 0), [1.0], [NAN], 0.4))
    assert math.isnan(share_of(pooled, [1.0], [NAN], NAN))
    assert math.isnan(share_of(Merge((0, 1), 2, 0), [1.0, 1.0], [NAN, 0.1], 2.0))


def test_a_norm_of_one_entry_leaves_nothing_but_its_sign():
    assert second_moment(Norm("", "layer", "", "", 0, 1, 0, size=1), [3.0], [0.0], NAN) == 0.0
    assert second_moment(Norm("", "rms", "", "", 0, 1, 0, size=1), [3.0], [0.0], NAN) == 1.0
    assert second_moment(Norm("", "layer", "", "", 0, 1, 0, size=8), [0.0], [0.0], NAN) == 0.0


def test_running_statistics_scale_and_centre():
    generator = rng()
    mean, variance = generator.standard_normal(64), generator.uniform(0.5, 3.0, 64)
    x = math.sqrt(2.0) * generator.standard_normal((4000, 64))
    drawn = np.square((x - mean) / np.sqrt(variance)).mean(axis=1)
    node = Norm(
        "", "batch", "", "", 0, 1, 0, is_tracked=True,
        scale=float((1 / variance).mean()), centre=float((mean**2 / variance).mean()),
    )  # fmt: skip
    assert_mean(drawn, second_moment(node, [2.0], [0.0], NAN))


def test_levels_behind_functions_that_are_flat_around_0_are_not_told():
    shrunken = activations.softshrink(0.5)
    assert not is_steady(shrunken, 0.01)
    assert is_steady(shrunken, 4.0)
    assert not is_steady(activations.relu(), NAN)
    assert behind(activations.relu(), 3.0) == pytest.approx(1.5)
    assert math.isnan(behind(activations.relu(), math.inf))


def test_silence_becomes_what_a_function_makes_of_0():
    assert behind(activations.relu(), 0.0) == 0.0
    assert behind(activations.sigmoid(), 0.0) == 0.25
    assert is_steady(activations.relu(), 0.0)


@pytest.mark.parametrize(("width", "is_known"), [(0, True), (1, False), (2, False), (3, True)])
def test_one_or_two_rectifiers_are_silent_too_often(width, is_known):
    node = Nonlinearity("", activations.relu(), 0, 1, 0)
    assert is_told(node, [2.0], [0.0], width) == is_known
    assert is_told(Nonlinearity("", activations.tanh(), 0, 1, 0), [2.0], [0.0], width)


@pytest.mark.parametrize(
    ("share", "is_known"), [(0.0, False), (0.2, True), (0.9, True), (-1 / 11, True), (NAN, False)]
)
def test_means_of_which_hardly_anything_is_left_are_not_told(share, is_known):
    node = Pool("", "average", (12,), (12,), 0, 1, 0, (12,), (1,))
    assert is_told(node, [1.0], [share], 8) == is_known
    assert is_told(Pool("", "average", (2,), (2,), 0, 1, 0, (12,), (6,)), [1.0], [0.0], 8)


def test_weights_of_loud_scores_are_not_told():
    assert is_told(Softmax("", 0, 1, 0, 8), [1.0], [0.0], 8)
    assert not is_told(Softmax("", 0, 1, 0, 8), [4.0], [0.0], 8)


def test_sites_of_a_transposed_convolution_are_made_by_other_taps():
    geometry = Convolution((2,), (2,), ((0, 0),), (1,), 1, True)
    node = Affine("", "w", "", 0, 1, 0, 1, 8, 8, geometry, (3,), (6,), -2)
    assert share_of(node, [1.0], [0.6], 1.0) == 0.3


@pytest.mark.parametrize(("width", "keys"), [(3, 64), (3, 4), (32, 64)])
def test_an_average_of_few_units_follows_what_scores_and_values_have_in_common(width, keys):
    """Both are read from the same normal numbers, by weights that are drawn apart."""
    r = rng(width + keys)
    x = r.standard_normal((400, keys, width))
    a, b = (r.standard_normal((400, width, width)) / math.sqrt(width) for _ in range(2))
    weights = softmax(x @ a, axis=1)
    made = np.square(weights.swapaxes(1, 2) @ (x @ b)).mean(axis=(1, 2))
    level = second_moment(Softmax("", 0, 1, 0, keys), [1.0], [0.0], 1.0)
    node, found = Contract((0, 1), 2, 0, keys), Weights(0, 1.0 / keys)
    told = second_moment(node, [level, 1.0], [0.0, 0.0], 1.0, found)
    is_told_right = float(np.mean(made)) < 2.5 * told
    assert is_told(node, [level, 1.0], [0.0, 0.0], width, found) == is_told_right
