"""The level of signals whose derivatives keep their size, against recursions of moments."""

import math

import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.derivative_level import derivative_level, with_biases
from equipoise.theory.jet_moments import JetMoments, entry_moments, jet_through
from equipoise.theory.meanfield import mean_field


@pytest.mark.parametrize(
    "f", [activations.tanh(), activations.sin(), activations.erf(), activations.sigmoid()], ids=str
)
@pytest.mark.parametrize("budget", [0.0, 0.8])
def test_level_and_slope_keep_their_size_in_depth(f, budget):
    found = derivative_level(f, 30, 0.05, budget)
    assert found.bias_var == pytest.approx(0.05 * found.q)
    moments = JetMoments(found.q, 2.0)
    for _ in range(3):
        moments = jet_through(f, moments).scaled(found.weight_var, found.bias_var)
    assert moments.value == pytest.approx(found.q, rel=1e-6)
    assert moments.slope == pytest.approx(2.0 * math.exp(budget / 10), rel=1e-6)
    assert found.growth == pytest.approx(math.exp(budget / 30), rel=1e-6)


def test_it_is_the_critical_line_of_wide_networks():
    found = derivative_level(activations.tanh(), 10, 0.08)
    wide = mean_field(activations.tanh(), found.weight_var, found.bias_var)
    assert wide.q_star == pytest.approx(found.q, rel=1e-5)
    assert wide.chi_1 == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_peak_is_that_of_the_moments_where_units_rest(share):
    f, depth = activations.tanh(), 20
    found = derivative_level(f, depth, share)
    at_rest, usual = entry_moments((0.0, 0.0), 0, 1.0), JetMoments(found.q, at_slope := 0.5)
    assert at_rest.slope == at_slope
    for _ in range(depth):
        at_rest, usual = (
            jet_through(f, m).scaled(found.weight_var, found.bias_var) for m in (at_rest, usual)
        )
    assert found.peak == pytest.approx(math.sqrt(at_rest.slope / usual.slope), rel=1e-6)


def test_biases_take_the_peak_away_whatever_the_depth():
    f = activations.tanh()
    peaks = [derivative_level(f, depth, 0.05).peak for depth in (30, 60, 120)]
    assert peaks == pytest.approx([peaks[0]] * 3, rel=0.01)
    assert derivative_level(f, 60, 0.001).peak > 1.4 * peaks[0]


def test_budgets_with_biases_in_plain_arithmetic():
    assert with_biases(0.8, 30, 0.0) == pytest.approx(0.8)
    degree = math.exp(with_biases(0.8, 30, 0.1) / 30)
    assert degree * 0.9 == pytest.approx(math.exp(0.8 / 30))
    assert with_biases(0.8, 0, 0.1) == 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_biases(-1.0, 3, 0.1), "budget must be finite and not negative"),
        (lambda: with_biases(1.0, -1, 0.1), "depth must be an integer of at least 0"),
        (lambda: with_biases(1.0, 3, 1.0), "share must be from 0 to below 1"),
        (lambda: derivative_level(activations.tanh(), 0, 0.1), "depth must be an integer of at"),
        (lambda: derivative_level(activations.tanh(), 3, 0.0), "share must be positive"),
        (lambda: derivative_level(activations.identity(), 3, 0.1), "mean Hermite degree of 1.111"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
