"""A guard around an optimizer: clips, skips what is not finite, sees spikes, goes back."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.rules.finding import Finding
from equipoise.training.guard_names import ClipBy, Selection
from equipoise.training.guard_producer import Explain, find_producer
from equipoise.training.guard_record import Record
from equipoise.training.guard_rollback import Rollback
from equipoise.training.guard_spikes import Spikes
from equipoise.training.guard_step import Settings, Steps

_SPIKES = Spikes()


class Guard(torch.optim.Optimizer):
    """Wraps the step of one or more optimizers and keeps the training stable.

    In each step: gradients are unscaled, once, where a ``GradScaler`` is at work; their norms are
    taken over all shards; a gradient or loss that is not finite skips the step, and its producer
    is named; what is above the limit is clipped; the optimizer steps; the update is compared with
    those before it. With ``rollback``, trouble that lasts goes back to the last good state.

    A guard is an optimizer: schedulers take it, ``GradScaler.step(guard)`` takes it (hand it to
    ``unscale_`` too), and it shares ``param_groups`` and ``state`` with the one it guards. With
    accumulated gradients, step once for all of them. ``state_dict`` is that of the optimizer with
    what the guard remembers beside it, so that checkpoints with and without a guard fit each other.

    What it costs: one pass over the gradients for their norm, one more in steps that are clipped,
    and a sample of the weights. Optimizers with ``fused=True`` decide on the device whether a step
    is skipped, and the host reads the numbers of ``read_every`` steps at once; others need one
    number on the host in each step, which waits for the backward pass as ``GradScaler`` does.

    Args:
        optimizer: one, or a sequence of them that share one global norm; no LBFGS, whose line
            search needs the gradient as it is.
        clip: a rule, a sequence of rules that follow each other, rules by pattern of parameter
            names (the first pattern that fits counts), or None for no clipping: no rule is best for
            every trouble.
        model: for names, for the producer of what is not finite, for running statistics that a
            skipped step must not change, and for buffers in snapshots. Pass what is called in the
            training loop, the compiled model where it is compiled.
        exclude: parameters that are not clipped: patterns, or functions of name and parameter.
        spikes: what a spike is; None to look for none.
        rollback: when and how to go back; None for never.
        explain: names the producer of what is not finite in place of ``find_producer``.
        on_finding: called with each finding as it happens.
        capacity: steps of history that are kept, at least 1.
        read_every: steps between readings of what they showed, at least 1; without, 1 on the CPU
            and 10 elsewhere.
        group: processes whose losses are averaged, for data-parallel training without shards.

    Attributes:
        optimizers: those that are guarded.

    Raises:
        ArgumentError: If an optimizer needs a closure, a name pattern fits nothing, or a number is
            out of range.

    >>> model = nn.Linear(2, 1)
    >>> guard = Guard(torch.optim.SGD(model.parameters(), 0.1), model=model)
    >>> loss = model(torch.tensor([[float("nan"), 1.0]])).sum()
    >>> loss.backward()
    >>> guard.step(loss=loss)
    >>> guard.skipped, guard.findings[0].code, guard.findings[0].where
    (1, 'non-finite-gradient', 'inputs')
    """

    # GradScaler then leaves it to the guard whether to step, and hands it the scale.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        clip: ClipBy | None = None,
        *,
        model: nn.Module | None = None,
        exclude: Selection | Sequence[Selection] = (),
        spikes: Spikes | None = _SPIKES,
        rollback: Rollback | None = None,
        explain: Explain | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        capacity: int = 10_000,
        read_every: int | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.optimizers = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
        for one in self.optimizers:
            _refuse(one)
        chosen = (exclude,) if isinstance(exclude, str) or callable(exclude) else tuple(exclude)
        settings = Settings(
            clip,
            chosen,
            spikes,
            rollback,
            explain or find_producer,
            on_finding,
            capacity,
            read_every,
            group,
        )
        self._steps = Steps(self.optimizers, model, settings)
        # Sets up hooks, without the parameter groups of its own that __init__ would make.
        super().__setstate__({})

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, the first where there are several."""
        return self.optimizers[0]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of the optimizers, the same objects."""
        if len(self.optimizers) == 1:
            return self.optimizer.param_groups
        return [group for one in self.optimizers for group in one.param_groups]

    @property
    def state(self) -> Any:  # type: ignore[override]
        """That of the optimizer; with several, all of them in one dict to read."""
        if len(self.optimizers) == 1:
            return self.optimizer.state
        return {p: held for one in self.optimizers for p, held in one.state.items()}

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Those of the first optimizer."""
        return self.optimizer.defaults

    @property
    def steps(self) -> int:
        """Steps so far, the skipped ones among them."""
        return self._read().counts.steps

    @property
    def skipped(self) -> int:
        """Steps that were skipped."""
        return self._read().counts.skipped

    @property
    def clipped_share(self) -> float:
        """Share of the steps taken in which something was clipped; nan before the first."""
        counts = self._read().counts
        taken = counts.steps - counts.skipped
        return counts.clipped / taken if taken else float("nan")

    @property
    def rollbacks(self) -> int:
        """Returns to an earlier state."""
        return self._read().counts.rollbacks

    @property
    def rate_factor(self) -> float:
        """What learning rates are multiplied by since the last rollback, 1 without one."""
        return self._steps.rate.factor

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the last 1,000, oldest first."""
        return tuple(self._read().findings)

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The last steps, oldest first, one array each.

        ``step`` (from 1), ``loss`` (nan where none was given), ``gradient_norm`` (of all gradients
        before clipping), ``limit`` (of the first rule), ``clipped``, ``skipped`` (0 or 1),
        ``update_norm``, ``rate_factor``.
        """
        return self._read().history()

    @property
    def snapshot_bytes(self) -> int:
        """Memory that snapshots hold now, in bytes."""
        return self._steps.snapshot_bytes

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], torch.Tensor] | None = None,
        *,
        loss: torch.Tensor | float | None = None,
    ) -> torch.Tensor | None:
        """One guarded step.

        Args:
            closure: computes loss and gradients once, before anything is looked at.
            loss: of this step, unscaled, one number; the mean over accumulated batches. It stays on
                the device.

        Returns:
            What the closure returned.

        Raises:
            ArgumentError: If the loss is not one number.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
            loss = value if loss is None else loss
        if loss is not None:
            self.observe(loss)
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        with torch.no_grad():
            self._steps.take(scale, found_inf)
        return value

    def observe(self, loss: torch.Tensor | float) -> None:
        """Note a loss of the step to come, where ``step`` is called by somebody else.

        Args:
            loss: one number, unscaled; the mean counts where there are several.

        Raises:
            ArgumentError: If it is not one number.
        """
        value = torch.as_tensor(loss).detach()
        if value.numel() != 1:
            raise ArgumentError(
                f"loss must be one number, got shape {tuple(value.shape)}. Pass its mean."
            )
        self._steps.losses.append(value.reshape(()))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the optimizers do."""
        for one in self.optimizers:
            one.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the first optimizer does; its parameters are guarded from the next step on."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer, and under ``guard`` what the guard remembers.

        Of several optimizers, a list under ``optimizers``. All of it can be loaded with
        ``torch.load(..., weights_only=True)``. Snapshots, history and findings are left out.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        if len(self.optimizers) == 1:
            state = dict(self.optimizer.state_dict())
        else:
            state = {"optimizers": [one.state_dict() for one in self.optimizers]}
        state["guard"] = self._steps.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; one without a guard's part leaves what it remembers as it is.

        Args:
            state_dict: of a guard, or of a plain optimizer.

        Raises:
            ArgumentError: If it is of another number of optimizers.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        states = state_dict.get("optimizers", [state_dict])
        if len(states) != len(self.optimizers):
            raise ArgumentError(
                f"state_dict must be of {len(self.optimizers)} optimizers, got {len(states)}. "
                f"Guard the same optimizers as when it was saved."
            )
        for one, state in zip(self.optimizers, states, strict=True):
            one.load_state_dict({key: value for key, value in state.items() if key != "guard"})
        if "guard" in state_dict:
            self._steps.load_state_dict(state_dict["guard"])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def close(self) -> None:
        """Take the hook off the model."""
        self._steps.close()

    def __getstate__(self) -> dict[str, Any]:
        # A schedule puts a wrapper of its own in the place of step, which cannot be copied.
        return {key: value for key, value in self.__dict__.items() if key != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        super().__setstate__({})

    def __repr__(self) -> str:
        inner = ", ".join(type(one).__name__ for one in self.optimizers)
        counts = self._steps.record.counts
        return f"Guard({inner}, {counts.steps} steps, {counts.skipped} skipped)"

    def _read(self) -> Record:
        self._steps.read()
        return self._steps.record


def _refuse(optimizer: torch.optim.Optimizer) -> None:
    """Refuse what cannot be guarded."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(
            f"optimizer must be a torch.optim.Optimizer or a sequence of them, got "
            f"{type(optimizer).__name__}. Make one from model.parameters()."
        )
    needed = inspect.signature(optimizer.step).parameters.get("closure")
    if needed is not None and needed.default is inspect.Parameter.empty:
        raise ArgumentError(
            f"optimizer must step without a closure, got {type(optimizer).__name__}, which "
            f"evaluates one many times and needs its gradients as they are. Use it unguarded, or "
            f"guard a first-order optimizer."
        )
