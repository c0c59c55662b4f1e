"""Weights that balance the terms of an equation's loss at birth."""

import torch
from torch import nn

from equipoise import _checks
from equipoise.lab.equation import INSIDE, EquationLoss

# Beyond, one term would hide the other, whatever their gradients at birth.
_MOST = 100.0


def balanced_weights(
    network: nn.Module, loss: EquationLoss, most: float = _MOST
) -> dict[str, float]:
    """Weights at which every term pulls as hard as the residual when training starts.

    A term's weight is |gradient of the residual's mean square| over |gradient of its own|, at least
    1, so that given values are never heeded less than the plain sum does.

    Args:
        network: as it starts.
        loss: of the equation; its own weights are not read.
        most: largest weight, at least 1.

    Returns:
        Weights by the name of a term, that of the residual 1.

    Source: the idea of Wang, Teng and Perdikaris 2020, arXiv 2001.04536, who follow such a ratio
    while training.

    >>> from equipoise.lab.equations import poisson
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    >>> sorted(balanced_weights(net, EquationLoss(poisson(), poisson().points(20, 1, seed=0))))
    ['edges', 'residual']
    """
    _checks.positive("most", most)
    parameters = [p for p in network.parameters() if p.requires_grad]
    pulls = {}
    for name, term in loss.terms(network).items():
        slopes = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        pulls[name] = float(torch.sqrt(sum((s.square().sum() for s in slopes), torch.zeros(()))))
    return {
        name: 1.0 if name == INSIDE else min(most, max(1.0, pulls[INSIDE] / pull)) if pull else most
        for name, pull in pulls.items()
    }
