"""Mirrored pairs, affine departure and the class of every known activation."""

import math

import numpy as np
import pytest
from scipy import optimize

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.oddpart import ActivationClass, affine_departure, classify, mirrored_pair

KNOWN = known_activations()

KINDS = {
    "identity": ActivationClass.LINEAR,
    **dict.fromkeys(
        ["relu", "leaky_relu(negative_slope=0.01)", "relu6", "gelu", "gelu_tanh", "silu",
         "silu(beta=1.702)", "mish", "softplus", "squareplus", "logsigmoid", "hardswish"],
        ActivationClass.MIRROR,
    ),
    **dict.fromkeys(
        ["elu", "selu", "elu(alpha=2, input_scale=0.5)", "sigmoid", "tanh", "hardtanh",
         "hardsigmoid", "softsign", "arctan", "erf", "inverse_sqrt", "sin"],
        ActivationClass.CENTRE,
    ),
    **dict.fromkeys(
        ["tanhshrink", "softshrink", "hardshrink", "squared_relu"], ActivationClass.NEITHER
    ),
}  # fmt: skip

# Activation, slope of its pair.
GATES = [
    (activations.gelu(), 1.0),
    (activations.gelu("tanh"), 1.0),
    (activations.silu(), 1.0),
    (activations.silu(0.3), 1.0),
    (activations.quick_gelu(), 1.0),
    (activations.hardswish(), 1.0),
    (activations.relu(), 1.0),
    (activations.leaky_relu(), 1.01),
    (activations.leaky_relu(0.4), 1.4),
    (activations.softplus(), 1.0),
    (activations.softplus(3.0), 1.0),
    (activations.squareplus(), 1.0),
    (activations.squareplus(0.5), 1.0),
    (activations.logsigmoid(), 1.0),
]


@pytest.mark.parametrize(("activation", "slope"), GATES, ids=str)
def test_pairs_of_gates_are_lines(activation, slope):
    pair = mirrored_pair(activation)
    x = np.linspace(-9.0, 9.0, 1001) + 1e-3
    np.testing.assert_allclose(pair.f(x), slope * x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pair.df(x), slope, rtol=1e-12)
    assert pair.slope == pytest.approx(slope, rel=1e-15)
    assert affine_departure(pair) == 0.0


@pytest.mark.parametrize("activation", [g for g, _ in GATES], ids=str)
def test_pairs_of_gates_have_the_line_s_derivative_at_zero(activation):
    """Also where the activation itself has a kink: either side of the pair has one slope."""
    pair = mirrored_pair(activation)
    assert float(pair.df(np.zeros(1))[0]) == pytest.approx(pair.slope, rel=1e-12)


def test_pair_of_relu6_is_a_clipped_line():
    pair = mirrored_pair(activations.relu6())
    x = np.linspace(-9.0, 9.0, 301)
    np.testing.assert_allclose(pair.f(x), np.clip(x, -6, 6), rtol=1e-12, atol=1e-12)
    assert set(pair.kinks) == {-6.0, 0.0, 6.0}


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_pairs_are_twice_the_odd_part(activation):
    pair = mirrored_pair(activation)
    x = np.linspace(-7.0, 7.0, 500) + 1e-3
    np.testing.assert_allclose(pair.f(x), activation.f(x) - activation.f(-x), atol=1e-14)
    np.testing.assert_allclose(pair.f(-x), -pair.f(x), atol=1e-14)
    h = 1e-5
    clear = np.ones_like(x, dtype=bool)
    for point in (*pair.kinks, *pair.jumps):
        clear &= np.abs(x - point) > 2 * h
    difference = (pair.f(x + h) - pair.f(x - h)) / (2 * h)
    np.testing.assert_allclose(pair.df(x)[clear], difference[clear], rtol=1e-8, atol=1e-8)
    assert pair.parity == "odd"
    assert pair.slope_left == pair.slope_right == 2 * activation.slope
    assert {abs(k) for k in pair.kinks} == {abs(k) for k in activation.kinks}
    assert {abs(k) for k in pair.jumps} == {abs(k) for k in activation.jumps}
    assert mirrored_pair(activation) is pair


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_bends_and_homogeneity_of_pairs(activation):
    """The slope of a pair agrees on both sides of a bend; pairs are homogeneous as f is."""
    pair = mirrored_pair(activation)
    for k in pair.bends:
        h = 1e-9
        left, right = pair.df(np.array([k - h, k + h]))
        assert left == pytest.approx(right, abs=1e-7)
    assert set(pair.bends) <= set(pair.kinks)
    if pair.homogeneity is not None:
        x = np.linspace(-3, 3, 14)
        np.testing.assert_allclose(pair.f(2.5 * x), 2.5**pair.homogeneity * pair.f(x), atol=1e-12)


