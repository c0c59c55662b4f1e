"""Bounds, degrees, tails and random slopes of the named activations."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.oddpart import mirrored_pair

KNOWN = known_activations()


def _soft(x):
    return mpmath.log1p(mpmath.exp(x))


def _tanh_gelu(x):
    return x * mpmath.exp(-mpmath.log1p(mpmath.exp(-2 * _inside(x))))


def _inside(x):
    return mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3)


def _clip(x, low, high):
    return min(max(x, mpmath.mpf(low)), mpmath.mpf(high))


EXACT = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0 * x),
    "leaky_relu(negative_slope=0.01)": lambda x: x if x > 0 else mpmath.mpf(0.01) * x,
    "relu6": lambda x: _clip(x, 0, 6),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "selu": lambda x: (
        mpmath.mpf(1.0507009873554805) * (x if x > 0 else _selu_alpha() * mpmath.expm1(x))
    ),
    "elu(alpha=2, input_scale=0.5)": lambda x: x if x > 0 else 2 * mpmath.expm1(x / 2),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": _tanh_gelu,
    "silu(beta=1.702)": lambda x: x / (1 + mpmath.exp(-mpmath.mpf(1.702) * x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(_soft(x)),
    "softplus": _soft,
    "squareplus": lambda x: (x + mpmath.sqrt(x * x + 4)) / 2,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "logsigmoid": lambda x: -_soft(-x),
    "tanh": mpmath.tanh,
    "hardtanh": lambda x: _clip(x, -1, 1),
    "hardsigmoid": lambda x: _clip(x / 6 + mpmath.mpf(1) / 2, 0, 1),
    "hardswish": lambda x: x * _clip(x / 6 + mpmath.mpf(1) / 2, 0, 1),
    "softsign": lambda x: x / (1 + abs(x)),
    "arctan": mpmath.atan,
    "erf": mpmath.erf,
    "inverse_sqrt": lambda x: x / mpmath.sqrt(1 + x * x),
    "sin": mpmath.sin,
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "softshrink": lambda x: mpmath.sign(x) * max(abs(x) - mpmath.mpf(1) / 2, 0 * x),
    "hardshrink": lambda x: x if abs(x) > 0.5 else 0 * x,
    "squared_relu": lambda x: max(x, 0 * x) ** 2,
}
POINTS = [-39.7, -30.2, -20.1, -12.3, -7.4, -4.6, -2.1, -0.31, -0.0993, -1e-3, 2e-3, 0.0997,
          0.101, 0.42, 1.7, 5.2, 9.9, 18.4, 27.6, 39.9]  # fmt: skip


def _selu_alpha():
    return mpmath.mpf(1.6732632423543772)


@pytest.fixture(params=KNOWN, ids=str)
def activation(request):
    return request.param


def test_the_table_of_formulas_is_complete():
    assert sorted(EXACT) == sorted(map(str, KNOWN))


def test_values_keep_their_digits_in_both_tails(activation):
    with mpmath.workdps(60):
        exact = np.array([float(EXACT[str(activation)](mpmath.mpf(x))) for x in POINTS])
    found = activation.f(np.array(POINTS))
    normal = (np.abs(exact) > 1e-300) | (exact == 0.0)
    np.testing.assert_allclose(found[normal], exact[normal], rtol=1e-12)


def test_derivatives_keep_their_digits_in_both_tails(activation):
    with mpmath.workdps(400):
        exact = np.array(
            [float(mpmath.diff(EXACT[str(activation)], mpmath.mpf(x))) for x in POINTS]
        )
    found = activation.df(np.array(POINTS))
    normal = (np.abs(exact) > 1e-300) | (exact == 0.0)
    np.testing.assert_allclose(found[normal], exact[normal], rtol=1e-12)


def test_nothing_overflows_out_to_ten_thousand(activation):
    x = np.concatenate([-np.geomspace(1e4, 1e-9, 700), [0.0], np.geomspace(1e-9, 1e4, 700)])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(activation.f(x)).all()
        assert np.isfinite(activation.df(x)).all()


def test_bounds_hold_and_are_approached(activation):
    x = np.concatenate([-np.geomspace(1e8, 1e-4, 20001), [0.0], np.geomspace(1e-4, 1e8, 20001)])
    y = activation.f(x)
    for bound, extreme in ((activation.lower, y.min()), (activation.upper, y.max())):
        if math.isinf(bound):
            assert extreme * np.sign(bound) > 1e5
        else:
            assert extreme == pytest.approx(bound, abs=2e-7)
    assert (y >= activation.lower).all()
    assert (y <= activation.upper).all()


@pytest.mark.parametrize(
    ("activation", "start"),
    [
        (activations.gelu(), -0.75), (activations.gelu("tanh"), -0.75),
        (activations.silu(), -1.28), (activations.quick_gelu(), -0.75),
        (activations.mish(), -1.19), (activations.hardswish(), -1.5),
    ],
    ids=str,
)  # fmt: skip
def test_least_values_at_the_root_of_the_slope(activation, start):
    with mpmath.workdps(40):
        exact = EXACT[str(activation)]
        least = float(exact(mpmath.findroot(lambda t: mpmath.diff(exact, t), start)))
    assert activation.lower == pytest.approx(least, rel=1e-15)


def test_least_value_of_silu_is_lambert_s():
    with mpmath.workdps(30):
        least = -float(mpmath.lambertw(mpmath.exp(-1)))
    assert activations.silu().lower == pytest.approx(least, rel=1e-15)
    assert activations.silu(2.5).lower == pytest.approx(least / 2.5, rel=1e-15)


@pytest.mark.parametrize(
    ("activation", "lower", "upper"),
    [
        (activations.linear(0.0), 0.0, 0.0),
        (activations.linear(-2.0), -math.inf, math.inf),
        (activations.leaky_relu(-0.5), 0.0, math.inf),
        (activations.hardtanh(-2.0, 5.0), -2.0, 5.0),
        (activations.elu(2.0, 3.0), -6.0, math.inf),
        (activations.tanh(7.0), -1.0, 1.0),
        (activations.softplus(9.0), 0.0, math.inf),
    ],
    ids=str,
)
def test_bounds_of_other_members(activation, lower, upper):
    assert (activation.lower, activation.upper) == (lower, upper)
    assert activation.is_bounded == (math.isfinite(lower) and math.isfinite(upper))


def test_bounds_that_nobody_gave_are_not_known():
    pair = mirrored_pair(activations.gelu())
    bare = activations.Activation("bare", np.tanh, np.cosh)
    assert math.isnan(bare.lower)
    assert math.isnan(bare.upper)
    assert not bare.is_bounded
    assert not pair.is_bounded


@given(st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_degree_of_homogeneity(t, x):
    members = [*KNOWN, activations.linear(-3.0), activations.prelu(0.7), activations.leaky_relu(-2)]
    for a in members:
        if a.homogeneity is not None:
            scaled, value = a.f(np.array([t * x, x]))
            assert scaled == pytest.approx(t**a.homogeneity * value, rel=1e-12)


def test_what_is_not_homogeneous_has_no_degree(activation):
    """f(2x) / f(x) is one number wherever f is not 0, or else f has no degree."""
    x = np.array([-7.0, -2.0, -0.7, -0.4, 0.4, 0.7, 2.0, 7.0])
    one, two = activation.f(x), activation.f(2 * x)
    ratios = two[one != 0] / one[one != 0]
    steady = ((one == 0) == (two == 0)).all() and np.ptp(ratios) < 1e-9
    assert (activation.homogeneity is not None) == steady
    if activation.homogeneity is not None:
        assert 2**activation.homogeneity == pytest.approx(ratios[0], rel=1e-12)


def test_corners_are_where_the_slope_jumps(activation):
    h = 1e-8
    for kink in activation.kinks:
        left, right = activation.df(np.array([kink - h, kink + h]))
        assert (kink in activation.corners) == (abs(right - left) > 1e-3)
    assert set(activation.bends) | set(activation.corners) == set(activation.kinks)
    assert activation.is_smooth == (activation.breaks == ())
    assert activation.breaks == tuple(sorted(activation.kinks + activation.jumps))


@pytest.mark.parametrize("alpha", [0.1, 0.3, 3.0, 7.0, 49.0])
def test_celu_has_one_slope_at_zero(alpha):
    a = activations.celu(alpha)
    assert (a.slope_left, a.slope_right, a.bends, a.corners) == (1.0, 1.0, (0.0,), ())


def test_prelu_is_leaky_relu():
    assert activations.prelu() is activations.leaky_relu(0.25)
    assert activations.prelu(0.0) is activations.relu()
    with pytest.raises(ArgumentError, match="weight must be finite"):
        activations.prelu(math.nan)


def test_rrelu_in_evaluation_has_the_mean_slope():
    assert activations.rrelu().slope_left == pytest.approx(11 / 48, rel=1e-15)
    assert activations.rrelu(0.2, 0.2) is activations.leaky_relu(0.2)


def test_rrelu_in_training_keeps_squares_and_not_means():
    """Monte Carlo over slopes and preactivations, against closed forms at q = 1."""
    low, high, n = 0.1, 0.9, 400_000
    rng = np.random.default_rng(3)
    z, a, other = rng.normal(size=n), *rng.uniform(low, high, (2, n))
    f, slope = np.where(z > 0, z, a * z), np.where(z > 0, 1.0, a)
    again = np.where(z > 0, z, other * z)
    kept = activations.rrelu(low, high, training=True)
    square = kept.slope_left**2
    mean = (low + high) / 2
    fourth = (high**5 - low**5) / (high - low) / 5
    claims = [
        (f**2, (1 + square) / 2),
        (slope**2, (1 + square) / 2),
        (f, (1 - mean) / math.sqrt(2 * math.pi)),
        (slope, (1 + mean) / 2),
        (f * again, (1 + mean**2) / 2),
        (f**4, 3 * (1 + fourth) / 2),
        (np.log(a), (high * math.log(high) - low * math.log(low)) / (high - low) - 1),
    ]
    for sample, expected in claims:
        assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(n)
    assert square == pytest.approx((low**2 + low * high + high**2) / 3, rel=1e-14)
    assert mean**2 < square < math.sqrt(fourth)


@given(st.floats(-2, 2), st.floats(0, 2))
def test_rrelu_slopes_lie_between_mean_and_extreme(low, width):
    high = low + width
    mean = activations.rrelu(low, high).slope_left
    rms = activations.rrelu(low, high, training=True).slope_left
    assert abs(rms) >= abs(mean) * (1 - 1e-12)
    assert abs(rms) <= max(abs(low), abs(high)) * (1 + 1e-12)
    assert rms * mean >= 0


def test_rrelu_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ArgumentError, match=r"lower must be at most upper.*Swap"):
        activations.rrelu(0.4, 0.3)
    with pytest.raises(ArgumentError, match="upper must be finite"):
        activations.rrelu(0.4, math.inf)


def test_clipping_on_one_side_only_is_refused():
    with pytest.raises(ArgumentError, match="Leave out a bound"):
        activations.hardtanh(0.0, math.inf)
