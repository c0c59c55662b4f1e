"""The odds that a draw is usable: the definition, a normal law, and exact theory."""

import math

import numpy as np
import pytest

from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine
from equipoise.plan.odds import normal_odds, outlook, usable_share
from equipoise.plan.predict import predict
from equipoise.plan.predict_chain import Draws, Laws, draw_chain
from equipoise.plan.stack_plan import Expected
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Normal, Orthogonal, Zero
from equipoise.theory import activations
from equipoise.theory.odds import survival_probability, usable_odds

TEN = math.log(10.0)


def line(width, depth, activation):
    """Linear layers of one width."""
    affines = tuple(
        Affine(f"{i}", f"{i}.weight", "", 2 * i, 2 * i + 1, i, i + 1, width, width)
        for i in range(depth + 1)
    )
    hidden = tuple(Hidden(i + 1, width, activation) for i in range(depth))
    last = activations.identity()
    return Stack(affines, hidden, last, 2 * depth + 1, (False,) * (depth + 1))


def draws(signal, gradient):
    """Draws with given logs at each layer."""
    s, g = np.array(signal, dtype=float), np.array(gradient, dtype=float)
    return Draws(s, g, np.zeros_like(s), s, g, np.zeros_like(s), np.zeros_like(s), g[:, 0])


def test_the_definition():
    kept = [0.0, 1.0, 2.2, 9.0], [0.0, 0.0, 2.2, 9.0]
    lost_signal = [0.0, 1.0, -2.4, 0.0], [0.0] * 4
    lost_gradient = [0.0] * 4, [2.4, 0.0, 0.0, 0.0]
    dead = [0.0, -math.inf, -math.inf, -math.inf], [0.0] * 4
    signal, gradient = zip(kept, lost_signal, lost_gradient, dead, strict=True)
    assert usable_share(draws(signal, gradient), [8, 8, 8]) == 0.25


def test_a_change_of_width_alone_spoils_nothing():
    # From 400 units to 1: the norm stays, the RMS grows by 20.
    grown = draws([[0.0, math.log(20.0), 0.0]], [[0.0, 0.0, 0.0]])
    assert usable_share(grown, [400, 1]) == 1.0
    assert usable_share(grown, [1, 400]) == 0.0
    back = draws([[0.0, 0.0, 0.0]], [[math.log(20.0), 0.0, 0.0]])
    assert usable_share(back, [1, 400]) == 1.0


def test_without_two_hidden_layers_only_death_counts():
    assert usable_share(draws([[0.0, 9.0], [0.0, -math.inf]], [[0.0, 0.0]] * 2), [4]) == 0.5


def test_odds_of_linear_networks_are_exact():
    """Signal alone, over all layers, by Fourier inversion of the exact law."""
    width, depth, scale = 6, 30, 0.42
    stack = line(width, depth - 1, activations.identity())
    laws = Laws([Normal(scale)] * depth, [Zero()] * depth, (), {})
    found = draw_chain(stack, laws, Inputs(1.0, np.zeros((0, 0))), 4000, 1)
    share = float(np.mean(np.abs(found.norm[:, -1]) <= TEN))
    exact = usable_odds(activations.identity(), width, depth, scale)
    assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


def test_isometries_are_certain_and_deaths_are_counted():
    sure = predict(line(8, 50, activations.identity()), [Orthogonal(1.0)] * 51, 1.0)
    assert sure.odds == 1.0
    narrow = predict(line(3, 1, activations.relu()), [Normal(0.8)] * 2, 1.0)
    alive = survival_probability(3, 1)
    assert narrow.odds == pytest.approx(alive, abs=4 * math.sqrt(alive * (1 - alive) / 300))
    assert 0 < narrow.odds_error < 0.05


def test_normal_odds_against_draws():
    rng = np.random.default_rng(0)
    stray = rng.normal(0.0, 1.3, 200_000)
    signal, gradient = (1.0, 0.5, 3.0, 1.0), (0.4, 1.0, 1.0, 1.0)
    # Signal ends three times as large as it began, gradient at 0.4: both widths are 8.
    seen = min(
        np.mean(np.abs(math.log(3.0) + stray) <= TEN), np.mean(np.abs(math.log(0.4) + stray) <= TEN)
    )
    assert normal_odds(signal, gradient, 1.3, [8, 8, 8]) == pytest.approx(seen, abs=0.005)
    assert normal_odds(signal, gradient, 0.0, [8, 8, 8]) == 1.0
    assert normal_odds((1.0, 0.01), (1.0, 1.0), 0.0, [8, 8]) == 0.0
    assert math.isnan(normal_odds((math.nan, 1.0), (1.0, 1.0), 0.1, [8, 8]))
    assert normal_odds((1.0,), (1.0,), 0.1, [8]) == 1.0


def test_the_outlook_reads_the_ends():
    found = outlook(
        "layers a to b",
        Expected((1.0, 2.0), (0.5, 1.0), (0.1, 0.2), (0.3, 0.0), (0.6, 0.7), 0.9, 0.01, "how"),
    )
    assert (found.signal, found.gradient, found.correlation) == (2.0, 0.5, 0.7)
    assert (found.odds, found.odds_error, found.odds_method) == (0.9, 0.01, "how")
