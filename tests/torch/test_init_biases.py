"""Weights that are filled together with their biases: what rests where, and what stays linear."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from equipoise.torch import init


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def layers_of(*widths):
    return [nn.Linear(a, b).double() for a, b in pairwise(widths)]


def run(layers, gate, x):
    for layer in layers[:-1]:
        x = gate(layer(x))
    return layers[-1](x)


def jacobian(layers, gate, x):
    return torch.autograd.functional.jacobian(lambda v: run(layers, gate, v), x)


def fill_shifted(layers, shift, gate):
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        init.shifted_(
            layer.weight, layer.bias, shift, gate, rows=not last, columns=i > 0, generator=seeded(i)
        )


@pytest.mark.parametrize("gate", [nn.ReLU(), nn.LeakyReLU(0.1), nn.ReLU6()])
def test_shifted_layers_are_one_orthogonal_map_forward_and_backward(gate):
    layers = layers_of(*[8] * 11)
    shift = 3.0
    fill_shifted(layers, shift, gate)
    x = torch.rand(64, 8, generator=seeded(), dtype=torch.float64) - 0.5
    x.requires_grad_()
    y = run(layers, gate, x)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1))
    v = torch.randn(y.shape, generator=seeded(9), dtype=torch.float64)
    (back,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(back.square().sum(1), v.square().sum(1))
    # At full rank, which no pairs of units have.
    assert torch.linalg.matrix_rank(jacobian(layers, gate, x[0].detach())) == 8


@pytest.mark.parametrize(("fan_in", "fan_out"), [(64, 256), (256, 64)])
def test_shifted_units_rest_where_they_are_meant_to(fan_in, fan_out):
    layer = nn.Linear(fan_in, fan_out)
    init.shifted_(layer.weight, layer.bias, 2.0, nn.Softplus(), generator=seeded())
    at_rest = nn.functional.softplus(torch.full((1, fan_in), 2.0))
    torch.testing.assert_close(layer(at_rest), torch.full((1, fan_out), 2.0), atol=2e-5, rtol=0)
    # W is orthogonal over f'(c), the logistic function at 2.
    values = torch.linalg.svdvals(layer.weight.detach())
    torch.testing.assert_close(
        values, torch.full_like(values, 1.0 / torch.sigmoid(torch.tensor(2.0)))
    )


@pytest.mark.parametrize("gate", [nn.ReLU(), nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize("width", [16, 17])
def test_spread_pairs_leave_the_network_linear_forward_and_backward(gate, width):
    layers = layers_of(8, *[width] * 6, 8)
    rest = torch.zeros(8, dtype=torch.float64)
    for i, layer in enumerate(layers):
        last = i == len(layers) - 1
        init.mirrored_spread_(
            layer.weight, layer.bias, rest, 1.5, rows=not last, columns=i > 0, generator=seeded(i)
        )
        rest = gate(layer(rest)).detach()
        moved = layer(torch.zeros_like(layer.weight[0])) if i == 0 else None
        if moved is not None:
            half = width // 2
            torch.testing.assert_close(moved[:half], -moved[half : 2 * half])
            assert 0.3 < float(moved[:half].detach().std()) < 3.0
    x = torch.randn(32, 8, generator=seeded(), dtype=torch.float64, requires_grad=True)
    y = run(layers, gate, x)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1), rtol=1e-5, atol=1e-6)
    v = torch.randn(y.shape, generator=seeded(9), dtype=torch.float64)
    (back,) = torch.autograd.grad(y, x, v)
    torch.testing.assert_close(back.square().sum(1), v.square().sum(1), rtol=1e-5, atol=1e-6)


def test_without_spread_pairs_are_those_of_mirrored():
    w, bias = torch.empty(6, 6), torch.ones(6)
    init.mirrored_spread_(w, bias, spread=0.0, generator=seeded())
    assert torch.equal(w, init.mirrored_(torch.empty(6, 6), generator=seeded()))
    assert not bias.any()


def test_on_the_meta_device_nothing_is_written():
    w, bias = torch.empty(4, 4, device="meta"), torch.empty(4, device="meta")
    assert init.shifted_(w, bias) is w
    assert init.mirrored_spread_(w, bias) is w
