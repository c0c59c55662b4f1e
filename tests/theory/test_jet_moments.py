"""Moments of derivatives through depth, by Monte Carlo and on wide networks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.jets import jets
from equipoise.lab.models import mlp
from equipoise.theory import activations
from equipoise.theory.jet_moments import JetMoments, entry_moments, jet_through

TANH = activations.tanh()
BEFORE = JetMoments(0.7, 1.3, 2.0, 0.4, -0.6, 0.5)


def products(f, df, ddf, moments, rows=400_000):
    """Products of the jet behind f for normal rows of the given covariance."""
    m = moments
    covariance = np.array([
        [m.value, m.value_slope, m.value_bend],
        [m.value_slope, m.slope, m.slope_bend],
        [m.value_bend, m.slope_bend, m.bend],
    ])  # fmt: skip
    z, p, s = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance, rows).T
    h, hp, hs = f(z), df(z) * p, df(z) * s + ddf(z) * p * p
    return {
        "value": h * h, "slope": hp * hp, "bend": hs * hs, "value_slope": h * hp,
        "value_bend": h * hs, "slope_bend": hp * hs,
    }  # fmt: skip


def tanh_slopes():
    return (
        np.tanh,
        lambda z: 1 - np.tanh(z) ** 2,
        lambda z: -2 * np.tanh(z) * (1 - np.tanh(z) ** 2),
    )


def sigmoid_slopes():
    def s(z):
        return 1 / (1 + np.exp(-z))

    return lambda z: s(z) - 0.5, lambda z: s(z) * s(-z), lambda z: s(z) * s(-z) * (s(-z) - s(z))


@pytest.mark.parametrize(
    ("activation", "slopes"),
    [
        (activations.tanh(), tanh_slopes()),
        (activations.sigmoid(), sigmoid_slopes()),
        (activations.sin(), (np.sin, np.cos, lambda z: -np.sin(z))),
    ],
    ids=["tanh", "sigmoid", "sin"],
)
@pytest.mark.parametrize("before", [BEFORE, JetMoments(0.3, 0.5)], ids=["joint", "apart"])
def test_moments_behind_a_function_by_monte_carlo(activation, slopes, before):
    found = jet_through(activation, before)
    for name, values in products(*slopes, before).items():
        error = 4 * values.std() / math.sqrt(len(values))
        assert getattr(found, name) == pytest.approx(values.mean(), abs=error), name


def test_a_line_keeps_what_it_is_given():
    found = jet_through(activations.linear(3.0), BEFORE)
    assert found.value == pytest.approx(9 * BEFORE.value)
    assert found.bend == pytest.approx(9 * BEFORE.bend, rel=1e-6)
    assert found.slope_bend == pytest.approx(9 * BEFORE.slope_bend)


def test_sines_of_one_unit_in_closed_form():
    q, p = 0.8, 1.7
    found = jet_through(activations.sin(), JetMoments(q, p))
    assert found.slope == pytest.approx(p * (1 + math.exp(-2 * q)) / 2, rel=1e-9)
    assert found.bend == pytest.approx(3 * p * p * (1 - math.exp(-2 * q)) / 2, rel=1e-7)


def wide(depth, width, weight_std, bias_std, norm, first_bias, seed):
    """A wide tanh network with even first directions and independent normal weights behind."""
    rng = torch.Generator().manual_seed(seed)
    net = mlp([2, *[width] * depth, 1], nn.Tanh).double()
    layers = [m for m in net if isinstance(m, nn.Linear)]

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    turn = torch.arange(width, dtype=torch.float64) * 2 * math.pi / width
    layers[0].weight.data = norm * torch.stack([turn.cos(), turn.sin()], dim=1)
    layers[0].bias.data = first_bias * normal(width)
    for layer in layers[1:]:
        layer.weight.data = weight_std * normal(*layer.weight.shape) / math.sqrt(width)
        layer.bias.data = bias_std * normal(len(layer.bias)) * (layer is not layers[-1])
    return net


@pytest.mark.parametrize(("bias_std", "first_bias"), [(0.0, 0.0), (0.15, 0.0), (0.1, 0.5)])
def test_derivatives_of_wide_networks_follow_the_moments(bias_std, first_bias):
    depth, weight_std, norm, point = 5, 1.2, 1.3, (0.3, -0.4)
    x = torch.tensor([point], dtype=torch.float64)
    found = []
    for seed in range(60):
        net = wide(depth, 96, weight_std, bias_std, norm, first_bias, seed)
        with torch.no_grad():
            found.append([float(v) for v in jets(net, x, [(2, 0)]).values()])
    moments = entry_moments(point, 0, norm, first_bias**2)
    for layer in range(depth):
        if layer:
            moments = moments.scaled(weight_std**2, bias_std**2)
        moments = jet_through(TANH, moments)
    expected = moments.scaled(weight_std**2)
    for column, name in enumerate(("value", "slope", "bend")):
        squares = np.square([row[column] for row in found])
        error = 4 * squares.std(ddof=1) / math.sqrt(len(squares))
        assert getattr(expected, name) == pytest.approx(squares.mean(), abs=error), name


def test_without_biases_all_slope_is_at_the_origin():
    """Where every unit is 0 nothing saturates: the slope grows by the gain, layer after layer."""
    gain, at_origin = 1.17, entry_moments((0.0, 0.0), 0, 1.0)
    for _ in range(30):
        at_origin = jet_through(TANH, at_origin).scaled(gain**2)
    assert at_origin.slope == pytest.approx(0.5 * gain**60, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JetMoments(0.0, 1.0), "value must be positive"),
        (lambda: JetMoments(1.0, -1.0), "slope must be finite and not negative"),
        (lambda: JetMoments(1.0, 1.0, -1.0), "bend must be finite and not negative"),
        (lambda: JetMoments(1.0, 1.0, value_slope=2.0), "value_slope must be at most"),
        (lambda: BEFORE.scaled(-1.0), "weight_var must be finite and not negative"),
        (lambda: BEFORE.scaled(1.0, -1.0), "bias_var must be finite and not negative"),
        (lambda: entry_moments((0.0,), 0, 0.0), "norm must be positive"),
        (
            lambda: jet_through(activations.relu(), BEFORE),
            "activation must have a second derivative",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
