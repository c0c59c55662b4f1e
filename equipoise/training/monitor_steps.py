"""One step of training as a monitor sees it: when it begins, what belongs to it, when it ends.

A step ends when every optimizer has stepped, or when one of them steps again; where ``step`` is
called by hand, there. A forward pass with all gradients gone and no step in between begins a new
one: the step was skipped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from equipoise.training.gradient_norms import local
from equipoise.training.guard_names import Watched, plain_name, watched
from equipoise.training.guard_producer import Calls, Incident, Producer, find_producer
from equipoise.training.monitor_doors import Doors, Inside, computed_weights, is_in_backward
from equipoise.training.monitor_forward import ForwardWatch
from equipoise.training.monitor_gathered import Gathered, layer_of
from equipoise.training.monitor_parameters import Parameters, Piece
from equipoise.training.monitor_row import Row, make_row
from equipoise.training.monitor_tensors import sampled_rows, sum_of_squares
from equipoise.training.reading import can_read

# Forward passes that may belong to one step before it is taken for one that never ended.
_MOST_FORWARDS = 1024
# Rows of the inputs of the model that their RMS is read from.
_INPUT_ROWS = 512


class Steps:
    """Watches a model and its optimizers step by step.

    Args:
        model: what is called while training.
        optimizers: all that move it.
        every: steps from one close look to the next.
        scaler: of the loss, if any.
        initialized: weights by name that the first step must start from.
        end: called with each finished step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        every: int,
        scaler: "torch.amp.GradScaler | None",
        initialized: Mapping[str, torch.Tensor],
        end: Callable[[Row], None],
    ) -> None:
        self._model, self._optimizers, self._every = model, tuple(optimizers), every
        self._scaler, self._end = scaler, end
        self.number = 0
        self.looks = 0
        self.is_by_hand = False
        self._gathered = Gathered()
        names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        self._watch = ForwardWatch(names, self._gathered)
        self._is_watching = False
        self._pieces: list[Piece] = []
        self._losses: list[torch.Tensor] = []
        self._inputs: list[tuple[torch.Tensor, int]] = []
        self._stepped: set[int] = set()
        self._forwards = 0
        self._explained: Producer | None = None
        self._loss_scale: torch.Tensor | None = None
        self._has_closure = self._is_stepping = False
        self._calls: Calls | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._follow()
        for one in self.parameters:
            one.remember(initialized)

    @property
    def is_close(self) -> bool:
        """Whether the step that is open is looked at closely."""
        return self.number % self._every == 0

    def open(self) -> None:
        """Put hooks on."""
        # Elsewhere nobody reads in time that a step has to be run again.
        is_asked = self._every > 1 and self._device.type == "cpu"
        self._calls = Calls(self._model) if is_asked else None
        self._doors = Doors(self._model, self._enter, self._leave)
        self._handles = [*self._doors.handles]
        for i, optimizer in enumerate(self._optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._before(i)))
            self._handles.append(optimizer.register_step_post_hook(self._after(i)))
        says = self._say_inside
        for name, module in computed_weights(self._model):
            self._handles.append(module.register_forward_pre_hook(Inside(says, name)))
            self._handles.append(module.register_forward_hook(Inside(says, ""), always_call=True))

    def close(self) -> None:
        """Take them off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._calls is not None:
            self._calls.close()
        self._leave([])
        # Gradients came back and nobody stepped: a scaler skipped the last step.
        if self._gathered.gradients or self._pieces:
            self.finish(is_by_hand=False)

    def note(self, loss: torch.Tensor) -> None:
        """A loss of the step that is open."""
        self._losses.append(loss)

    def finish(self, is_by_hand: bool) -> None:
        """End the step that is open, if anything belongs to it.

        Args:
            is_by_hand: whether the caller says so, and will say so from now on.
        """
        self.is_by_hand = self.is_by_hand or is_by_hand
        if self._pieces or self._gathered.sites or self._losses or self._forwards:
            self._finish()

    def is_complete(self) -> bool:
        """Whether every optimizer has stepped."""
        return len(self._stepped) == len(self._optimizers)

    def _follow(self) -> None:
        """Look at the parameters of the optimizers as they are now."""
        self._groups = [one.param_groups for one in self._optimizers]
        self.watched: list[Watched] = []
        self.parameters: list[Parameters] = []
        for groups in self._groups:
            found = [replace(w, layer=layer_of(w.name)) for w in watched(groups, self._model)]
            self.parameters.append(Parameters(found, len(self.watched)))
            self.watched.extend(found)
        self._counts = self._count()
        first = self.watched[0].parameter if self.watched else torch.zeros(0)
        self._device = local(first.detach()).device

    def _count(self) -> list[int]:
        return [sum(len(g["params"]) for g in o.param_groups) for o in self._optimizers]

    def _say_inside(self, name: str) -> None:
        self._watch.inside = name

    def _enter(self, leaves: list[Any]) -> None:
        if self._is_over():
            self._finish()
        self._forwards += 1
        with torch.no_grad():
            for leaf in leaves:
                is_real = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
                if is_real and leaf.numel() and leaf.dim():
                    part = sampled_rows(leaf, -1, _INPUT_ROWS)
                    self._inputs.append((sum_of_squares(part), part.numel()))
        if self._scaler is not None and self._scaler.is_enabled():
            # What a scaler makes of 1 is its scale, and does not leave the device.
            self._loss_scale = self._scaler.scale(torch.ones((), device=self._device))
        if self.is_close:
            self._watch.begin()
            self._watch.__enter__()  # type: ignore[no-untyped-call]
            self._is_watching = True

    def _leave(self, leaves: list[Any]) -> None:
        if self._is_watching:
            self._is_watching = False
            self._watch.end(leaves)
            self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _is_over(self) -> bool:
        """Whether a forward pass begins another step than the one that is open."""
        # A closure runs forward while the optimizer steps.
        if self.is_by_hand or not self._forwards or self._is_stepping:
            return False
        if self.is_complete() or self._forwards >= _MOST_FORWARDS:
            return True
        # Gradients that came and are gone: somebody skipped the step.
        came = bool(self._gathered.gradients) and not self._stepped
        return came and all(one.parameter.grad is None for one in self.watched)

    def _scale(self, optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
        """By which the gradients of an optimizer are still scaled."""
        return getattr(optimizer, "grad_scale", None)

    def _before(self, i: int) -> Callable[..., None]:
        def before(
            optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            if is_in_backward() or torch.compiler.is_compiling():
                return
            if i in self._stepped and not self.is_by_hand:
                self._finish()
            if self._count() != self._counts:
                self._follow()
            self._is_stepping = True
            # A closure makes the gradients only while the optimizer steps.
            self._has_closure = bool([a for a in (*args[1:], *kwargs.values()) if callable(a)])
            with torch.no_grad():
                one, scale = self.parameters[i], self._scale(optimizer)
                if not self._has_closure:
                    self._pieces.extend(one.gradients(scale))
                    self._explain()
                self._pieces.extend(one.before(scale, self.is_close, self.looks))

        return before

    def _after(self, i: int) -> Callable[..., None]:
        def after(
            optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            if is_in_backward() or torch.compiler.is_compiling():
                return
            self._is_stepping = False
            with torch.no_grad():
                if self._has_closure:
                    self._pieces.extend(self.parameters[i].gradients(self._scale(optimizer)))
                self._pieces.extend(self.parameters[i].after(self.is_close))
            self._stepped.add(i)
            # The first step waits: whether ``step`` is called by hand is not known yet.
            if self.is_complete() and self.number and not self.is_by_hand:
                self._finish()

        return after

    def _explain(self) -> None:
        """Ask who made what is not finite, where the forward pass was not watched."""
        norms = self._pieces[-1].numbers if self._pieces else torch.zeros(0)
        if self._calls is None or self.is_close or self._explained or not can_read(norms):
            return
        if bool(norms.isfinite().all()):
            return
        piece = self._pieces[-1]
        bad = [piece.places[i] for i in torch.nonzero(~norms.isfinite()).flatten().tolist()]
        self._explained = find_producer(
            Incident(
                self.number + 1, False, tuple(one.name for one in self.watched),
                tuple(one.layer for one in self.watched), tuple(bad),
                tuple(one.parameter for one in self.watched), self._model,
                tuple(self._calls.seen),
            )
        )  # fmt: skip

    def _finish(self) -> None:
        """Hand on the step that is open, and begin the next."""
        is_close = self.is_close
        self.number += 1
        self.looks += is_close
        rate = self._optimizers[0].param_groups[0].get("lr", math.nan)
        with torch.no_grad():
            row = make_row(
                self.number, is_close, math.nan if isinstance(rate, torch.Tensor) else float(rate),
                self._losses, self._inputs, self._pieces, self._gathered, self._loss_scale,
                len(self.watched), self._explained, self._device,
            )  # fmt: skip
        self._gathered.clear()
        self._pieces, self._losses, self._inputs = [], [], []
        self._stepped, self._forwards, self._explained = set(), 0, None
        if self._calls is not None:
            self._calls.forget()
        self._end(row)