def test_odd_functions_pair_to_their_double():
    pair = mirrored_pair(activations.tanh())
    x = np.linspace(-3, 3, 40)
    np.testing.assert_allclose(pair.f(x), 2 * np.tanh(x), rtol=1e-15)


@pytest.mark.parametrize(
    "activation", [a for a in KNOWN if KINDS[str(a)] is not ActivationClass.LINEAR], ids=str
)
@pytest.mark.parametrize("std", [0.5, 1.5])
def test_affine_departure_by_least_squares(activation, std, gaussian_mean):
    """Minimize E (f(z) - a - b z)^2 over (a, b) and divide by the least over a alone."""
    q = std * std
    f, breaks = activation.f, activation.kinks + activation.jumps
    mean = gaussian_mean(f, q, breaks)
    variance = gaussian_mean(lambda z: (f(z) - mean) ** 2, q, breaks)

    def rest(line):
        return gaussian_mean(lambda z: (f(z) - line[0] - line[1] * z) ** 2, q, breaks) / variance

    start = np.array([mean + 0.01, activation.slope + 0.01])
    least = optimize.minimize(rest, start, tol=1e-9, method="BFGS")
    # The minimum is flat, so its value has twice the digits of its place.
    assert affine_departure(activation, std) == pytest.approx(least.fun, rel=1e-5, abs=1e-9)


def test_affine_departure_closed_forms():
    # ReLU: Var = q/2 - q/(2 pi), fit slope 1/2 leaves q/4 - q/(2 pi).
    exact = (1 / 4 - 1 / (2 * math.pi)) / (1 / 2 - 1 / (2 * math.pi))
    assert affine_departure(activations.relu()) == pytest.approx(exact, rel=1e-9)
    assert affine_departure(activations.relu(), 3.0) == pytest.approx(exact, rel=1e-9)
    # sin: Var = (1 - e^-2q)/2, fit slope e^(-q/2).
    q = 0.25
    exact = 1 - q * math.exp(-q) / ((1 - math.exp(-2 * q)) / 2)
    assert affine_departure(activations.sin()) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1.6e-7])
def test_affine_departure_keeps_its_digits(epsilon, offset):
    """x + e x^3: Var = q + 6 e q^2 + 15 e^2 q^3, of which 6 e^2 q^3 is left."""
    cubic = Activation(
        "cubic", lambda x: offset + x + epsilon * x**3, lambda x: 1 + 3 * epsilon * x**2
    )
    q, e = 0.25, epsilon
    exact = 6 * e**2 * q**3 / (q + 6 * e * q**2 + 15 * e**2 * q**3)
    assert affine_departure(cubic) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_std_must_be_positive(std):
    with pytest.raises(ArgumentError, match="std must be positive and finite"):
        affine_departure(activations.tanh(), std)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_scaling_the_output_keeps_the_class(activation, scale):
    a = activation
    scaled = Activation(
        "scaled",
        lambda x: scale * a.f(x),
        lambda x: scale * a.df(x),
        a.kinks,
        a.jumps,
        a.parity,
        scale * a.slope_left,
        scale * a.slope_right,
    )
    assert classify(scaled).kind is KINDS[str(activation)]


def test_affine_departure_of_lines_and_constants():
    assert affine_departure(activations.identity()) == 0.0
    shifted = Activation("shifted", lambda x: 2 * x + 3, lambda x: np.full_like(x, 2.0))
    assert affine_departure(shifted) == 0.0
    constant = Activation("constant", lambda x: np.full_like(x, 2.0), np.zeros_like)
    assert math.isnan(affine_departure(constant))


