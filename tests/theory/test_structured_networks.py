"""Balanced stacks against drawn networks."""

import itertools
import math

import numpy as np
import pytest

from equipoise.theory import activations
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
