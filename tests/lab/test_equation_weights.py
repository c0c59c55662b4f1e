"""Weights of the terms of a loss against gradients taken one by one."""

import math

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.equation import EquationLoss
from equipoise.lab.equation_weights import balanced_weights
from equipoise.lab.equations import helmholtz, poisson
from equipoise.lab.models import mlp


def network(inputs, seed=0):
    made = mlp([inputs, 8, 8, 1], nn.Tanh).double()
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / math.sqrt(8)
    return made


def pull(net, loss, name):
    for p in net.parameters():
        p.grad = None
    loss.terms(net)[name].backward()
    squares = [p.grad.square().sum() for p in net.parameters() if p.grad is not None]
    return math.sqrt(float(sum(squares)))


def test_terms_pull_alike_with_the_weights_that_are_advised():
    equation, net = poisson(), network(1)
    loss = EquationLoss(equation, equation.points(30, 1, 0))
    ratio = pull(net, loss, "residual") / pull(net, loss, "edges")
    assert ratio > 1
    found = balanced_weights(net, loss, most=1e6)
    assert found["residual"] == 1.0
    assert found["edges"] == pytest.approx(ratio, rel=1e-9)
    # Weights that the loss has do not matter.
    weighted = EquationLoss(equation, equation.points(30, 1, 0), {"edges": 7.0})
    assert balanced_weights(net, weighted, most=1e6) == pytest.approx(found)


def test_weights_have_bounds():
    equation, net = helmholtz(), network(2)
    loss = EquationLoss(equation, equation.points(30, 5, 0))
    assert balanced_weights(net, loss, most=3.0)["edges"] == 3.0
    flat = network(1)
    with torch.no_grad():
        for p in flat.parameters():
            p.zero_()
    # Nothing moves the values at the ends, where sin(w x) is 0 and so is u.
    at_rest = EquationLoss(poisson(), poisson().points(30, 1, 0))
    assert balanced_weights(flat, at_rest, most=9.0)["edges"] <= 9.0
    with pytest.raises(ArgumentError, match="most must be positive"):
        balanced_weights(net, loss, most=0.0)
