"""Cross entropy that has a value and finite gradients whatever is excluded.

Where no row needs care the answer of small inputs is torch's own, number by number. On the host
that is looked up after torch has computed it: its loss is finite, and no row is empty. If it is
not, rows without an answer are marked as ignored and torch is asked once more. Large inputs of the
host go a few rows at a time through a form that needs no second look. Elsewhere (an accelerator, a
compiler, a transform) nothing may be read, so every row goes through the careful form, which is
made of differentiable operations alone.
"""

import math

import torch
from torch.nn import functional as F

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.training.careful_cross_entropy import (
    penalty,
    rows_of_classes,
    rows_of_probabilities,
)
from equipoise.training.chunked_cross_entropy import FEW, chunked_cross_entropy, is_for_chunks
from equipoise.training.masked_softmax import floating, has_empty_rows, masked
from equipoise.training.reading import can_read
from equipoise.training.reduction import (
    NARROW,
    Reduction,
    check_options,
    is_finite,
    reduced,
    result_dtype,
    wide,
)

Tensor = torch.Tensor
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_KNOWN = (*NARROW, torch.float32, torch.float64)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy between logits and targets, -sum_c w_c y_c log softmax(x)_c, in nats.

    ``torch.nn.functional.cross_entropy``, where that is finite. What -inf, masks, +inf and nan give
    is in the table of ``equipoise.training.losses``.

    Args:
        input: logits, shape (C,), (N, C) or (N, C, d1, ...). Half and bfloat16 are computed in
            float32 throughout; the result is rounded once.
        target: classes as integers in [0, C), of the shape of ``input`` without C; or probabilities
            of the shape of ``input``.
        weight: of each class, shape (C,). The mean divides by the weights of the targets.
        ignore_index: class that marks rows to leave out.
        reduction: ``"mean"`` over the rows that count, ``"sum"`` or ``"none"``.
        label_smoothing: share in [0, 1] of the target that is spread evenly, over the classes that
            are not excluded.
        z_loss: factor of (log sum_c exp x_c)^2, added to the loss of each row that counts without
            class weights; it keeps logits from drifting. 1e-4 and 1e-3 are in use. 0: none.
        mask: True where a class takes part, of a shape that broadcasts to that of ``input``. What
            it excludes is not read and has gradient 0, as where a logit is -inf.

    Returns:
        A scalar, or losses of the shape of ``input`` without C; in the dtype of ``input``, or
        float32 under autocast.

    Raises:
        ArgumentError: for arguments whose values, shapes or dtypes do not fit. Classes out of range
            are found on the host only, as in torch.

    Source: label smoothing, Szegedy et al. 2015, arXiv 1512.00567; z-loss, Zoph et al. 2022,
    arXiv 2202.08906, and Chowdhery et al. 2022, arXiv 2204.02311.

    >>> x = torch.tensor([[2.0, 0.0, -torch.inf], [-torch.inf] * 3], requires_grad=True)
    >>> loss = cross_entropy(x, torch.tensor([0, 1]))
    >>> loss.backward()
    >>> round(loss.item(), 4), x.grad[1].tolist()
    (0.1269, [0.0, 0.0, 0.0])
    """
    x = input
    is_odd = False
    if can_read(input) and not z_loss and input.dtype in _KNOWN and input.numel() <= FEW:
        # What torch accepts needs no check of ours, and on small inputs each check shows.
        x = wide(input if mask is None else masked(input, mask))
        try:
            loss = F.cross_entropy(
                x, target, weight, ignore_index=ignore_index, reduction=reduction,
                label_smoothing=label_smoothing,
            )  # fmt: skip
        except (IndexError, RuntimeError, ValueError):
            pass
        else:
            if _is_sound(loss, x, target, ignore_index):
                return loss if x is input else loss.to(result_dtype(input))
            is_odd = True
            if weight is None and not label_smoothing and target.dtype is torch.int64:
                left = _of_rows_left(x, target, ignore_index, reduction, z_loss)
                if left is not None:
                    return left.to(result_dtype(input))
    dim = _checked(input, target, weight, reduction, label_smoothing, z_loss)
    dtype = result_dtype(input)
    x = masked(input, mask) if x is input else x
    y = wide(target) if target.is_floating_point() else target.long()
    w = None if weight is None else weight.to(wide(x[:0]).dtype)
    if is_for_chunks(x, y, label_smoothing):
        low, high = (int(end) for end in torch.aminmax(y.where(y != ignore_index, 0)))
        if low < 0 or high >= x.shape[1]:
            raise _range_error(x, y, ignore_index)
        return chunked_cross_entropy(x, y, w, ignore_index, reduction, z_loss).to(dtype)
    x = wide(x)
    if can_read(x) and x.numel():
        if not is_odd:
            loss = _torchs(x, y, w, ignore_index, reduction, label_smoothing)
            if _is_sound(loss, x, y, ignore_index):
                if z_loss:
                    counts = y != ignore_index if _is_among(y, ignore_index) else None
                    loss = loss + z_loss * penalty(x, dim, counts, reduction)
                return loss.to(dtype)
            if w is None and not label_smoothing and not y.is_floating_point():
                left = _of_rows_left(x, y, ignore_index, reduction, z_loss)
                if left is not None:
                    return left.to(dtype)
    if y.is_floating_point():
        rows = rows_of_probabilities(x, y, w, label_smoothing, dim)
    else:
        rows = rows_of_classes(x, y, w, label_smoothing, ignore_index, dim)
    loss = reduced(rows.loss, rows.share, reduction)
    if z_loss:
        loss = loss + z_loss * penalty(rows.logits, dim, rows.counts, reduction)
    return loss.to(dtype)


def _of_rows_left(
    x: Tensor, y: Tensor, ignored: int, reduction: Reduction, z_loss: float
) -> Tensor | None:
    """The loss of torch with rows it has no answer for marked as ignored, and what these add.

    For tensors that may be read; None where no answer comes out this way either.
    """
    dim = 0 if x.ndim == 1 else 1
    is_ignored = y == ignored if _is_among(y, ignored) else None
    index = y if is_ignored is None else y.masked_fill(is_ignored, 0)
    at = x.detach().gather(dim, index.unsqueeze(dim)).squeeze(dim)
    largest = x.detach().amax(dim)
    empty = largest == -math.inf
    # Empty rows are among these. A row of nan, as that of +inf is, stays one.
    has_no_answer = (at == -math.inf) & (largest < math.inf)
    is_out = empty if is_ignored is None else empty | is_ignored
    left = y.masked_fill(has_no_answer, ignored)
    count = y.numel() - int(is_out.sum())
    is_impossible = count > int((left != ignored).sum())
    if is_ignored is not None or count < y.numel():
        x = x.masked_fill(empty.unsqueeze(dim), 0.0)
    if is_impossible and reduction == "mean":
        loss = F.cross_entropy(x, left, ignore_index=ignored, reduction="sum") / count
    else:
        loss = F.cross_entropy(x, left, ignore_index=ignored, reduction=reduction)
    if reduction == "none":
        loss = loss.masked_fill(has_no_answer & ~is_out, math.inf)
    elif is_impossible:
        # Of a constant there is no slope.
        loss = loss + math.inf
    elif not is_finite(loss):
        return None
    return loss + z_loss * penalty(x, dim, ~is_out, reduction) if z_loss else loss


def _torchs(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    ignored: int,
    reduction: Reduction,
    smoothing: float,
) -> Tensor:
    try:
        return F.cross_entropy(
            x, y, weight, ignore_index=ignored, reduction=reduction, label_smoothing=smoothing
        )
    except IndexError as error:
        raise _range_error(x, y, ignored) from error


def _range_error(x: Tensor, y: Tensor, ignored: int) -> ArgumentError:
    return ArgumentError(
        f"target must hold classes from 0 to {x.shape[0 if x.ndim == 1 else 1] - 1} or "
        f"ignore_index = {ignored}, got {y.min().item()} to {y.max().item()}. "
        "Count classes from 0, or set ignore_index."
    )


def _is_sound(loss: Tensor, x: Tensor, y: Tensor, ignored: int) -> bool:
    """Whether torch's loss and its gradients are right; for tensors that may be read.

    An empty row makes the loss nan, and an excluded target makes it infinite. Only an empty row
    whose target is ignored goes unseen until its gradient is nan.
    """
    if not is_finite(loss):
        return False
    return not (_is_among(y, ignored) and has_empty_rows(x, 0 if x.ndim == 1 else 1))


def _is_among(target: Tensor, number: int) -> bool:
    """Whether a class is among targets that may be read; among probabilities none is."""
    if target.dtype is not torch.int64:
        return False
    # A kernel costs more than a short list in Python.
    if target.numel() <= 256:
        return number in (target if target.ndim == 1 else target.flatten()).tolist()
    return bool((target == number).any())


def _checked(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    smoothing: float,
    z_loss: float,
) -> int:
    """The axis of the classes; refuse arguments that do not fit each other."""
    check_options(reduction, smoothing)
    if z_loss:
        _checks.not_negative("z_loss", z_loss)
    shape = floating(input).shape
    if not shape:
        raise ArgumentError(
            "input must have an axis of classes, got a scalar. Pass logits of shape (N, C)."
        )
    dim = 0 if len(shape) == 1 else 1
    of_probabilities = target.is_floating_point()
    if not of_probabilities and target.dtype not in _WHOLE:
        raise ArgumentError(
            f"target must hold whole numbers or probabilities, got {target.dtype}. "
            "Pass target.long() or target.float()."
        )
    wanted = shape if of_probabilities else shape[:dim] + shape[dim + 1 :]
    if target.shape != wanted:
        kind = "probabilities" if of_probabilities else "classes"
        raise ArgumentError(
            f"target must have shape {tuple(wanted)} for {kind} and input of shape {tuple(shape)}, "
            f"got {tuple(target.shape)}. Classes are axis {dim} of input: see movedim."
        )
    if weight is not None and weight.shape != shape[dim : dim + 1]:
        raise ArgumentError(
            f"weight must have shape ({shape[dim]},), one number for each class, "
            f"got {tuple(weight.shape)}. For weights of rows, pass reduction='none' and multiply."
        )
    return dim
