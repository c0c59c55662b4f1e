"""Clipping of replicas by layer, by unit, and to what their gradients usually are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from equipoise import _checks


def layer_places(layers: Sequence[nn.Module]) -> torch.Tensor:
    """Number of the Linear layer that each parameter of a replica belongs to, shape (P,).

    >>> layer_places([nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)]).tolist()
    [0, 0, 0, 1, 1]
    """
    owners = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return torch.cat(
        [torch.full((sum(p.numel() for p in o.parameters()),), i) for i, o in enumerate(owners)]
    )


def unit_places(layers: Sequence[nn.Module]) -> torch.Tensor:
    """Number of the unit whose incoming weights, or bias, each parameter is, shape (P,).

    >>> unit_places([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)]).tolist()
    [0, 0, 1, 1, 0, 1, 2, 2, 2]
    """
    parts, units = [], 0
    for layer in layers:
        if isinstance(layer, nn.Linear):
            own = torch.arange(units, units + layer.out_features)
            parts += [own.repeat_interleave(layer.in_features), own]
            units += layer.out_features
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class PartClipping:
    """Each part of a replica's gradient is cut to a norm by itself.

    Attributes:
        limit: largest Euclidean norm of a part, positive.
        places: number of the part of each parameter, shape (P,).
    """

    limit: float
    places: torch.Tensor

    def __post_init__(self) -> None:
        _checks.positive("limit", self.limit)

    def cut(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient within its limits, shape (R, P)."""
        count = int(self.places.max()) + 1
        squares = gradient.new_zeros(len(gradient), count)
        squares.index_add_(1, self.places, gradient.square())
        factor = (self.limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        return gradient * factor[:, self.places]


@dataclass(frozen=True, eq=False)
class UsualClipping:
    """Each replica's gradient is cut to a quantile of the norms that it has had.

    The norm of this step is among them; one that is not finite is not kept. It remembers: make one
    for each training.

    Attributes:
        quantile: between 0 and 1.

    Source: Seetharaman et al. 2020, arXiv 2007.14469.
    """

    quantile: float
    _norms: list[torch.Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        _checks.in_unit_interval("quantile", self.quantile)

    def cut(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient within its limits, shape (R, P)."""
        norms = torch.linalg.vector_norm(gradient, dim=1)
        self._norms.append(torch.where(torch.isfinite(norms), norms, math.nan))
        limit = torch.nanquantile(torch.stack(self._norms), self.quantile, dim=0)
        factor = (limit / (norms + 1e-12)).clamp(max=1.0)
        return gradient * torch.nan_to_num(factor, nan=0.0)[:, None]
