"""What a guard remembers of the steps: counts, the last rows, findings, and when to go back."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from equipoise.rules.finding import Finding
from equipoise.training import guard_findings as words
from equipoise.training.guard_producer import Producer
from equipoise.training.guard_spikes import LossWindow, Spikes, UpdateWindow

COLUMNS = (
    "step", "loss", "gradient_norm", "limit", "clipped", "skipped", "update_norm", "rate_factor",
)  # fmt: skip
# Of skipped steps in a row, those that deserve a word: the first, and where it grows serious.
SAID = (1, 3, 10, 100)
# Findings that are kept; counts go on.
_FINDINGS = 1_000
# Steps over which a limit is judged, and the share of them above which it is always met.
_CLIP_STEPS, _CLIP_SHARE = 200, 0.9


@dataclass(frozen=True)
class Reading:
    """What one step showed, on the host.

    Attributes:
        step: its number, from 1.
        loss: nan where none was given.
        norm: of all gradients before clipping.
        limit: of the first rule.
        is_clipped, is_skipped: what was done.
        norms, updates: by parameter; updates are empty where they are not followed.
        rate_factor: what learning rates were multiplied by.
        rate: learning rate of the first group, nan if it is not known.
        scale: of the loss under mixed precision; 0 for none, nan if it is not known.
        producer: who made what is not finite, where that is known.
    """

    step: int
    loss: float
    norm: float
    limit: float
    is_clipped: bool
    is_skipped: bool
    norms: np.ndarray
    updates: np.ndarray
    rate_factor: float
    rate: float
    scale: float
    producer: Producer | None = None


@dataclass
class Counts:
    """Numbers of steps: all, skipped, clipped; of spikes and rollbacks."""

    steps: int = 0
    skipped: int = 0
    clipped: int = 0
    update_spikes: int = 0
    loss_spikes: int = 0
    rollbacks: int = 0


@dataclass(eq=False)
class Record:
    """Reads steps one by one.

    Attributes:
        names: of the parameters.
        spikes: what a spike is, None if nobody looks for them.
        patience: troubled steps in a row before ``trouble`` is not ''.
        capacity: rows of history.
        is_limit_fixed: whether a limit that is always met deserves a word.
        on_finding: called with each finding.
    """

    names: Sequence[str]
    spikes: Spikes | None
    patience: int
    capacity: int
    is_limit_fixed: bool
    on_finding: Callable[[Finding], None] | None
    counts: Counts = field(default_factory=Counts)
    trouble: str = ""

    def __post_init__(self) -> None:
        self.findings: deque[Finding] = deque(maxlen=_FINDINGS)
        self.rows = np.full((self.capacity, len(COLUMNS)), np.nan)
        rule = self.spikes or Spikes()
        self.updates = UpdateWindow(rule, len(self.names))
        self.losses = LossWindow(rule)
        self._recent: deque[tuple[bool, float]] = deque(maxlen=_CLIP_STEPS)
        self._skipped = self._lost = 0
        self._rate = math.nan
        self._was_spike = self._said_clips = False

    @property
    def is_well(self) -> bool:
        """Whether the last step was as those before it."""
        return not (self._skipped or self._lost or self._was_spike)

    @property
    def skipped_in_a_row(self) -> int:
        """Steps that were skipped up to the last one."""
        return self._skipped

    def read(self, one: Reading) -> None:
        """Take one step in."""
        update = float(np.linalg.norm(one.updates)) if one.updates.size else math.nan
        row = (one.step, one.loss, one.norm, one.limit, one.is_clipped, one.is_skipped,
               update, one.rate_factor)  # fmt: skip
        self.rows[self.counts.steps % self.capacity] = row
        self.counts.steps += 1
        if one.is_skipped:
            self._skip(one)
        else:
            self._skipped = 0
            self.counts.clipped += one.is_clipped
            self._judge_limit(one)
            if self.spikes is not None:
                self._judge_update(one)
        if self.spikes is not None and math.isfinite(one.loss):
            self._judge_loss(one)
        self._rate = one.rate

    def say(self, finding: Finding) -> None:
        """Keep a finding and hand it on."""
        self.findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    def history(self) -> dict[str, np.ndarray]:
        """The last rows as one array for each column, oldest first."""
        steps = self.counts.steps
        if steps <= self.capacity:
            rows = self.rows[:steps]
        else:
            rows = np.roll(self.rows, -(steps % self.capacity), axis=0)
        return {name: rows[:, i].copy() for i, name in enumerate(COLUMNS)}

    def rolled_back(self, to: int, step: int, factor: float, windows: Mapping[str, Any]) -> None:
        """Note a return, and compare what follows with what was seen up to there."""
        self.counts.rollbacks += 1
        self.say(words.rolled_back(step, to, self.trouble, factor, self.counts.rollbacks))
        self.load_windows(windows)
        self._skipped = self._lost = 0
        self.trouble = ""

    def windows(self) -> dict[str, Any]:
        """What spikes are compared with, as tensors and numbers."""
        return {
            "updates": torch.from_numpy(self.updates.values.copy()),
            "updates_seen": self.updates.seen,
            "losses": torch.from_numpy(self.losses.values.copy()),
            "losses_seen": self.losses.seen,
        }

    def load_windows(self, state: Mapping[str, Any]) -> None:
        """Put them back; those of another model or another length are left out."""
        updates, losses = state["updates"].numpy(), state["losses"].numpy()
        if updates.shape == self.updates.values.shape:
            self.updates.restore(updates, state["updates_seen"])
        if losses.shape == self.losses.values.shape:
            self.losses.values, self.losses.seen = losses.copy(), state["losses_seen"]

    def _skip(self, one: Reading) -> None:
        self.counts.skipped += 1
        self._skipped += 1
        if self._skipped in SAID:
            bad = ~np.isfinite(one.norms)
            is_gradient = bool(bad.any()) or not math.isfinite(one.norm)
            self.say(words.not_finite(self._named(one, bad), one.step, is_gradient,
                                      self._skipped, one.scale))  # fmt: skip
        if self._skipped >= self.patience and not (one.scale and self._skipped < 10):
            self.trouble = f"{self._skipped} steps in a row were not finite"

    def _named(self, one: Reading, bad: np.ndarray) -> Producer:
        if one.producer is not None:
            return one.producer
        if not bad.any():
            return Producer("unknown", "loss", "the loss is not finite though every gradient is")
        last = self.names[int(np.flatnonzero(bad)[-1])]
        share = f"{int(bad.sum())} of {len(bad)} gradients are not finite"
        return Producer("unknown", last, share)

    def _judge_limit(self, one: Reading) -> None:
        self._recent.append((one.is_clipped, one.norm))
        if not self.is_limit_fixed or self._said_clips or len(self._recent) < _CLIP_STEPS:
            return
        share = sum(clipped for clipped, _ in self._recent) / _CLIP_STEPS
        if share > _CLIP_SHARE:
            self._said_clips = True
            median = float(np.median([norm for _, norm in self._recent]))
            self.say(words.clips_always(share, _CLIP_STEPS, median))

    def _judge_update(self, one: Reading) -> None:
        found = self.updates.judge(one.updates) if one.updates.size else None
        if found is not None:
            self.counts.update_spikes += 1
            if not self._was_spike:
                rise = one.rate / self._rate if self._rate else math.nan
                name = self.names[found.place]
                self.say(words.update_spike(found, name, one.step, rise))
        self._was_spike = found is not None

    def _judge_loss(self, one: Reading) -> None:
        spike = self.losses.judge(one.loss)
        self._lost = self._lost + 1 if spike else 0
        if spike is None:
            return
        self.counts.loss_spikes += 1
        if self._lost == self.patience:
            self.say(words.loss_spike(one.loss, *spike, one.step, self._lost))
            self.trouble = f"the loss of {self._lost} steps in a row was far above those before"
