"""Kinks of mirrored pairs apart where inputs vary in few directions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.schemes.laws import SpreadBias

DEPTH, WIDTH = 30, 16


def rows(directions, size, count=400):
    """Inputs of RMS 1 that vary in so many directions alike."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(size, directions, generator=generator)).Q
    x = torch.randn(count, directions, generator=generator) @ basis.T
    return x / x.square().mean().sqrt()


def spreads(model, x, **more):
    """Spread of the kinks of each layer over the RMS of what moves, by plan."""
    laws = {a.parameter: a.law for a in eq.plan(model, x, **more).assignments}
    return [
        law.std for name, law in laws.items() if name.endswith("bias") and type(law) is SpreadBias
    ]


def preactivations(model, x):
    """Those of every hidden layer."""
    found = []
    for layer in model[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            found.append(x)
    return found


@pytest.mark.parametrize(
    "activation", [nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.Softplus, nn.GELU, nn.Hardswish]
)
def test_a_network_of_one_input_is_a_line_whose_kinks_lie_apart(activation):
    x = rows(1, 1)
    model = mlp([1, *[WIDTH] * DEPTH, 1], activation)
    eq.initialize(model, x, generator=torch.Generator().manual_seed(0))
    model = model.double()
    along = torch.linspace(-2, 2, 101, dtype=torch.float64)[:, None]
    with torch.no_grad():
        y = model(along)[:, 0]
        bend = (y[2:] - 2 * y[1:-1] + y[:-2]).abs().max() / (y[1:] - y[:-1]).abs().mean()
        hidden = preactivations(model, along)
    assert float(bend) < 1e-3
    for z in hidden:
        # Each pair is 0 at one point; of a line z(x) = a x + b that is -b / a.
        kinks = -z[50] / ((z[-1] - z[0]) / 4)
        pairs = kinks[: WIDTH // 2]
        assert kinks[WIDTH // 2 :].numpy() == pytest.approx(pairs.numpy(), abs=1e-3)
        assert float(pairs.std()) > 0.2


@pytest.mark.parametrize(("directions", "size"), [(1, 1), (2, 2), (2, 64), (8, 8), (10, 10)])
def test_the_spread_is_that_of_the_directions_in_which_inputs_vary(directions, size):
    x = rows(directions, size)
    model = mlp([size, *[WIDTH] * DEPTH, 1], nn.ReLU)
    plan = eq.plan(model, x)
    stds = spreads(model, x)
    assert len(stds) == DEPTH + 1
    assert stds[-1] == 0.0
    eq.initialize(model, x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = [z - z.mean(0) for z in preactivations(model, x)]
    held = [std / float(z.square().mean().sqrt()) for std, z in zip(stds, moved, strict=False)]
    # Median over layers of one draw.
    assert sorted(held)[DEPTH // 2] == pytest.approx(1 / math.sqrt(directions), rel=0.25)
    assert "kinks of pairs are spread by" in str(plan)
    # Of 400 rows in 8 or 10 directions the effective number is a little lower.
    assert f"vary in {directions} direction" in str(plan) or directions > 2


def test_what_cannot_or_need_not_be_spread_is_left_alone():
    def of(size, activation, **more):
        return mlp([size, *[WIDTH] * DEPTH, 1], activation), rows(min(size, 40), size), more

    no_bias = mlp([2, *[WIDTH] * DEPTH, 1], nn.ReLU)
    for layer in no_bias[2::2]:
        layer.bias = None
    mixed = mlp([2, *[WIDTH] * DEPTH, 1], nn.ReLU)
    mixed[3] = nn.Sigmoid()
    cases = {
        "many directions": of(64, nn.ReLU),
        "not a line": of(2, nn.Mish),
        "odd": of(2, nn.Tanh),
        "for derivatives": of(2, nn.GELU, for_derivatives=True),
        "no biases": (no_bias, rows(2, 2), {}),
        "another that rests elsewhere": (mixed, rows(2, 2), {}),
    }
    for name, (model, x, more) in cases.items():
        assert not any(spreads(model, x, **more)), name


def test_where_inputs_are_not_known_their_number_counts():
    assert spreads(mlp([1, *[WIDTH] * DEPTH, 1], nn.ReLU), None)[0] > 0
    assert not spreads(mlp([64, *[WIDTH] * DEPTH, 1], nn.ReLU), None)


def test_soft_bends_of_few_directions_get_signals_that_make_them_sharp():
    def levels(act, size, scale=1.0):
        x = scale * rows(size, size)
        model = mlp([size, *[WIDTH] * DEPTH, 1], act)
        plan = eq.plan(model, x)
        eq.initialize(model, x, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            seen = [float(z.square().mean().sqrt()) for z in preactivations(model, x)]
        told = [p.signal for p in plan.predictions]
        return np.median(seen), np.median(told[:-1]), float(model(x).detach().std())

    # Far enough out that slopes of a pair differ by .7: half the energy is that of the spread.
    seen, told, out = levels(nn.Softplus, 1)
    assert told == pytest.approx(math.sqrt(2) * 3.35, rel=0.1)
    assert seen == pytest.approx(told, rel=0.25)
    assert 0.3 < out < 3
    # A kink is sharp at any level, and inputs of eight directions are learnt from quiet signals.
    for act, size in ((nn.ReLU, 1), (nn.Softplus, 8)):
        energy = size / (WIDTH // 2) * (1 + 1 / size)
        assert levels(act, size)[1] == pytest.approx(math.sqrt(energy), rel=0.1)
