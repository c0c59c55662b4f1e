"""Statistics of one tensor, taken where it is and left there. Nothing here asks for a number."""

import math

import torch

_HALVES = (torch.float16, torch.bfloat16)
# Rows, and units of each, that means, shares and ranks are read from.
ROWS, UNITS = 64, 128


def sum_of_squares(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of squares of all entries, float32 or float64; not finite if any entry is not.

    It overflows beyond 1e19 in float32: such a signal is lost as well.

    >>> sum_of_squares(torch.tensor([3.0, 4.0])).item()
    25.0
    """
    values = tensor.detach()
    if values.dtype in (torch.float32, torch.float64) and values.is_contiguous():
        flat = values.view(-1)
        # Twice as fast on the CPU as a norm.
        return torch.dot(flat, flat) if flat.numel() else flat.sum()
    wide = torch.float32 if values.dtype in _HALVES else None
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=wide)
    return norm.square()


def largest(tensor: torch.Tensor) -> torch.Tensor:
    """Largest absolute entry, in float32 for tensors in half precision.

    >>> largest(torch.tensor([-3.0, 2.0])).item()
    3.0
    """
    low, high = torch.aminmax(tensor.detach())
    return torch.maximum(-low, high).float()


def sampled_rows(tensor: torch.Tensor, unit_axis: int, rows: int = ROWS) -> torch.Tensor:
    """Evenly spaced rows and units, a copy of shape (at most rows, at most 128).

    A row is an input, or one site of it. As many inputs as possible are kept and sites thinned out
    first; steps begin in the middle, since borders of images are unlike the rest.

    Args:
        tensor: any shape, at least one axis.
        unit_axis: where its units lie.
        rows: at most so many.

    >>> sampled_rows(torch.zeros(8, 3, 32, 32), 1).shape
    torch.Size([64, 3])
    """
    moved = tensor.detach().movedim(unit_axis, -1)
    total = math.prod(moved.shape[:-1])
    for axis in reversed(range(moved.dim() - 1)):
        if total <= rows:
            break
        size = moved.shape[axis]
        kept = max(1, rows * size // total)
        step = size // kept
        begin = (size - 1 - (kept - 1) * step) // 2
        moved = moved.narrow(axis, begin, (kept - 1) * step + 1)
        moved = moved[(slice(None),) * axis + (slice(None, None, step),)]
        total = total // size * kept
    units = moved.shape[-1]
    moved = moved[..., :: max(1, -(-units // UNITS))]
    # A copy: what follows may write in place.
    return moved.reshape(-1, moved.shape[-1]).to(torch.float32, copy=True)


def participation(rows: torch.Tensor) -> torch.Tensor:
    """Effective rank of rows of shape (..., n, units): (sum of eigenvalues)^2 / sum of squares.

    Of the covariance over units, from 1 to min(n - 1, units); nan for rows that are all alike.
    The two sums are the trace and the squared Frobenius norm, so that no spectrum is needed.

    >>> participation(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).item()
    2.0
    """
    centred = rows - rows.mean(dim=-2, keepdim=True)
    # Squares of squares must stay in range.
    centred = centred / centred.abs().amax(dim=(-2, -1), keepdim=True)
    is_wide = rows.shape[-2] <= rows.shape[-1]
    gram = centred @ centred.mT if is_wide else centred.mT @ centred
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1).square() / gram.square().sum(dim=(-2, -1))


def silent(tensor: torch.Tensor, unit_axis: int, is_one_sided: bool) -> torch.Tensor:
    """Which units are 0 on the whole batch, shape (units,), 1 for those that are, else 0.

    Args:
        tensor: what an activation gave.
        unit_axis: where its units lie.
        is_one_sided: whether no entry is negative.

    >>> silent(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 1, True).tolist()
    [1, 0]
    """
    values = tensor.detach()
    axes = [i for i in range(values.dim()) if i != unit_axis % values.dim()]
    if not axes:
        return (values == 0).int()
    if is_one_sided:
        return (values.amax(dim=axes) == 0).int()
    return ((values.amax(dim=axes) == 0) & (values.amin(dim=axes) == 0)).int()
