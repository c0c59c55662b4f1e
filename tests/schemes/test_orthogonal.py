"""Gains of orthogonal weights against closed forms, and what they do to a signal."""

import math

import numpy as np
import pytest

from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.orthogonal import orthogonal
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.oddpart import ActivationClass, classify

KNOWN = known_activations()
AFFINE = (ActivationClass.CENTRE, ActivationClass.LINEAR)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        (activations.identity(), 1.0),
        (activations.linear(-2.0), 0.5),
        (activations.tanh(), 1.0),
        (activations.tanh(2.0), 0.5),
        (activations.sigmoid(), 4.0),
        (activations.softsign(), 1.0),
        (activations.erf(), math.sqrt(math.pi) / 2),
        (activations.sin(3.0), 1 / 3),
        (activations.hardsigmoid(), 6.0),
        (activations.elu(), 1.0),
        (activations.relu(), math.sqrt(2.0)),
        (activations.leaky_relu(0.2), math.sqrt(2 / 1.04)),
        (activations.gelu(), (1 / 3 + 1 / (2 * math.sqrt(3) * math.pi)) ** -0.5),
        (activations.squared_relu(), 1.5**-0.5),
    ],
    ids=str,
)
def test_gains_in_closed_form(activation, gain):
    assert orthogonal(activation).gain == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("activation", [a for a in KNOWN if classify(a).kind in AFFINE], ids=str)
def test_small_signals_see_an_isometry(activation):
    w = draw(orthogonal(activation), "w", (12, 12), Streams(0))
    x = 1e-7 * np.random.default_rng(0).standard_normal((12, 5))
    y = w @ (activation.f(x) - activation.value_at_zero)
    ratio = np.linalg.norm(y, axis=0) / np.linalg.norm(x, axis=0)
    # SELU and its kin have two slopes at 0; the gain is that of their middle.
    spread = abs(activation.slope_right - activation.slope_left) / (2 * activation.slope)
    assert np.abs(ratio - 1).max() < spread + 1e-5


@pytest.mark.parametrize(
    "activation", [a for a in KNOWN if classify(a).kind not in AFFINE], ids=str
)
def test_others_keep_a_unit_mean_square(activation):
    """Orthogonal and square: |W f| = gain |f| exactly, so only f is random."""
    w = draw(orthogonal(activation), "w", (50, 50), Streams(0))
    z = np.random.default_rng(1).standard_normal((50, 4000))
    values = np.square(w @ activation.f(z)).mean(axis=0)
    assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(len(values))
