"""The auto rule and its reasons."""

import math

import numpy as np
import pytest

from equipoise.plan.choose import choose, plain_cost
from equipoise.plan.nodes import Affine
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Mirrored, Plain
from equipoise.theory import activations
from equipoise.theory.activations import identity


def stack(acts, width=16, dropout=0.0, can_shift=True):
    affines = tuple(
        Affine(f"{i}", f"{i}.w", "", 0, 0, i, i + 1, width, width) for i in range(len(acts) + 1)
    )
    hidden = tuple(Hidden(i + 1, width, a, dropout) for i, a in enumerate(acts))
    return Stack(affines, hidden, identity(), 0, (can_shift,) * len(affines))


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 0.9])
def test_loss_of_a_leaky_layer_is_its_closed_form(slope):
    cost = plain_cost(stack([activations.leaky_relu(slope)] * 7).hidden)
    assert cost.loss == pytest.approx(7 * (1 - slope) ** 2 / (2 * (1 + slope**2)), rel=1e-9)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_spread_of_orthogonal_leaky_layers_is_its_closed_form(slope):
    """gamma^2 = (c - 1/2) / n, c = (6 r - 1) / 4, r = (1 + a^4) / (1 + a^2)^2."""
    r = (1 + slope**4) / (1 + slope**2) ** 2
    expected = math.sqrt(9 * ((6 * r - 1) / 4 - 0.5) / 16)
    cost = plain_cost(stack([activations.leaky_relu(slope)] * 9).hidden)
    assert cost.spread == pytest.approx(expected, rel=1e-9)


def test_spread_against_drawn_orthogonal_networks():
    rng = np.random.default_rng(0)
    n, depth, logs = 64, 20, []
    for _ in range(400):
        h = rng.standard_normal(n)
        for _ in range(depth):
            # A Haar weight sends any vector to a uniform direction of the same norm.
            g = rng.standard_normal(n)
            h = np.maximum(g * np.linalg.norm(h) / np.linalg.norm(g), 0.0)
        logs.append(math.log(np.linalg.norm(h)))
    expected = plain_cost(stack([activations.relu()] * depth, n).hidden).spread
    error = 4 * expected / math.sqrt(2 * len(logs))
    # The next order in 1 / n is a few percent at this width.
    assert np.std(logs, ddof=1) == pytest.approx(expected, abs=error + 0.04 * expected)


@pytest.mark.parametrize("activation", [activations.relu(), activations.gelu(), activations.silu()])
def test_wide_and_shallow_stays_with_exact_moments(activation):
    choice = choose(stack([activation] * 3, 256))
    assert choice.scheme == "he"
    assert not choice.warning
    assert "pairing pays above" in choice.reason


@pytest.mark.parametrize("activation", [activations.relu(), activations.gelu(), activations.mish()])
def test_deep_is_mirrored(activation):
    choice = choose(stack([activation] * 50))
    assert set(map(type, choice.layouts)) == {Mirrored}
    assert "mirrored" in choice.reason


def test_a_very_deep_nearly_linear_stack_is_mirrored_for_its_spread():
    nearly = activations.leaky_relu(0.8)
    assert choose(stack([nearly] * 50, 4)).scheme == "he"
    assert choose(stack([nearly] * 500, 4)).scheme == "framed"


@pytest.mark.parametrize("activation", [activations.tanh(), activations.elu(), activations.sin()])
def test_odd_and_nearly_affine_functions_are_centred_at_any_depth(activation):
    for depth in (1, 3, 100):
        assert set(map(type, choose(stack([activation] * depth)).layouts)) == {Plain}


def test_mixed_stacks_mirror_gates_only():
    choice = choose(stack([activations.relu(), activations.tanh()] * 20))
    assert [type(x) for x in choice.layouts[:2]] == [Mirrored, Plain]


def test_functions_that_jump_or_are_flat_get_moments_and_a_warning():
    for activation in (activations.hardshrink(), activations.squared_relu()):
        choice = choose(stack([activations.tanh(), activation]))
        assert choice.scheme == "he"
        assert "no scale" in choice.warning


def test_dropout_and_single_units_stand_in_the_way_of_pairs():
    assert "dropout" in choose(stack([activations.relu()] * 30, dropout=0.1)).warning
    assert "1 unit" in choose(stack([activations.relu()] * 30, width=1)).warning
    assert not choose(stack([activations.tanh()] * 30, dropout=0.1)).warning


def test_a_stack_without_hidden_layers():
    assert "stands alone" in choose(stack([])).reason


@pytest.mark.parametrize("activation", [activations.sigmoid(), activations.hardsigmoid()])
def test_units_that_do_not_rest_at_0_need_a_bias_to_be_centred(activation):
    choice = choose(stack([activation] * 5, can_shift=False))
    assert choice.scheme == "he"
    assert "no bias of its own" in choice.warning
    assert choose(stack([activations.tanh()] * 5, can_shift=False)).scheme == "framed"
    assert choose(stack([activations.relu()] * 20, can_shift=False)).scheme == "framed"
