"""Where numbers that are not finite came from, followed from tensor to tensor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from equipoise.training.nonfinite_operation import Operand, Operation, stem
from equipoise.training.nonfinite_span import Kind

# Origins that are kept of one tensor, and tensors after which dead ones are swept out.
_KEPT, _SWEEP = 4, 256
# What masks are read by: minus infinity is at home in these.
_READ_MASKS = (
    "softmax", "log_softmax", "safe_softmax", "logsumexp", "logcumsumexp", "sub", "rsub", "add",
    "mul", "exp", "where", "masked_fill", "max", "amax", "maximum", "sum",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Origin:
    """The start of numbers that are not finite.

    Attributes:
        order: counts what was seen; earlier is smaller.
        how: made by an operation out of finite numbers; written by the code as a constant;
            given to the block in a tensor.
        operation: that made or wrote it.
        operand: that it was given in.
        is_mask: given, without nan, and no part of the model that learns: minus infinity alone, or
            a tensor of nothing else.
        turned: operation that made nan of it.
        recent: the last operations before it, in words, oldest first.
    """

    order: int
    how: Literal["made", "written", "given"]
    operation: Operation | None = None
    operand: Operand | None = None
    is_mask: bool = False
    turned: Operation | None = None
    recent: tuple[str, ...] = ()

    @property
    def is_meant(self) -> bool:
        """Whether it is there on purpose: a constant or a mask without nan."""
        if self.how == "written":
            return self.operation is not None and not self.operation.has_nan
        return self.is_mask


def eldest(origins: Iterable[Origin]) -> Origin | None:
    """The first of what was not meant, else of what was meant, else None."""
    return min(origins, key=lambda x: (x.is_meant, x.order), default=None)


class Book:
    """Which tensors hold numbers that are not finite, and where those came from.

    Views share what their memory holds. Weak references keep the identity of a memory from being
    given to another one, and let the memory itself go.
    """

    def __init__(self) -> None:
        self._marks: dict[int, tuple[StorageWeakRef, tuple[Origin, ...], int]] = {}
        self._next_sweep = _SWEEP

    def __bool__(self) -> bool:
        return bool(self._marks)

    def mark(self, tensor: torch.Tensor, origins: Sequence[Origin]) -> None:
        """Write down where a tensor's numbers came from."""
        key = key_of(tensor)
        if key is None:
            return
        reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._marks[key] = reference, tuple(origins[:_KEPT]), tensor.numel()
        if len(self._marks) > self._next_sweep:
            self._marks = {k: m for k, m in self._marks.items() if not _is_gone(m[0])}
            self._next_sweep = max(_SWEEP, 2 * len(self._marks))

    def origins(self, tensor: torch.Tensor) -> tuple[Origin, ...]:
        """Where a tensor's numbers came from, () where that is not known."""
        mark = self._marks.get(key_of(tensor) or 0)
        return mark[1] if mark is not None else ()

    def scalars(self) -> list[Origin]:
        """Origins of scalars that are alive, such as losses and metrics."""
        return [x for m in self._marks.values() if m[2] == 1 and not _is_gone(m[0]) for x in m[1]]

    def alive(self) -> list[Origin]:
        """Origins of all tensors that are alive."""
        return [x for m in self._marks.values() if not _is_gone(m[0]) for x in m[1]]


def _is_gone(memory: StorageWeakRef) -> bool:
    return bool(memory.expired())  # type: ignore[no-untyped-call]


def key_of(tensor: torch.Tensor) -> int | None:
    """Identity of a tensor's memory, None where it has none."""
    local = getattr(tensor, "to_local", None)
    if local is not None:
        tensor = local()
    if tensor.layout is not torch.strided:
        return None
    return int(tensor.untyped_storage()._cdata)


def inherited(
    name: str, kind: Kind, inputs: Sequence[tuple[Kind, Sequence[Origin]]]
) -> list[Origin]:
    """Origins that an operation's output takes over from its inputs.

    Args:
        name: of the operation.
        kind: of the output.
        inputs: kind and origins of each input that is not finite.

    Returns:
        Earliest first; none where all that came in was meant and nan came out of it, so that this
        operation is the one to blame.
    """
    with_nan = [origins for held, origins in inputs if held.nan]
    every = {id(x): x for origins in with_nan for x in origins}
    if kind.nan and not with_nan:
        # Infinities met. Those that are masks are at home in what reads masks.
        reads_masks = stem(name) in _READ_MASKS or "attention" in name
        every = {
            id(x): x
            for _, origins in inputs
            for x in origins
            if not x.is_meant or (x.how == "given" and not reads_masks)
        }
    elif not kind.nan:
        every = {id(x): x for _, origins in inputs for x in origins}
    return sorted(every.values(), key=lambda x: (x.is_meant, x.order))
