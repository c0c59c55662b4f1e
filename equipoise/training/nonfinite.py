"""Explaining a nan: which operation made the first number that is not finite, and why."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from equipoise import _checks
from equipoise.errors import ArgumentError, NonFiniteError, in_words
from equipoise.rules.finding import Finding
from equipoise.training.nonfinite_judge import Judge
from equipoise.training.nonfinite_place import Stack
from equipoise.training.nonfinite_result import NonFinite
from equipoise.training.nonfinite_watch import Watch

# On an accelerator each look waits for all that was asked of it; 32 looks at a time hide that, and
# keep the inputs of 32 operations alive.
_ACCELERATOR_READS = 32


def explain_nonfinite(
    model: nn.Module,
    *,
    on_found: Literal["raise", "report"] = "raise",
    read_every: int | None = None,
) -> "Explaining":
    """Find the operation that makes the first nan or infinity that does harm.

    Put it around forward, loss, backward and the optimizer's step, for one step or many. Every
    operation is looked at, in both passes and in the update. One that makes numbers that are not
    finite out of finite ones is a producer; one that had them given is a carrier. What never gets
    to the loss, a gradient, a parameter, the optimizer's state or the output is left alone, so
    that masks of minus infinity raise no alarm. Compiled functions run eagerly inside.

    Args:
        model: the model; parameters and modules go by its names.
        on_found: ``raise`` a NonFiniteError where the harm is done, or ``report`` it in what the
            block gives, and watch no longer.
        read_every: look at the outputs of so many operations at a time, at least 1. By default 1
            where the parameters are on the CPU, else 32, so that the host waits rarely.

    Returns:
        A context manager that gives itself.

    Raises:
        ArgumentError: model is no module, or on_found or read_every cannot be used.
        NonFiniteError: out of the block, where something was found.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> with explain_nonfinite(model, on_found="report") as found:
    ...     loss = torch.log(model(torch.zeros(3, 2)) * 0.0).sum()
    ...     loss.backward()
    >>> found.result.code, found.result.operation.aten
    ('non-finite-forward', 'log')
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. "
            "Pass the model whose training gives nan."
        )
    _checks.one_of("on_found", on_found, ("raise", "report"))
    if read_every is None:
        devices = {p.device.type for p in model.parameters()}
        read_every = 1 if devices <= {"cpu"} else _ACCELERATOR_READS
    _checks.at_least("read_every", read_every, 1)
    return Explaining(model, on_found, read_every)


@dataclass(frozen=True, eq=False)
class _Open:
    """What a block that is open has set up, to be taken down again."""

    judge: Judge
    watch: Watch
    stack: Stack
    hooks: tuple[RemovableHandle, ...]
    stance: AbstractContextManager[None]


class Explaining:
    """A block that is watched, and what was found in it; ``explain_nonfinite`` makes it.

    Attributes:
        has_compiled: whether parts of the model are compiled. They run eagerly inside of the
            block, so that what only their compiled form does is not seen.
    """

    def __init__(self, model: nn.Module, on_found: str, read_every: int) -> None:
        self._model, self._on_found, self._read_every = model, on_found, read_every
        self._judge: Judge | None = None
        self._open: _Open | None = None
        self.has_compiled = any(
            type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None
            for m in model.modules()
        )

    @property
    def result(self) -> NonFinite | None:
        """The first that did harm, None where all went well."""
        return self._judge.verdict if self._judge is not None else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The same as findings, with those that a gradient scaler dealt with."""
        found = [*self.handled, *([self.result] if self.result is not None else [])]
        return tuple(x.finding for x in found)

    @property
    def handled(self) -> tuple[NonFinite, ...]:
        """Overflows that a gradient scaler met and left the step out for, the first 16."""
        return tuple(self._judge.handled) if self._judge is not None else ()

    @property
    def skipped_steps(self) -> int:
        """How many steps a gradient scaler left out."""
        return self._judge.skipped_steps if self._judge is not None else 0

    def __bool__(self) -> bool:
        return self.result is not None

    def __str__(self) -> str:
        said = [str(self.result) if self.result else "All that counts was finite."]
        if self._judge is not None and self._judge.before and not self.result:
            said += ["not finite before the block, without harm:",
                     *(f"  {x}" for x in self._judge.before)]  # fmt: skip
        if self.skipped_steps:
            said.append(f"a gradient scaler left out {self.skipped_steps} steps; the first:")
            said.append(str(self.handled[0]))
        if self.has_compiled:
            said.append(
                "Compiled parts ran eagerly: what only their compiled form does was not seen."
            )
        return "\n".join(said)

    def __enter__(self) -> "Explaining":
        if self._open is not None:
            raise ArgumentError(
                "explain_nonfinite must be entered once at a time, got a block that is open. "
                "Call it again for a block inside of another."
            )
        self._judge = judge = Judge(self._model, self._conclude)
        stack = Stack(self._model, sys._getframe(1))
        watch = Watch(judge, stack, self._read_every)

        def enters(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            judge.enters(_arguments(module, args, kwargs))

        def leaves(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            watch.read()
            judge.leaves(_tensors(output))

        hooks = (
            self._model.register_forward_pre_hook(enters, with_kwargs=True),
            self._model.register_forward_hook(leaves),
        )
        self._open = _Open(judge, watch, stack, hooks, _eagerly())
        self._open.stance.__enter__()
        watch.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open is None:
            return
        block, self._open = self._open, None
        block.watch.__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        block.stance.__exit__(kind, error, traceback)
        for hook in block.hooks:
            hook.remove()
        block.stack.leave()
        if error is None:
            block.watch.read()
            block.judge.closes()
        elif isinstance(error, Exception) and not isinstance(error, NonFiniteError):
            self._fails(block, error)

    def _fails(self, block: _Open, error: Exception) -> None:
        """Add what was found to an error of the block's own, and raise no other."""
        on_found, self._on_found = self._on_found, "report"
        block.watch.read()
        self._on_found = on_found
        block.judge.fails(in_words(error))
        if block.judge.verdict is not None:
            error.add_note(str(block.judge.verdict))

    def _conclude(self, result: NonFinite) -> None:
        if self._on_found == "raise":
            raise NonFiniteError(str(result), result)


def _eagerly() -> AbstractContextManager[None]:
    """Compiled functions run eagerly; nothing to do where torch's compiler was never loaded."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that a model is called with, by the names of its forward's arguments."""
    names = [
        x.name
        for x in inspect.signature(module.forward).parameters.values()
        if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)
    ]
    for i, value in enumerate(args):
        name = names[i] if i < len(names) else f"number {i}"
        for tensor in _tensors(value):
            yield f"argument '{name}' of the model", tensor
    for name, value in kwargs.items():
        for tensor in _tensors(value):
            yield f"argument '{name}' of the model", tensor


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Floating-point tensors in what a model takes or returns."""
    match value:
        case torch.Tensor():
            if value.is_floating_point() or value.is_complex():
                yield value
        case list() | tuple():
            for one in value:
                yield from _tensors(one)
        case dict():
            for one in value.values():
                yield from _tensors(one)
        case _ if hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                yield from _tensors(getattr(value, name, None))
