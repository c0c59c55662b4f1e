"""Binary cross entropy on logits, with values and finite gradients where a logit is infinite.

torch computes ``(1 - t) x + softplus(-x)``, which is inf - inf or 0 * inf at an infinite logit even
where the answer is certain and right. A finite loss of torch shows that no logit was infinite, so
on the host one number tells whether care is needed.
"""

import math

import torch
from torch.nn import functional as F

from equipoise.errors import ArgumentError
from equipoise.training.masked_softmax import fitting, floating
from equipoise.training.reading import can_read
from equipoise.training.reduction import (
    Reduction,
    check_options,
    is_finite,
    reduced,
    result_dtype,
    weight_for,
    wide,
)

Tensor = torch.Tensor
_WIDE = (torch.float32, torch.float64)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy, -w (p t log sigmoid(x) + (1 - t) log sigmoid(-x)), in nats.

    ``torch.nn.functional.binary_cross_entropy_with_logits``, where that is finite. An infinite
    logit is a certain answer: 0 if it is right, inf if it is wrong; its gradient is 0 either way.

    Args:
        input: logits x of any shape. Half and bfloat16 are computed in float32 throughout.
        target: probabilities t in [0, 1], of the shape of ``input``.
        weight: w of each entry, of a shape that broadcasts to that of ``input``.
        reduction: ``"mean"`` over the entries that count, whatever their weight, ``"sum"`` or
            ``"none"``.
        pos_weight: p of positive answers, of a shape that broadcasts to that of ``input``.
        label_smoothing: share in [0, 1] of the target that is spread evenly over yes and no. A
            certain answer has no room for it and keeps its target.
        mask: True where an entry counts, of a shape that broadcasts to that of ``input``. What it
            excludes is not read, and has loss and gradient 0.

    Returns:
        A scalar, or losses of the shape of ``input``; in the dtype of ``input``, or float32 under
        autocast.

    Raises:
        ArgumentError: for arguments whose values, shapes or dtypes do not fit.

    >>> x = torch.tensor([torch.inf, -torch.inf, 0.0])
    >>> t = torch.tensor([1.0, 0.0, 1.0])
    >>> binary_cross_entropy_with_logits(x, t, reduction="none")
    tensor([0.0000, 0.0000, 0.6931])
    """
    is_plain = mask is None and weight is None and pos_weight is None and not label_smoothing
    if is_plain and can_read(input) and input.dtype in _WIDE and input.dtype is target.dtype:
        # What torch accepts needs no check of ours, and on small inputs each check shows.
        try:
            loss = F.binary_cross_entropy_with_logits(input, target, reduction=reduction)
        except (RuntimeError, ValueError):
            pass
        else:
            if is_finite(loss) and loss.numel():
                return loss
    check_options(reduction, label_smoothing)
    floating(input)
    _check_shapes(input, target, {"weight": weight, "pos_weight": pos_weight})
    dtype = result_dtype(input)
    x = wide(input)
    t, w, p = target.to(x.dtype), weight_for(x, weight), weight_for(x, pos_weight)
    if mask is None and can_read(x) and x.numel():
        loss = F.binary_cross_entropy_with_logits(
            x, _smoothed(t, label_smoothing), w, reduction=reduction, pos_weight=p
        )
        if is_finite(loss):
            return loss if loss.dtype == dtype else loss.to(dtype)
    counts = torch.ones_like(x, dtype=torch.bool) if mask is None else fitting(mask, x)
    loss = _entries(x.where(counts, 0.0), t.where(counts, 0.0), w, p, label_smoothing)
    loss = loss.masked_fill(~counts, 0.0)
    return reduced(loss, counts.to(x.dtype), reduction).to(dtype)


def _entries(x: Tensor, t: Tensor, w: Tensor | None, p: Tensor | None, smoothing: float) -> Tensor:
    """Losses of entries, shape of ``x``."""
    certain = x.detach().isinf()
    finite = F.binary_cross_entropy_with_logits(
        x.masked_fill(certain, 0.0), _smoothed(t, smoothing), w, reduction="none", pos_weight=p
    )
    denied = torch.where(
        x.detach() > 0, 1 - t.detach(), t.detach() if p is None else p * t.detach()
    )
    denied = denied if w is None else w * denied
    # A sum, so that a target or weight that is nan stays visible.
    answer = denied * 0 + torch.where(denied != 0, math.inf, 0.0)
    return torch.where(certain, answer, finite)


def _smoothed(t: Tensor, smoothing: float) -> Tensor:
    return t if smoothing == 0 else (1 - smoothing) * t + smoothing / 2


def _check_shapes(input: Tensor, target: Tensor, weights: dict[str, Tensor | None]) -> None:
    if target.shape != input.shape:
        raise ArgumentError(
            f"target must have the shape of input, {tuple(input.shape)}, "
            f"got {tuple(target.shape)}. Broadcasting would make many losses of few: use view."
        )
    for name, weight in weights.items():
        if weight is None:
            continue
        try:
            weight.expand(input.shape)
        except RuntimeError as error:
            raise ArgumentError(
                f"{name} must broadcast to the shape of input, {tuple(input.shape)}, "
                f"got {tuple(weight.shape)}. Add axes of length 1 with unsqueeze."
            ) from error
