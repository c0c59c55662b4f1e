"""Monitor and guard in a Lightning trainer."""

from collections.abc import Callable
from typing import Any

from equipoise.rules.finding import Finding
from equipoise.training.guard_names import ClipBy
from equipoise.training.guard_rollback import Rollback
from equipoise.training.loggers import Log
from equipoise.training.trainer_watch import TrainerWatch, class_of


def lightning_callback(
    every: int = 10,
    clip: ClipBy | None = None,
    *,
    rollback: Rollback | None = None,
    is_guarded: bool = True,
    on_finding: Callable[[Finding], None] | None = None,
    log: Log | None = None,
) -> Any:
    """A callback that watches and guards what a Lightning ``Trainer`` fits.

    ``Trainer(callbacks=[eq.lightning_callback()])``. When training starts a ``Guard`` takes the
    place of each optimizer; when it ends the optimizers are put back. Automatic and manual
    optimization, accumulation and schedules need nothing special. What the guard remembers is
    kept in checkpoints. Use ``clip=`` in place of ``gradient_clip_val``, which would clip before
    anything is looked at.

    Args:
        every: steps from one close look of the monitor to the next, at least 1.
        clip: rules of the guard, as for ``Guard``; None for no clipping.
        rollback: when and how the guard goes back; None for never.
        is_guarded: whether there is a guard at all.
        on_finding: called with each finding; without, it goes to the logger ``equipoise``.
        log: called with each close look, its step and a flat dict.

    Returns:
        A ``Callback`` of Lightning with ``watch.monitor``, ``watch.guards`` and
        ``watch.findings``.

    Raises:
        ArgumentError: If Lightning is not installed, or ``clip`` or ``rollback`` is given where
            ``is_guarded`` is False.

    >>> import lightning.pytorch as pl  # doctest: +SKIP
    >>> pl.Trainer(callbacks=[lightning_callback(clip=eq.GlobalNorm(1.0))])  # doctest: +SKIP
    """
    made = TrainerWatch(every, clip, rollback, is_guarded, on_finding, log)
    base = class_of("lightning.pytorch.callbacks", "Callback", "lightning")

    class StableTraining(base):  # type: ignore[misc, valid-type]
        """Watches from the start of training to its end."""

        def __init__(self) -> None:
            super().__init__()
            self.watch = made
            self._optimizers: list[Any] = []
            self._step = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Put guards in the place of the optimizers."""
            self._optimizers = list(trainer.strategy.optimizers)
            self._step = trainer.global_step
            trainer.strategy.optimizers = self.watch.attach(pl_module, self._optimizers)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """Hand the loss on; end the step if the optimizers have stepped."""
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if loss is not None:
                # Lightning has divided it by the number of batches that are accumulated.
                parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
                self.watch.observe(loss * parts)
            if trainer.global_step != self._step:
                self._step = trainer.global_step
                self.watch.end_step()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Put the optimizers back."""
            self._leave(trainer)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Put the optimizers back."""
            self._leave(trainer)

        def state_dict(self) -> dict[str, Any]:
            """What the guards remember."""
            return {"guards": self.watch.state()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Go on from it once training starts."""
            self.watch.go_on_from(state_dict["guards"])

        def _leave(self, trainer: Any) -> None:
            self.watch.detach()
            if self._optimizers:
                trainer.strategy.optimizers = self._optimizers
                self._optimizers = []

    return StableTraining()
