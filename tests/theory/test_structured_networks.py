"""Balanced stacks against drawn networks."""

import itertools
import math

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import Activation
from equipoise.theory.structured import HiddenLayer, balance


def _haar(rng, n):
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def _simulate(activation, widths, fan_in, fan_out, stack, draws, batch=32):
    """Mean square of preactivations and total mean square of cotangents, shape (draws, L)."""
    rng = np.random.default_rng(5)
    sizes = [fan_in, *widths, fan_out]
    kept = [min(a, b) for a, b in itertools.pairwise(sizes)]
    zero, depth = activation.value_at_zero, len(widths)
    levels, totals = np.zeros((draws, depth)), np.zeros((draws, depth))
    for d in range(draws):
        frames = [_haar(rng, n) for n in sizes]
        weights = [
            frames[i + 1][:, :k] @ frames[i][:, :k].T for i, k in enumerate(kept)
        ]  # fmt: skip
        x = rng.standard_normal((batch, fan_in))
        # A single norm: the level of the stack is that of one input, not of a mixture of levels.
        x *= math.sqrt(fan_in) / np.linalg.norm(x, axis=1, keepdims=True)
        z = [math.sqrt(stack.column_energy) * x @ weights[0].T]
        for i in range(depth - 1):
            z.append(stack.gains[i] * (activation.f(z[-1]) - zero) @ weights[i + 1].T)
        c = rng.standard_normal((batch, fan_out)) / math.sqrt(kept[-1]) @ weights[-1]
        for i in reversed(range(depth)):
            c = c * activation.df(z[i])
            totals[d, i] = np.square(c).sum(axis=1).mean()
            c = stack.gains[i - 1] * c @ weights[i]
        levels[d] = [np.square(v).mean() for v in z]
    return levels, totals


@pytest.mark.parametrize(
    ("activation", "widths", "fan_in", "fan_out"),
    [
        (activations.tanh(), [64] * 12, 64, 64),
        (activations.sigmoid(), [48] * 12, 48, 48),
        (activations.elu(), [48] * 12, 48, 48),
        (activations.softsign(), [48] * 12, 48, 32),
        (activations.tanh(), [16, 4] * 8, 16, 4),
        (activations.tanh(), [64, 16] * 5, 64, 16),
        (activations.tanh(), [64, 48, 40, 32], 64, 24),
        (activations.tanh(), [32, 48, 64], 2, 32),
    ],
    ids=["tanh", "sigmoid", "elu", "softsign", "16 and 4", "64 and 16", "decreasing", "expanding"],
)
def test_real_networks(activation, widths, fan_in, fan_out):
    """Levels and cotangents of drawn networks.

    The theory is that of many columns. With k columns the fourth moment of a unit on the sphere is
    k / (k + 2) of a Gaussian's, which lifts the fixed point by up to 2 / k; cotangents have a share
    1 / k along the signal, where slopes are smallest. Both are allowed 2 / k.
    """
    stack = balance([HiddenLayer(n, activation) for n in widths], fan_in, fan_out, 0.3)
    levels, totals = _simulate(activation, widths, fan_in, fan_out, stack, draws=60)
    root = math.sqrt(len(levels))
    allowance = 2 / min([*widths, fan_out])
    for found, expected in ((levels, np.array(stack.q)), (totals, np.exp(stack.cotangent_log))):
        mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / root
        off = np.abs(np.log(mean / expected))
        assert (off < 4 * error / mean + allowance).all()
    growth = np.log(totals[:, 0] / totals[:, -1])
    error = growth.std(ddof=1) / root
    assert abs(growth.mean() - stack.gradient_log_growth) < 4 * error + allowance


def test_finite_width_allowance_shrinks_with_width():
    """What is allowed above is real and falls off as the inverse of the width."""
    off = []
    for k in (4, 16, 64):
        widths = [4 * k, k] * 4
        stack = balance([HiddenLayer(n, activations.tanh()) for n in widths], 4 * k, k, 0.3)
        levels, _ = _simulate(activations.tanh(), widths, 4 * k, k, stack, draws=60)
        off.append(math.log(levels[:, -1].mean() / stack.q[-1]))
    assert off[0] > 2 * off[1] > 4 * off[2] > 0


# --- Functions and spectra at the ends -----------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_of_the_preactivation_do_not_matter(scale):
    """tanh(k z) has the gains of tanh over k, and its levels over k^2."""
    one, other = (
        balance([HiddenLayer(8, activations.tanh(k))] * 30, 8, 8, 0.2) for k in (1.0, scale)
    )
    np.testing.assert_allclose(scale * np.array(other.gains), one.gains, rtol=1e-7)
    np.testing.assert_allclose(scale**2 * np.array(other.q), one.q, rtol=1e-6)
    assert other.reached


def test_spectra_are_finite_beyond_the_columns_that_survive():
    layers = [HiddenLayer(n, activations.tanh()) for n in (4, 3)]
    with pytest.raises(ArgumentError, match="spectrum must hold 4"):
        balance(layers, 4, 4, 0.3, (1.0, 1.0, 1.0, math.inf))


def test_spectra_may_be_arrays():
    layers = [HiddenLayer(n, activations.tanh()) for n in (9, 5, 7)]
    energies = (3.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0)
    assert balance(layers, 9, 3, 0.3, np.array(energies)) == balance(layers, 9, 3, 0.3, energies)


# E f^2 is finite below q = 1 only.
STEEP = Activation(
    "steep", lambda x: x * np.exp(x * x / 4), lambda x: (1 + x * x / 2) * np.exp(x * x / 4),
    slope_left=1.0, slope_right=1.0, parity="odd",
)  # fmt: skip


def test_levels_end_where_energies_do():
    """Gradients grow without bound towards q = 1: the quadrature's reach is what ends them."""
    layers = [HiddenLayer(8, STEEP)] * 10
    small = balance(layers, 8, 8, 3.0)
    assert small.reached
    assert small.gradient_log_growth == pytest.approx(3.0, abs=1e-6)
    for budget in (100.0, 1e9):
        stack = balance(layers, 8, 8, budget)
        assert not stack.reached
        assert 0.5 < stack.q[0] < 1.0
        assert stack.gradient_log_growth < budget


@pytest.mark.parametrize(
    "activation",
    [
        activations.linear(0.0),
        Activation("flat", lambda x: np.full_like(x, 2.0), np.zeros_like),
        Activation("high", lambda x: 1e200 * np.sinh(x), lambda x: 1e200 * np.cosh(x)),
    ],
    ids=str,
)
def test_activations_need_energies(activation):
    with pytest.raises(ArgumentError, match=r"activation must (not be constant|have finite)"):
        balance([HiddenLayer(4, activation)] * 3, 4, 4, 0.3)
