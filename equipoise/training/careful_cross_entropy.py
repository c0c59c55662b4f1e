"""Cross entropy row by row, whatever is excluded, of differentiable operations alone.

Nothing is read, so that it works on accelerators, under compilers and in transforms.
"""

import math
from dataclasses import dataclass

import torch

from equipoise.training.filled_softmax import empty_rows
from equipoise.training.reading import can_read
from equipoise.training.reduction import Reduction, reduced

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Losses of rows, shape of the input without classes.

    Attributes:
        logits: with empty rows set to 0, shape of the input.
        loss: 0 where a row does not count.
        share: what a row counts in the mean, 0 where it does not.
        counts: False where a row is ignored or empty.
    """

    logits: Tensor
    loss: Tensor
    share: Tensor
    counts: Tensor


def rows_of_classes(
    x: Tensor, target: Tensor, weight: Tensor | None, smoothing: float, ignored: int, dim: int
) -> Rows:
    """Losses for classes by number.

    Args:
        x: logits in float32 or float64, classes along ``dim``.
        target: int64, shape of ``x`` without ``dim``.
        weight: of each class, or None.
        smoothing: share of the target that is spread over the classes that are not excluded.
        ignored: class that marks rows to leave out.
        dim: axis of the classes.
    """
    empty = empty_rows(x, dim)
    counts = (target != ignored) & ~empty
    index = target.masked_fill(target == ignored, 0)
    logits = _without(empty, x, dim)
    logs = torch.log_softmax(logits, dim)
    share = torch.ones_like(index, dtype=x.dtype) if weight is None else weight[index]
    loss = torch.zeros_like(share)
    impossible = torch.zeros_like(counts)
    if smoothing < 1:
        at = index.unsqueeze(dim)
        picked, of_classes = (a.gather(dim, at).squeeze(dim) for a in (logs, x.detach()))
        loss, impossible = loss_of_picked(picked, of_classes, share)
        loss = (1 - smoothing) * loss
    if smoothing > 0:
        excluded = x.detach() == -math.inf
        allowed = (~excluded).sum(dim).clamp(min=1)
        spread = _by_class(logs.masked_fill(excluded, 0.0), weight, dim).sum(dim)
        loss = loss - smoothing * spread / allowed
    # Whatever the logits that are finite do, the loss stays infinite: it has no slope.
    loss = torch.where(impossible, loss.detach(), loss)
    return Rows(logits, loss.masked_fill(~counts, 0.0), share.masked_fill(~counts, 0.0), counts)


def loss_of_picked(picked: Tensor, at: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of rows, and where the target is a class that is excluded.

    Args:
        picked: logarithm of the share of the target, of each row.
        at: its logit.
        share: what the row counts.
    """
    # 0 * inf would be nan; a row of nan stays one.
    known = picked.masked_fill((share == 0) & (picked == -math.inf), 0.0)
    return -share * known, (at == -math.inf) & (share != 0)


def rows_of_probabilities(
    x: Tensor, target: Tensor, weight: Tensor | None, smoothing: float, dim: int
) -> Rows:
    """Losses for a probability of each class, ``target`` of the shape of ``x``.

    Other arguments are those of ``rows_of_classes``.
    """
    empty = empty_rows(x, dim)
    excluded = x.detach() == -math.inf
    logits = _without(empty, x, dim)
    # What is excluded must not enter the product: 0 * inf is nan.
    logs = torch.log_softmax(logits, dim).masked_fill(excluded, 0.0)
    wanted = _by_class((1 - smoothing) * target, weight, dim)
    impossible = (excluded & (wanted.detach() != 0)).any(dim)
    if smoothing > 0:
        allowed = (~excluded).sum(dim, keepdim=True).clamp(min=1)
        even = (~excluded).to(x.dtype) / allowed
        wanted = wanted + _by_class(smoothing * even, weight, dim)
    loss = -(wanted * logs).sum(dim)
    # Whatever the logits that are finite do, the loss stays infinite; nan stays nan.
    loss = torch.where(impossible, loss.detach() + math.inf, loss)
    counts = ~empty
    return Rows(logits, loss.masked_fill(empty, 0.0), counts.to(x.dtype), counts)


def _without(empty: Tensor, x: Tensor, dim: int) -> Tensor:
    """Logits with empty rows set to 0, without a copy where it can be seen that there are none."""
    if can_read(x) and not empty.any():
        return x
    return x.masked_fill(empty.unsqueeze(dim), 0.0)


def penalty(x: Tensor, dim: int, counts: Tensor | None, reduction: Reduction) -> Tensor:
    """Squares of the logarithms of the partition function, of rows that count."""
    square = torch.logsumexp(x, dim) ** 2
    if counts is None:
        return reduced(square, torch.ones_like(square), reduction)
    return reduced(square.masked_fill(~counts, 0.0), counts.to(square.dtype), reduction)


def _by_class(x: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    if weight is None:
        return x
    return x * weight.view(-1, *[1] * (x.ndim - dim - 1))
