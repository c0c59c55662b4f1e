"""Variance scaling against published values and drawn layers."""

import math

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Normal, Uniform
from equipoise.schemes.variance import he, xavier
from equipoise.theory import activations
from equipoise.theory.activations import known_activations

FANS = [Fans(64, 256), Fans(256, 64), Fans(10, 10), Fans(1, 7)]


@pytest.mark.parametrize("fans", FANS, ids=str)
@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier_is_the_published_bound(fans, gain):
    law = xavier(fans, gain)
    assert isinstance(law, Uniform)
    assert law.bound == pytest.approx(gain * math.sqrt(6 / (fans.fan_in + fans.fan_out)), rel=1e-14)
    # A uniform law on [-b, b] has variance b^2 / 3.
    assert law.bound**2 / 3 == pytest.approx(2 * gain**2 / (fans.fan_in + fans.fan_out), rel=1e-14)


@pytest.mark.parametrize("fans", FANS, ids=str)
def test_he_for_relu_is_the_published_value(fans):
    law = he(fans, activations.relu())
    assert isinstance(law, Normal)
    assert law.std == pytest.approx(math.sqrt(2 / fans.fan_in), rel=1e-12)


@pytest.mark.parametrize("slope", [0.01, 0.2, -0.5, -1.0])
def test_he_for_leaky_relu_is_the_published_value(slope):
    law = he(Fans(50, 20), activations.leaky_relu(slope))
    assert law.std**2 == pytest.approx(2 / ((1 + slope**2) * 50), rel=1e-12)


def test_he_for_lines_is_lecun():
    assert he(Fans(50, 20), activations.identity()).std ** 2 == pytest.approx(1 / 50, rel=1e-12)
    assert he(Fans(50, 20), activations.linear(-2.0)).std ** 2 == pytest.approx(1 / 200, rel=1e-12)


def test_he_closed_forms():
    # E erf(z)^2 = (2/pi) asin(2/3); E (z Phi(z))^2 = 1/3 + 1/(2 sqrt(3) pi)
    fan = 30
    erf = he(Fans(fan, 1), activations.erf()).std
    assert erf**-2 / fan == pytest.approx(2 / math.pi * math.asin(2 / 3), rel=1e-9)
    gelu = he(Fans(fan, 1), activations.gelu()).std
    assert gelu**-2 / fan == pytest.approx(1 / 3 + 1 / (2 * math.sqrt(3) * math.pi), rel=1e-9)


@pytest.mark.parametrize("rms", [0.1, 3.0])
def test_he_at_other_levels(rms):
    fans = Fans(20, 20)
    relu = he(fans, activations.relu(), rms)
    assert relu.std == pytest.approx(math.sqrt(2 / 20) / rms, rel=1e-12)
    sin = he(fans, activations.sin(), rms)
    assert sin.std**-2 / 20 == pytest.approx(-math.expm1(-2 * rms**2) / 2, rel=1e-9)


@pytest.mark.parametrize("activation", known_activations(), ids=str)
@pytest.mark.parametrize(("fan_in", "fan_out"), [(64, 96), (96, 64)])
def test_he_gives_preactivations_of_variance_one(activation, fan_in, fan_out):
    """Mean over draws of the mean square of W f(z), z ~ N(0, 1)."""
    law = he(Fans(fan_in, fan_out), activation)
    rng = np.random.default_rng(2)
    found = []
    for seed in range(60):
        w = draw(law, "w", (fan_out, fan_in), Streams(seed))
        x = activation.f(rng.standard_normal((fan_in, 20)))
        found.append(np.square(w @ x).mean())
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - 1) < 4 * error


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_scales_must_be_positive(value):
    with pytest.raises(ArgumentError, match="gain must be positive"):
        xavier(Fans(2, 2), value)
    with pytest.raises(ArgumentError, match="input_rms must be positive"):
        he(Fans(2, 2), activations.relu(), value)


@pytest.mark.parametrize("fans", [(0, 3), (3, 0), (-1, 3), (float("nan"), 3), ("2", 3)])
def test_fans_must_be_positive(fans):
    with pytest.raises(ArgumentError, match=r"fan_(in|out) must be"):
        Fans(*fans)
