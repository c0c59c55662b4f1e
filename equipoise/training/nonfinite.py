"""Explaining a nan: which operation made the first number that is not finite, and why."""

import inspect
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Literal

import torch
from torch import nn

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


class Explaining:
    """A block that is watched, and what was found in it; ``explain_nonfinite`` makes it.

    Attributes:
        ran_eagerly: whether compiled functions were told to run eagerly. What only their compiled
            form does is not seen then.
    """

    def __init__(self, model: nn.Module, on_found: str, read_every: int) -> None:
        self._model, self._on_found, self._read_every = model, on_found, read_every
        self._judge: Judge | None = None
        self._watch: Watch | None = None
        self._stack: Stack | None = None
        self._hooks = list[Any]()
        self._stance: Any = None
        self.ran_eagerly = False

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
        if self.ran_eagerly:
            said.append(
                "Compiled functions ran eagerly: what only their compiled form does was not seen."
            )
        return "\n".join(said)

    def __enter__(self) -> "Explaining":
        if self._watch is not None:
            raise ArgumentError(
                "explain_nonfinite must be entered once at a time, got a block that is open. "
                "Call it again for a block inside of another."
            )
        entered: FrameType | None = sys._getframe(1)
        self._judge = judge = Judge(self._model, self._conclude)
        self._stack = Stack(self._model, entered)
        self._watch = Watch(judge, self._stack, self._read_every)
        self._hooks = [
            self._model.register_forward_pre_hook(self._enters, with_kwargs=True),
            self._model.register_forward_hook(self._leaves),
        ]
        # Nothing can have been compiled where torch's compiler was never loaded.
        if "torch._dynamo" in sys.modules:
            self._stance = torch.compiler.set_stance("force_eager")  # type: ignore[no-untyped-call]
            self._stance.__enter__()
            self.ran_eagerly = True
        self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._watch is not None and self._judge is not None and self._stack is not None
        watch, judge = self._watch, self._judge
        watch.__exit__(kind, error, traceback)
        if self._stance is not None:
            self._stance.__exit__(kind, error, traceback)
        for hook in self._hooks:
            hook.remove()
        self._stack.leave()
        self._watch = self._stance = None
        if error is None:
            watch.read()
            judge.closes()
        elif isinstance(error, Exception) and not isinstance(error, NonFiniteError):
            on_found, self._on_found = self._on_found, "report"
            watch.read()
            self._on_found = on_found
            judge.fails(in_words(error))
            if judge.verdict is not None:
                error.add_note(str(judge.verdict))

    def _conclude(self, result: NonFinite) -> None:
        if self._on_found == "raise":
            raise NonFiniteError(str(result), result)

    def _enters(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert self._judge is not None
        self._judge.enters(_arguments(module, args, kwargs))

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        assert self._judge is not None and self._watch is not None
        self._watch.read()
        self._judge.leaves(_tensors(output))


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
