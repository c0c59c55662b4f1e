"""Theory's word agrees with what is measured where it speaks, and is silent where it should be."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.plan.stacks import find_stacks
from equipoise.rules.theory_word import theory_words
from equipoise.rules.weight_law import WeightFacts, law_of
from equipoise.theory import activations
from equipoise.theory.lyapunov import log_gain
from equipoise.theory.odds import usable_odds
from equipoise.torch.inputs import read_inputs
from equipoise.torch.measure import measure
from equipoise.torch.measure_weights import weigh
from equipoise.torch.trace import trace

X = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))


def word(model, x=X):
    return eq.diagnose(model, x).words[0]


@pytest.mark.parametrize("scheme", ["default", "orthogonal"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_measured_drifts_agree_with_theory(activation, scheme):
    torch.manual_seed(1)
    model = mlp([16, *[24] * 16, 4], activation)
    if scheme != "default":
        eq.initialize(model, X, scheme, generator=torch.Generator().manual_seed(2))
    said = word(model)
    assert said.law == ("haar" if scheme == "orthogonal" else "gaussian")
    assert said.signal.agrees
    assert said.gradient.agrees
    assert said.gradient.std > 0
    assert said.depth == 16
    assert len(said.signal_path) == len(said.layers) == 16
    assert said.gradient_path[-1] == 0.0


def test_disagreement_is_noticed():
    torch.manual_seed(0)
    model = mlp([16, *[16] * 12, 4], nn.Tanh)
    inputs = read_inputs(model, X)
    traced = trace(model, inputs)
    stacks = find_stacks(traced)
    seen, facts_by_name = measure(model, traced, inputs), weigh(model, stacks)
    assert theory_words(seen, stacks, facts_by_name)[0].signal.agrees
    # As if something that no weight shows made each layer louder by a seventh.
    tilted = tuple(
        replace(x, log_signal=x.log_signal + 0.15 * i) for i, x in enumerate(seen.layers)
    )
    said = theory_words(replace(seen, layers=tilted), stacks, facts_by_name)[0]
    assert not said.signal.agrees
    assert said.gradient.agrees
    assert "not as expected of such a draw" in said.words


def test_two_lines_without_bias_are_exact():
    torch.manual_seed(0)
    model = mlp([16, *[16] * 40, 4], lambda: nn.LeakyReLU(0.1))
    eq.initialize(model, X, "he", generator=torch.Generator().manual_seed(0))
    said = word(model)
    f = activations.leaky_relu(0.1)
    stds = [m.weight.detach().double().square().mean().sqrt() for m in model
            if isinstance(m, nn.Linear)][1:-1]  # fmt: skip
    # A line through a walk of equal steps on average has their mean as its slope.
    logs = np.cumsum([0.0, *(log_gain(f, 16).mean + math.log(s) for s in stds)])
    expected = np.polyfit(np.arange(40), logs, 1)[0]
    assert said.signal.expected == pytest.approx(expected, abs=1e-9)
    back = np.polyfit(np.arange(40), np.cumsum(np.diff(logs, prepend=0)[::-1]), 1)[0]
    assert said.gradient.expected == pytest.approx(back, abs=2e-3)
    scale = math.exp(float(np.mean(np.log(stds))))
    assert said.odds == pytest.approx(usable_odds(f, 16, 39, scale), abs=1e-6)
    assert "exact" in said.reason


def test_the_spread_is_that_of_many_draws():
    """40 draws, one input: slopes stray from theory's mean by theory's standard deviation."""
    away = []
    model = mlp([16, *[16] * 8, 4], nn.SELU)
    inputs = read_inputs(model, X[:1])
    traced = trace(model, inputs)
    stacks = find_stacks(traced)
    for seed in range(40):
        torch.manual_seed(seed)
        for layer in model[::2]:
            nn.init.normal_(layer.weight, std=0.25)
            nn.init.normal_(layer.bias, std=0.1)
        said = theory_words(measure(model, traced, inputs), stacks, weigh(model, stacks))[0]
        away.append([(e.measured - e.expected) / e.std for e in (said.signal, said.gradient)])
    z = np.array(away)
    assert (abs(z.mean(0)) < 4 / math.sqrt(40)).all()
    assert (abs(z.std(0) - 1) < 4 / math.sqrt(80)).all()


def facts(**changes):
    values = {
        "weight": "w", "rows": 64, "columns": 64, "taps": 1, "mean": 0.0, "std": 0.1,
        "kurtosis": 0.0, "evenness": 2.0, "nearest": 0.4, "coupling": 1.0, "coupling_std": 0.02,
        "bias_rms": 0.0,
    }  # fmt: skip
    return WeightFacts(**values | changes)


SILENT = [
    ({"std": math.nan}, "not finite"),
    ({"std": 0.0}, "is 0"),
    ({"kurtosis": 60.0}, "a few entries"),
    ({"coupling": 2.0}, "aligned with the weight before it"),
    ({"mean": 0.05}, "have mean"),
    ({"nearest": 1.0}, "repeat each other"),
    ({"evenness": 9.0}, "not those of independent entries"),
]


@pytest.mark.parametrize(("changes", "reason"), SILENT)
def test_other_weights_have_no_law(changes, reason):
    law, why = law_of(facts(**changes))
    assert law == ""
    assert reason in why


def test_laws_are_told_apart():
    assert law_of(facts())[0] == "gaussian"
    assert law_of(facts(kurtosis=-1.2))[0] == "gaussian"
    assert law_of(facts(evenness=1.0))[0] == "haar"
    assert facts(evenness=1.0, std=1 / 8).gain == 1.0


@pytest.mark.parametrize("shape", [(8, 8), (16, 64), (64, 16), (300, 40), (700, 600)])
def test_independent_weights_of_any_shape_are_recognized(shape):
    rows, columns = shape
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(16, columns), nn.Tanh(), nn.Linear(columns, rows), nn.Tanh(),
            nn.Linear(rows, columns), nn.Tanh(), nn.Linear(columns, 2),
        )  # fmt: skip
        for law, make in (("gaussian", nn.init.xavier_uniform_), ("haar", nn.init.orthogonal_)):
            for layer in model[::2]:
                make(layer.weight)
            assert word(model).law == law
        if rows > 300:
            break


SCHEMES = [
    ("mirrored", nn.GELU, [16] * 8, "aligned"),
    ("centred", nn.Tanh, [32, 16] * 4, "aligned"),
    ("diagonal_noise", nn.Tanh, [16] * 8, "a few entries"),
]


@pytest.mark.parametrize(("scheme", "activation", "widths", "reason"), SCHEMES)
def test_coupled_and_diagonal_weights_are_not_taken_for_independent(
    scheme, activation, widths, reason
):
    model = mlp([16, *widths, 4], activation)
    eq.initialize(model, X, scheme, generator=torch.Generator().manual_seed(0))
    said = word(model)
    assert said.law == ""
    assert reason in said.words
    assert said.signal is None


def test_mixed_laws_jumps_and_dead_signals_have_no_word():
    torch.manual_seed(0)
    model = mlp([16, *[16] * 6, 4], nn.Tanh)
    with torch.no_grad():
        nn.init.orthogonal_(model[4].weight)
    assert "some are independent" in word(model).words
    assert "jumps" in word(mlp([16, *[16] * 6, 4], nn.Hardshrink)).words
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        for layer in model[2::2]:
            layer.bias.zero_()
            nn.init.normal_(layer.weight)
    assert "0 or not finite" in word(model).words


def test_convolutions_have_the_wide_limit_only():
    torch.manual_seed(0)
    layers = [m for i in range(5) for m in (nn.Conv1d(3 if i == 0 else 16, 16, 3), nn.ReLU())]
    said = word(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 10, 4)), torch.randn(8, 3, 20))
    assert said.signal is None
    assert said.phase == "ordered"
    assert said.chi_1 == pytest.approx(1 / 6, rel=0.05)
    assert "sites share weights" in said.words


def test_shallow_stacks_are_passed_over():
    assert eq.diagnose(mlp([16, 16, 16, 4], nn.Tanh), X).words == ()


def test_biases_that_centre_their_layer_are_not_taken_for_random():
    model = mlp([16, *[16] * 12, 4], nn.Sigmoid)
    eq.initialize(model, X, generator=torch.Generator().manual_seed(0))
    said = word(model)
    assert said.law == ""
    assert "centres what enters" in said.words
    with torch.no_grad():
        for layer in model[2::2]:
            layer.bias.normal_(std=0.5)
    assert word(model).law == "haar"
