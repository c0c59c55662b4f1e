"""One call that may have made numbers that are not finite, and the evidence it leaves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from equipoise.training.nonfinite_operation import Operand, Operation, Phase
from equipoise.training.nonfinite_owner import Owners
from equipoise.training.nonfinite_place import Place
from equipoise.training.nonfinite_schema import Signature
from equipoise.training.nonfinite_span import (
    FINITE,
    Kind,
    Span,
    kind_in,
    kind_of,
    span_between,
    span_of,
)

Ends = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Input:
    """A tensor that an operation read.

    Attributes:
        name: of the argument.
        tensor: as it is now.
        ends: before the operation overwrote it; None where it did not.
        version: when the operation ran, None where nobody can have changed it since.
    """

    name: str
    tensor: torch.Tensor
    ends: Ends | None = None
    version: int | None = None

    @property
    def is_lost(self) -> bool:
        """Whether another operation has overwritten it since."""
        if self.ends is not None or self.version is None or self.tensor.is_inference():
            return False
        return self.tensor._version != self.version

    def kind(self, was_marked: bool) -> Kind:
        """What it held that was not finite.

        Args:
            was_marked: whether its memory was known to hold such numbers, which decides where the
                values themselves are lost.
        """
        if self.ends is not None:
            return kind_of(self.ends[0].item(), self.ends[1].item())
        if self.is_lost:
            return Kind(True, False, False) if was_marked else FINITE
        return kind_in(self.tensor)

    @property
    def span(self) -> Span:
        """Its range when the operation ran, as far as that can be told."""
        if self.ends is not None:
            return span_between(self.tensor, self.ends[0].item(), self.ends[1].item())
        return span_of(self.tensor)


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of an operation whose output may not be finite.

    Attributes:
        signature: of the operation.
        inputs: what it read.
        outputs: what it wrote.
        written: outputs that it changed in place, by position.
        numbers: among its arguments.
        place: where it was asked for.
        made_at: where the forward operation was, for one of the backward pass.
        node: of the backward pass that ran it, or None.
        recent: operations before it, with their places.
    """

    signature: Signature
    inputs: tuple[Input, ...]
    outputs: tuple[torch.Tensor, ...]
    written: frozenset[int]
    numbers: tuple[tuple[str, float], ...]
    place: Place
    made_at: Place | None
    node: Any
    recent: tuple[tuple[str, Place | None], ...]

    @property
    def node_name(self) -> str:
        """Of the node that ran it, such as ``SqrtBackward0``, '' in the forward pass."""
        return str(self.node.name()) if self.node is not None else ""

    @property
    def accumulates(self) -> bool:
        """Whether autograd adds to the gradient of a leaf."""
        return self.node_name == "torch::autograd::AccumulateGrad"

    @property
    def is_recomputed(self) -> bool:
        """Whether user code ran in the backward pass to make the forward one again."""
        return self.node is not None and bool(self.place.lines) and self.place.is_recomputed

    def singles(self) -> Iterator["Seen"]:
        """One for each place of operations that do the same to lists of tensors."""
        names = [x.name for x in self.inputs]
        count = max((names.count(name) for name in names), default=1)
        is_listed = self.signature.name.startswith(("_foreach", "_fused", "_amp_foreach"))
        if not is_listed or count < 2 or len(self.outputs) % count:
            yield self
            return
        for i in range(count):
            places = range(i, len(self.outputs), count)
            yield replace(
                self, inputs=tuple(_at(self.inputs, i, count)),
                outputs=tuple(self.outputs[j] for j in places),
                written=frozenset(n for n, j in enumerate(places) if j in self.written),
            )  # fmt: skip

    def _phase(self, owners: Owners) -> Phase:
        """Part of the step; an update by hand writes parameters too."""
        if self.place.is_update:
            return "update"
        if self.node is not None:
            return "forward" if self.is_recomputed else "backward"
        written = (owners.of(self.outputs[i]) for i in self.written)
        return "update" if any(x.startswith("parameter") for x in written) else "forward"

    def evidence(self, owners: Owners) -> Operation:
        """The operation with the ranges of what went in and came out.

        Args:
            owners: names tensors.
        """
        is_engine = self.node is not None and not self.place.lines
        at = self.made_at if is_engine and self.made_at is not None else self.place
        is_own = self.node is not None and not is_engine and not self.is_recomputed
        module = at.module
        if module is None and self.made_at is not None:
            module = self.made_at.module
        return Operation(
            aten=self.signature.name, phase=self._phase(owners), node=self.node_name,
            module=module, lines=at.lines, is_recomputed=self.is_recomputed,
            inputs=tuple(Operand(x.name, owners.of(x.tensor), x.span) for x in self.inputs),
            outputs=tuple(Operand("output", owners.of(t), span_of(t)) for t in self.outputs),
            numbers=self.numbers,
            made_at=self.made_at.lines if is_own and self.made_at is not None else (),
        )  # fmt: skip


def _at(inputs: Sequence[Input], place: int, count: int) -> Iterator[Input]:
    """Inputs of one place: of lists of full length that place, of others all."""
    by_name: dict[str, list[Input]] = {}
    for one in inputs:
        by_name.setdefault(one.name, []).append(one)
    for group in by_name.values():
        yield from [group[place]] if len(group) == count else group
