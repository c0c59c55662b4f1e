"""What an explanation says: where numbers stopped being finite, why, and what helps."""

from dataclasses import dataclass

from equipoise.rules.finding import Finding, Severity
from equipoise.training.nonfinite_operation import Cause, Operand, Operation

# Inputs that are printed; fused optimizer steps have hundreds.
_SHOWN = 8


@dataclass(frozen=True)
class NonFinite:
    """Where nan or infinity came from.

    Attributes:
        operation: the first one that made it out of finite numbers; None where it was there
            before the block.
        given: the tensor that brought it into the block; None where an operation made it.
        is_written: whether the code wrote the infinity itself (a mask), and it got through.
        turned: the operation that made nan of an infinity, where that is another one.
        reached: what it spoilt, such as ``the loss``.
        cause: why, and what helps.
        before: parameters, buffers and gradients that were not finite before the block.
        recent: the last operations before it, oldest first.
        is_handled: whether a gradient scaler met it and left out the step.
    """

    operation: Operation | None
    given: Operand | None
    is_written: bool
    turned: Operation | None
    reached: str
    cause: Cause
    before: tuple[Operand, ...]
    recent: tuple[str, ...] = ()
    is_handled: bool = False

    @property
    def code(self) -> str:
        """Stable name of the rule."""
        return self.finding.code

    @property
    def where(self) -> str:
        """Module, parameter or tensor."""
        if self.operation is None:
            return self.given.source if self.given else ""
        if self.operation.phase == "update" and not self.operation.module:
            return self.reached
        return self.operation.where

    @property
    def finding(self) -> Finding:
        """The same as a finding."""
        severity: Severity = "info" if self.is_handled else "error"
        op, what, cure = self.operation, self.cause.what, self.cause.remedy
        if self.is_handled:
            cure = (
                f"The gradient scaler skips this step and lowers its scale. If it goes on: {cure}"
            )
        if op is None:
            observed = str(self.given.span) if self.given else ""
            return Finding("non-finite-given", severity, self.where, what, "finite numbers",
                           observed, cure)  # fmt: skip
        line = f" at {op.lines[0]}" if op.lines else ""
        said = f"{op.words} ({self._number}){line}: {what}"
        observed = "; ".join(map(str, op.outputs[:1]))
        match op.phase:
            case "forward":
                return Finding("non-finite-forward", severity, self.where, said,
                               "finite numbers", observed, cure)  # fmt: skip
            case "backward":
                return Finding("non-finite-backward", severity, self.where, said,
                               "finite gradients", observed, cure)  # fmt: skip
        return Finding("non-finite-update", severity, self.where, said,
                       "finite parameters", observed, cure)  # fmt: skip

    @property
    def _number(self) -> str:
        op = self.operation
        return "nan" if op is not None and op.has_nan else "infinity"

    def __str__(self) -> str:
        return "\n".join([*self._head(), *self._evidence(), *self._context()])

    def _head(self) -> list[str]:
        op = self.operation
        if op is None:
            return [f"Not finite when it came in: {self.where}", f"why: {self.cause.what}",
                    f"remedy: {self.cause.remedy}", f"reached: {self.reached}"]  # fmt: skip
        made = "was written as" if self.is_written else "made"
        node = f" of {op.node}" if op.node else ""
        again = " (recomputed by checkpointing)" if op.is_recomputed else ""
        return [
            f"{op.words} [aten.{op.aten}{node}] {made} {self._number} in the {op.phase} pass{again}"
            if op.phase != "update" else
            f"{op.words} [aten.{op.aten}] {made} {self._number} in the optimizer's step",
            f"where: {self.where}",
            f"why: {self.cause.what}",
            f"remedy: {self.cause.remedy}",
            f"reached: {self.reached}",
        ]  # fmt: skip

    def _evidence(self) -> list[str]:
        op = self.operation
        if op is None:
            return [f"  {self.given}"] if self.given else []
        lines = ["lines, innermost first:", *(f"  {line}" for line in op.lines)]
        if op.made_at:
            lines += ["belongs to the forward pass at:", *(f"  {x}" for x in op.made_at)]
        lines += ["inputs:", *(f"  {x}" for x in op.inputs[:_SHOWN])]
        if len(op.inputs) > _SHOWN:
            lines.append(f"  and {len(op.inputs) - _SHOWN} more")
        lines += [f"  {name} = {value:g}" for name, value in op.numbers]
        return [*lines, "outputs:", *(f"  {x}" for x in op.outputs[:_SHOWN])]

    def _context(self) -> list[str]:
        lines = []
        if self.turned is not None:
            at = f" at {self.turned.lines[0]}" if self.turned.lines else ""
            lines.append(f"it became nan in {self.turned.words}, {self.turned.where}{at}")
        if self.before:
            lines += ["not finite before the block:", *(f"  {x}" for x in self.before[:_SHOWN])]
        if self.recent:
            lines += ["operations before it:", *(f"  {x}" for x in self.recent)]
        return lines
