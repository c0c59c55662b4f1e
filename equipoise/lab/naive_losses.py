"""Softmax and its losses as they are written on paper, and where they break.

For teaching: each is right in exact arithmetic and wrong in floating point. ``naive_limits`` finds
by trial at which logits, and ``equipoise.training.losses`` has the forms to use.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from equipoise.errors import ArgumentError

Tensor = torch.Tensor
# Integers as wide as the floats, to walk through these one by one.
_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def naive_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x_i) / sum_j exp(x_j); nan where an exponential overflows.

    >>> naive_softmax(torch.tensor([0.0, 100.0]))
    tensor([0., nan])
    """
    share = x.exp()
    return share / share.sum(dim, keepdim=True)


def naive_log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """log(exp(x_i) / sum_j exp(x_j)); -inf where a share underflows.

    >>> naive_log_softmax(torch.tensor([0.0, -200.0]))
    tensor([0., -inf])
    """
    return naive_softmax(x, dim).log()


def naive_cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    """Mean of -log softmax(x)[target].

    Args:
        x: logits, shape (N, C).
        target: classes, shape (N,).

    >>> naive_cross_entropy(torch.tensor([[0.0, 200.0]]), torch.tensor([1]))
    tensor(nan)
    """
    return -naive_log_softmax(x, 1).gather(1, target[:, None]).mean()


def naive_binary_cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    """Mean of -t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)).

    Args:
        x: logits of any shape.
        target: probabilities of the same shape.

    >>> naive_binary_cross_entropy(torch.tensor([20.0]), torch.tensor([0.0]))
    tensor(inf)
    """
    p = x.sigmoid()
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


@dataclass(frozen=True)
class NaiveLimits:
    """The last logits, to the neighbouring number of the dtype, at which the naive forms hold.

    Attributes:
        dtype: of the logits.
        softmax: largest logit beside 0 whose softmax is not nan.
        cross_entropy: largest lead of the wrong class, at logits (-lead, 0), with a finite loss.
        gradient: the same, with a finite gradient.
        binary: largest logit of a wrong yes whose binary loss is finite.
    """

    dtype: torch.dtype
    softmax: float
    cross_entropy: float
    gradient: float
    binary: float

    def __str__(self) -> str:
        return (
            f"{str(self.dtype).removeprefix('torch.'):<8}  softmax {self.softmax:.6g}, "
            f"cross entropy {self.cross_entropy:.6g}, its gradient {self.gradient:.6g}, "
            f"binary {self.binary:.6g}"
        )


def naive_limits(dtype: torch.dtype) -> NaiveLimits:
    """Find by trial where the naive forms break on this machine.

    What the hardware does with subnormal numbers counts, so the limits are measured, not quoted.

    Args:
        dtype: float16, bfloat16, float32 or float64.

    Raises:
        ArgumentError: for another dtype.

    >>> print(f"{naive_limits(torch.float32).softmax:.4f}")
    88.7228
    """
    if dtype not in _BITS:
        raise ArgumentError(
            f"dtype must be float16, bfloat16, float32 or float64, got {dtype}. Pass one of these."
        )
    target = torch.tensor([0])

    def row(first: Tensor) -> Tensor:
        return torch.stack([first, torch.zeros_like(first)])[None]

    def has_gradient(lead: Tensor) -> bool:
        x = row(-lead).requires_grad_()
        (gradient,) = torch.autograd.grad(naive_cross_entropy(x, target), x)
        return bool(gradient.isfinite().all())

    tests: tuple[Callable[[Tensor], bool], ...] = (
        lambda z: bool(naive_softmax(row(z)).isfinite().all()),
        lambda z: bool(naive_cross_entropy(row(-z), target).isfinite()),
        has_gradient,
        lambda z: bool(naive_binary_cross_entropy(z, torch.zeros_like(z)).isfinite()),
    )
    return NaiveLimits(dtype, *(_last(dtype, holds) for holds in tests))


def _last(dtype: torch.dtype, holds: Callable[[Tensor], bool]) -> float:
    """The last positive number at which something holds that holds at 1 and not at the end."""

    def number(bits: int) -> Tensor:
        return torch.tensor(bits, dtype=_BITS[dtype]).view(dtype)

    def bits_of(value: float) -> int:
        return int(torch.tensor(value, dtype=dtype).view(_BITS[dtype]).item())

    # Positive floats are in the order of their bits.
    good, bad = bits_of(1.0), bits_of(min(1e6, torch.finfo(dtype).max))
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(number(middle)) else (good, middle)
    return float(number(good).item())
