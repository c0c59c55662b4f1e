"""Cross entropy of large inputs on the host, a few rows at a time, forward and backward.

A few rows stay in the processor's cache from one operation to the next. Kept for the way back are
the logits themselves and nothing else of their size: torch keeps their logarithms, and for half and
bfloat16 in float32 the logits once more. Rows are computed in float32 at least and rounded once.

Nothing here goes wrong on what torch's function has no answer for, so that no second pass is needed
where such rows are found.
"""

from typing import Any

import torch

from equipoise.training.careful_cross_entropy import loss_of_picked
from equipoise.training.reading import can_read
from equipoise.training.reduction import Reduction, is_finite, reduced, wide

Tensor = torch.Tensor

# Logits up to which torch's function, which reads the whole input from one operation to the next,
# is the faster: they stay in the cache as a whole.
FEW = 2**19
# Logits that are taken at once: 1 MiB in float32.
AT_ONCE = 2**18
# Classes from which on torch's softmax of a whole row at once is worth it on the way back.
LEAST_CLASSES = 64


def is_for_chunks(x: Tensor, target: Tensor, smoothing: float) -> bool:
    """Whether ``chunked_cross_entropy`` takes these, and is the faster."""
    # The order matters: a compiler must not get to see, and to guard, the number of logits.
    if not can_read(x) or target.is_floating_point() or smoothing != 0:
        return False
    return x.ndim == 2 and x.numel() > FEW and x.shape[1] >= LEAST_CLASSES


def chunked_cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignored: int,
    reduction: Reduction,
    z_loss: float,
) -> Tensor:
    """Loss in float32 at least, of logits of shape (N, C) that may be read and classes, int64."""
    is_ignored = target == ignored
    has_ignored = bool(is_ignored.any())
    index = target.masked_fill(is_ignored, 0) if has_ignored else target
    picked: Tensor
    picked, partition, empty = _LogShares.apply(x, index, z_loss != 0)  # type: ignore[no-untyped-call]
    if weight is None and not has_ignored and is_finite(picked) and not empty.numel():
        rows = -picked if not z_loss else z_loss * partition.square() - picked
        return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.mean()
    counts = ~is_ignored.index_fill(0, empty, True)
    share = torch.ones_like(picked) if weight is None else weight[index]
    at = x.detach().gather(1, index.unsqueeze(1)).squeeze(1)
    loss, impossible = loss_of_picked(picked, at, share)
    loss = torch.where(impossible, loss.detach(), loss)
    loss = reduced(loss.masked_fill(~counts, 0.0), share.masked_fill(~counts, 0.0), reduction)
    if z_loss:
        square = partition.square().masked_fill(~counts, 0.0)
        loss = loss + z_loss * reduced(square, counts.to(square.dtype), reduction)
    return loss


class _LogShares(torch.autograd.Function):
    """Logarithms of the shares of chosen classes, those of the partition functions, empty rows.

    Empty rows have 0 for both, and gradient 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, wants_partition: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        chosen, sums = list[Tensor](), list[Tensor]()
        count = _rows_at_once(x)
        logits, logs = _rooms(x, count)
        parts = (torch.split(tensor, count) for tensor in (x, index.unsqueeze(1)))
        for rows, at in zip(*parts, strict=True):
            if len(rows) < len(logs):
                logits, logs = logits[: len(rows)], logs[: len(rows)]
            torch.log_softmax(_widened(rows, logits), 1, out=logs)
            chosen.append(logs.gather(1, at))
            if wants_partition:
                sums.append(rows.amax(1) - logs.amax(1))
        picked = torch.cat(chosen).squeeze(1)
        partition = torch.cat(sums) if wants_partition else None
        empty = index[:0]
        if not is_finite(picked):
            odd = (~picked.isfinite()).nonzero().squeeze(1)
            empty = odd[x[odd].amax(1) == -torch.inf]
            picked[empty] = 0.0
            if partition is not None:
                partition[empty] = 0.0
        ctx.save_for_backward(x, index, empty)
        ctx.save_for_forward(x, index, empty)
        ctx.mark_non_differentiable(empty)
        return picked, partition, empty

    @staticmethod
    def backward(
        ctx: Any, by_picked: Tensor, by_partition: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor, None, None]:
        x, index, empty = ctx.saved_tensors
        of_chosen = by_picked.unsqueeze(1)
        of_all = -of_chosen if by_partition is None else by_partition.unsqueeze(1) - of_chosen
        at = index.unsqueeze(1)
        if torch.is_grad_enabled() or not can_read(by_picked):
            # To be differentiated once more, or for many losses at once.
            logits = wide(x).index_fill(0, empty, 0.0)
            whole = (logits.softmax(1) * of_all).scatter_add(1, at, of_chosen)
            return whole.index_fill(0, empty, 0.0).to(x.dtype), None, None
        gradient = torch.empty_like(x, memory_format=torch.contiguous_format)
        is_wide = x.dtype is of_all.dtype
        count = _rows_at_once(x)
        logits, shares = _rooms(x, 0 if is_wide else count)
        parts = (torch.split(tensor, count) for tensor in (x, gradient, at, of_chosen, of_all))
        for rows, out, places, ones, every in zip(*parts, strict=True):
            if is_wide:
                torch.softmax(rows, 1, out=out).mul_(every).scatter_add_(1, places, ones)
                continue
            if len(rows) < len(shares):
                logits, shares = logits[: len(rows)], shares[: len(rows)]
            torch.softmax(_widened(rows, logits), 1, out=shares)
            out.copy_(shares.mul_(every).scatter_add_(1, places, ones))
        return gradient.index_fill_(0, empty, 0.0), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, Tensor, None]:
        x, index, empty = ctx.saved_tensors
        moved = wide(tangent).index_fill(0, empty, 0.0)
        shares = wide(x).index_fill(0, empty, 0.0).softmax(1)
        mean = (shares * moved).sum(1)
        return moved.gather(1, index.unsqueeze(1)).squeeze(1) - mean, mean, None


def _rows_at_once(x: Tensor) -> int:
    return min(len(x), max(1, AT_ONCE // max(1, x.shape[1])))


def _rooms(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Memory for some rows in float32 at least, twice: the same for all, so that it stays warm."""
    first, second = (wide(x[:0]).new_empty(count, x.shape[1]) for _ in range(2))
    return first, second


def _widened(rows: Tensor, room: Tensor) -> Tensor:
    return rows if rows.dtype is room.dtype else room.copy_(rows)
