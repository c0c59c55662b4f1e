"""Activations against torch's functions, difference quotients and high precision."""

import mpmath
import numpy as np
import pytest
import torch
from torch.nn import functional

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations

KNOWN = known_activations()

TORCH = {
    "identity": lambda x: x,
    "relu": functional.relu,
    "leaky_relu(negative_slope=0.01)": functional.leaky_relu,
    "relu6": functional.relu6,
    "elu": functional.elu,
    "selu": functional.selu,
    "elu(alpha=2, input_scale=0.5)": lambda x: functional.celu(x, 2.0),
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu(beta=1.702)": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    # torch turns into a line above its threshold, which the function itself never does.
    "mish": lambda x: x * torch.tanh(functional.softplus(x, threshold=1e3)),
    "softplus": lambda x: functional.softplus(x, threshold=1e3),
    "squareplus": lambda x: (x + torch.sqrt(x * x + 4)) / 2,
    "sigmoid": torch.sigmoid,
    "logsigmoid": functional.logsigmoid,
    "tanh": torch.tanh,
    "hardtanh": functional.hardtanh,
    # torch's own backward pass carries 1/6 in single precision.
    "hardsigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0.0, 1.0),
    "hardswish": functional.hardswish,
    "softsign": functional.softsign,
    "arctan": torch.atan,
    "erf": torch.erf,
    "inverse_sqrt": lambda x: x * torch.rsqrt(1 + x * x),
    "sin": torch.sin,
    "tanhshrink": functional.tanhshrink,
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "squared_relu": lambda x: functional.relu(x) ** 2,
}

# Values in high precision where a naive formula loses its digits.
PRECISE = [
    (activations.gelu(), -8.0, lambda x: x * mpmath.ncdf(x)),
    (activations.gelu("tanh"), -5.0, lambda x: _tanh_gelu(x)),
    (activations.silu(), -40.0, lambda x: x / (1 + mpmath.exp(-x))),
    (activations.mish(), -30.0, lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))),
    (activations.softplus(), -50.0, lambda x: mpmath.log1p(mpmath.exp(x))),
    (activations.softplus(3.0), 0.7, lambda x: mpmath.log1p(mpmath.exp(3 * x)) / 3),
    (activations.logsigmoid(), 50.0, lambda x: -mpmath.log1p(mpmath.exp(-x))),
    (activations.squareplus(), -1e6, lambda x: (x + mpmath.sqrt(x * x + 4)) / 2),
    (activations.squareplus(0.5), -3.0, lambda x: (x + mpmath.sqrt(x * x + mpmath.mpf(0.5))) / 2),
    (activations.tanhshrink(), 1e-4, lambda x: x - mpmath.tanh(x)),
    (activations.tanhshrink(), 0.019, lambda x: x - mpmath.tanh(x)),
    (activations.tanhshrink(), 0.021, lambda x: x - mpmath.tanh(x)),
    (activations.elu(), -1e-9, lambda x: mpmath.expm1(x)),
    (activations.elu(0.5, 2.0, 3.0), -0.4, lambda x: mpmath.expm1(3 * x)),
    (activations.celu(3.0), -2.0, lambda x: 3 * mpmath.expm1(x / 3)),
    (activations.sin(30.0), 0.1, lambda x: mpmath.sin(30 * x)),
    (activations.tanh(0.3), 2.0, lambda x: mpmath.tanh(mpmath.mpf(0.3) * x)),
    (activations.silu(2.0), -1.0, lambda x: x / (1 + mpmath.exp(-2 * x))),
]


def _tanh_gelu(x):
    inside = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3)
    return x / 2 * (1 + mpmath.tanh(inside))


def _breaks(activation):
    return np.array([*activation.kinks, *activation.jumps])


def _away_from_breaks(activation, x, distance):
    gaps = np.abs(x[:, None] - _breaks(activation)[None, :])
    return x[(gaps > distance).all(axis=1)]


@pytest.fixture
def grid():
    """Points of [-12, 12] that avoid round numbers, where kinks lie."""
    return np.linspace(-12.0, 12.0, 2002) + 1e-4


@pytest.fixture(params=KNOWN, ids=str)
def activation(request):
    return request.param


def test_each_known_activation_is_distinct_and_has_a_torch_twin():
    assert sorted(map(str, KNOWN)) == sorted(TORCH)
    assert len(set(KNOWN)) == len(KNOWN)


def test_values_equal_torch(activation, grid):
    twin = TORCH[str(activation)](torch.from_numpy(grid)).numpy()
    np.testing.assert_allclose(activation.f(grid), twin, rtol=1e-12, atol=1e-14)


