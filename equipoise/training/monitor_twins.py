"""Weights that repeat each other, and the marks that a draw leaves on them."""

import math

import torch

from equipoise.training.gradient_norms import local

# Columns of a weight that are compared; equal weights that differ elsewhere are no accident.
_COLUMNS = 64
# Products with one vector are the same up to rounding; of two rows drawn apart hardly ever.
_SAME, _SAME_GRADIENT = 1e-6, 1e-5


def _ramp(length: int, device: torch.device) -> torch.Tensor:
    """A fixed vector that no weight knows of."""
    return torch.cos(torch.arange(length, device=device, dtype=torch.float32) * 1.7 + 0.3)


def _rows(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """One number for each unit: a part of what it reads, times a fixed vector."""
    units = local(tensor.detach()).movedim(axis, 0).flatten(1)
    units = units[:, :: max(1, units.shape[1] // _COLUMNS)].float()
    return (units * _ramp(units.shape[1], units.device)).sum(dim=1)


def twin_share(weight: torch.Tensor, gradient: torch.Tensor, axis: int) -> torch.Tensor:
    """Share of units with the weights and the gradient of another one: they never part.

    Weights of 0 are left out: they part at once wherever their gradients differ, and where those
    are the same 0 something else is at fault.

    Args:
        weight: at least two axes.
        gradient: of the same shape.
        axis: where its units lie.

    >>> w = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [0.0, 5.0]])
    >>> twin_share(w, torch.ones(4, 2), 0).item()
    0.25
    """
    numbers, slopes = _rows(weight, axis), _rows(gradient, axis)
    numbers, order = numbers.sort()
    slopes = slopes[order]
    same = (numbers.diff().abs() <= _SAME * numbers[1:].abs()) & (numbers[1:] != 0)
    same &= slopes.diff().abs() <= _SAME_GRADIENT * slopes.abs().amax()
    return same.sum() / len(numbers)


def mark(weight: torch.Tensor) -> torch.Tensor:
    """A number that two weights of one shape share only if they are the same; 0 for zeros.

    >>> bool(mark(torch.eye(3)) == mark(torch.eye(3)))
    True
    """
    flat = local(weight.detach()).reshape(-1).float()
    return (flat * _ramp(len(flat), flat.device)).sum()


def bound(weight: torch.Tensor) -> torch.Tensor:
    """Largest entry times sqrt(fan_in): just below 1 for torch's own draw of a layer.

    ``torch.nn.Linear`` and the convolutions draw uniformly within 1 / sqrt(fan_in).

    >>> bound(torch.tensor([[0.5, -0.25], [0.0, 0.5]])).item() < 1.0
    True
    """
    values = local(weight.detach())
    fan_in = math.prod(values.shape[1:])
    low, high = torch.aminmax(values.float())
    return torch.maximum(-low, high) * math.sqrt(fan_in)


def is_default(found: float, entries: int) -> bool:
    """Whether ``bound`` is what torch's own draw leaves: below 1, and hardly.

    The largest of n entries misses its bound by more than 8 / n once in 3,000 draws.

    >>> is_default(0.9995, 10_000), is_default(1.2, 10_000), is_default(0.5, 10_000)
    (True, False, False)
    """
    return entries >= 1000 and 1 - 8 / entries <= found <= 1 + 1e-6
