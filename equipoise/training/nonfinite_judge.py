"""Telling what made a number that is not finite from what handed it on, and what it spoilt."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from equipoise.training.nonfinite_cause import cause_of, given_cause, written_cause
from equipoise.training.nonfinite_operation import Operand, stem, words_of
from equipoise.training.nonfinite_origin import Book, Origin, eldest, inherited
from equipoise.training.nonfinite_owner import Owners
from equipoise.training.nonfinite_place import Place, is_called_from
from equipoise.training.nonfinite_result import NonFinite
from equipoise.training.nonfinite_seen import Seen
from equipoise.training.nonfinite_span import Kind, kind_in, span_of

# Operations whose numbers are values that the code writes, so that infinity is meant.
_WRITERS = (
    "full", "full_like", "new_full", "fill", "masked_fill", "scalar_tensor", "constant_pad_nd",
    "where", "index_fill", "scatter", "clamp", "clamp_min", "clamp_max", "nan_to_num",
)  # fmt: skip
# Overflows that a gradient scaler met are normal; more of them are counted and not kept.
_HANDLED = 16
_OUTSIDE = "a tensor from outside of the block"


@dataclass(frozen=True)
class _Harm:
    """Numbers that are not finite where they do harm."""

    reached: str
    origins: tuple[Origin, ...]


class Judge:
    """Follows what is not finite from its origin to where it does harm.

    What never gets to a loss, a gradient, a parameter, an optimizer's state or the model's output
    does no harm: a mask of minus infinity behind a softmax, a logarithm of 0 that torch.where
    leaves out.

    Attributes:
        verdict: on the first that did harm, or None.
        handled: those that a gradient scaler dealt with, the first few.
        skipped_steps: how many steps it left out.
        before: parameters, buffers and gradients that were not finite at the start.

    Args:
        model: whose parameters and modules go by their names.
        conclude: called with a verdict; may raise.
    """

    def __init__(self, model: nn.Module, conclude: Callable[[NonFinite], None]) -> None:
        self._conclude = conclude
        self._owners = Owners(model)
        self._book = Book()
        self._count = 0
        self._harm: _Harm | None = None
        self._output: _Harm | None = None
        self._forgiven = set[int]()
        self._has_differentiated = False
        self.verdict: NonFinite | None = None
        self.handled = list[NonFinite]()
        self.skipped_steps = 0
        self.before = tuple(self._owners.before())

    @property
    def is_settled(self) -> bool:
        """Whether there is a verdict."""
        return self.verdict is not None

    @property
    def is_pending(self) -> bool:
        """Whether a gradient is spoilt, which a gradient scaler may still deal with."""
        return self._harm is not None

    def see(self, call: Seen) -> None:
        """Judge an operation whose output may not be finite."""
        for seen in call.singles():
            kinds = [kind_in(t) for t in seen.outputs]
            bad = [i for i, kind in enumerate(kinds) if kind]
            if bad and not self.is_settled:
                # Of several outputs the one with nan tells more.
                kind = next((kinds[i] for i in bad if kinds[i].nan), kinds[bad[0]])
                self._judge(seen, bad, kind)

    def _judge(self, seen: Seen, bad: Sequence[int], kind: Kind) -> None:
        found = []
        for x in seen.inputs:
            held = x.kind(bool(self._book.origins(x.tensor)))
            if held:
                found.append((held, self._origins(x.name, x.tensor, held)))
        origins = inherited(seen.signature.name, kind, found)
        if not origins:
            origins = [self._made(seen)]
        elif kind.nan and not any(held.nan for held, _ in found):
            at = seen.evidence(self._owners)
            origins = [x if x.turned is not None else replace(x, turned=at) for x in origins]
        for i in bad:
            self._book.mark(seen.outputs[i], origins)
        self._note_harm(seen, bad, tuple(origins))

    def enters(self, arguments: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Note the tensors that the model was called with, by name."""
        self._owners.take_arguments(arguments)

    def leaves(self, outputs: Iterable[torch.Tensor]) -> None:
        """Note what the model returned; it counts if no backward pass follows."""
        self._output = None
        for tensor in outputs:
            if self._book and (kind := kind_in(tensor)):
                origins = self._origins("output", tensor, kind)
                if any(map(self._counts, origins)):
                    self._output = _Harm("the output of the model", origins)

    def sees_loss(self, loss: torch.Tensor) -> None:
        """Judge a tensor that a backward pass may start from."""
        kind = kind_in(loss)
        if not is_called_from("_make_grads", "__init__.py"):
            return
        self._output, self._has_differentiated = None, True
        if kind:
            self._settle(_Harm("the loss", self._origins("loss", loss, kind)))

    def forgive(self) -> None:
        """A gradient scaler looks at the gradients: it leaves out the step where they are bad."""
        if self._harm is None:
            return
        self.skipped_steps += 1
        if len(self.handled) < _HANDLED:
            self.handled.append(replace(self._result(self._harm), is_handled=True))
        self._forgiven |= {x.order for x in self._harm.origins}
        self._harm = None

    def settle_before_step(self, place: Place) -> None:
        """Conclude on a spoilt gradient before an optimizer uses it."""
        if self._harm is not None and place.is_update:
            self._settle(self._harm)

    def closes(self) -> None:
        """Conclude at the end of the block."""
        if self.is_settled:
            return
        harm = self._harm or self._output
        if harm is None and not self._has_differentiated:
            # Where there was a backward pass, other scalars are no more than metrics.
            lost = tuple(filter(self._counts, self._book.scalars()))
            harm = _Harm("a scalar, such as a loss or metric", lost) if lost else None
        if harm is not None:
            self._settle(harm)

    def fails(self, error: str) -> None:
        """Conclude where the block ended in an error of its own."""
        lost = tuple(filter(self._counts, self._book.alive()))
        if lost and not self.is_settled:
            self.verdict = self._result(_Harm(f"nothing yet when the block ended in {error}", lost))

    def _counts(self, origin: Origin) -> bool:
        return not origin.is_meant and origin.order not in self._forgiven

    def _note_harm(self, seen: Seen, bad: Sequence[int], origins: tuple[Origin, ...]) -> None:
        """Whether what came out lies where it does harm."""
        if seen.accumulates and not seen.place.is_update:
            owner = self._owners.parameter(seen.node.variable)
            reached = f"the gradient of {owner}" if owner else "the gradient of an input"
            self._harm = self._harm or _Harm(reached, origins)
        if seen.node is not None and not seen.place.is_update:
            return
        for i in bad:
            owner = self._owners.of(seen.outputs[i]) if i in seen.written else ""
            if owner.startswith("parameter"):
                return self._settle(self._harm or _Harm(owner, origins))
            state = self._owners.state(seen.outputs[i]) if seen.place.is_update else ""
            if state:
                return self._settle(self._harm or _Harm(state, origins))
        return None

    def _origins(self, name: str, tensor: torch.Tensor, kind: Kind) -> tuple[Origin, ...]:
        """Where a tensor's numbers came from: known, or given to the block as it is."""
        known = self._book.origins(tensor)
        if known:
            return known
        source, whole = self._owners.whole(tensor)
        span = span_of(whole, rows=True)
        # Minus infinity, or a tensor of nothing but infinity, is a mask or a constant.
        looks_meant = not kind.nan and (not kind.positive or span.non_finite == 1.0)
        origin = Origin(
            self._next(), "given", operand=Operand(name, source or _OUTSIDE, span),
            is_mask=looks_meant and not source.startswith(("parameter", "gradient")),
        )  # fmt: skip
        self._book.mark(tensor, [origin])
        return (origin,)

    def _made(self, seen: Seen) -> Origin:
        """This operation made the numbers, or wrote them on purpose."""
        is_writer = stem(seen.signature.name) in _WRITERS
        wild = any(not math.isfinite(x) for _, x in seen.numbers)
        return Origin(
            self._next(), "written" if is_writer and wild else "made",
            operation=seen.evidence(self._owners), recent=tuple(map(_recent, seen.recent)),
        )  # fmt: skip

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _settle(self, harm: _Harm) -> None:
        self.verdict = self._result(harm)
        self._conclude(self.verdict)

    def _result(self, harm: _Harm) -> NonFinite:
        origin = eldest(harm.origins)
        assert origin is not None
        operation, operand = origin.operation, origin.operand
        is_step = harm.reached.startswith(("parameter", "the optimizer"))
        if operation is not None and is_step and operation.module is None:
            # Code of the user's own that moves weights by hand.
            is_forward = operation.phase == "forward"
            operation = replace(operation, phase="update") if is_forward else operation
        if operation is None:
            assert operand is not None
            cause = given_cause(operand)
        else:
            cause = written_cause(operation) if origin.how == "written" else cause_of(operation)
        return NonFinite(
            operation=operation, given=operand, is_written=origin.how == "written",
            turned=origin.turned, reached=harm.reached, cause=cause, before=self.before,
            recent=origin.recent,
        )  # fmt: skip


def _recent(one: tuple[str, Place | None]) -> str:
    name, place = one
    if place is None:
        return words_of(name)
    at = f" in {place.module}" if place.module else ""
    return f"{words_of(name)}{at}" + (f", {place.lines[0]}" if place.lines else "")
