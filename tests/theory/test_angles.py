"""Correlations through stacks: Hermite series, a recursion by column, and drawn networks."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.angles import residual_covariance, stack_correlation
from equipoise.theory.hermite import hermite_coefficients, statistics
from equipoise.theory.structured import HiddenLayer, balance

SMOOTH = [activations.tanh(), activations.erf(), activations.sin(), activations.sigmoid(),
          activations.gelu()]  # fmt: skip


def _solve(activation, widths, fan_in, fan_out, c, budget=0.5, spectrum=()):
    layers = [HiddenLayer(n, activation) for n in widths]
    stack = balance(layers, fan_in, fan_out, budget, spectrum)
    return stack, stack_correlation(layers, stack, fan_in, fan_out, c, spectrum)


# --- The part that leaves the linear map ---------------------------------------------------------


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
@pytest.mark.parametrize("c", [-1.0, -0.4, 0.0, 0.6, 1.0])
def test_residual_covariance_is_a_power_series(activation, c):
    q = 0.4
    a = hermite_coefficients(activation, q, 48)
    a[1] = 0.0
    expected = float((a**2 * c ** np.arange(48)).sum())
    assert residual_covariance(activation, q, c) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("c", [-0.9, 0.0, 0.5, 0.99, 1.0])
def test_residual_covariance_of_kinks_in_closed_form(slope, c):
    """The arc-cosine kernel: f = (1 + a)/2 z + (1 - a)/2 |z|, and the line drops out."""
    q = 1.7
    absolute = 2 / math.pi * (math.sqrt(1 - c * c) + c * math.asin(c)) * q
    expected = (1 - slope) ** 2 / 4 * absolute
    found = residual_covariance(activations.leaky_relu(slope), q, c)
    assert found == pytest.approx(expected, rel=1e-8)


def test_residual_covariance_of_sin_by_mpmath():
    """E sin sin = exp(-q) sinh(c q), alpha = exp(-q / 2)."""
    for q, c in ((1e-3, 0.5), (0.3, -0.8), (2.0, 0.2)):
        expected = mpmath.exp(-q) * (mpmath.sinh(mpmath.mpf(c) * q) - mpmath.mpf(c) * q)
        assert residual_covariance(activations.sin(), q, c) == pytest.approx(
            float(expected), rel=1e-6, abs=1e-17
        )


# --- Stacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [*SMOOTH[:4], activations.elu()], ids=str)
@pytest.mark.parametrize("c", [-0.5, 0.0, 0.7])
def test_constant_width_is_the_correlation_map(activation, c):
    """c' = sum a_k^2 c^k / sum a_k^2 at the one level of the stack."""
    stack, found = _solve(activation, [16] * 15, 16, 16, c)
    a = hermite_coefficients(activation, stack.q[0], 60) ** 2
    # ELU has a break in its second derivative: what is left of the series is its missing energy.
    tail = statistics(activation, stack.q[0]).centred_energy / a.sum() - 1
    expected = c
    for value in found.hidden[1:]:
        expected = float((a * expected ** np.arange(60)).sum() / a.sum())
        assert value == pytest.approx(expected, abs=1e-7 + 40 * abs(tail))
    expected = float((a * expected ** np.arange(60)).sum() / a.sum())
    assert found.output == pytest.approx(expected, abs=1e-7 + 40 * abs(tail))


@pytest.mark.parametrize("activation", [activations.tanh(), activations.elu()], ids=str)
@pytest.mark.parametrize(("widths", "fan_in", "fan_out"), [
    ([16, 4] * 3, 16, 4), ([24, 17, 9, 5], 30, 3), ([3, 9, 20], 2, 40), ([12, 5, 12, 2], 7, 6),
    ([6, 5, 6], 6, 5),
])  # fmt: skip
def test_changing_widths_by_column(activation, widths, fan_in, fan_out):
    """One column at a time: energies and cross energies, literally as the docstring says."""
    c = 0.4
    spectrum = tuple(3.0 * 0.8**i for i in range(fan_in))
    stack, found = _solve(activation, widths, fan_in, fan_out, c, 0.3, spectrum)
    sizes = [fan_in, *widths, fan_out]
    kept = [min(a, b) for a, b in itertools.pairwise(sizes)]
    energy = np.zeros(max(sizes))
    energy[: kept[0]] = spectrum[: kept[0]]
    energy *= stack.column_energy / energy[: min([kept[0], *widths])].mean()
    cross = c * energy
    for n, k, gain, value in zip(widths, kept[1:], stack.gains, found.hidden, strict=True):
        q = energy[:n].sum() / n
        now = cross[:n].sum() / energy[:n].sum()
        assert value == pytest.approx(now, abs=1e-7)
        s = statistics(activation, q)
        a = hermite_coefficients(activation, q, 40) ** 2
        a[1] = 0.0
        shared = float((a * now ** np.arange(40)).sum())
        alone = s.centred_energy - s.linear**2 * q
        for e, spread in ((energy, alone), (cross, shared)):
            e[:n] = gain**2 * (s.linear**2 * e[:n] + spread)
            e[k:] = 0.0
    assert found.output == pytest.approx(cross.sum() / energy.sum(), abs=1e-7)


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_equal_and_opposite_inputs(activation):
    _, same = _solve(activation, [16, 4] * 4, 16, 4, 1.0)
    np.testing.assert_allclose(same.hidden, 1.0, atol=1e-8)
    assert same.output == pytest.approx(1.0, abs=1e-8)
    _, opposite = _solve(activations.tanh(), [16, 4] * 4, 16, 4, -1.0)
    np.testing.assert_allclose(opposite.hidden, -1.0, atol=1e-8)


