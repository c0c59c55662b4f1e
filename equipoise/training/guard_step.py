"""One guarded step: norms, decision, clipping, the optimizer's own step, and what it showed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.rules.finding import Finding
from equipoise.training.clip_gradients import settle_
from equipoise.training.clipping import GlobalNorm, PerLayer, PerUnit, Value
from equipoise.training.gradient_norms import total_norm
from equipoise.training.guard_clip import Clipper
from equipoise.training.guard_names import ClipBy, Selection, has_names, portions, watched
from equipoise.training.guard_numbers import joined, mean_loss, unscale
from equipoise.training.guard_producer import Calls, Explain, Incident, Producer
from equipoise.training.guard_record import SAID, Counts, Reading, Record
from equipoise.training.guard_rollback import RateCut, Rollback, Snapshots, scaled_rates
from equipoise.training.guard_spikes import Spikes, Updates
from equipoise.training.guard_statistics import RunningStatistics

# Steps that are decided on the host after one that was skipped on the device, so that the next one
# can be explained.
_WATCHFUL = 100
# Steps on a device that runs ahead of the host before what they showed is read.
_BEHIND = 10


@dataclass(frozen=True)
class Settings:
    """What a guard was asked for; see ``Guard``."""

    clip: ClipBy | None
    exclude: tuple[Selection, ...]
    spikes: Spikes | None
    rollback: Rollback | None
    explain: Explain
    on_finding: Callable[[Finding], None] | None
    capacity: int
    read_every: int | None
    group: dist.ProcessGroup | None


@dataclass(frozen=True, eq=False)
class _Noted:
    """A step that has not been read yet: one row on the device, and what the host knows of it."""

    row: torch.Tensor
    step: int
    has_loss: bool
    rate_factor: float
    rate: float
    scale: float
    producer: Producer | None


class Steps:
    """Takes guarded steps of some optimizers."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        model: nn.Module | None,
        settings: Settings,
    ) -> None:
        self._optimizers, self._model, self._settings = optimizers, model, settings
        _checks.at_least("capacity", settings.capacity, 1)
        if settings.read_every is not None:
            _checks.at_least("read_every", settings.read_every, 1)
        by_name = isinstance(settings.clip, Mapping) or any(
            isinstance(one, str) for one in settings.exclude
        )
        if by_name and not has_names(self._groups, model):
            raise ArgumentError(
                "model must be given where parameters are chosen by name, got None. Pass model=, "
                "or make the optimizer from model.named_parameters()."
            )
        self.losses: list[torch.Tensor] = []
        self.rate = RateCut()
        self._number = self._watchful = 0
        self._has_stepped = False
        self._noted: list[_Noted] = []
        self._watch()
        self.record = self._new_record(Counts())
        self._calls = Calls(model) if model is not None else None
        self._statistics = RunningStatistics(model) if model is not None else None

    @property
    def snapshot_bytes(self) -> int:
        """Memory of all snapshots."""
        return self._snapshots.nbytes if self._snapshots is not None else 0

    def take(self, scale: torch.Tensor | None, found_inf: torch.Tensor | None) -> None:
        """One step.

        Args:
            scale: by which gradients are still scaled; None if they are not.
            found_inf: above 0 if whoever unscaled them found infinities; None if nobody did.
        """
        if sum(len(group["params"]) for group in self._groups) != len(self._watched):
            self._grow()
        if self._snapshots is not None and not len(self._snapshots):
            self._snapshots.take(self._number, self._memory())
        self._number += 1
        members = [i for i, one in enumerate(self._watched) if one.parameter.grad is not None]
        gradients = [settle_(self._watched[i].parameter) for i in members]
        if scale is not None:
            unscale(gradients, scale)
        norms, units = self._clipper.norms(members, gradients)
        norm = total_norm(norms)
        parameters = [one.parameter for one in self._watched]
        loss = mean_loss(self.losses, norm, parameters, self._settings.group)
        self.losses.clear()
        is_bad = ~norm.isfinite()
        if loss is not None:
            is_bad = is_bad | ~loss.isfinite()
        if found_inf is not None:
            is_bad = is_bad | (found_inf.to(is_bad.device) > 0)
        decided = self._clipper.decide(members, gradients, norms, units)
        flags = [one.clipping.is_clipped for one in decided]
        # Where the optimizer can skip by itself, the host never waits for the device here.
        is_left = self._can_leave(norm)
        clips: list[bool] | None = None
        skips = False
        if not is_left:
            skips, *clips = torch.stack([is_bad, *flags]).tolist()
        every = self._by_parameter(norms, members)
        producer = self._producer(every, loss) if skips else None
        updates = every.new_zeros(len(self._watched) if self._updates is not None else 0)
        if not skips:
            self._clipper.carry_out(decided, clips)
            updates = self._move(is_bad if is_left else None, updates)
        if self._statistics is not None:
            if is_left:
                self._statistics.settle(is_bad)
            elif skips:
                self._statistics.put_back()
            else:
                self._statistics.keep()
        row = joined(norm, loss, decided, is_bad, every, updates)
        self._note(row, loss is not None, scale, found_inf, producer)

    def read(self) -> None:
        """Take in what the last steps showed; the host waits for the device."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        count = len(self._watched)
        for one, numbers in zip(noted, torch.stack([n.row for n in noted]).tolist(), strict=True):
            values = np.array(numbers)
            loss, norm, limit, is_clipped, is_bad = numbers[:5]
            reading = Reading(
                one.step, loss if one.has_loss else math.nan, norm, limit,
                bool(is_clipped) and not is_bad, bool(is_bad), values[5 : 5 + count],
                values[5 + count :], one.rate_factor, one.rate, one.scale, one.producer,
            )  # fmt: skip
            self.record.read(reading)
            if is_bad and one.producer is None:
                self._watchful = _WATCHFUL
        if self.record.trouble:
            self._go_back()

    def close(self) -> None:
        """Take the hook off the model."""
        if self._calls is not None:
            self._calls.close()

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as tensors and numbers."""
        self.read()
        return {
            "step": self._number,
            "counts": asdict(self.record.counts),
            "rate": asdict(self.rate),
            "clip": self._clipper.state_dict(),
            "windows": self.record.windows(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what was remembered."""
        self._noted.clear()
        self._number = state["step"]
        self.rate = RateCut(**state["rate"])
        self.record = self._new_record(Counts(**state["counts"]))
        self.record.load_windows(state["windows"])
        self._clipper.load_state_dict(state["clip"])
        # Weights may be loaded behind this: the next step takes a snapshot of what is there then.
        self._watch_values()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for one in self._optimizers for group in one.param_groups]

    def _watch(self) -> None:
        settings = self._settings
        self._watched = watched(self._groups, self._model)
        chosen = portions(settings.clip, settings.exclude, self._watched)
        self._clipper = Clipper(chosen, self._watched)
        parameters = [one.parameter for one in self._watched]
        self._updates = Updates(settings.spikes, parameters) if settings.spikes else None
        self._watch_values()

    def _watch_values(self) -> None:
        """Start with no snapshots."""
        values = {id(one.parameter): one.parameter for one in self._watched}
        if self._model is not None:
            held = [*self._model.parameters(), *self._model.buffers()]
            values |= {id(value): value for value in held}
        rule = self._settings.rollback
        self._snapshots = Snapshots(rule, self._optimizers, [*values.values()]) if rule else None
        self._has_stepped = False

    def _new_record(self, counts: Counts) -> Record:
        settings = self._settings
        rules = [rule for portion in self._clipper.portions for rule in portion.rules]
        is_fixed = any(isinstance(r, GlobalNorm | Value | PerLayer | PerUnit) for r in rules)
        patience = settings.rollback.patience if settings.rollback else 3
        names = [one.name for one in self._watched]
        return Record(names, settings.spikes, patience, settings.capacity, is_fixed,
                      settings.on_finding, counts)  # fmt: skip

    def _grow(self) -> None:
        """Guard parameters that were added."""
        self.read()
        memories, before = self._clipper.state_dict(), self.record
        self._watch()
        self._clipper.load_state_dict(memories)
        self.record = self._new_record(before.counts)
        self.record.findings.extend(before.findings)
        self.record.rows[:] = before.rows

    def _memory(self) -> dict[str, Any]:
        return {"clip": self._clipper.state_dict(), "windows": self.record.windows()}

    def _reading_step(self, device: torch.device) -> int:
        return self._settings.read_every or (1 if device.type == "cpu" else _BEHIND)

    def _can_leave(self, norm: torch.Tensor) -> bool:
        """Whether the decision to skip may stay on the device."""
        self._watchful = max(0, self._watchful - 1)
        is_fused = all(
            getattr(one, "_step_supports_amp_scaling", False)
            and all(group.get("fused") for group in one.param_groups)
            for one in self._optimizers
        )
        # In its first step a fused optimizer makes its state, whether it then skips or not.
        is_ready = self._has_stepped and not self._watchful
        return is_fused and is_ready and self._reading_step(norm.device) > 1

    def _by_parameter(self, norms: torch.Tensor, members: Sequence[int]) -> torch.Tensor:
        if len(members) == len(self._watched):
            return norms
        every = norms.new_zeros(len(self._watched))
        every[torch.tensor(members, dtype=torch.long, device=norms.device)] = norms
        return every

    def _move(self, is_bad: torch.Tensor | None, nothing: torch.Tensor) -> torch.Tensor:
        """The optimizers' own steps; norms of the updates."""
        if self._updates is not None:
            self._updates.begin()
        with scaled_rates(self._groups, self.rate.factor):
            for one in self._optimizers:
                if is_bad is None:
                    one.step()
                    continue
                held: Any = one
                held.found_inf, held.grad_scale = is_bad.float(), None
                try:
                    one.step()
                finally:
                    del held.found_inf, held.grad_scale
        self._has_stepped = True
        return self._updates.end() if self._updates is not None else nothing

    def _producer(self, norms: torch.Tensor, loss: torch.Tensor | None) -> Producer | None:
        # The device has been waited for already.
        self.read()
        if self.record.skipped_in_a_row + 1 not in SAID:
            return None
        incident = Incident(
            self._number,
            loss is not None and not bool(loss.isfinite()),
            tuple(one.name for one in self._watched),
            tuple(one.layer for one in self._watched),
            tuple(torch.nonzero(~norms.isfinite()).flatten().tolist()),
            tuple(one.parameter for one in self._watched),
            self._model,
            tuple(self._calls.seen) if self._calls is not None else (),
        )
        return self._settings.explain(incident)

    def _note(
        self,
        row: torch.Tensor,
        has_loss: bool,
        scale: torch.Tensor | None,
        found_inf: torch.Tensor | None,
        producer: Producer | None,
    ) -> None:
        """Put a step down, read what is due, and take a snapshot where one is."""
        if self._calls is not None:
            self._calls.forget()
        rate = self._groups[0].get("lr", math.nan)
        # The scale is read where there is something to say of it; elsewhere it would be waited for.
        known = math.nan if producer is None or scale is None else float(scale)
        is_scaled = scale is not None or found_inf is not None
        self._noted.append(
            _Noted(row, self._number, has_loss, self.rate.factor,
                   math.nan if isinstance(rate, torch.Tensor) else rate,
                   known if is_scaled else 0.0, producer)
        )  # fmt: skip
        rule = self._settings.rollback
        if rule is not None:
            self.rate = self.rate.after_step(rule)
        is_due = rule is not None and self._number % rule.every == 0
        if is_due or len(self._noted) >= self._reading_step(row.device):
            self.read()
        if is_due and self.record.is_well and self._snapshots is not None:
            self._snapshots.take(self._number, self._memory())

    def _go_back(self) -> None:
        rule = self._settings.rollback
        if rule is None or self._snapshots is None:
            self.record.trouble = ""
            return
        with torch.no_grad():
            snapshot = self._snapshots.go_back()
        self.rate = self.rate.after_trouble(rule)
        self._clipper.load_state_dict(snapshot.memory["clip"])
        if self._statistics is not None:
            self._statistics.keep()
        self.record.rolled_back(
            snapshot.step, self._number, self.rate.factor, snapshot.memory["windows"]
        )
