"""What a watch must know of an operation before it runs: what it writes, and what to look at."""

from dataclasses import dataclass

import torch
from torch._ops import OpOverload

from equipoise.training.nonfinite_operation import stem

# Memory that nobody has written yet, and tensors that share what was looked at already.
_UNWRITTEN = (
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
    "empty_quantized", "resize", "resize_as", "set", "lift", "lift_fresh", "unsafe_view",
    "reshape_alias", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
)  # fmt: skip
# In place, but what was there before does not count.
_OVERWRITING = (
    "copy", "fill", "zero", "random", "uniform", "normal", "bernoulli", "exponential", "cauchy",
    "log_normal", "geometric", "eye",
)  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """What to look at around one operation.

    Attributes:
        name: torch's name of the operation, without namespace and overload.
        arguments: names by position.
        is_unseen: nothing new comes out: views, memory that is not written yet.
        is_detach: a view that autograd's engine hands gradients over with.
        is_like: makes the gradient that a backward pass starts from.
        is_scaler: the check of a gradient scaler, which deals with what is not finite.
        updated: positions of arguments that are read and written, running statistics among them,
            which the schema leaves out.
        overwritten: positions, and names of keyword arguments, that are written only.
        returns_all: whether all that it writes is what it returns.
    """

    name: str
    arguments: tuple[str, ...]
    is_unseen: bool
    is_detach: bool
    is_like: bool
    is_scaler: bool
    updated: tuple[int, ...]
    overwritten: tuple[int | str, ...]
    returns_all: bool


def signature_of(func: OpOverload) -> Signature:
    """What to look at around an operation.

    Args:
        func: as a dispatch mode is given it.
    """
    schema = func._schema
    name = schema.name.partition("::")[2]
    written = [
        (i, x)
        for i, x in enumerate(schema.arguments)
        if x.alias_info is not None and x.alias_info.is_write
    ]
    plain = stem(name)
    blind = plain in _OVERWRITING
    returns_tensors = any("Tensor" in str(x.type) for x in schema.returns)
    is_scaler = "non_finite_check_and_unscale" in name
    hidden = tuple(
        i
        for i, x in enumerate(schema.arguments)
        if "batch_norm" in name and x.name in ("running_mean", "running_var")
        and "backward" not in name and x.alias_info is None
    )  # fmt: skip
    return Signature(
        name=name,
        arguments=tuple(x.name for x in schema.arguments),
        is_unseen=func.is_view
        or plain in _UNWRITTEN
        or is_scaler
        or not (returns_tensors or written),
        is_detach=func is torch.ops.aten.detach.default,
        is_like=func is torch.ops.aten.ones_like.default,
        is_scaler=is_scaler,
        updated=(
            *(i for i, x in written if not x.kwarg_only and not (blind and i == 0)),
            *hidden,
        ),
        overwritten=tuple(
            x.name if x.kwarg_only else i for i, x in written if x.kwarg_only or (blind and i == 0)
        ),
        returns_all=not hidden
        and all(i == 0 and not x.kwarg_only for i, x in written)
        and (not written or bool(schema.returns)),
    )
