"""Mean-field maps of one layer: closed forms, Hermite series, difference quotients."""

import math

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.hermite import hermite_coefficients
from equipoise.theory.layermaps import (
    chi_1,
    correlation_map,
    correlation_map_slope,
    energy,
    length_map,
    length_map_slope,
    slope_energy,
)

CONTINUOUS = [a for a in known_activations() if not a.jumps]
ERF, RELU, SIN = activations.erf(), activations.relu(), activations.sin()


def _erf_energy(q):
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


def _erf_correlated(c, q):
    return 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))


@pytest.mark.parametrize("q", [1e-6, 0.1, 1.0, 30.0, 1e6])
def test_maps_of_erf(q):
    w, b = 1.7, 0.2
    after = w * _erf_energy(q) + b
    assert length_map(ERF, q, w, b) == pytest.approx(after, rel=1e-10)
    slope = w * 4 / math.pi / math.sqrt(1 + 4 * q) / (1 + 2 * q)
    assert length_map_slope(ERF, q, w) == pytest.approx(slope, rel=1e-9)
    assert chi_1(ERF, q, w) == pytest.approx(w * 4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-10)
    for c in (-1.0, -0.6, 0.0, 0.9, 1.0):
        mapped = (w * _erf_correlated(c, q) + b) / after
        assert correlation_map(ERF, c, q, w, b) == pytest.approx(mapped, rel=1e-8)
        # d/dc (2/pi) asin(2qc/(1+2q)) over q
        gradient = w * 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
        assert correlation_map_slope(ERF, c, q, w) == pytest.approx(gradient, rel=1e-8)


@pytest.mark.parametrize("q", [0.01, 1.0, 5.0])
def test_maps_of_sine(q):
    w = 2.0
    assert length_map(SIN, q, w) == pytest.approx(w * math.exp(-q) * math.sinh(q), rel=1e-10)
    assert length_map_slope(SIN, q, w) == pytest.approx(w * math.exp(-2 * q), rel=1e-9)
    assert chi_1(SIN, q, w) == pytest.approx(w * math.exp(-q) * math.cosh(q), rel=1e-10)
    for c in (-0.3, 0.8):
        mapped = math.sinh(q * c) / math.sinh(q)
        assert correlation_map(SIN, c, q, w) == pytest.approx(mapped, rel=1e-8)
        slope = w * math.exp(-q) * math.cosh(q * c)
        assert correlation_map_slope(SIN, c, q, w) == pytest.approx(slope, rel=1e-8)


@pytest.mark.parametrize("activation", known_activations(), ids=str)
@pytest.mark.parametrize("q", [1e-3, 1.0, 40.0])
def test_length_map_slope_is_the_derivative(activation, q):
    h = 1e-3

    def at(k):
        return length_map(activation, q * math.exp(k * h), 1.3, 0.1)

    difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h) / q
    slope = length_map_slope(activation, q, 1.3)
    assert slope == pytest.approx(difference, rel=1e-8, abs=1e-10 / q * at(0))
    # The density of N(0, q) falls no faster than q^(-1/2).
    assert slope >= -1.3 / 2 * length_map(activation, q, 1.0) / q - 1e-12


@pytest.mark.parametrize("activation", CONTINUOUS, ids=str)
def test_correlation_map_is_its_hermite_series(activation):
    q, w, b = 0.8, 1.4, 0.3
    a = hermite_coefficients(activation, q, 40)
    a[0] += activation.value_at_zero
    k = np.arange(40)
    after = length_map(activation, q, w, b)
    for c in (-0.5, 0.4):
        series = (w * np.sum(a**2 * c**k) + b) / after
        assert correlation_map(activation, c, q, w, b) == pytest.approx(series, rel=1e-8)
        slope = w * np.sum(k[1:] * a[1:] ** 2 * c ** k[:-1]) / q
        assert correlation_map_slope(activation, c, q, w) == pytest.approx(slope, rel=1e-7)
    assert correlation_map(activation, 1.0, q, w, b) == pytest.approx(1.0, rel=1e-9)
    assert correlation_map_slope(activation, 1.0, q, w) == pytest.approx(
        chi_1(activation, q, w), rel=1e-9
    )


def test_energies_at_zero_are_limits():
    for a in (RELU, activations.sigmoid(), activations.gelu(), activations.leaky_relu(0.3)):
        assert energy(a, 0.0) == pytest.approx(energy(a, 1e-12), abs=1e-6)
        assert slope_energy(a, 0.0) == pytest.approx(slope_energy(a, 1e-12), rel=1e-5)


def test_numbers_of_other_precision():
    """Single precision and integers are taken as the float they are, in every map."""
    q, w, b = np.float32(0.7), np.float32(1.3), np.float32(0.1)
    for call in (
        lambda q, w, b: length_map(ERF, q, w, b),
        lambda q, w, b: length_map_slope(ERF, q, w),
        lambda q, w, b: correlation_map(ERF, 0.4, q, w, b),
        lambda q, w, b: correlation_map_slope(ERF, 0.4, q, w),
        lambda q, w, b: chi_1(ERF, q, w),
    ):
        found = call(q, w, b)
        assert type(found) is float
        assert found == call(float(q), float(w), float(b))
        assert call(np.int64(2), np.int64(3), np.int64(1)) == call(2.0, 3.0, 1.0)


@pytest.mark.parametrize("q", [1e-9, 1e-6, 1e-3])
def test_length_map_slope_at_a_low_level_with_a_large_value_at_zero(q):
    """It is the mean of half the second derivative of f^2: by its Taylor series in q."""
    # At 0 softplus and its derivatives are ln 2, 1/2, 1/4, 0, -1/8.
    fourth = 2 * math.log(2) * (-1 / 8) + 6 / 16
    softplus = 1 / 4 + math.log(2) / 4 + fourth * q / 4
    assert length_map_slope(activations.softplus(), q, 1.0) == pytest.approx(
        softplus, abs=1e-11 + q * q
    )


def test_a_function_without_output_has_no_correlation():
    zero = Activation("zero", np.zeros_like, np.zeros_like)
    assert math.isnan(correlation_map(zero, 0.5, 1.0, 1.0))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: energy(RELU, -1.0), "q must be positive and finite"),
        (lambda: slope_energy(RELU, math.nan), "q must be positive and finite"),
        (lambda: length_map(RELU, 0.0, 1.0), "q must be positive and finite"),
        (lambda: length_map(RELU, 1.0, -1.0), "weight_var must be positive and finite"),
        (lambda: length_map(RELU, 1.0, 1.0, -0.1), "bias_var must be finite and at least 0"),
        (lambda: length_map(RELU, 1.0, 1.0, math.nan), "bias_var must be finite"),
        (lambda: correlation_map(RELU, 1.2, 1.0, 1.0), "correlation must be from -1 to 1"),
        (lambda: chi_1(activations.hardshrink(), 1.0, 1.0), "activation must be continuous"),
        (lambda: correlation_map_slope(activations.hardshrink(), 0.0, 1.0, 1.0), "which jumps"),
    ],
)
def test_arguments_out_of_range_are_refused(call, text):
    with pytest.raises(ArgumentError, match=text):
        call()
