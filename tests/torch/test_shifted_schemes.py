"""Networks whose units are moved apart, by a shift or by a spread of pairs: lines at birth."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import PlanError
from equipoise.plan.aim import Aim
from equipoise.plan.entry import Inputs
from equipoise.plan.shifted_plan import plan_shifted, plan_spread
from equipoise.plan.stacks import find_stacks
from equipoise.schemes.laws import OffsetBias, SpreadBias
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(*shape, generator=seeded())


def mlp(act, widths):
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), act()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def laws(plan):
    return {a.parameter: a.law for a in plan.assignments}


@pytest.mark.parametrize("act", [nn.ReLU, lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(3.0)])
@pytest.mark.parametrize("widths", [(6, *[8] * 12, 6), (6, 16, 4, 16, 4, 6)])
def test_shifted_networks_are_lines_where_their_units_stay(act, widths):
    net = mlp(act, widths).double()
    x = data(256, 6).double()
    result = eq.initialize(net, x, "shifted(shift=6)", seeded())
    y = net(x)
    centre = net(torch.zeros(1, 6, dtype=torch.float64))
    np.testing.assert_allclose(
        (y + net(-x)).detach(), (2 * centre).detach().expand_as(y), atol=1e-10
    )
    inputs = x[:1].clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v)[0], inputs)[:, 0]
    singular = torch.linalg.svdvals(jacobian)
    kept = min(widths)
    torch.testing.assert_close(singular[:kept], singular[:1].expand(kept), atol=1e-10, rtol=1e-10)
    assert "6 RMS above 0" in result.plan.choice[0]
    for seen, expected in zip(result.measurements.layers, result.plan.predictions, strict=True):
        assert seen.signal == pytest.approx(expected.signal, rel=0.25), seen.layer


def test_a_shift_is_chosen_for_width_and_depth():
    shallow = eq.plan(mlp(nn.ReLU, (6, 8, 8, 6)), data(32, 6), "shifted")
    deep = eq.plan(mlp(nn.ReLU, (6, *[8] * 60, 6)), data(32, 6), "shifted")
    first, second = (laws(p)["0.bias"].level for p in (shallow, deep))
    assert isinstance(laws(deep)["2.bias"], OffsetBias)
    assert 1.0 < first < second
    assert "10.0% of Gaussian inputs" in deep.choice[0]


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus])
@pytest.mark.parametrize("widths", [(6, *[8] * 12, 6), (6, 9, 7, 9, 6)])
def test_spread_pairs_leave_the_network_linear(act, widths):
    x = data(64, 6).double()
    nets = []
    for scheme in ("mirrored", "mirrored(spread=1.5)"):
        net = mlp(act, widths).double()
        result = eq.initialize(net, x, scheme, seeded())
        nets.append(net(x).detach())
    np.testing.assert_allclose(nets[0], nets[1], atol=1e-9)
    assert isinstance(laws(result.plan)["2.bias"], SpreadBias)
    assert net[2].bias.detach().std() > 0.1
    assert "spread by 1.5 RMS" in result.plan.choice[0]


def test_what_is_moved_counts_as_signal():
    """A level of t RMS adds t^2 of the variance that was there, and so does a spread of t RMS."""
    net = mlp(nn.ReLU, (6, 8, 8, 6))
    (stack,) = find_stacks(trace(net, read_inputs(net, data(32, 6))))
    inputs = Inputs(1.0, np.zeros((0, 6)))
    shifted = plan_shifted(stack, 6.0, inputs, Aim())
    for signal, law in zip(shifted.signal[:-1], shifted.biases[:-1], strict=True):
        assert signal == pytest.approx(law.level * math.sqrt(1 + 1 / 36))
    spread = plan_spread(stack, 1.5, inputs, Aim())
    for signal, law in zip(spread.signal[:-1], spread.biases[:-1], strict=True):
        assert signal == pytest.approx(law.std * math.sqrt(1 + 1 / 1.5**2))


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.ELU, nn.SELU])
def test_units_of_any_gate_rest_where_they_are_steep_and_keep_all_directions(act):
    widths = (64, *[8] * 30, 10)
    net, x = mlp(act, widths).double(), data(256, 64).double()
    result = eq.initialize(net, x, "shifted", seeded())
    for seen, expected in zip(result.measurements.layers, result.plan.predictions, strict=True):
        assert seen.signal == pytest.approx(expected.signal, rel=0.3), seen.layer
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v)[0], x[:1])[:, 0]
    singular = torch.linalg.svdvals(jacobian)
    # Pairs would keep four of eight.
    assert singular[5] > 0.1 * singular[0]
    assert singular[8:].max() < 1e-6 * singular[0]
    net.zero_grad()
    net(x).square().mean().backward()
    grads = [float(layer.weight.grad.norm()) for layer in net if isinstance(layer, nn.Linear)]
    assert max(grads[:-1]) < 10 * min(grads[:-1])


def bias_laws(act, widths, x):
    net = mlp(act, widths)
    plan = eq.plan(net, x)
    return plan.choice[0], [laws(plan)[name] for name in laws(plan) if name.endswith("bias")]


def test_auto_lets_units_rest_where_pairs_would_hold_too_few_directions():
    many, few = data(256, 64), data(256, 2) @ data(2, 64)
    narrow, wide = [8] * 30, [16] * 30
    why, biases = bias_laws(nn.GELU, (64, *narrow, 10), many)
    assert "pairs would hold 4 of the" in why
    assert "1.41, where it is steepest" in why
    assert all(b.level > 0 for b in biases[:-1])
    why, biases = bias_laws(nn.ReLU, (64, *narrow, 10), many)
    assert "RMS above 0" in why
    assert all(isinstance(b, OffsetBias) and b.level > 0 for b in biases[:-1])
    # Enough pairs; inputs in few directions; few outputs.
    for widths, x in (((64, *wide, 10), many), ((64, *narrow, 10), few), ((64, *narrow, 2), many)):
        why, biases = bias_laws(nn.GELU, widths, x)
        assert "mirrored" in why
        assert not any(isinstance(b, OffsetBias) and b.level for b in biases)
    # Pairs of Mish are no lines, so it rests whatever the width.
    assert "pairs of mish are no lines" in bias_laws(nn.Mish, (64, *wide, 2), many)[0]


def test_auto_lets_units_rest_where_one_pair_would_have_a_sign_that_cannot_turn():
    inputs = data(256, 1)
    for width in (2, 3):
        why, biases = bias_laws(nn.GELU, (1, *[width] * 40, 1), inputs)
        assert "a single pair has one direction" in why
        assert all(isinstance(b, OffsetBias) and b.level > 0 for b in biases[:-1])
    # Two pairs can turn, and their kinks can be spread.
    why, biases = bias_laws(nn.LeakyReLU, (1, 4, *[5] * 38, 4, 1), inputs)
    assert "mirrored" in why
    assert any(isinstance(b, SpreadBias) for b in biases)


class Dropping(nn.Sequential):
    """A narrow deep network with dropout in front of each layer but the first."""

    def __init__(self):
        layers = [nn.Linear(64, 8)]
        for _ in range(30):
            layers += [nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 8)]
        super().__init__(*layers)


def test_units_do_not_rest_where_they_are_dropped_or_cannot_be_moved():
    """A dropped unit is 0, which is far from where it rests."""
    x = data(256, 64)
    assert "rest" not in eq.plan(Dropping(), x).choice[0]
    plan = eq.plan(mlp(nn.GELU, (64, *[8] * 30, 10)), x, for_derivatives=True)
    assert "rest" not in plan.choice[0]
    no_bias = nn.Sequential(
        nn.Linear(64, 8),
        *(layer for _ in range(30) for layer in (nn.GELU(), nn.Linear(8, 8, bias=False))),
    )
    assert "mirrored" in eq.plan(no_bias, x).choice[0]
    with pytest.raises(PlanError, match="shift must serve functions that are a line"):
        eq.plan(mlp(nn.GELU, (64, *[8] * 30, 10)), x, "shifted(shift=4)")
    with pytest.raises(PlanError, match="must be a line above 0, or steepest at another"):
        eq.plan(mlp(nn.ReLU6, (64, *[8] * 30, 10)), x, "shifted")
