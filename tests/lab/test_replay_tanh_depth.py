"""Deep stacks drawn layer by layer, what they know of the inputs, and the replay of it."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.lab import replay_tanh_depth
from equipoise.lab.deep_stack import deep_stack
from equipoise.lab.gram import (
    budget_for_gram_correlation,
    gram_correlation,
    norm_factor,
    orthogonal_gram_correlation,
    participation_rank,
)
from equipoise.lab.models import mlp
from equipoise.theory import activations


def rows(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def test_gram_correlation_is_that_of_the_pairs():
    x, y = rows(40, 5), np.tanh(rows(40, 7) + 0.3)
    upper = np.triu_indices(40, 1)
    slow = stats.pearsonr((x @ x.T)[upper], (y @ y.T)[upper]).statistic
    assert gram_correlation(x, y) == pytest.approx(slow, abs=1e-12)
    turned = x @ stats.ortho_group.rvs(5, random_state=1)
    for scale in (1.0, 1e-200, 5e-310, 1e200):
        tolerance = 1e-10 if scale > 1e-300 else 1e-1
        assert gram_correlation(x, scale * turned) == pytest.approx(1.0, abs=tolerance)


def test_what_says_nothing_has_correlation_0():
    x = rows(20, 3)
    assert gram_correlation(x, np.zeros((20, 3))) == 0.0
    assert gram_correlation(x, np.ones((20, 3))) == 0.0


def test_participation_is_that_of_the_eigenvalues():
    y = rows(50, 6) * [3.0, 1.0, 1.0, 0.1, 0.1, 0.1]
    values = np.linalg.eigvalsh(y.T @ y)
    assert participation_rank(1e-180 * y) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert participation_rank(np.outer(rows(9), rows(4))) == pytest.approx(1.0)
    assert participation_rank(np.zeros((4, 4))) == 0.0


@pytest.mark.parametrize("width", [2, 16, 100])
def test_norm_factor_is_a_ratio_of_moments(width):
    mean = stats.chi(width).mean()
    assert norm_factor(width) == pytest.approx(mean**2 / width, rel=1e-12)
    x = np.random.default_rng(0).standard_normal((4000, width))
    measured = gram_correlation(x, x / np.linalg.norm(x, axis=1, keepdims=True))
    assert measured == pytest.approx(norm_factor(width), abs=4 / math.sqrt(4000))


def test_the_closed_form_is_the_energy_of_the_cubic_on_a_sphere():
    width, budget = 16, 0.2
    # A unit of a sphere of radius sqrt(n): u^2 / n has a beta law.
    law = stats.beta(0.5, (width - 1) / 2)
    sixth, fourth = (
        integrate.quad(lambda t, k=k: (width * t) ** k * law.pdf(t), 0, 1)[0] for k in (3, 2)
    )
    share = (sixth - fourth**2) / 6
    expected = norm_factor(width) * math.exp(-share * budget / 2)
    assert orthogonal_gram_correlation(width, budget) == pytest.approx(expected, rel=1e-6)
    assert orthogonal_gram_correlation(width, 0.0) == norm_factor(width)
    back = budget_for_gram_correlation(width, expected)
    assert back == pytest.approx(budget, rel=1e-6)


def test_a_deep_stack_is_drawn_as_the_same_plan_in_a_model():
    depth, width = 70, 6
    model = mlp([width] * (depth + 1) + [width], nn.Tanh).double()
    x = torch.randn(200, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = eq.plan(model, torch.empty(8, width, dtype=torch.float64).normal_(), scheme="orthogonal")
    seed = eq.apply(model, made, torch.Generator().manual_seed(3))
    stack = deep_stack(activations.tanh(), (width,) * (depth + 1), "orthogonal")
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    # Streams are keyed by names, which differ: those of the model are given to the stack.
    named = type(stack)(
        stack.widths, stack.activation, tuple(names[:depth]), stack.weights, stack.biases, {}, ""
    )
    *_, last = named.values(x.numpy(), seed)
    hidden = nn.Sequential(*list(model.children())[:-1])(x)
    np.testing.assert_allclose(last, hidden.detach().numpy(), atol=1e-12)


def test_frames_of_a_deep_stack_telescope():
    stack = deep_stack(activations.tanh(), (5,) * 151, "centred")
    product = np.eye(5)
    gain = 1.0
    for weight, bias in stack.layers(2):
        product = weight @ product
        gain *= np.linalg.norm(weight, 2)
        assert not bias.any()
    # All factors are orthogonal times a gain; frames are the same on both sides of every layer.
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False) / gain, 1.0, rtol=1e-9)
    again = [w for w, _ in stack.layers(2)]
    assert all((a == w).all() for (a, _), w in zip(stack.layers(2), again, strict=True))


def test_a_budget_is_spent():
    quiet, loud = (
        deep_stack(activations.tanh(), (8,) * 51, f"centred(budget={b})") for b in (0.01, 0.5)
    )
    gains = [np.linalg.norm(list(s.layers(0))[10][0], 2) for s in (quiet, loud)]
    assert 1.0 < gains[0] < gains[1]


@pytest.mark.parametrize("scheme", ["sampled", "siren"])
def test_what_is_not_drawn_layer_by_layer_is_refused(scheme):
    with pytest.raises(ArgumentError, match="scheme must be one whose weights are drawn layer by"):
        deep_stack(activations.tanh(), (4, 4, 4), scheme)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deep_stack(activations.tanh(), (4,), "auto"), "widths must hold the inputs"),
        (lambda: deep_stack(activations.tanh(), (4, 0), "auto"), r"each 1 or more, got \[4, 0\]"),
        (lambda: gram_correlation(rows(5, 2), rows(4, 2)), "x and y must be matrices"),
        (lambda: gram_correlation(rows(2, 2), rows(2, 2)), "same 3 rows or more"),
        (lambda: gram_correlation(rows(5, 2), rows(5, 2) * math.inf), "y must hold finite"),
        (lambda: participation_rank(np.full((3, 3), math.nan)), "y must hold finite numbers"),
        (lambda: orthogonal_gram_correlation(1, 0.3), "width must be an integer of at least 2"),
        (lambda: orthogonal_gram_correlation(4, -1.0), "budget must be finite and not negative"),
        (lambda: budget_for_gram_correlation(16, 0.99), "wanted must be between 0 and 0.9693"),
        (lambda: budget_for_gram_correlation(1, 0.5), "width must be an integer of at least 2"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def unit(method, depth=40, width=8, count=300, seed=0):
    return {"width": width, "depth": depth, "rows": count, "method": method, "seed": seed}


def test_a_forward_pass_in_plain_steps():
    given = unit("diagonal + noise, alpha .085")
    found = replay_tanh_depth.forward(given)
    x = np.random.default_rng([0, 8]).standard_normal((300, 8))
    h = x
    for weight, _ in deep_stack(activations.tanh(), (8,) * 41, "diagonal_noise").layers(0):
        assert np.abs(weight - np.eye(8)).max() < 6 * 0.085 / math.sqrt(8)
        h = np.tanh(h @ weight.T)
    assert found["layer"] == [1, 2, 3, 5, 10, 20, 30, 40]
    assert found["rms"][-1] == pytest.approx(np.sqrt((h**2).mean()), rel=1e-12)
    assert found["spread"][-1] == h.max() - h.min()
    upper = np.triu_indices(300, 1)
    slow = stats.pearsonr((x @ x.T)[upper], (h @ h.T)[upper]).statistic
    assert found["gram"][-1] == pytest.approx(slow, abs=1e-10)


def test_findings_say_what_was_measured():
    methods = replay_tanh_depth.METHODS
    done = [
        (given, replay_tanh_depth.forward(given))
        for method in methods
        for seed in (0, 1)
        for given in (unit(method, seed=seed),)
    ]
    found = replay_tanh_depth.findings(done, ("faithful", "corrected"))
    spread, information = found.tables
    assert len(spread.rows) == 2
    assert [row.names[1] for row in information.rows] == list(methods)
    gram = {row.names[1]: row.values[2] for row in information.rows}
    for method, value in gram.items():
        seen = [r["gram"][-1] for a, r in done if a["method"] == method]
        assert value.mean == pytest.approx(sum(seen) / 2)
    assert gram["auto"].reference == pytest.approx(orthogonal_gram_correlation(8, 0.3))
    assert math.isnan(gram["orthogonal"].reference)
    assert gram["centred, budget 0.05"].mean > gram["Xavier"].mean
    assert [p.y_title for p in found.pictures] == ["max - min", "correlation", "participation rank"]
    alone = replay_tanh_depth.findings(
        [(a, r) for a, r in done if a["method"] in ("Xavier", "diagonal + noise, alpha .085")],
        ("faithful",),
    )
    assert len(alone.tables) == len(alone.pictures) == 1


@pytest.mark.slow
def test_directions_survive_10000_layers_as_the_closed_form_says():
    for method, budget in (("auto", 0.3), ("centred, budget 0.05", 0.05)):
        found = replay_tanh_depth.forward(unit(method, 10_000, 16, 3000))
        assert found["gram"][-1] == pytest.approx(orthogonal_gram_correlation(16, budget), abs=0.01)
    assert found["gram"][-1] > 0.9
