"""Softmax on the host whose empty rows are filled before they are kept.

torch keeps what it returns for the way back, so that an empty row, nan there, makes its gradient
nan. Filled before that, it has gradient 0.
"""

import math
from typing import Any

import torch

from equipoise.training.reading import can_read

Tensor = torch.Tensor


def filled_softmax(x: Tensor, dim: int, dtype: torch.dtype | None, *, is_log: bool) -> Tensor:
    """Softmax, or its logarithm, of logits that may be read; 0 or -inf in empty rows.

    >>> filled_softmax(torch.tensor([[0.0, 0.0], [-math.inf] * 2]), 1, None, is_log=False)
    tensor([[0.5000, 0.5000],
            [0.0000, 0.0000]])
    """
    rows: Tensor = _Filled.apply(x, dim, dtype, is_log)  # type: ignore[no-untyped-call]
    return rows


def empty_rows(x: Tensor, dim: int) -> Tensor:
    """Where every class is excluded; a row with nan is not among them. Shape without ``dim``."""
    # Of no classes there is no largest.
    if x.ndim and x.shape[dim] == 0:
        return x.detach().sum(dim) != 0
    return x.detach().amax(dim) == -math.inf


def has_nan(rows: Tensor, dim: int) -> bool:
    """Whether a row of a softmax that may be read is nan; such rows are nan throughout."""
    first = rows.detach() if rows.ndim == 0 or rows.numel() == 0 else rows.detach().select(dim, 0)
    return math.isnan(first.sum().item())


class _Filled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, dtype: torch.dtype | None, is_log: bool) -> Tensor:
        rows = torch.log_softmax(x, dim, dtype) if is_log else torch.softmax(x, dim, dtype)
        empty = empty_rows(x, dim).unsqueeze(dim)
        rows.masked_fill_(empty, -math.inf if is_log else 0.0)
        ctx.dim, ctx.is_log, ctx.kind = dim, is_log, x.dtype
        ctx.save_for_backward(rows, empty)
        ctx.save_for_forward(rows, empty)
        return rows

    @staticmethod
    def backward(ctx: Any, by_rows: Tensor) -> tuple[Tensor, None, None, None]:
        rows, empty = ctx.saved_tensors
        if torch.is_grad_enabled() or not can_read(by_rows):
            # To be differentiated once more, or for many losses at once.
            if ctx.is_log:
                found = by_rows - rows.exp() * by_rows.sum(ctx.dim, keepdim=True)
            else:
                found = (by_rows - (by_rows * rows).sum(ctx.dim, keepdim=True)) * rows
        elif ctx.is_log:
            found = torch._log_softmax_backward_data(by_rows, rows, ctx.dim, rows.dtype)
        else:
            found = torch._softmax_backward_data(by_rows, rows, ctx.dim, rows.dtype)
        if ctx.is_log:
            found = found.masked_fill(empty, 0.0)
        return found.to(ctx.kind), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        rows, empty = ctx.saved_tensors
        moved = tangent.to(rows.dtype)
        shares = rows.exp() if ctx.is_log else rows
        away = moved - (shares * moved).sum(ctx.dim, keepdim=True)
        found: Tensor = away if ctx.is_log else shares * away
        return found.masked_fill(empty, 0.0)
