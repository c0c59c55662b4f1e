"""Monitor and guard in the Trainer of Hugging Face's transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.rules.finding import Finding
from equipoise.training.guard_names import ClipBy
from equipoise.training.guard_rollback import Rollback
from equipoise.training.loggers import Log
from equipoise.training.trainer_watch import TrainerWatch, class_of


def transformers_callback(
    every: int = 10,
    clip: ClipBy | None = None,
    *,
    rollback: Rollback | None = None,
    is_guarded: bool = True,
    on_finding: Callable[[Finding], None] | None = None,
    log: Log | None = None,
) -> Any:
    """A callback that watches and guards what a ``transformers.Trainer`` trains.

    ``Trainer(..., callbacks=[eq.transformers_callback()])``. When training starts a ``Guard`` takes
    the place of the optimizer inside of accelerate's wrapper; when it ends the optimizer is put
    back. The loss is read from what the model returns. The trainer clips gradients at 1.0 unless
    ``max_grad_norm=0``, before anything is looked at: then spikes of gradients are not seen. A run
    that goes on from a checkpoint starts with a guard that remembers nothing.

    Args:
        every: steps from one close look of the monitor to the next, at least 1.
        clip: rules of the guard, as for ``Guard``; None for no clipping.
        rollback: when and how the guard goes back; None for never.
        is_guarded: whether there is a guard at all.
        on_finding: called with each finding; without, it goes to the logger ``equipoise``.
        log: called with each close look, its step and a flat dict.

    Returns:
        A ``TrainerCallback`` with ``watch.monitor``, ``watch.guards`` and ``watch.findings``.

    Raises:
        ArgumentError: If transformers is not installed, or ``clip`` or ``rollback`` is given where
            ``is_guarded`` is False.

    >>> callback = transformers_callback(every=5)  # doctest: +SKIP
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback])  # doctest: +SKIP
    """
    made = TrainerWatch(every, clip, rollback, is_guarded, on_finding, log)
    base = class_of("transformers", "TrainerCallback", "transformers")

    class StableTraining(base):  # type: ignore[misc, valid-type]
        """Watches from the start of training to its end."""

        def __init__(self) -> None:
            self.watch = made
            self._handle: torch.utils.hooks.RemovableHandle | None = None
            self._inside: tuple[Any, torch.optim.Optimizer] | None = None

        def on_train_begin(
            self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **kwargs: Any
        ) -> None:
            """Put a guard in the place of the optimizer."""
            held = unwrapped(optimizer)
            if is_guarded and getattr(optimizer, "scaler", None) is not None:
                raise ArgumentError(
                    "the optimizer must step without a GradScaler to be guarded from here, got "
                    "fp16. Pass optimizers=(eq.Guard(optimizer, model=model), None) to the "
                    "Trainer and is_guarded=False here, or train in bf16."
                )
            self._handle = model.register_forward_hook(self._forward)
            (mover,) = self.watch.attach(model, [held])
            if mover is not held:
                self._inside = optimizer, held
                optimizer.optimizer = mover

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """The optimizer has stepped."""
            self.watch.end_step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Put the optimizer back."""
            self.watch.detach()
            if self._handle is not None:
                self._handle.remove()
            if self._inside is not None:
                wrapper, held = self._inside
                wrapper.optimizer = held
                self._inside = None

        def _forward(self, module: nn.Module, args: Any, output: Any) -> None:
            loss = output.get("loss") if isinstance(output, dict) else None
            if loss is None or not module.training or not torch.is_grad_enabled():
                return
            # On several devices of one process there is one for each.
            self.watch.observe(loss.detach().mean())
            for guard in self.watch.guards:
                guard.observe(loss.detach().mean())

    return StableTraining()


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch inside of accelerate's wrapper.

    Args:
        optimizer: what the trainer steps.

    Raises:
        ArgumentError: If there is none that can be exchanged.

    >>> class Wrapper:
    ...     optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    >>> type(unwrapped(Wrapper())).__name__
    'SGD'
    """
    held = getattr(optimizer, "optimizer", None)
    if not isinstance(held, torch.optim.Optimizer):
        raise ArgumentError(
            f"the trainer's optimizer must be accelerate's wrapper around one of torch, got "
            f"{type(optimizer).__name__}. Under DeepSpeed, leave this callback out and use what "
            f"DeepSpeed has for clipping."
        )
    return held
