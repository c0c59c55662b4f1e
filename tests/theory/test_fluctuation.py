"""Fluctuations of log norms: closed forms, a second derivation, and drawn networks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.cell_fluctuation import cell_fluctuation
from equipoise.theory.fluctuation import gradient_fluctuation, signal_fluctuation
from equipoise.theory.hermite import mean_hermite_degree
from equipoise.theory.oddpart import mirrored_pair

ALL = [
    activations.tanh(), activations.sin(), activations.softsign(), activations.sigmoid(),
    activations.elu(), activations.selu(), activations.hardtanh(), activations.relu(),
    activations.leaky_relu(0.3), activations.identity(),
]  # fmt: skip
KINDS = ["haar", "gaussian"]


def _level(activation, depth, budget):
    """Smallest q at which the mean Hermite degree is exp(budget / depth)."""
    wanted = math.exp(budget / depth)
    log_q = optimize.brentq(
        lambda x: mean_hermite_degree(activation, math.exp(x)) - wanted, -14.0, 2.0, xtol=1e-12
    )
    return math.exp(log_q)


# --- Closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.5, 1.0])
def test_homogeneous_functions(slope):
    """c = (6 r - 1) / 4 of independent entries, c - 1/2 of Haar weights; gradients alike."""
    r = (1 + slope**4) / (1 + slope**2) ** 2
    c = (6 * r - 1) / 4
    for q in (0.01, 1.0, 30.0):
        for weights, v in (("haar", c - 0.5), ("gaussian", c)):
            cell = cell_fluctuation(activations.leaky_relu(slope), q, weights)
            assert cell.signal_variance == pytest.approx(v, abs=1e-9)
            assert cell.gradient_variance == pytest.approx(v, abs=1e-9)
            assert cell.signal_drift == pytest.approx(-v, abs=1e-9)
            assert cell.restoring == pytest.approx(1.0, abs=1e-9)
            assert cell.response == pytest.approx(0.0, abs=1e-9)
            signal = signal_fluctuation(activations.leaky_relu(slope), q, 32, 70, weights)
            gradient = gradient_fluctuation(activations.leaky_relu(slope), q, 32, 70, weights)
            for law in (signal, gradient):
                assert law.wide == pytest.approx(0.0, abs=1e-9)
                assert law.mean == pytest.approx(-70 * v / 32, abs=1e-7)
                assert law.std == pytest.approx(math.sqrt(70 * v / 32), abs=1e-7)
    stationary = cell_fluctuation(activations.leaky_relu(slope), 1.0).stationary_signal_variance
    assert stationary == (0.0 if slope == 1.0 else math.inf) or stationary > 1e6


@pytest.mark.parametrize(
    "gate",
    [activations.relu(), activations.gelu(), activations.softplus(), activations.identity()],
    ids=str,
)
def test_mirrored_gates_do_not_fluctuate(gate):
    pair = mirrored_pair(gate)
    assert cell_fluctuation(pair, 0.7).stationary_signal_variance == 0.0
    for law in (signal_fluctuation(pair, 0.7, 4, 1000), gradient_fluctuation(pair, 0.7, 4, 1000)):
        assert (law.wide, law.mean, law.std) == pytest.approx((0.0, 0.0, 0.0), abs=1e-10)


def test_sin_in_closed_form():
    """E sin^2 = (1 - e^-2q) / 2, E sin^4 = (3 - 4 e^-2q + e^-8q) / 8; s = 2 q / (e^2q - 1)."""
    for q in (0.05, 0.6, 2.0):
        m = -math.expm1(-2 * q) / 2
        fourth = (3 - 4 * math.exp(-2 * q) + math.exp(-8 * q)) / 8
        s = 2 * q / math.expm1(2 * q)
        t = -2 * q * math.exp(-2 * q) / (1 + math.exp(-2 * q))
        cell = cell_fluctuation(activations.sin(), q)
        assert cell.restoring == pytest.approx(s, rel=1e-9)
        assert cell.response == pytest.approx(t, rel=1e-9)
        assert 4 * cell.signal_variance == pytest.approx(fourth / m**2 - 1 - 2 * s * s, rel=1e-7)
        gauss = cell_fluctuation(activations.sin(), q, "gaussian")
        assert 4 * gauss.signal_variance == pytest.approx(fourth / m**2 - 1, rel=1e-9)
        assert 2 * gauss.signal_drift == pytest.approx(-2 * gauss.signal_variance, rel=1e-9)
        assert cell.stationary_signal_variance == pytest.approx(
            cell.signal_variance / (1 - s * s), rel=1e-12
        )


@pytest.mark.parametrize("activation", [activations.tanh(), activations.sin(2.0)], ids=str)
def test_cubic_functions_at_a_budget(activation):
    """B + 1 / n - 12 B / n and 20 B / n; the level sqrt(16 B / (3 L)) / n, all leading order.

    At this depth sqrt(3 B L) = 173: the next order is a few percent of 12 B.
    """
    budget, depth, n = 0.5, 20_000, 10
    q = _level(activation, depth, budget)
    law = gradient_fluctuation(activation, q, n, depth)
    assert 2 * law.wide == pytest.approx(budget, rel=1e-5)
    assert 2 * law.mean == pytest.approx(budget + (1 - 12 * budget) / n, abs=0.2 / n)
    assert 4 * law.std**2 == pytest.approx(20 * budget / n, rel=0.03)
    level = signal_fluctuation(activation, q, n, depth)
    assert 4 * level.std**2 == pytest.approx(math.sqrt(16 * budget / (3 * depth)) / n, rel=0.04)
    assert 2 * level.mean == pytest.approx(2 / n, rel=0.04)
    own = cell_fluctuation(activation, q).gradient_variance
    assert 4 * own * depth == pytest.approx(12 * budget, rel=0.02)


# --- The Jacobian's other side -------------------------------------------------------------------


def _pushed_forward(activation, q, n, depth, weights, mean):
    """Law of log|J v| for uniform v, with moments from another quadrature.

    A tangent has a share r / n along the signal, which a cell multiplies by s^2 / chi and feeds
    with (E (f f')^2 q / m^2 - s^2) / chi (Haar), where it grows by 1 + 2 t. None of these numbers
    is used for a cotangent.
    """
    zero, df = activation.value_at_zero, activation.df

    def f(z):
        return activation.f(z) - zero

    def he2(z):
        return z * z / q - 1

    def he4(z):
        return (z * z / q) ** 2 - 6 * z * z / q + 3

    m, p = mean(lambda z: f(z) ** 2), mean(lambda z: df(z) ** 2)
    s = mean(lambda z: z * f(z) * df(z)) / m
    t = mean(lambda z: df(z) ** 2 * he2(z)) / (2 * p)
    bend_m = mean(lambda z: f(z) ** 2 * he4(z)) / (4 * m)
    bend_p = mean(lambda z: df(z) ** 2 * he4(z)) / (4 * p)
    kurtosis = mean(lambda z: f(z) ** 4) / m**2
    squared = mean(lambda z: df(z) ** 4) / p**2
    product = mean(lambda z: (f(z) * df(z)) ** 2)
    both, chi = product / (m * p), q * p / m
    if weights == "haar":
        v, w = kurtosis - 1 - 2 * s * s, 3 * (squared - 1) - 2 * t * t
        c, mu, nu, fed, own = both - 1 - 2 * s * t, -bend_m, -bend_p, -s * s, 1.0
    else:
        v, w, c, mu, nu, fed, own = kurtosis - 1, 3 * squared - 1, both - 1, 0.0, 0.0, 0.0, 0.0
    fed += q * product / m**2
    along, level, spread, common, drift, variance = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(depth):
        drift += math.log(chi) + (nu - w / 2 + (along - own) * 2 * t) / n
        drift += t * level + (bend_p - t * t + t) * spread / 2
        variance += w / n + t * t * spread + 2 * t * common
        along = (s * s * along + fed) / chi
        common = s * (common + t * spread) + c / n
        level = s * level + (bend_m - s * s + s) * spread / 2 + (mu - v / 2) / n
        spread = s * s * spread + v / n
    return drift / 2, math.sqrt(max(variance, 0.0)) / 2


@pytest.mark.parametrize("activation", ALL, ids=str)
@pytest.mark.parametrize("q", [0.05, 1.0])
@pytest.mark.parametrize("weights", KINDS)
def test_tangents_and_cotangents_have_one_law(activation, q, weights, gaussian_mean):
    """J and J^T have the same squared norm, so E log|J v| = E log|J^T u| to first order.

    The two recursions share no number of the direction: that they agree at every depth checks both.
    """

    def mean(g):
        return gaussian_mean(g, q, activation.kinks)

    for depth in (1, 2, 25):
        forward = _pushed_forward(activation, q, 10, depth, weights, mean)
        law = gradient_fluctuation(activation, q, 10, depth, weights)
        assert (law.mean, law.std) == pytest.approx(forward, abs=1e-7)


# --- Real networks -------------------------------------------------------------------------------


def _draw(activation, q, n, depth, weights, draws, seed=3):
    """Log norms of signal over its fixed point and of a cotangent, one network for each draw."""
    rng = np.random.default_rng(seed)
    zero = activation.value_at_zero
    z = np.sqrt(2 * q) * np.linspace(-8, 8, 4001)
    density = np.exp(-z * z / (2 * q))
    gain = math.sqrt(q * density.sum() / (density * (activation.f(z) - zero) ** 2).sum())
    x = rng.standard_normal((draws, n, 1))
    x *= math.sqrt(q * n) / np.linalg.norm(x, axis=1, keepdims=True)
    matrices, slopes = [], []
    for _ in range(depth):
        w = rng.standard_normal((draws, n, n)) / math.sqrt(n)
        if weights == "haar":
            w, r = np.linalg.qr(w)
            w *= np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None, :]
        pre = w @ x
        x = gain * (activation.f(pre) - zero)
        matrices.append(w)
        slopes.append(gain * activation.df(pre))
    signal = np.log(np.linalg.norm(x, axis=1)[:, 0] / math.sqrt(q * n))
    u = rng.standard_normal((draws, n, 1))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    for w, slope in zip(reversed(matrices), reversed(slopes), strict=True):
        u = np.swapaxes(w, 1, 2) @ (slope * u)
    return signal, np.log(np.linalg.norm(u, axis=1)[:, 0])


@pytest.mark.parametrize(
    ("activation", "n", "depth", "weights", "draws", "budget"),
    [
        (activations.tanh(), 4, 20, "haar", 4000, 0.5),
        (activations.tanh(), 8, 20, "haar", 3000, 0.5),
        (activations.tanh(), 16, 40, "haar", 600, 0.5),
        (activations.tanh(), 64, 20, "haar", 80, 0.5),
        (activations.elu(), 16, 20, "haar", 800, 0.5),
        (activations.sigmoid(), 16, 20, "haar", 800, 1.0),
        (activations.leaky_relu(0.3), 16, 20, "haar", 800, 0.0),
        (activations.tanh(), 16, 20, "gaussian", 3000, 0.5),
        (activations.tanh(), 64, 20, "gaussian", 300, 0.5),
        (activations.leaky_relu(0.3), 16, 20, "gaussian", 2000, 0.0),
    ],
    ids=str,
)
def test_drawn_networks(activation, n, depth, weights, draws, budget):
    """First order in 1 / n: what is left is allowed a share of 2 / n (level: 6 / n) of the spread.

    The means may miss a few 1 / n^2 for each variance of the level or the gradient.
    """
    q = _level(activation, depth, budget) if budget else 1.0
    signal, gradient = _draw(activation, q, n, depth, weights, draws)
    arguments = (activation, q, n, depth, weights)
    for found, law, order in (
        (gradient, gradient_fluctuation(*arguments), 2.0),
        (signal, signal_fluctuation(*arguments), 6.0),
    ):
        std = found.std(ddof=1)
        assert abs(found.mean() - law.mean) < 4 * std / math.sqrt(draws) + 10 * order / n**2 * std
        assert abs(std - law.std) < std * (4 / math.sqrt(2 * draws) + order / n)


def test_what_first_order_misses_falls_as_the_width():
    misses = []
    for n, draws in ((4, 6000), (8, 4000), (16, 1500)):
        q = _level(activations.tanh(), 20, 0.5)
        signal, _ = _draw(activations.tanh(), q, n, 20, "haar", draws)
        law = signal_fluctuation(activations.tanh(), q, n, 20)
        misses.append(law.std / signal.std(ddof=1) - 1)
    assert misses[0] > 1.6 * misses[1] > 2.5 * misses[2] > 0


# --- Properties ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(0.05, 1.5), st.integers(2, 100), st.integers(1, 60),
       st.sampled_from(KINDS))  # fmt: skip
def test_units_of_the_preactivation_do_not_matter(scale, q, n, depth, weights):
    """tanh(a z) at q is tanh(z) at a^2 q."""
    for law in (signal_fluctuation, gradient_fluctuation):
        here = law(activations.tanh(scale), q, n, depth, weights)
        there = law(activations.tanh(), scale**2 * q, n, depth, weights)
        assert (here.wide, here.mean, here.std) == pytest.approx(
            (there.wide, there.mean, there.std), rel=1e-6, abs=1e-8
        )


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 2.0), st.integers(2, 100), st.integers(1, 60), st.sampled_from(KINDS))
def test_variances_fall_as_the_width_and_grow_to_a_level(q, n, depth, weights):
    a = activations.tanh()
    for law in (signal_fluctuation, gradient_fluctuation):
        one, wide = law(a, q, n, depth, weights), law(a, q, 4 * n, depth, weights)
        assert one.std == pytest.approx(2 * wide.std, rel=1e-9)
        assert one.mean - one.wide == pytest.approx(4 * (wide.mean - wide.wide), abs=1e-9)
    here = signal_fluctuation(a, q, n, depth, weights).std
    level = cell_fluctuation(a, q, weights).stationary_signal_variance / n
    assert here <= signal_fluctuation(a, q, n, depth + 1, weights).std <= math.sqrt(level) + 1e-12


def test_entry_fades_as_powers_of_s():
    a, q = activations.tanh(), 0.2
    s = cell_fluctuation(a, q).restoring
    at = signal_fluctuation(a, q, 10**9, 12, entry_mean=0.1, entry_std=0.2)
    assert at.wide == pytest.approx(0.1 * s**12, rel=1e-12)
    assert at.std == pytest.approx(0.2 * s**12, rel=1e-6)


def test_entry_reaches_the_gradient_through_the_response():
    """Without noise: t d for each cell on the way, d fading with s."""
    a, q = activations.tanh(), 0.2
    cell = cell_fluctuation(a, q)
    s, t = cell.restoring, cell.response
    base = gradient_fluctuation(a, q, 10**9, 12)
    moved = gradient_fluctuation(a, q, 10**9, 12, entry_mean=0.01, entry_std=0.02)
    share = t * (1 - s**12) / (1 - s)
    # The bends of log q add terms of order entry_std^2.
    assert moved.mean - base.mean == pytest.approx(0.01 * share, abs=1e-3)
    assert moved.std == pytest.approx(abs(0.02 * share), rel=1e-4)


def test_deviations_may_leave_the_floats():
    """s = 2 for squared ReLU: d grows as 2^L, and what starts at 0 stays there when wide."""
    a = activations.squared_relu()
    assert signal_fluctuation(a, 1.0, 10**9, 3, entry_mean=0.01).wide == pytest.approx(0.08)
    assert signal_fluctuation(a, 1.0, 16, 3000).wide == 0.0
    assert signal_fluctuation(a, 1.0, 16, 3000, entry_mean=1e-3).wide == math.inf
    assert signal_fluctuation(a, 1.0, 16, 3000, entry_std=1e200).std == math.inf


def test_whole_numbers_of_other_types():
    a = activations.tanh()
    for law in (signal_fluctuation, gradient_fluctuation):
        assert law(a, 0.2, np.int64(8), np.int32(5)) == law(a, 0.2, 8.0, 5.0) == law(a, 0.2, 8, 5)


def test_deviations_from_an_unstable_level_grow():
    cell = cell_fluctuation(activations.gelu(), 1.0)
    assert cell.restoring > 1.0
    assert cell.stationary_signal_variance == math.inf


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [signal_fluctuation, gradient_fluctuation])
def test_refusals(law):
    a = activations.tanh()
    flat = Activation("flat", lambda x: np.full_like(x, 2.0), np.zeros_like)
    for match, arguments in {
        "q must be positive": (a, 0.0, 4, 4),
        "width must be": (a, 1.0, 0, 4),
        "depth must be": (a, 1.0, 4, 0),
        "weights must be one of": (a, 1.0, 4, 4, "diagonal"),
        "must be continuous": (activations.hardshrink(), 1.0, 4, 4),
        "must not be constant": (flat, 1.0, 4, 4),
        "entry_mean must be finite": (a, 1.0, 4, 4, "haar", math.nan),
        "entry_std must be finite and not": (a, 1.0, 4, 4, "haar", 0.0, -0.1),
    }.items():
        with pytest.raises(ArgumentError, match=match):
            law(*arguments)
