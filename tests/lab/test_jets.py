"""Jets against nested reverse-mode derivatives, in float64."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.equation_models import FourierFeatures, Rescaled, Sloped
from equipoise.lab.jet_slopes import smooth
from equipoise.lab.jets import jets
from equipoise.lab.models import Arctan, Erf, Residual, Scaled, Sine, mlp

ACTIVATIONS = [
    nn.Tanh, nn.Sigmoid, Sine, Erf, Arctan, nn.SiLU, nn.GELU, partial(nn.Softplus, 2.0),
    nn.Identity,
]  # fmt: skip
WITH_SLOPES = [partial(Sloped, nn.Tanh(), 1.3), partial(Scaled, Arctan(), 1.7)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(rows, features, seed=1):
    return torch.rand(rows, features, generator=seeded(seed), dtype=torch.float64) * 2 - 1


def drawn(network, seed=2):
    generator = seeded(seed)
    for p in network.parameters():
        if p.ndim:
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.data /= math.sqrt(p.shape[-1])
    return network.double()


def nested(network, x, orders, directions=None):
    """One derivative of each output after another by reverse mode."""
    x = x.clone().requires_grad_()
    directions = torch.eye(x.shape[1], dtype=x.dtype) if directions is None else directions
    columns = []
    for output in network(x).unbind(1):
        value = output
        for axis, count in enumerate(orders):
            for _ in range(count):
                if not value.requires_grad:
                    value = torch.zeros(len(x), dtype=x.dtype)
                    continue
                (slope,) = torch.autograd.grad(
                    value.sum(), x, create_graph=True, materialize_grads=True
                )
                value = slope @ directions[axis]
        columns.append(value)
    return torch.stack(columns, 1)


def learning(network):
    return [p for p in network.parameters() if p.requires_grad]


def agree(network, x, wanted, directions=None):
    """Derivatives, and the gradient of a loss of all of them, agree to 1e-10."""
    parameters = learning(network)
    found = jets(network, x, wanted, directions)
    slow = {orders: nested(network, x, orders, directions) for orders in found}
    for orders, value in found.items():
        scale = max(1.0, float(slow[orders].detach().abs().max()))
        assert float((value - slow[orders]).detach().abs().max()) < 1e-10 * scale, orders
    losses = [sum((v.sin() * (i + 1)).mean() for i, v in enumerate(j.values()))
              for j in (found, slow)]  # fmt: skip
    fast, wanted_slopes = (
        torch.autograd.grad(v, parameters, materialize_grads=True) for v in losses
    )
    for a, b in zip(fast, wanted_slopes, strict=True):
        assert float((a - b).abs().max()) < 1e-10 * max(1.0, float(b.abs().max()))
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS + WITH_SLOPES)
def test_derivatives_and_gradients_are_those_of_nested_autograd(activation):
    network = drawn(mlp([2, 7, 5, 6, 2], activation))
    agree(network, points(9, 2), [(2, 0), (1, 1), (0, 2)])


@pytest.mark.parametrize("activation", ACTIVATIONS + WITH_SLOPES)
def test_third_and_fourth_derivatives(activation):
    network = drawn(mlp([2, 4, 4, 1], activation), 3)
    found = agree(network, points(5, 2), [(3, 0), (2, 1), (0, 4)])
    assert (0, 3) in found
    assert (2, 0) in found


def test_one_input_and_value_alone():
    network = drawn(mlp([1, 5, 5, 1], nn.Tanh))
    agree(network, points(6, 1), [(5,)])
    (value,) = jets(network, points(6, 1), []).values()
    assert torch.allclose(value, network(points(6, 1)), atol=1e-14, rtol=0)


def test_directions_other_than_the_axes():
    network = drawn(mlp([3, 6, 6, 1], nn.Tanh))
    directions = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], dtype=torch.float64)
    agree(network, points(6, 3), [(2, 1)], directions)


def test_features_scales_and_branches():
    branch = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6, bias=False))
    network = nn.Sequential(
        Rescaled((-1.0, 0.0), (3.0, 0.5)), FourierFeatures(2, 4, 1.5, seeded(5)), nn.Linear(8, 6),
        Sloped(nn.Sigmoid(), 2.0), Residual(branch, 0.7), Sine(), nn.Linear(6, 1),
    )  # fmt: skip
    agree(drawn(network), points(8, 2), [(2, 0), (1, 1), (0, 1)])


def test_a_module_that_is_no_smooth_activation_has_no_derivatives():
    assert smooth(nn.ReLU()) is None
    assert smooth(nn.GELU("tanh")) is None


@pytest.mark.parametrize("order", range(1, 8))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_of_every_order(activation, order):
    z = torch.linspace(-2, 2, 11, dtype=torch.float64).requires_grad_()
    module = activation()
    value = module(z)
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum(), z, create_graph=True, materialize_grads=True)
        if not value.requires_grad:
            value = value + 0 * z
    f = smooth(module)
    fast = f.slopes(z.detach(), f.value(z.detach()), order)
    assert len(fast) == order
    scale = max(1.0, float(value.detach().abs().max()))
    assert float((fast[-1] - value.detach()).abs().max()) < 1e-11 * scale


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: jets(net, x[0], [(1, 0)]), r"inputs must have shape \(rows, features\)"),
        (lambda net, x: jets(net, x, [(1,)]), "along each of 2 directions"),
        (lambda net, x: jets(net, x, [(-1, 0)]), "not negative"),
        (lambda net, x: jets(net, x, [(9, 0)]), "8 in all at most"),
        (lambda net, x: jets(net, x, [(1,)], x[:1, :1]), r"directions must have shape \(count, 2"),
        (lambda net, x: jets(mlp([2, 3, 1], nn.ReLU).double(), x, [(1, 0)]), r"got ReLU\(\)"),
        (lambda net, x: Rescaled((0.0,), (0.0,)), "upper must lie above lower"),
        (lambda net, x: Rescaled((0.0, 1.0), (1.0,)), "in each coordinate"),
        (lambda net, x: Sloped(nn.Tanh(), 0.0), "slope must be positive"),
        (lambda net, x: FourierFeatures(0, 1), "inputs must be an integer of at least 1"),
        (lambda net, x: FourierFeatures(1, 0), "count must be an integer of at least 1"),
        (lambda net, x: FourierFeatures(1, 1, -1.0), "bandwidth must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(drawn(mlp([2, 3, 1], nn.Tanh)), points(4, 2))
