"""The comparison rule, the search for a learning rate, and what a network looks like at birth."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.birth import birth
from equipoise.lab.comparison import compare
from equipoise.lab.data import digits
from equipoise.lab.models import mlp, plain_cnn
from equipoise.lab.trials import STEP, pick_rate, rates_around, train_in_parts


def test_the_rival_is_picked_on_even_draws_and_compared_with_on_odd_ones():
    ours = [0.5] * 8
    lucky = [0.9, 0.1] * 4
    steady = [0.6, 0.6] * 4
    made = compare(ours, {"steady": steady, "lucky": lucky})
    assert (made.rival, made.draws) == ("lucky", 4)
    assert made.difference == pytest.approx(0.4)
    assert made.verdict == "win"


def test_the_standard_error_is_that_of_paired_differences():
    rng = np.random.default_rng(0)
    common, own = rng.normal(0.0, 0.1, 40), rng.normal(0.0, 0.01, 40)
    ours, theirs = (0.5 + common + own).tolist(), (0.5 + common).tolist()
    made = compare(ours, {"a": theirs})
    expected = np.std(own[1::2], ddof=1) / math.sqrt(20)
    assert made.standard_error == pytest.approx(expected, rel=1e-9)
    assert made.standard_error < 0.004
    assert made.is_settled


@pytest.mark.parametrize(
    ("gap", "noise", "verdict", "is_settled", "is_open"),
    [
        (0.02, 0.0, "win", True, False),
        (0.009, 0.0, "tie", True, False),
        (-0.009, 0.0, "tie", True, False),
        (-0.011, 0.0, "loss", True, False),
        (0.05, 0.1, "tie", False, True),  # standard error .0378: twice that is above .05
        (0.9, 0.06, "win", False, False),
        (-0.9, 0.06, "loss", False, False),
    ],
)
def test_verdicts(gap, noise, verdict, is_settled, is_open):
    # Odd draws differ by gap +- noise in turn: standard deviation noise * sqrt(8 / 7).
    ours = [0.0, gap + noise, 0.0, gap - noise] * 4
    made = compare(ours, {"a": [0.0] * 16})
    assert made.standard_error == pytest.approx(noise / math.sqrt(7))
    assert (made.verdict, made.is_settled, made.is_open) == (verdict, is_settled, is_open)


def test_wins_and_losses_want_eight_pairs():
    few = [compare([gap] * 8, {"a": [0.0] * 8}) for gap in (0.5, -0.5, 0.0)]
    assert [(made.verdict, made.is_open) for made in few] == [
        ("win", True), ("loss", True), ("tie", False),
    ]  # fmt: skip
    assert not compare([0.5] * 16, {"a": [0.0] * 16}).is_open


def test_a_pick_on_all_draws_would_flatter_the_rivals():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        scores = rng.normal(0.0, 1.0, (21, 8))
        found.append(compare(scores[0].tolist(), {str(i): scores[i].tolist() for i in
                                                  range(1, 21)}).difference)  # fmt: skip
    # All are alike: the mean difference is 0 within 4 standard errors.
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)


TASK = digits(300).validation(100)


def replicas(count):
    torch.manual_seed(0)
    return Replicas.of([mlp((64, 12, 10), nn.Tanh) for _ in range(count)])


def test_the_rate_is_the_best_of_separate_trainings():
    started, rates = replicas(2), (1e-4, 1e-3, 1e-2)
    search = pick_rate(started, TASK, rates, [3, 4], epochs=2, extensions=0)
    expected = {
        rate: float(train(started, TASK, [rate] * 2, [3, 4], epochs=2).score.mean())
        for rate in rates
    }
    assert dict(search.by_rate) == pytest.approx(expected, abs=1e-6)
    assert search.rate == max(expected, key=expected.get)


def test_a_grid_whose_best_lies_at_its_end_goes_on_there():
    search = pick_rate(replicas(2), TASK, (1e-4, 1e-3), [0, 1], 4, 16, extensions=1)
    tried = [rate for rate, _ in search.by_rate]
    assert tried == pytest.approx([1e-4, 1e-3, 1e-3 * STEP])
    assert search.rate == tried[-1]
    inside = pick_rate(replicas(2), TASK, (1e-5, 1e-2, 9.0), [0, 1], 4, 16)
    assert len(inside.by_rate) == 3


def test_nothing_is_tried_further_where_nothing_learns():
    dead = replicas(1)
    dead.parameters.zero_()
    flat = Replicas((nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)), dead.parameters)
    # Weights of 0 under ReLU have no gradient but that of the last bias.
    search = pick_rate(flat, TASK, (1e-7, 1e-6), [0], epochs=1, extensions=3)
    assert len(search.by_rate) == 2


def test_parts_give_what_the_whole_gives():
    started, rates, seeds = replicas(5), [1e-3, 3e-3, 1e-3, 1e-2, 3e-4], [1, 2, 3, 4, 5]
    whole = train(started, TASK, rates, seeds, epochs=2).score
    parts = train_in_parts(started, TASK, rates, seeds, epochs=2, at_most=2)
    torch.testing.assert_close(parts, whole, rtol=0.0, atol=1e-6)


def test_birth_of_a_linear_network_is_that_of_its_matrices():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(6, 6, bias=False, dtype=torch.float64) for _ in range(4)])
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is not model[1].weight)
    x = torch.randn(5, 6, dtype=torch.float64)
    seen = birth(model, x, seed=3)
    assert seen.weights == ("0.weight", "1.weight", "2.weight", "3.weight")
    h, signal = x, []
    for layer in model:
        h = h @ layer.weight.detach().T
        signal.append(float(h.square().mean().sqrt()))
    g = torch.randn(5, 6, generator=torch.Generator().manual_seed(3)).double()
    gradient = [float(g.square().mean().sqrt())]
    for layer in [*model][:0:-1]:
        g = g @ layer.weight.detach()
        gradient.insert(0, float(g.square().mean().sqrt()))
    np.testing.assert_allclose(seen.signal, signal, rtol=1e-12)
    np.testing.assert_allclose(seen.gradient, gradient, rtol=1e-12)
    assert seen.forward_drift == pytest.approx(math.log(signal[2] / signal[0]) / 2)
    assert seen.gradient_drift == pytest.approx(math.log(gradient[0] / gradient[2]) / 2)
    assert all(p.grad is None for p in model.parameters())


def test_birth_of_a_convolutional_network_in_place_and_of_a_dead_one():
    model = plain_cnn(3, lambda: nn.ReLU(inplace=True), channels=4, stride=2)
    x = torch.randn(8, 1, 8, 8)
    seen = birth(model, x)
    first = model[0](x).detach()
    assert seen.signal[0] == pytest.approx(float(first.square().mean().sqrt()), rel=1e-5)
    assert len(seen.signal) == 4
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.zero_()
    assert birth(model, x).forward_drift == -math.inf
    with torch.no_grad():
        model[0].weight.fill_(math.inf)
    assert math.isnan(birth(model, x).forward_drift)


BAD = [
    (lambda: compare([0.1] * 4, {}), "rivals must hold"),
    (lambda: compare([0.1] * 3, {"a": [0.1] * 4}), "ours must have at least 4"),
    (lambda: compare([0.1] * 4, {"a": [0.1] * 3}), "a must have at least 4"),
    (lambda: pick_rate(replicas(1), TASK, [], [0]), "rates must rise"),
    (lambda: pick_rate(replicas(1), TASK, [1e-3, 1e-3], [0]), "rates must rise"),
    (lambda: rates_around(0.0, 1), "centre must be"),
    (lambda: rates_around(1.0, -1), "steps must be"),
    (lambda: train_in_parts(replicas(1), TASK, [1.0], [0], at_most=0), "at_most must be"),
    (lambda: birth(nn.Sequential(nn.Linear(3, 3)), torch.ones(2, 3)), "at least two"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
