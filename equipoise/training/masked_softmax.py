"""Softmax over the classes that are not excluded; rows without any have a value too.

torch's own kernel does the work. A row in which every class is excluded makes it divide 0 by 0.
Where that was seen, such rows are filled in what the kernel said; where nothing may be read, they
are taken out before and put back after.
"""

import math

import torch

from equipoise.errors import ArgumentError
from equipoise.training.filled_softmax import empty_rows, filled_softmax, has_nan
from equipoise.training.reading import can_read
from equipoise.training.reduction import NARROW, result_dtype

Tensor = torch.Tensor


def softmax(
    input: Tensor, dim: int = -1, *, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Shares exp(x_i) / sum_j exp(x_j); 0 for classes that are excluded.

    ``torch.nn.functional.softmax``, where that has a value. A row whose classes are all excluded is
    0 everywhere, and so is its gradient: attention that may look at nothing takes nothing.

    Args:
        input: logits of any shape. Half and bfloat16 are summed in float32.
        dim: the axis of the classes.
        mask: True where a class takes part, of a shape that broadcasts to that of ``input``. What
            it excludes is not read, whatever stands there, and has gradient 0. A logit of -inf is
            excluded as well.
        dtype: of the computation and the result, if not that of ``input``.

    Returns:
        Shares in [0, 1], of the shape of ``input``.

    Raises:
        ArgumentError: for logits that are not floating-point, or a mask that does not fit.

    >>> softmax(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]]))
    tensor([[1., 0.],
            [0., 0.]])
    >>> softmax(torch.zeros(3), mask=torch.tensor([True, True, False]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    x = masked(floating(input, dtype), mask)
    if can_read(x):
        shares = torch.softmax(x, dim, dtype)
        if not has_nan(shares, dim):
            return shares
        return filled_softmax(x, dim, dtype, is_log=False)
    empty = empty_rows(x, dim).unsqueeze(dim)
    return torch.softmax(x.masked_fill(empty, 0.0), dim, dtype).masked_fill(empty, 0.0)


def log_softmax(
    input: Tensor, dim: int = -1, *, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Logarithms of ``softmax``, x_i - log sum_j exp(x_j); -inf for classes that are excluded.

    ``torch.nn.functional.log_softmax``, where that has a value. A row whose classes are all
    excluded is -inf everywhere and has gradient 0.

    Args:
        input: logits of any shape. Half and bfloat16 are summed in float32.
        dim: the axis of the classes.
        mask: True where a class takes part; see ``softmax``.
        dtype: of the computation and the result, if not that of ``input``.

    Returns:
        Numbers up to 0 in nats, of the shape of ``input``.

    Raises:
        ArgumentError: for logits that are not floating-point, or a mask that does not fit.

    >>> log_softmax(torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]]))
    tensor([[-0.6931, -0.6931],
            [   -inf,    -inf]])
    """
    x = masked(floating(input, dtype), mask)
    wanted = dtype or result_dtype(input)
    # In narrow dtypes torch's kernel on the host rounds the logarithm of the sum, too: what is left
    # of a logarithm near 0 is noise.
    inner = torch.float32 if wanted in NARROW else wanted
    if can_read(x):
        logs = torch.log_softmax(x, dim, inner)
        if not has_nan(logs, dim):
            return logs if inner is wanted else logs.to(wanted)
        return filled_softmax(x, dim, inner, is_log=True).to(wanted)
    empty = empty_rows(x, dim).unsqueeze(dim)
    logs = torch.log_softmax(x.masked_fill(empty, 0.0), dim, inner)
    return logs.masked_fill(empty, -math.inf).to(wanted)


def floating(input: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The logits; refuse numbers that cannot be."""
    if not (input.is_floating_point() or (dtype is not None and dtype.is_floating_point)):
        raise ArgumentError(
            f"input must be floating-point logits, got {input.dtype}. "
            "Pass input.float(), or dtype where the function has it."
        )
    # Whole numbers have no -inf for a mask to write.
    return input if input.is_floating_point() else input.to(dtype)


def masked(input: Tensor, mask: Tensor | None) -> Tensor:
    """Logits that are -inf wherever ``mask`` is False."""
    if mask is None:
        return input
    return torch.where(fitting(mask, input), input, -math.inf)


def fitting(mask: Tensor, input: Tensor) -> Tensor:
    """A mask in the shape of ``input``, without a copy; refuse one that does not fit."""
    if mask.dtype != torch.bool:
        raise ArgumentError(
            f"mask must be boolean, got {mask.dtype}. True is what takes part: pass mask.bool()."
        )
    if mask.shape == input.shape:
        return mask
    try:
        return mask.expand(input.shape)
    except RuntimeError as error:
        raise ArgumentError(
            f"mask must broadcast to the shape of input, {tuple(input.shape)}, "
            f"got {tuple(mask.shape)}. Add axes of length 1 with unsqueeze."
        ) from error


def has_empty_rows(x: Tensor, dim: int) -> bool:
    """Whether a row of logits that may be read is empty.

    One pass over the logits, a few hundredths of what the exponentials cost.
    """
    logits = x.detach()
    # The whole first: one kernel tells nearly always.
    return logits.amin().item() == -math.inf and logits.amax(dim).amin().item() == -math.inf
