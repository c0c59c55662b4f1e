"""A monitor of training: what every layer does, and what is wrong, as it happens."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.rules.finding import Finding
from equipoise.training.guard_names import plain_name
from equipoise.training.loggers import Log
from equipoise.training.monitor_doors import unseen
from equipoise.training.monitor_history import History
from equipoise.training.monitor_judge import Judge
from equipoise.training.monitor_pending import Pending
from equipoise.training.monitor_row import Row
from equipoise.training.monitor_steps import Steps

# Findings that are kept.
_FINDINGS = 1_000


class Monitor:
    """Watches a model while it trains and says what is wrong, where, and what to do about it.

    As a context manager it follows the steps of the optimizers by itself; whoever calls ``step``
    once an iteration, behind the optimizers, may hand the loss in. In every step it takes the
    norms of gradients and updates; in one of ``every`` it looks closely: by layer the RMS and mean
    of its output, the gradient there, saturation, units that are dead on the whole batch, the
    effective rank, norm of gradient and weights, update over weight, the noise of the gradient, the
    largest logit and the entropy of attention. Functions (``F.relu``, ``x @ W``) are seen as
    modules are. Numbers stay on the device until they have arrived by themselves; nothing waits
    for them.

    Gradient accumulation, autocast, ``GradScaler`` and several optimizers need nothing special.
    Inside compiled code there is nothing to see; the first finding names it, and gradients, weights
    and updates are followed all the same.

    Args:
        model: what is called in the training loop, or any of its parts.
        optimizer: one, or a sequence of all that move it; a ``Guard`` is one too.
        every: steps from one close look to the next, at least 1. In between, a nan is traced to its
            module only on the CPU; with 1 it is everywhere.
        scaler: the ``GradScaler`` in use: gradients at outputs are then told unscaled.
        initialized: weights by name as they were initialized, such as a copy of ``state_dict()``;
            the first step must start from them. Without, from those at this moment.
        on_finding: called with each finding as it happens.
        log: called with each close look, its step and a flat dict; see ``equipoise.torch.loggers``.
        capacity: close looks that are kept, at least 1.

    Attributes:
        model: as given.
        optimizers: as given.

    Raises:
        ArgumentError: If there is no optimizer, if none of their parameters is the model's, if a
            name of ``initialized`` is not one of the model's, or a number is out of range.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
    >>> with Monitor(model, optimizer, every=1) as m:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(16, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> m.layers, m.history["signal"].shape
    (('0', '2'), (3, 2))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        every: int = 10,
        *,
        scaler: torch.amp.GradScaler | None = None,
        initialized: Mapping[str, torch.Tensor] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        log: Log | None = None,
        capacity: int = 1_000,
    ) -> None:
        self.model = model
        self.optimizers = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
        _refuse(model, self.optimizers, initialized or {})
        _checks.at_least("every", every, 1)
        _checks.at_least("capacity", capacity, 1)
        self._on_finding, self._log = on_finding, log
        self._findings: deque[Finding] = deque(maxlen=_FINDINGS)
        self._new: deque[Finding] = deque(maxlen=_FINDINGS)
        self._pending = Pending()
        given = {plain_name(name): value for name, value in (initialized or {}).items()}
        self._steps = Steps(model, self.optimizers, every, scaler, given, self._ended)
        self._watched = self._steps.watched
        self._history = History(self._watched, capacity)
        self._judge = Judge(model, self._watched, scaler is not None and scaler.is_enabled())
        self._is_open = False
        self._open()
        hidden = unseen(model)
        self._is_blind = bool(hidden)
        for name in hidden:
            self._say(_compiled(name))

    def __enter__(self) -> "Monitor":
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def observe(self, loss: torch.Tensor | float) -> None:
        """Note the loss of the step that is open; the mean counts where there are several.

        Args:
            loss: one number, unscaled; it stays on the device.

        Raises:
            ArgumentError: If it is not one number.
        """
        value = torch.as_tensor(loss).detach()
        if value.numel() != 1:
            raise ArgumentError(
                f"loss must be one number, got shape {tuple(value.shape)}. Pass its mean."
            )
        self._steps.note(value.reshape(()))

    def step(self, loss: torch.Tensor | float | None = None) -> tuple[Finding, ...]:
        """End a step; call it once an iteration, behind the optimizers.

        Args:
            loss: of this step, as for ``observe``.

        Returns:
            Findings since the last call; elsewhere than on the CPU they come some steps late.
        """
        if loss is not None:
            self.observe(loss)
        self._steps.finish(is_by_hand=True)
        found = tuple(self._new)
        self._new.clear()
        return found

    @property
    def steps(self) -> int:
        """Steps so far."""
        self._read()
        return self._steps.number

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the last 1,000, oldest first."""
        self._read()
        return tuple(self._findings)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the columns of ``history``."""
        self._read()
        return tuple(self._history.layers)

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The close looks that are kept, oldest first; nan where a number is not known.

        ``step`` and ``loss`` have shape (looks,), the others (looks, layers): ``signal`` (RMS of
        the output), ``mean`` of a sample of it, ``output_gradient`` (RMS), ``saturation`` and
        ``dead`` (shares), ``rank`` (participation ratio of 64 rows), ``gradient_norm``,
        ``weight_norm``, ``update_norm``, ``update_ratio`` (of all parameters of a layer; updates
        from a sample of 256 entries of each), ``noise_scale`` (in batches, arXiv 1812.06162),
        ``logit_max`` and ``entropy`` (over that of all keys) of attention.
        """
        self._read()
        return self._history.arrays()

    def quantiles(self, metric: str, layer: str, shares: Sequence[float]) -> np.ndarray:
        """Quantiles of a metric of one layer over all close looks, to 2 % of their value.

        Args:
            metric: a key of ``history``.
            layer: one of ``layers``.
            shares: from 0 to 1.

        Raises:
            ArgumentError: If the metric or layer is not known, or a share is out of range.
        """
        self._read()
        return self._history.quantiles(metric, layer, shares)

    def latest(self) -> dict[str, float]:
        """The last close look as a flat dict, ``{"signal/encoder.0": 0.97, ...}``."""
        self._read()
        return self._history.latest()

    def to_csv(self, path: str | Path) -> None:
        """Write the close looks that are kept, one line for each look and layer."""
        self._read()
        self._history.to_csv(path)

    def to_parquet(self, path: str | Path) -> None:
        """Write the same table as a Parquet file.

        Raises:
            ArgumentError: If pyarrow is not installed.
        """
        self._read()
        self._history.to_parquet(path)

    def close(self) -> None:
        """End the step that is open, read what is on its way and take all hooks off."""
        if self._is_open:
            self._is_open = False
            self._steps.close()
            self._read()

    def __repr__(self) -> str:
        return (
            f"Monitor({type(self.model).__name__}, {self._steps.number} steps, "
            f"{len(self._findings)} findings)"
        )

    def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._steps.open()

    def _ended(self, row: Row) -> None:
        self._pending.put(row)
        self._take(is_all=False)

    def _read(self) -> None:
        if self._steps.is_complete() and not self._steps.is_by_hand:
            self._steps.finish(is_by_hand=False)
        self._take(is_all=True)

    def _take(self, is_all: bool) -> None:
        for reading in self._pending.arrived(is_all):
            if self._steps.watched is not self._watched:
                self._watched = self._steps.watched
                self._history.follow(self._watched)
                self._judge.follow(self._watched)
            if reading.is_close:
                if not (reading.layers or self._is_blind) and reading.has_gradient.any():
                    self._is_blind = True
                    self._say(_compiled("model"))
                self._history.take(reading)
                if self._log is not None:
                    self._log(reading.step, self._history.latest())
            for finding in self._judge.judge(reading):
                self._say(finding)

    def _say(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._new.append(finding)
        if self._on_finding is not None:
            self._on_finding(finding)


def _compiled(name: str) -> Finding:
    return Finding(
        "not-measured", "info", name,
        "no calls are seen in compiled code, or in what others call: signals, gradients at "
        "outputs, dead units, saturation, rank and attention there are not known",
        "layers that run one by one", "gradients, weights and updates are followed all the same",
        "Train some steps without torch.compile to see them.",
    )  # fmt: skip


def _refuse(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    initialized: Mapping[str, torch.Tensor],
) -> None:
    """Refuse what cannot be watched."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. Pass what is called in "
            f"the training loop."
        )
    for one in optimizers or (None,):
        if not isinstance(one, torch.optim.Optimizer):
            raise ArgumentError(
                f"optimizer must be a torch.optim.Optimizer or a sequence of them, got "
                f"{'nothing' if one is None else type(one).__name__}. Make one from "
                f"model.parameters()."
            )
    own = {id(p) for p in model.parameters()}
    held = [p for one in optimizers for group in one.param_groups for p in group["params"]]
    if not any(id(p) in own for p in held):
        raise ArgumentError(
            "optimizer must hold parameters of the model, got none of them. Make it after the "
            "model is in its last form."
        )
    shapes = {plain_name(name): p.shape for name, p in model.named_parameters()}
    known = {*shapes, *(plain_name(name) for name, _ in model.named_buffers())}
    for name, value in initialized.items():
        plain = plain_name(name)
        if plain not in known or (plain in shapes and value.shape != shapes[plain]):
            raise ArgumentError(
                f"initialized must hold the model's own weights, got {name!r} of shape "
                f"{tuple(value.shape)}. Pass copies of what model.state_dict() held."
            )
