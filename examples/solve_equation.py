"""A deep tanh network that solves an equation, started for its derivatives.

    python examples/solve_equation.py

Derivatives are carried forward with the values (``equipoise.lab.jets``), so that the loss has one
ordinary backward pass. The start puts u and its slopes on one scale all over the domain.
"""

import torch
from torch import nn

import equipoise.torch as eq
from equipoise.lab.equation import EquationLoss, relative_error
from equipoise.lab.equation_training import Descent, solve_
from equipoise.lab.equation_weights import balanced_weights
from equipoise.lab.equations import poisson
from equipoise.lab.models import mlp


def main() -> None:
    equation = poisson(frequency=2.0)
    points = equation.points(inside=100, on_edge=1, seed=0)
    network = mlp([1, *[16] * 10, 1], nn.Tanh).double()
    generator = torch.Generator().manual_seed(0)
    report = eq.initialize(network, points.all, for_derivatives=True, generator=generator)
    print(report.plan.choice[0])

    plain = EquationLoss(equation, points)
    loss = EquationLoss(equation, points, balanced_weights(network, plain))
    print("weights of the terms:", {name: round(w, 1) for name, w in loss.weights.items()})
    trained = solve_(network, loss, Descent(steps=100, iterations=100))
    at, _ = equation.grid(201)
    print(
        f"{trained.evaluations[-1]} evaluations: loss {trained.loss:.1e}, relative error "
        f"{relative_error(network, at, equation.reference(at)):.1e}"
    )


if __name__ == "__main__":
    main()
