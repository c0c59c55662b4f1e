"""What losses share: options and their refusals, the way to one number, and the precision."""

from typing import Literal

import torch

from equipoise import _checks

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")

NARROW = (torch.float16, torch.bfloat16)


def check_options(reduction: str, label_smoothing: float) -> None:
    """Refuse another reduction, and a share outside of [0, 1].

    >>> check_options("mean", 0.1)
    """
    # On small inputs each check shows: the usual values need none.
    if reduction not in REDUCTIONS:
        _checks.one_of("reduction", reduction, REDUCTIONS)
    if label_smoothing != 0:
        _checks.in_unit_interval("label_smoothing", label_smoothing)


def reduced(loss: torch.Tensor, share: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """Losses as they are, their sum, or their sum over that of the shares; 0 where none counts.

    Args:
        loss: of each row, 0 where it does not count.
        share: what each row counts in the mean, of the same shape.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    >>> reduced(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0]), "mean")
    tensor(2.)
    >>> reduced(torch.zeros(2), torch.zeros(2), "mean")
    tensor(0.)
    """
    match reduction:
        case "none":
            return loss
        case "sum":
            return loss.sum()
        case "mean":
            total = share.sum()
            return loss.sum() / torch.where(total == 0, torch.ones_like(total), total)


def is_finite(loss: torch.Tensor) -> bool:
    """Whether a loss, or every one of them, is finite; for tensors that may be read."""
    # The sum is one kernel instead of three, and is not finite where an entry is not. One that
    # overflows costs time and nothing else.
    total = loss if loss.ndim == 0 else loss.detach().sum()
    return abs(total.item()) < float("inf")


def wide(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 where it is half or bfloat16; else as it is."""
    return x.float() if x.dtype in NARROW else x


def weight_for(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor | None:
    """The weight in the dtype of ``x``, where there is one."""
    return None if weight is None else weight.to(x.dtype)


def result_dtype(input: torch.Tensor) -> torch.dtype:
    """Dtype of a loss: that of the logits, float32 for narrow ones under autocast."""
    if input.dtype in NARROW and torch.is_autocast_enabled(input.device.type):
        return torch.float32
    return input.dtype
