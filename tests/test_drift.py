"""The drift's error is the spread over many draws, for walks, flicker and real networks."""

import math

import numpy as np
import pytest

from equipoise.drift import fit_drift, slope_weights, tails


def test_the_slope_is_that_of_least_squares():
    y = np.random.default_rng(0).normal(size=12)
    assert fit_drift(y).per_layer == pytest.approx(np.polyfit(np.arange(12), y, 1)[0], abs=1e-12)


def test_a_layer_that_is_not_finite_keeps_its_place():
    y = [0.0, 1.0, math.nan, 3.0, 4.0, -math.inf]
    drift = fit_drift(y)
    assert drift.per_layer == pytest.approx(1.0, abs=1e-12)
    assert drift.layers == 4


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_layers_have_no_error(count):
    drift = fit_drift([0.5 * i for i in range(count)])
    assert math.isnan(drift.error)
    assert math.isnan(drift.per_layer) is (count < 2)


def test_tails_say_how_a_step_moves_the_slope():
    w = slope_weights(np.arange(6.0))
    for i in range(6):
        stepped = np.where(np.arange(6) > i, 1.0, 0.0)
        assert tails(w)[i] == pytest.approx(np.polyfit(np.arange(6), stepped, 1)[0], abs=1e-12)


@pytest.mark.parametrize("layers", [20, 60])
@pytest.mark.parametrize(("step", "read"), [(1.0, 0.0), (1.0, 1.0), (0.3, 1.0)])
def test_the_error_is_the_spread_over_draws(layers, step, read):
    rng = np.random.default_rng(1)
    draws = [
        fit_drift(np.cumsum(step * rng.normal(size=layers)) + read * rng.normal(size=layers))
        for _ in range(600)
    ]
    spread = np.std([d.per_layer for d in draws])
    stated = math.sqrt(np.mean([d.error**2 for d in draws]))
    assert 0.75 < stated / spread < 1.7


def test_pure_flicker_is_never_called_surer_than_it_is():
    rng = np.random.default_rng(2)
    draws = [fit_drift(rng.normal(size=40)) for _ in range(300)]
    assert np.mean([abs(d.per_layer) < 3 * d.error for d in draws]) > 0.98


def test_the_error_of_drawn_relu_networks():
    """He's weights, width 24, 30 layers: the log norm walks; 200 draws say how far."""
    rng = np.random.default_rng(3)
    slopes, errors = [], []
    for _ in range(200):
        x, logs = rng.normal(size=(4, 24)), []
        for _ in range(30):
            z = x @ rng.normal(size=(24, 24)) * math.sqrt(2 / 24)
            logs.append(float(np.log(np.sqrt((z**2).mean(1))).mean()))
            x = np.maximum(z, 0)
        drift = fit_drift(logs)
        slopes.append(drift.per_layer)
        errors.append(drift.error)
    assert 0.8 < math.sqrt(np.mean(np.square(errors))) / np.std(slopes) < 1.25
