"""Where auto lets units rest: on a line, where they are steepest, at 0."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.models import mlp
from equipoise.torch.apply import draw_all


def rows(size, count=400):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def choice(model, x):
    return eq.plan(model, x).choice[0]


@pytest.mark.parametrize("act", [nn.ELU, nn.SELU, nn.CELU])
def test_units_beside_a_line_rest_on_it_where_layers_hold_few_of_many_directions(act):
    x = rows(64)
    said = choice(mlp([64, *[4] * 30, 10], act), x)
    assert said.split(":")[1].strip().startswith("shifted, since layers hold 4 of the")
    assert "too few to bend from the start" in said
    # Half of what is wanted is enough, by directions or by outputs.
    for net, inputs in (
        (mlp([64, *[5] * 30, 10], act), x),
        (mlp([64, *[4] * 30, 8], act), x),
        (mlp([3, *[4] * 30, 10], act), rows(3)),
    ):
        assert "centred orthogonal" in choice(net, inputs)


def test_such_a_stack_is_a_line_at_full_rank_with_gradients_of_one_size():
    net, x = mlp([64, *[4] * 30, 10], nn.ELU), rows(64)
    plan = eq.plan(net, x)
    net.load_state_dict(draw_all(net, plan, 0), strict=False)
    y = net(x)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    line = torch.linalg.lstsq(ones, y.detach()).solution
    missed = y.detach() - ones @ line
    assert float(missed.square().mean()) < 0.02 * float(y.detach().var(0).mean())
    values = torch.linalg.svdvals(line[:-1])
    assert float(values[3]) > 0.05 * float(values[0])
    y.square().mean().backward()
    grads = [float(m.weight.grad.norm()) for m in net if isinstance(m, nn.Linear)]
    assert max(grads[1:-1]) < 10 * min(grads[1:-1])


@pytest.mark.parametrize("size", [1, 2, 12])
def test_mish_is_centred_at_0_for_few_directions_and_rests_where_it_is_steepest_for_many(size):
    few = choice(mlp([size, *[32] * 40, 1], nn.Mish), rows(size))
    assert "centred orthogonal" in few
    assert "pairs of mish are no lines, and where it is steepest it is nearly odd" in few
    assert "biases of the first layer are as loud as the inputs" in few
    many = choice(mlp([32, *[32] * 40, 1], nn.Mish), rows(32))
    assert "shifted, since pairs of mish are no lines" in many


def test_units_that_cannot_be_moved_stay():
    x = rows(64)
    no_bias = mlp([64, *[4] * 30, 10], nn.ELU)
    no_bias[4].bias = None
    mixed = mlp([64, *[4] * 30, 10], nn.ELU)
    mixed[5] = nn.Tanh()
    dropped = nn.Sequential(nn.Linear(64, 4), nn.ELU(), nn.Dropout(0.2), nn.Linear(4, 4), nn.ELU(),
                            nn.Linear(4, 10))  # fmt: skip
    for net in (no_bias, mixed, dropped):
        assert "shifted" not in choice(net, x)