def test_values_at_breaks_equal_torch(activation):
    x = np.array([0.0, *_breaks(activation)])
    twin = TORCH[str(activation)](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(activation.f(x), twin, rtol=1e-12, atol=1e-15)


def test_derivative_equals_torch_autograd(activation, grid):
    x = _away_from_breaks(activation, grid, 1e-9)
    leaf = torch.from_numpy(x).requires_grad_()
    TORCH[str(activation)](leaf).sum().backward()
    np.testing.assert_allclose(activation.df(x), leaf.grad.numpy(), rtol=1e-11, atol=1e-13)


def test_derivative_equals_central_difference(activation, grid):
    x = _away_from_breaks(activation, grid, 1e-4)
    h = 1e-5
    difference = (activation.f(x + h) - activation.f(x - h)) / (2 * h)
    np.testing.assert_allclose(activation.df(x), difference, rtol=1e-8, atol=1e-8)


def test_derivative_at_a_kink_is_one_of_its_two_sides(activation):
    h = 1e-9
    for kink in activation.kinks:
        at, left, right = activation.df(np.array([kink, kink - h, kink + h]))
        assert min(abs(at - left), abs(at - right)) < 1e-7


def test_each_kink_bends_the_slope_or_its_derivative(activation):
    h = 1e-4
    for kink in activation.kinks:
        left2, left1, right1, right2 = activation.df(kink + h * np.array([-2, -1, 1, 2]))
        slope_jump = abs(right1 - left1) - 3 * h
        bend_jump = abs((right2 - right1) - (left1 - left2)) / h
        assert slope_jump > 0.1 or bend_jump > 0.1


def test_each_jump_is_a_jump(activation):
    for jump in activation.jumps:
        low, high = activation.f(np.array([jump - 1e-9, jump + 1e-9]))
        assert abs(high - low) > 0.1


def test_no_break_is_left_out(activation):
    """Third differences of f's slope show every jump of f' and f'' as a spike."""
    h = 1e-3
    x = np.arange(-8.0, 8.0, h) + h / 3
    spike = np.abs(np.diff(activation.df(x), 2))
    middle = x[1:-1]
    clear = np.ones_like(middle, dtype=bool)
    for point in _breaks(activation):
        clear &= np.abs(middle - point) > 2 * h
    # A smooth slope leaves h^2 f''' here, a jump of f'' by 1/10 leaves h / 10.
    assert spike[clear].max() < 2e-5


def test_parity(activation):
    x = np.geomspace(1e-3, 20.0, 200)
    odd = bool(np.allclose(activation.f(-x), -activation.f(x), rtol=1e-12, atol=0))
    even = bool(np.allclose(activation.f(-x), activation.f(x), rtol=1e-12, atol=0))
    assert activation.parity == ("odd" if odd else "even" if even else "none")


def test_one_sided_slopes(activation):
    zero = activation.value_at_zero
    for sign, slope in ((-1.0, activation.slope_left), (1.0, activation.slope_right)):
        # One step of Richardson's extrapolation takes off the curvature.
        full, half = (
            float(activation.f(np.array([sign * h]))[0] - zero) / (sign * h) for h in (1e-5, 5e-6)
        )
        assert 2 * half - full == pytest.approx(slope, abs=1e-9)
    assert activation.slope == (activation.slope_left + activation.slope_right) / 2


def test_value_at_zero(activation):
    twin = TORCH[str(activation)](torch.zeros(1, dtype=torch.float64))
    assert activation.value_at_zero == pytest.approx(float(twin), abs=1e-15)


def test_shape_and_type_are_kept(activation):
    x = np.linspace(-2, 2, 12).reshape(3, 2, 2)
    for function in (activation.f, activation.df):
        assert function(x).shape == x.shape
        assert function(x).dtype == np.float64


@pytest.mark.parametrize(("activation", "x", "exact"), PRECISE, ids=lambda v: str(v)[:24])
def test_values_in_high_precision(activation, x, exact):
    with mpmath.workdps(40):
        expected = float(exact(mpmath.mpf(x)))
    assert float(activation.f(np.array([x]))[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "x", "exact"),
    [case for case in PRECISE if case[1] < 0],
    ids=lambda v: str(v)[:24],
)
def test_derivatives_in_high_precision(activation, x, exact):
    with mpmath.workdps(60):
        expected = float(mpmath.diff(exact, mpmath.mpf(x)))
    assert float(activation.df(np.array([x]))[0]) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("x", [-1e4, 1e4])
def test_far_out_values_are_finite(activation, x):
    at = np.array([x])
    assert np.isfinite(activation.f(at)).all()
    assert np.isfinite(activation.df(at)).all()


@pytest.mark.parametrize(
    "factory",
    [
        activations.identity, activations.linear, activations.relu, activations.leaky_relu,
        activations.hardtanh, activations.relu6, activations.elu, activations.selu,
        activations.celu, activations.gelu, activations.silu, activations.quick_gelu,
        activations.mish, activations.softplus, activations.squareplus, activations.sigmoid,
        activations.logsigmoid, activations.tanh, activations.softsign, activations.arctan,
        activations.erf, activations.inverse_sqrt, activations.sin, activations.hardsigmoid,
        activations.hardswish, activations.tanhshrink, activations.softshrink,
        activations.hardshrink, activations.squared_relu,
    ],
)  # fmt: skip
def test_factories_are_cached_and_hashable(factory):
    first = factory()
    assert isinstance(first, Activation)
    assert factory() is first
    assert {first: 1}[factory()] == 1


def test_members_of_a_family_are_told_apart():
    assert activations.leaky_relu(0.1) != activations.leaky_relu(0.2)
    assert activations.leaky_relu(0.1) is activations.leaky_relu(0.1)
    assert str(activations.leaky_relu(0.25)) == "leaky_relu(negative_slope=0.25)"
    assert str(activations.linear(2.0)) == "linear(slope=2)"
    assert str(activations.hardtanh(-2.0, 1.0)) == "hardtanh(low=-2, high=1)"
    assert str(activations.hardtanh()) == "hardtanh"
    assert str(activations.squareplus(1.0)) == "squareplus(b=1)"
    assert str(activations.softplus(2.0)) == "softplus(beta=2)"
    assert str(activations.tanh(0.5)) == "tanh(scale=0.5)"
    assert str(activations.sin(30.0)) == "sin(frequency=30)"
    assert str(activations.softshrink(1.0)) == "softshrink(threshold=1)"
    assert str(activations.hardshrink(1.0)) == "hardshrink(threshold=1)"


def test_members_that_meet_are_the_same():
    assert activations.leaky_relu(0.0) is activations.relu()
    assert activations.leaky_relu(1.0) is activations.identity()
    assert activations.hardtanh(0.0, 6.0) is activations.relu6()
    assert activations.quick_gelu() is activations.silu(1.702)


def test_absolute_value_is_even():
    absolute = activations.leaky_relu(-1.0)
    assert absolute.parity == "even"
    assert absolute.slope == 0.0
    np.testing.assert_array_equal(absolute.f(np.array([-2.0, 3.0])), [2.0, 3.0])


@pytest.mark.parametrize(
    ("low", "high", "left", "right", "parity"),
    [
        (-2.0, 1.0, 1.0, 1.0, "none"),
        (-2.0, 2.0, 1.0, 1.0, "odd"),
        (0.0, 1.0, 0.0, 1.0, "none"),
        (-1.0, 0.0, 1.0, 0.0, "none"),
        (1.0, 2.0, 0.0, 0.0, "none"),
        (-2.0, -1.0, 0.0, 0.0, "none"),
    ],
)
def test_hardtanh_with_other_bounds(low, high, left, right, parity):
    a = activations.hardtanh(low, high)
    assert (a.slope_left, a.slope_right, a.parity) == (left, right, parity)
    assert a.kinks == (low, high)
    np.testing.assert_array_equal(a.f(np.array([-9.0, 9.0])), [low, high])


@pytest.mark.parametrize(
    ("alpha", "scale", "input_scale"), [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0), (2.0, 1.5, 0.5)]
)
def test_elu_slopes(alpha, scale, input_scale):
    a = activations.elu(alpha, scale, input_scale)
    assert a.slope_left == pytest.approx(alpha * scale * input_scale, rel=1e-15)
    assert a.slope_right == scale


@pytest.mark.parametrize(
    "make",
    [
        lambda: activations.linear(float("nan")),
        lambda: activations.leaky_relu(float("inf")),
        lambda: activations.hardtanh(1.0, 1.0),
        lambda: activations.hardtanh(2.0, float("nan")),
        lambda: activations.elu(alpha=0.0),
        lambda: activations.elu(scale=-1.0),
        lambda: activations.elu(input_scale=float("inf")),
        lambda: activations.celu(0.0),
        lambda: activations.silu(0.0),
        lambda: activations.softplus(-1.0),
        lambda: activations.squareplus(0.0),
        lambda: activations.tanh(0.0),
        lambda: activations.sin(-1.0),
        lambda: activations.softshrink(0.0),
        lambda: activations.hardshrink(-0.5),
    ],
)
def test_parameters_out_of_range_are_refused(make):
    with pytest.raises(ArgumentError, match="must be"):
        make()


def test_unknown_approximation_is_refused_with_the_nearest_name():
    with pytest.raises(ArgumentError, match="Did you mean 'tanh'"):
        activations.gelu("tan")