def test_the_table_of_classes_is_complete():
    assert sorted(KINDS) == sorted(map(str, KNOWN))


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_classes(activation):
    found = classify(activation)
    assert found.kind is KINDS[str(activation)]
    assert str(activation) in found.reason or found.kind is ActivationClass.MIRROR
    assert found.slope == activation.slope
    assert classify(activation) is found


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_classification_carries_its_evidence(activation):
    found = classify(activation)
    assert found.nonlinearity == affine_departure(activation)
    if found.kind is not ActivationClass.LINEAR:
        assert found.odd_nonlinearity == affine_departure(mirrored_pair(activation))


@pytest.mark.parametrize("activation", [g for g, _ in GATES], ids=str)
def test_reason_of_exact_pairs(activation):
    found = classify(activation)
    assert found.odd_nonlinearity == 0.0
    assert "exactly linear" in found.reason


def test_reason_of_mish_counts():
    """Between the threshold of 50 and infinity: the reason tells how many times."""
    found = classify(activations.mish())
    ratio = found.nonlinearity / found.odd_nonlinearity
    assert 50 < ratio < math.inf
    assert f"{ratio:.0f} times" in found.reason


def test_reason_of_jumps_names_the_places():
    assert "jumps at -0.5, 0.5" in classify(activations.hardshrink()).reason


def test_even_functions_have_no_odd_part():
    found = classify(activations.leaky_relu(-1.0))
    assert found.kind is ActivationClass.NEITHER
    assert math.isnan(found.odd_nonlinearity)


def test_other_lines():
    assert classify(activations.linear(-2.0)).kind is ActivationClass.LINEAR
    assert classify(activations.leaky_relu(1.0)).kind is ActivationClass.LINEAR
    assert classify(activations.linear(0.0)).kind is ActivationClass.NEITHER


def test_class_of_a_gate_does_not_hang_on_its_parameter():
    for beta in (0.1, 1.0, 10.0):
        assert classify(activations.silu(beta)).kind is ActivationClass.MIRROR
    assert classify(activations.tanh(3.0)).kind is ActivationClass.CENTRE


@pytest.mark.parametrize("bound", [2.0, 6.0, 40.0, 1e3, 1e6])
def test_clipped_lines_are_no_lines(bound):
    """At std 0.5 no expectation sees a clip at 6 or beyond; the level of the clip itself does."""
    clipped = activations.hardtanh(-bound, bound)
    assert classify(clipped).kind is ActivationClass.CENTRE
    assert affine_departure(clipped, bound) > 0.01
    lopsided = activations.hardtanh(-bound, 2 * bound)
    assert classify(lopsided).kind is ActivationClass.CENTRE


def test_smooth_functions_that_are_lines_near_zero_only():
    """x + e x^3 departs by 6 e^2 q^2: with e = 1e-12 by 1e-25 at std 0.5, by 4e-17 at std 50."""
    cubic = Activation(
        "cubic",
        lambda x: x + x**3 / 1e12,
        lambda x: 1 + 3 * x**2 / 1e12,
        slope_left=1.0,
        slope_right=1.0,
    )
    assert affine_departure(cubic, 0.5) == 0.0
    assert classify(cubic).kind is ActivationClass.CENTRE


@pytest.mark.parametrize(
    ("slope", "kind"), [(0.2, ActivationClass.CENTRE), (0.02, ActivationClass.NEITHER)]
)
def test_a_slope_counts_from_a_twentieth_of_the_chord(slope, kind):
    """a x + x^3: the chord at std 0.5 is sqrt(a^2 + 6 a q + 15 q^2), about 1 here."""
    cubic = Activation(
        "cubic",
        lambda x: slope * x + x**3,
        lambda x: slope + 3 * x * x,
        slope_left=slope,
        slope_right=slope,
    )
    assert classify(cubic).kind is kind


def test_bends_of_a_pair_lie_on_both_sides():
    bent = Activation("bent", np.tanh, np.tanh, kinks=(-2.0, 1.0), bends=(1.0,))
    assert mirrored_pair(bent).kinks == (-2.0, -1.0, 1.0, 2.0)
    assert mirrored_pair(bent).bends == (-1.0, 1.0)


def test_lines_with_idle_breaks_stay_lines():
    line = Activation(
        "line",
        lambda x: 3 * x,
        lambda x: np.full_like(x, 3.0),
        kinks=(0.0, -7.0),
        slope_left=3.0,
        slope_right=3.0,
    )
    assert classify(line).kind is ActivationClass.LINEAR
