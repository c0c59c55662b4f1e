"""The program without a graph against the modules themselves, forward and back."""

import pytest
import torch
from torch import nn

from equipoise.lab.dense import DenseProgram
from equipoise.lab.models import Arctan, Bump, Erf, Scaled, Sine, mlp, residual_mlp
from equipoise.lab.pointwise import pointwise

REPLICAS, ROWS = 5, 7
IMAGE_ROWS = 6
ACTIVATIONS = [
    nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.LeakyReLU(0.1), nn.SiLU(), nn.GELU(),
    nn.GELU(approximate="tanh"), nn.ELU(0.7), nn.Softplus(2.0, 5.0), nn.Mish(), nn.Softsign(),
    nn.SELU(), nn.Hardswish(), Arctan(), Erf(), Sine(), Sine(3.0),
    Bump(0.7), Scaled(nn.Tanh(), 2.5), Scaled(nn.Softsign(), 0.4),
    nn.ReLU(inplace=True),
]  # fmt: skip
NETWORKS = {
    "two units": (mlp([2, 2, 2, 2, 1], nn.Tanh), True),
    "one unit in": (mlp([1, 3, 4], nn.ReLU), True),
    "wide": (mlp([5, 16, 9, 3], nn.GELU), False),
    "narrow blocks": (residual_mlp(3, 4, 3, 2, nn.SiLU), True),
    "wide blocks": (residual_mlp(3, 8, 2, 2, nn.Mish), False),
    "function first": (nn.Sequential(nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), True),
    "linear": (nn.Sequential(nn.Linear(6, 2)), False),
    "rows": (
        nn.Sequential(
            nn.Linear(5, 7),
            nn.Tanh(),
            nn.Linear(7, 3),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(3 * IMAGE_ROWS, 8),
            nn.SiLU(),
            nn.Linear(8, 4),
        ),
        False,
    ),
    "rows, blocks of few units": (
        nn.Sequential(
            *residual_mlp(4, 3, 2, 2, nn.Tanh), nn.Flatten(), nn.Linear(2 * IMAGE_ROWS, 3)
        ),
        False,
    ),
}


def drawn(network, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    count = sum(p.numel() for p in network.parameters())
    weights = torch.randn(REPLICAS, count, generator=generator, dtype=dtype) * 0.5
    features = next(m for m in network.modules() if isinstance(m, nn.Linear)).in_features
    has_rows = any(isinstance(m, nn.Flatten) for m in network)
    shape = (IMAGE_ROWS, features) if has_rows else (features,)
    x = torch.randn(REPLICAS, ROWS, *shape, generator=generator, dtype=dtype)
    return weights.requires_grad_(), x


def alone(network, weights, x):
    parameters, start = {}, 0
    for name, p in network.named_parameters():
        parameters[name] = weights[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return torch.func.functional_call(network, parameters, (x,))


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_modules(name):
    network, is_unrolled = NETWORKS[name]
    weights, x = drawn(network)
    program = DenseProgram(tuple(network))
    assert program.is_unrolled == is_unrolled
    assert program.size == weights.shape[1]
    made = program(weights, x)
    cotangent = torch.randn_like(made)
    (gradient,) = torch.autograd.grad(made, weights, cotangent)
    expected = torch.stack([alone(network, w, r) for w, r in zip(weights, x, strict=True)])
    (wanted,) = torch.autograd.grad(expected, weights, cotangent)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-12)
    shared = program(weights, x[0])
    torch.testing.assert_close(shared[0], made[0], rtol=1e-12, atol=1e-12)


def test_there_is_one_derivative():
    network, _ = NETWORKS["wide"]
    weights, x = drawn(network)
    made = DenseProgram(tuple(network))(weights, x).square().sum()
    (gradient,) = torch.autograd.grad(made, weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not have been used|once"):
        torch.autograd.grad(gradient.sum(), weights)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=repr)
def test_pairs_are_functions_and_their_slopes(module):
    z = torch.linspace(-4, 4, 101, dtype=torch.float64)
    pair = pointwise(module)
    h, kept = pair.forward(z.clone())
    leaf = z.clone().requires_grad_()
    expected = module(leaf.clone())
    torch.testing.assert_close(h, expected.detach())
    gradient = torch.linspace(1, 2, 101, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(expected, leaf, gradient)
    torch.testing.assert_close(pair.backward(gradient, kept), wanted)
