"""What a network of one input and rectifiers has made of the line: pieces, and what is left of it.

A trained network of one input that failed is one of three: silent (its output hardly varies),
straight (no unit bends inside the data, so that it is a line whatever it learns), or bent.
"""

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas


def line_pieces(replicas: Replicas, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear pieces of each replica on its inputs, and what its last hidden layer knows of them.

    Args:
        replicas: networks of one input with Linear layers and leaky ReLUs or ReLUs between them.
        x: inputs, shape (rows, 1) for all replicas, or (R, rows, 1).

    Returns:
        Number of pieces, shape (R,), int64: one more than the places between neighbouring inputs
        where any unit of any layer changes sides. And the share of the inputs' variance that the
        best linear function of the last hidden layer explains, shape (R,): 1 where that layer is
        the line itself, 0 where nothing of it is left.

    Raises:
        ArgumentError: if the networks have another activation, or more inputs than one.

    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = net[0].weight.data.fill_(1.0), net[0].bias.data.copy_(torch.tensor([0.0, -1.0]))
    >>> pieces, known = line_pieces(Replicas.of([net]), torch.linspace(-2, 2, 101)[:, None])
    >>> pieces.tolist()
    [3]
    """
    has_kinks = all(isinstance(m, nn.Linear | nn.LeakyReLU | nn.ReLU) for m in replicas.layers)
    first = replicas.layers[0]
    if not has_kinks or not isinstance(first, nn.Linear) or first.in_features != 1:
        raise ArgumentError(
            "replicas must be networks of one input with Linear layers and leaky ReLUs or ReLUs, "
            f"got {replicas.layers}. Count no pieces of others."
        )
    count = len(replicas.parameters)
    rows = x.expand(count, *x.shape[-2:]).sort(dim=1).values
    values, place = rows.double(), 0
    weights = replicas.parameters.double()
    crossings = torch.zeros(count, rows.shape[1] - 1, dtype=torch.bool)
    hidden = values
    for layer in replicas.layers:
        if isinstance(layer, nn.Linear):
            size = layer.in_features * layer.out_features
            weight = weights[:, place : place + size].view(count, layer.out_features, -1)
            bias = weights[:, place + size : place + size + layer.out_features]
            place += size + layer.out_features
            hidden = values
            values = values @ weight.transpose(1, 2) + bias[:, None]
        else:
            sides = values > 0
            crossings |= (sides[:, 1:] != sides[:, :-1]).any(2)
            values = layer(values)
    return crossings.sum(1) + 1, _explained(rows.double(), hidden)


def _explained(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Share of the variance of x, (R, rows, 1), that a linear function of h, (R, rows, n), has."""
    x, h = x - x.mean(1, keepdim=True), h - h.mean(1, keepdim=True)
    # Each unit to variance 1: what has faded to 1e-20 may still know everything.
    size = h.square().mean(1, keepdim=True).sqrt()
    h = torch.where(size > 0, h / size, 0.0)
    h = torch.nan_to_num(h, nan=0.0, posinf=0.0, neginf=0.0)
    basis, singular, _ = torch.linalg.svd(h, full_matrices=False)
    basis = basis * (singular > 1e-9 * singular.amax(1, keepdim=True).clamp(min=1e-30))[:, None]
    found: torch.Tensor = (basis.transpose(1, 2) @ x).square().sum((1, 2))
    return found / x.square().sum((1, 2))
