"""Predicted signal and gradient against the mean over many drawn networks, in numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest

from equipoise.plan.make import make_plan
from equipoise.plan.predict import predict
from equipoise.plan.stacks import Hidden, Stack, find_stacks
from equipoise.plan.trace import Affine, Nonlinearity, Trace
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import DiagonalNoise, Normal, Orthogonal, Uniform
from equipoise.theory import activations
from equipoise.theory.activations import identity


def chain(widths, activation):
    """A stack of linear layers by hand, with no framework."""
    affines = tuple(
        Affine(f"l{i}", f"l{i}.weight", f"l{i}.bias", 2 * i, 2 * i + 1, i, i + 1, a, b)
        for i, (a, b) in enumerate(pairwise(widths))
    )
    hidden = tuple(Hidden(i + 1, w, activation, 0.0) for i, w in enumerate(widths[1:-1]))
    return Stack(affines, hidden, identity(), 2 * len(affines) - 1, (True,) * len(affines))


def simulate(stack, laws, rms, draws, rows=64):
    """Mean squares of signal and relative gradient at each layer, by draw."""
    rng = np.random.default_rng(0)
    signal = np.zeros((draws, len(laws)))
    gradient = np.zeros((draws, len(laws)))
    for d in range(draws):
        weights = [
            draw(law, a.weight, (a.out_size, a.in_size), Streams(d))
            for law, a in zip(laws, stack.affines, strict=True)
        ]
        h = rms * rng.standard_normal((rows, stack.affines[0].in_size))
        preactivations = []
        for w, space in zip(weights, [*stack.hidden, None], strict=True):
            preactivations.append(h @ w.T)
            h = space.activation.f(preactivations[-1]) if space else preactivations[-1]
        signal[d] = [np.mean(z**2) for z in preactivations]
        back = rng.standard_normal(preactivations[-1].shape)
        gradient[d, -1] = 1.0
        for i in range(len(stack.hidden) - 1, -1, -1):
            back = (back @ weights[i + 1]) * stack.hidden[i].activation.df(preactivations[i])
            gradient[d, i] = np.mean(back**2)
    return signal, gradient


def within(samples, expected, allowance=0.0):
    """Mean over draws within 4 standard errors and a stated allowance for finite width."""
    mean = samples.mean(0)
    error = 4 * samples.std(0, ddof=1) / math.sqrt(len(samples))
    return bool(np.all(np.abs(mean - expected) <= error + allowance * expected))


LAWS = [
    # Independent normal entries and a homogeneous function: exact at any width.
    (activations.relu(), lambda a, b: Normal(math.sqrt(2 / a)), 0.0),
    (activations.leaky_relu(0.3), lambda a, b: Uniform(math.sqrt(3 * 2 / 1.09 / a)), 0.02),
    # The level of others fluctuates with the width, and E f(z)^2 is not linear in it: O(1 / n).
    (activations.tanh(), lambda a, b: Normal(1.2 / math.sqrt(a)), 0.06),
    (activations.tanh(), lambda a, b: Orthogonal(1.2), 0.06),
    (activations.gelu(), lambda a, b: Normal(1.5 / math.sqrt(a)), 0.06),
]


@pytest.mark.parametrize(("activation", "law", "allowance"), LAWS)
@pytest.mark.parametrize("widths", [[30, 60, 60, 60, 20], [60, 40, 80, 30]])
def test_mean_squares_over_draws(activation, law, allowance, widths):
    stack = chain(widths, activation)
    laws = [law(a.in_size, a.out_size) for a in stack.affines]
    expected = predict(stack, laws, 1.3**2)
    signal, gradient = simulate(stack, laws, 1.3, 400)
    assert within(signal, np.square(expected.signal), allowance)
    assert within(gradient, np.square(expected.gradient), allowance)


def test_diagonal_noise_follows_the_distribution_of_one_unit():
    stack = chain([64] * 60, activations.tanh())
    laws = [DiagonalNoise(1.0, 0.085 / 8)] * 59
    expected = predict(stack, laws, 1.0)
    signal, _ = simulate(stack, laws, 1.0, 30)
    assert np.allclose(np.sqrt(signal.mean(0)), expected.signal, rtol=0.03)


def test_diagonal_noise_reaches_its_published_wide_limit():
    """RMS sqrt(0.2285 sigma^2 / c) for tanh (c = 1 / 3) at sigma = .085, after the activation."""
    stack = chain([400] * 1500, activations.tanh())
    expected = predict(stack, [DiagonalNoise(1.0, 0.085 / 20)] * 1499, 1.0)
    level = math.sqrt(0.2285 * 0.085**2 * 3)
    # The preactivation carries the noise of one layer more than the activation.
    assert expected.signal[-1] / math.sqrt(1 + 0.085**2) == pytest.approx(level, rel=0.02)


def test_a_law_that_couples_layers_has_no_independent_prediction():
    from equipoise.schemes.laws import Framed

    stack = chain([4, 4], activations.tanh())
    assert math.isnan(predict(stack, [Framed("a", "b", 4, 1.0)], 1.0).signal[0])
    mixed = chain([4, 4, 4], activations.tanh())
    assert math.isnan(predict(mixed, [DiagonalNoise(1.0, 0.1), Normal(1.0)], 1.0).signal[0])


def trace_of(stack):
    nodes = []
    for i, affine in enumerate(stack.affines):
        nodes.append(affine)
        if i < len(stack.hidden):
            nodes.append(
                Nonlinearity(
                    "", stack.hidden[i].activation, affine.output, affine.output + 1, i + 1
                )
            )
    from equipoise.plan.trace import Parameter

    parameters = [
        p
        for a in stack.affines
        for p in (
            Parameter(a.weight, (a.out_size, a.in_size), "float32"),
            Parameter(a.bias, (a.out_size,), "float32"),
        )
    ]
    sizes = (stack.affines[0].in_size, *(a.out_size for a in stack.affines))
    return Trace(tuple(nodes), (0,), (stack.exit_value,), sizes, tuple(parameters))


def test_plans_are_made_without_any_framework():
    stack = chain([8, 16, 16, 3], activations.softplus())
    trace = trace_of(stack)
    assert [s.depth for s in find_stacks(trace)] == [2]
    rows = np.random.default_rng(0).standard_normal((50, 8))
    plan = make_plan(trace, "auto", {0: rows})
    assert len(plan.assignments) == 6
    assert plan.draw("l1.weight", 0).shape == (16, 16)
