"""Scales that keep a moment of the norm: exact ones by simulation, first order by its drift."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from equipoise.errors import ArgumentError
from equipoise.schemes.diagonal_noise import noise_law, odd_sigmoid_scale
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.fans import Fans
from equipoise.schemes.lyapunov import is_two_lines, kept_moment, kept_moment_at_unit_level
from equipoise.schemes.variance import he, slope_gain
from equipoise.theory import activations


def _stray(values, order):
    """(E r^s)^(1/s) - 1 in logs, with its standard error; the mean log at order 0."""
    if order == 0:
        return values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    powers = np.exp(order * values)
    error = powers.std(ddof=1) / powers.mean() / order / math.sqrt(len(powers))
    return math.log(powers.mean()) / order, error


@pytest.mark.parametrize("distribution", ["normal", "orthogonal"])
@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize(("fan_in", "fan_out"), [(6, 6), (4, 12), (12, 4)])
def test_exact_scales(distribution, order, fan_in, fan_out):
    f = activations.leaky_relu(0.2)
    law = kept_moment(Fans(fan_in, fan_out), fan_out, f, order, distribution)
    x = np.random.default_rng(0).standard_normal(fan_in)
    size = math.log(math.sqrt(np.square(x).mean()))
    if distribution == "normal":
        # Independent entries: all draws are one tall matrix.
        weights = draw(law, "w", (3000 * fan_out, fan_in), Streams(0)).reshape(
            3000, fan_out, fan_in
        )
    else:
        weights = np.array([draw(law, "w", (fan_out, fan_in), Streams(s)) for s in range(3000)])
    logs = 0.5 * np.log(np.square(f.f(weights @ x)).mean(axis=1)) - size
    stray, error = _stray(logs, order)
    assert abs(stray) < 4 * error


@pytest.mark.parametrize("distribution", ["normal", "orthogonal"])
@pytest.mark.parametrize("order", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    "f", [activations.gelu(), activations.tanh(), activations.softplus()], ids=str
)
def test_first_order_scales(f, order, distribution):
    """What is left of the drift at width n is of second order: a share of about 3 / n of it."""
    n, rng = 24, np.random.default_rng(1)
    law = kept_moment_at_unit_level(Fans(n, n), n, f, order, distribution)
    z = rng.standard_normal((n, 100_000))
    if distribution == "orthogonal":
        z *= math.sqrt(n) / np.linalg.norm(z, axis=0)
    logs = 0.5 * np.log(np.square(f.f(z)).mean(axis=0))
    gain = law.gain if distribution == "orthogonal" else law.std * math.sqrt(n)
    stray, error = _stray(logs + math.log(gain), order)
    # Of the whole correction of order 0, which is of the size c / n.
    energy = integrate.quad(lambda t: f.f(np.array(t)) ** 2 * stats.norm.pdf(t), -12, 12)[0]
    plain, _ = _stray(logs - 0.5 * math.log(energy), 0.0)
    assert abs(stray) < 4 * error + 0.15 * abs(plain) + 2e-4


def test_both_routes_agree_for_lines_in_the_wide_limit():
    """The exact scale of ReLU differs from its first order by the second order, about 1 / n^2."""
    relu, gaps = activations.relu(), []
    for n in (32, 64, 128):
        exact = kept_moment(Fans(n, n), n, relu).std
        first = kept_moment_at_unit_level(Fans(n, n), n, relu).std
        gaps.append(abs(math.log(exact / first)) * n * n)
    assert max(gaps) < 2 * min(gaps) < 10


@pytest.mark.parametrize("fan_out", [16, 32, 64])
def test_orthogonal_weights_grow_with_the_layer(fan_out):
    """A wider output shares the energy: the gain makes up for it, as it does in the exact law."""
    f = activations.gelu()
    law = kept_moment_at_unit_level(Fans(16, fan_out), 16, f, 0.0, "orthogonal")
    square = kept_moment_at_unit_level(Fans(16, 16), 16, f, 0.0, "orthogonal")
    assert law.gain / square.gain == pytest.approx(math.sqrt(fan_out / 16))


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("fan_out", [1, 4, 11])
def test_orthogonal_weights_that_narrow_keep_the_moment(fan_out, order):
    """A line has nothing but the projection; both routes are exact for it, and draws agree."""
    line, fans = activations.identity(), Fans(12, fan_out)
    law = kept_moment_at_unit_level(fans, 12, line, order, "orthogonal")
    exact = kept_moment(fans, fan_out, line, order, "orthogonal")
    assert law.gain == pytest.approx(exact.gain, rel=1e-9)
    # What rows of a Haar matrix keep of a vector is what they keep of a random direction.
    x = np.random.default_rng(3).standard_normal((12, 40_000))
    x *= math.sqrt(12) / np.linalg.norm(x, axis=0)
    logs = 0.5 * np.log(np.square(law.gain * x[:fan_out]).mean(axis=0))
    stray, error = _stray(logs, order)
    assert abs(stray) < 4 * error


def test_which_activations_are_two_lines():
    assert is_two_lines(activations.leaky_relu(-1.0))
    assert is_two_lines(activations.identity())
    assert not is_two_lines(activations.squared_relu())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kept_moment(Fans(4, 4), 4, activations.gelu()), "line on each side of 0"),
        (lambda: kept_moment(Fans(4, 4), 4, activations.relu(), -1.0), "order must be finite"),
        (lambda: kept_moment(Fans(4, 4), 4, activations.relu(), 4.0), "order must be below 4"),
        (
            lambda: kept_moment(Fans(4, 4), 4, activations.relu(), 1.0, "haar"),
            "distribution must be one of normal, orthogonal",
        ),
        (
            lambda: kept_moment_at_unit_level(Fans(4, 4), 0, activations.gelu()),
            "feeding must be an integer",
        ),
        (
            lambda: kept_moment_at_unit_level(Fans(4, 4), 4, activations.linear(1e-90)),
            "finite fourth moment",
        ),
        (
            lambda: kept_moment_at_unit_level(Fans(4, 4), 4, activations.gelu(), 1.0, "haar"),
            "distribution must be one of normal, orthogonal",
        ),
        (lambda: slope_gain(activations.hardshrink()), "slope of finite mean square"),
        (
            lambda: he(Fans(4, 4), activations.hardshrink(), mode="average"),
            "slope of finite mean square",
        ),
        (lambda: he(Fans(4, 4), activations.relu(), mode="fan"), "mode must be one of"),
        (lambda: he(Fans(4, 4), activations.linear(0.0)), "activation must not vanish"),
        (lambda: noise_law("cauchy"), "noise must be one of"),
        (lambda: noise_law("student_t", 1.5), "degrees must exceed 2"),
        (lambda: odd_sigmoid_scale(activations.hardtanh(), 10), "hardtanh is not smooth"),
        (lambda: odd_sigmoid_scale(activations.sin(), 10), "sin is not strictly increasing"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


def test_he_in_either_pass_and_between():
    """For erf: E f^2 = (2/pi) asin(2/3) and E f'^2 = 4 / (pi sqrt 5) at variance 1."""
    forward, backward = 2 / math.pi * math.asin(2 / 3), 4 / (math.pi * math.sqrt(5))
    f, fans = activations.erf(), Fans(20, 50)
    assert he(fans, f).std ** -2 == pytest.approx(20 * forward)
    assert he(fans, f, mode="fan_out").std ** -2 == pytest.approx(50 * backward)
    between = he(fans, f, mode="average").std ** -2
    assert between == pytest.approx((20 * forward + 50 * backward) / 2)
