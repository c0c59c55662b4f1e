"""Going back to the last good state: snapshots, and a learning rate that is cut and recovers."""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from equipoise import _checks
from equipoise.training.gradient_norms import local


@dataclass(frozen=True)
class Rollback:
    """When and how to go back.

    A snapshot holds weights, buffers and the state of the optimizers: ``keep`` times the memory of
    these, which ``Guard.snapshot_bytes`` tells. Data and schedule go on, so that the batches that
    did the harm are not met again at once.

    Attributes:
        every: steps between snapshots, at least 1. One is only taken while all is well.
        keep: snapshots that are kept, at least 1. Trouble that comes back before the next snapshot
            goes to the one before.
        patience: steps in a row that are skipped, or whose loss is a spike, before going back.
        cut: what the learning rate is multiplied by, above 0 to 1.
        recovery: steps until the rate has its old value again; 0 keeps it cut. If trouble comes
            back within twice as many, the rate that failed is not reached again.
        place: where snapshots lie: on the device of the weights, or in the memory of the host.

    >>> Rollback(every=500, place="cpu").keep
    2
    """

    every: int = 100
    keep: int = 2
    patience: int = 3
    cut: float = 0.5
    recovery: int = 200
    place: Literal["device", "cpu"] = "device"

    def __post_init__(self) -> None:
        _checks.at_least("every", self.every, 1)
        _checks.at_least("keep", self.keep, 1)
        _checks.at_least("patience", self.patience, 1)
        _checks.positive("cut", self.cut)
        _checks.in_unit_interval("cut", self.cut)
        _checks.at_least("recovery", self.recovery, 0)
        _checks.one_of("place", self.place, ("device", "cpu"))


@dataclass(frozen=True)
class RateCut:
    """The factor on every learning rate.

    Attributes:
        factor: at this step, above 0 to 1.
        ceiling: what it recovers to.
        since: steps since it was last cut.
    """

    factor: float = 1.0
    ceiling: float = 1.0
    since: int = 0

    def after_trouble(self, rule: Rollback) -> "RateCut":
        """Cut; trouble that came back soon lowers what the rate recovers to.

        >>> RateCut().after_trouble(Rollback(cut=0.25)).factor
        0.25
        """
        is_back = self.ceiling < 1.0 or self.factor < 1.0 or self.since > 0
        is_soon = is_back and self.since <= 2 * rule.recovery
        # Half way, in decades, between what failed and what is tried now.
        ceiling = self.factor * rule.cut**0.5 if is_soon else self.ceiling
        return RateCut(self.factor * rule.cut, ceiling, 0)

    def after_step(self, rule: Rollback) -> "RateCut":
        """One step of recovery, by equal factors.

        >>> rate = RateCut(factor=0.25, ceiling=1.0)
        >>> for _ in range(10):
        ...     rate = rate.after_step(Rollback(cut=0.25, recovery=10))
        >>> round(rate.factor, 12)
        1.0
        """
        if self.factor == 1.0 and self.since == 0:
            return self
        factor = self.factor
        if rule.recovery:
            factor = min(self.ceiling, factor * rule.cut ** (-1.0 / rule.recovery))
        return replace(self, factor=factor, since=self.since + 1)


@contextmanager
def scaled_rates(groups: Sequence[dict[str, Any]], factor: float) -> Iterator[None]:
    """Learning rates times a factor for as long as this is open.

    The rates are put back behind, so that a schedule that goes on from the last rate never sees
    the cut.
    """
    if factor == 1.0:
        yield
        return
    own = [group for group in groups if "lr" in group]
    rates = [group["lr"] for group in own]
    for group, rate in zip(own, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(own, rates, strict=True):
            group["lr"] = rate


@dataclass(eq=False)
class Snapshot:
    """State at one step.

    Attributes:
        step: when it was taken.
        values: copies of weights and buffers.
        states: for each optimizer and parameter, copies of its state.
        memory: what the guard itself remembered.
    """

    step: int
    values: list[torch.Tensor]
    states: list[dict[int, dict[str, Any]]]
    memory: Any


class Snapshots:
    """The last good states, newest last."""

    def __init__(
        self,
        rule: Rollback,
        optimizers: Sequence[torch.optim.Optimizer],
        values: Sequence[torch.Tensor],
    ) -> None:
        self._rule, self._optimizers = rule, optimizers
        self._values = list(values)
        self._kept: deque[Snapshot] = deque(maxlen=rule.keep)
        self._is_used = False

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def newest(self) -> int:
        """Step of the last snapshot."""
        return self._kept[-1].step

    @property
    def nbytes(self) -> int:
        """Memory of all snapshots in bytes."""
        tensors = [value for snapshot in self._kept for value in snapshot.values]
        by_parameter = [s for snapshot in self._kept for states in snapshot.states
                        for s in states.values()]  # fmt: skip
        tensors += [x for s in by_parameter for x in s.values() if isinstance(x, torch.Tensor)]
        return sum(local(tensor).nbytes for tensor in tensors)

    def take(self, step: int, memory: Any) -> None:
        """Copy everything."""
        states = []
        for optimizer in self._optimizers:
            order = _ordered(optimizer)
            states.append(
                {
                    i: {key: self._copied(value) for key, value in optimizer.state[p].items()}
                    for i, p in enumerate(order)
                    if p in optimizer.state
                }
            )
        values = [self._copied(value) for value in self._values]
        self._kept.append(Snapshot(step, values, states, copy.deepcopy(memory)))
        self._is_used = False

    def go_back(self) -> Snapshot:
        """Write the newest snapshot back; the one before it if the newest was tried already."""
        if self._is_used and len(self._kept) > 1:
            self._kept.pop()
        self._is_used = True
        snapshot = self._kept[-1]
        for value, kept in zip(self._values, snapshot.values, strict=True):
            value.copy_(kept)
        for optimizer, states in zip(self._optimizers, snapshot.states, strict=True):
            for i, p in enumerate(_ordered(optimizer)):
                if i in states:
                    _write(optimizer.state[p], states[i])
                else:
                    optimizer.state.pop(p, None)
        # A copy, so that it can be gone back to again.
        return replace(snapshot, memory=copy.deepcopy(snapshot.memory))

    def _copied(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return copy.deepcopy(value)
        value = value.detach()
        if self._rule.place == "cpu" and value.device.type != "cpu":
            return value.to("cpu", non_blocking=False)
        return value.clone()


def _ordered(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _write(live: dict[str, Any], kept: dict[str, Any]) -> None:
    for key in [key for key in live if key not in kept]:
        del live[key]
    for key, value in kept.items():
        there = live.get(key)
        if isinstance(value, torch.Tensor):
            if isinstance(there, torch.Tensor) and there.shape == value.shape:
                there.copy_(value)
            else:
                live[key] = value.clone()
        else:
            live[key] = copy.deepcopy(value)
