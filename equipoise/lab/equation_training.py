"""Training on an equation as the field does it: Adam on all points, then L-BFGS-B of scipy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from equipoise import _checks
from equipoise.lab.equation import EquationLoss

# scipy's own default ends a line search after 20 evaluations; steep valleys want a few more.
_LINE_SEARCH = 50


@dataclass(frozen=True)
class Descent:
    """How long to train.

    Attributes:
        steps: of Adam on all points.
        rate: of Adam.
        iterations: of L-BFGS-B, at most.
        corrections: that it keeps.
    """

    steps: int = 300
    rate: float = 1e-3
    iterations: int = 300
    corrections: int = 50

    def __post_init__(self) -> None:
        _checks.at_least("steps", self.steps, 0)
        _checks.positive("rate", self.rate)
        _checks.at_least("iterations", self.iterations, 0)
        _checks.at_least("corrections", self.corrections, 1)


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        losses: with all weights 1, after Adam's steps and then after each iteration, by the number
            of evaluations made until then.
        evaluations: those numbers.
        terms: mean squares at the end by name, without weights.
        stopped: why L-BFGS-B ended.
    """

    losses: tuple[float, ...]
    evaluations: tuple[int, ...]
    terms: dict[str, float]
    stopped: str

    @property
    def loss(self) -> float:
        """The loss at the end, all weights 1."""
        return math.fsum(self.terms.values())


def solve_(network: nn.Module, loss: EquationLoss, descent: Descent) -> Trained:
    """Train a network in place.

    Args:
        network: with parameters of float64.
        loss: of the equation.
        descent: how long.

    Returns:
        Losses by the number of evaluations of loss and gradient.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    counted = 0
    history: list[tuple[int, float]] = []
    last: dict[str, float] = {}

    def evaluate() -> torch.Tensor:
        nonlocal counted, last
        for p in parameters:
            p.grad = None
        terms = loss.terms(network)
        total = loss.weighted(terms)
        total.backward()  # type: ignore[no-untyped-call]
        counted += 1
        last = {name: float(t.detach()) for name, t in terms.items()}
        return total.detach()

    adam = torch.optim.Adam(parameters, lr=descent.rate)
    for _ in range(descent.steps):
        evaluate()
        history.append((counted, math.fsum(last.values())))
        adam.step()

    def value_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(weights.copy()), parameters)
        total = evaluate()
        slope = torch.cat([torch.zeros_like(p).ravel() if p.grad is None else p.grad.ravel()
                           for p in parameters])  # fmt: skip
        return float(total), slope.numpy()

    stopped = "no iterations were asked for"
    if descent.iterations:
        start = parameters_to_vector(parameters).detach().numpy().copy()
        found = minimize(
            value_and_slope, start, jac=True, method="L-BFGS-B",
            callback=lambda _: history.append((counted, math.fsum(last.values()))),
            options={
                "maxcor": descent.corrections, "maxiter": descent.iterations, "maxls": _LINE_SEARCH,
                "maxfun": 50 * descent.iterations, "ftol": np.finfo(float).eps, "gtol": 1e-9,
            },
        )  # fmt: skip
        vector_to_parameters(torch.from_numpy(found.x.copy()), parameters)
        stopped = str(found.message)
    with torch.no_grad():
        last = {name: float(t) for name, t in loss.terms(network).items()}
    history.append((counted, math.fsum(last.values())))
    return Trained(
        tuple(value for _, value in history), tuple(at for at, _ in history), last, stopped
    )