def test_odd_functions_forget_and_others_gather():
    """Odd f0 sends c towards 0; the mean of any other f0 lifts what was uncorrelated."""
    _, odd = _solve(activations.tanh(), [16] * 30, 16, 16, 0.5)
    assert (np.diff(odd.hidden) < 0).all()
    _, even = _solve(activations.elu(), [16] * 30, 16, 16, 0.0)
    assert (np.diff(even.hidden) > 0).all()
    assert even.output > even.hidden[-1] > 0.1


def test_lines_keep_angles():
    assert residual_covariance(activations.linear(-2.0), 3.0, 0.4) == 0.0
    layers = [HiddenLayer(n, activations.identity()) for n in (16, 4, 9)]
    found = stack_correlation(layers, balance(layers, 12, 7, 0.3), 12, 7, 0.37)
    np.testing.assert_allclose((*found.hidden, found.output), 0.37, atol=1e-12)


# --- Real networks -------------------------------------------------------------------------------


def _simulate(activation, widths, fan_in, fan_out, stack, c, draws):
    """Cross products and squared norms at each layer and the output, shape (draws, L + 1)."""
    rng = np.random.default_rng(7)
    sizes = [fan_in, *widths, fan_out]
    zero = activation.value_at_zero
    cross, norms = np.zeros((2, draws, len(sizes) - 1))
    for d in range(draws):
        frames = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in sizes]
        pair = np.linalg.qr(rng.standard_normal((fan_in, 2)))[0].T
        h = np.stack([pair[0], c * pair[0] + math.sqrt(1 - c * c) * pair[1]])
        h *= math.sqrt(fan_in * stack.column_energy)
        gain = 1.0
        for i, k in enumerate(min(a, b) for a, b in itertools.pairwise(sizes)):
            z = gain * (h @ frames[i][:, :k]) @ frames[i + 1][:, :k].T
            cross[d, i], norms[d, i] = z[0] @ z[1], np.square(z).sum() / 2
            if i < len(widths):
                gain, h = stack.gains[i], activation.f(z) - zero
    return cross, norms


@pytest.mark.parametrize(
    ("activation", "widths", "fan_in", "fan_out", "c", "draws"),
    [
        (activations.tanh(), [64] * 20, 64, 64, 0.5, 60),
        (activations.elu(), [64] * 20, 64, 64, 0.0, 60),
        (activations.tanh(), [16] * 60, 16, 16, 0.5, 100),
        (activations.tanh(), [4] * 60, 4, 4, 0.5, 150),
        (activations.elu(), [64, 16] * 8, 64, 16, 0.3, 150),
        (activations.elu(), [64, 48, 40, 32], 64, 24, 0.2, 150),
        (activations.elu(), [16, 32, 64], 16, 64, 0.2, 300),
        (activations.tanh(), [16] * 200, 16, 16, 0.5, 30),
    ],
    ids=["tanh", "elu", "narrow", "four", "64 and 16", "decreasing", "expanding", "deep"],
)  # fmt: skip
def test_real_networks(activation, widths, fan_in, fan_out, c, draws):
    """Mean cross energy over mean energy of drawn networks, up to 1 / k with k columns."""
    stack, found = _solve(activation, widths, fan_in, fan_out, c)
    cross, norms = _simulate(activation, widths, fan_in, fan_out, stack, c, draws)
    ratio = cross.mean(axis=0) / norms.mean(axis=0)
    error = (cross / norms).std(axis=0, ddof=1) / math.sqrt(draws)
    expected = np.array([*found.hidden, found.output])
    assert (np.abs(ratio - expected) < 4 * error + 1 / min([*widths, fan_out])).all()


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [-1.1, 1.0001, math.nan])
def test_correlations_are_from_minus_one_to_one(c):
    layers = [HiddenLayer(4, activations.tanh())] * 3
    with pytest.raises(ArgumentError, match="correlation must be from -1 to 1"):
        stack_correlation(layers, balance(layers, 4, 4, 0.3), 4, 4, c)


def test_the_stack_must_be_that_of_the_layers():
    layers = [HiddenLayer(4, activations.tanh())] * 3
    with pytest.raises(ArgumentError, match="stack must be that of the 2 layers"):
        stack_correlation(layers[:2], balance(layers, 4, 4, 0.3), 4, 4, 0.5)


@pytest.mark.parametrize("activation", [activations.tanh(), activations.identity()], ids=str)
def test_residual_covariance_refuses_what_is_no_correlation(activation):
    for c in (5.0, math.nan):
        with pytest.raises(ArgumentError, match="correlation must be from -1 to 1"):
            residual_covariance(activation, 1.0, c)


@pytest.mark.parametrize(("fans", "name"), [((0, 4), "fan_in"), ((4, 0), "fan_out")])
def test_fans_must_be_positive(fans, name):
    layers = [HiddenLayer(4, activations.tanh())] * 3
    with pytest.raises(ArgumentError, match=f"{name} must be an integer"):
        stack_correlation(layers, balance(layers, 4, 4, 0.3), *fans, 0.5)
