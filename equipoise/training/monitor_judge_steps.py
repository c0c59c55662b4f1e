"""What is wrong with steps: spikes, bad batches, updates that are too large, overshooting."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.rules.finding import Finding
from equipoise.training import guard_findings as words
from equipoise.training.guard_names import Watched
from equipoise.training.guard_spikes import LossWindow, SpikeFound, Spikes, UpdateWindow
from equipoise.training.monitor_limits import (
    EDGE,
    EDGE_ERRORS,
    EDGE_READINGS,
    FIRST_LOSSES,
    LARGE_UPDATE,
    LARGE_UPDATES,
    PASSES,
)
from equipoise.training.monitor_row import Reading

_RULE = Spikes()
# Steps after a spike of updates in which others are its consequence.
_CONSEQUENCES = 10


@dataclass
class _Outlier:
    """A step that stood out, until it is known whether that passes."""

    step: int
    where: str
    observed: str
    gradient: SpikeFound | None
    most: float


class StepJudge:
    """Compares each step with those before it.

    Args:
        watched: the parameters.
    """

    def __init__(self, watched: Sequence[Watched]) -> None:
        self._watched = watched
        self._updates = UpdateWindow(_RULE, len(watched))
        self._gradients = UpdateWindow(_RULE, len(watched))
        self._inputs = UpdateWindow(_RULE, 1)
        self._losses = LossWindow(_RULE)
        self._rate = math.nan
        self._quiet = 0
        self._outlier: _Outlier | None = None
        self._in_a_row = np.zeros(len(watched), dtype=int)
        self._weights = np.full(len(watched), math.nan)
        self._began = np.full(len(watched), math.nan)
        self._lost = 0
        self._slopes: deque[tuple[float, float]] = deque(maxlen=EDGE_READINGS)
        self._first_losses: list[float] = []

    def judge(self, one: Reading) -> list[Finding]:
        """What a step says; all of its numbers are finite."""
        gradient = _numbers(one, "gradient", self._watched)
        update = _numbers(one, "update", self._watched)
        spike = self._gradients.judge(gradient) if one.has_gradient.any() else None
        jump = self._updates.judge(update) if "update" in one.by_parameter else None
        off = self._loss_off(one)
        strange = None
        if one.input_rms > 0:
            strange = self._inputs.judge(np.array([one.input_rms]))
        found = self._outliers(one, spike, off, strange)
        found += self._jump(one, jump, spike)
        found += self._lasting_loss(one, off)
        found += self._large(one, update)
        found += self._edge(one)
        self._rate = one.rate
        self._quiet = max(0, self._quiet - 1)
        return found

    def _loss_off(self, one: Reading) -> tuple[float, float] | None:
        """Median and z of a loss that is out of line and above those that training began with."""
        if not math.isfinite(one.loss):
            return None
        if len(self._first_losses) < FIRST_LOSSES:
            self._first_losses.append(one.loss)
        off = self._losses.judge(one.loss)
        return off if one.loss >= float(np.median(self._first_losses)) else None

    def _outliers(
        self,
        one: Reading,
        spike: SpikeFound | None,
        off: tuple[float, float] | None,
        strange: SpikeFound | None,
    ) -> list[Finding]:
        """Gradients, losses and inputs that stand out, and whether a batch was to blame."""
        is_out = spike is not None or off is not None or strange is not None
        held = self._outlier
        if held is not None:
            if not is_out and not one.loss > held.most:
                self._outlier = None
                return [self._bad_batch(held)]
            if one.step - held.step >= PASSES:
                self._outlier = None
                return [] if held.gradient is None else [self._spike(held.step, held.gradient)]
            return []
        if not is_out or self._quiet:
            return []
        if off is None and strange is None and spike is not None:
            self._quiet = PASSES
            return [self._spike(one.step, spike)]
        where, observed = "inputs", ""
        if strange is not None:
            observed = f"inputs of RMS {one.input_rms:.3g}, where {strange.median:.3g} is usual"
        elif off is not None:
            observed = f"a loss of {one.loss:.4g}, where {off[0]:.4g} is usual"
        if spike is not None:
            name = self._watched[spike.place].name
            observed += f"; the gradient of {name!r} is {_times(spike)} its median"
        # A loss that stays nearer to the one that stood out than to those before has not passed.
        most = (one.loss + off[0]) / 2 if off is not None else math.inf
        self._outlier = _Outlier(one.step, where, observed, spike, most)
        return []

    def _bad_batch(self, held: _Outlier) -> Finding:
        return Finding(
            "bad-batch", "warning", held.where,
            f"the batch of step {held.step} stood out, and those behind it do not",
            "a batch like the others", held.observed,
            "Look at the rows and targets of this batch; clip with ZScore() so that one batch "
            "cannot undo many.",
        )  # fmt: skip

    def _spike(self, step: int, spike: SpikeFound) -> Finding:
        return Finding(
            "gradient-spike", "warning", self._watched[spike.place].layer,
            f"the gradient of step {step} is out of scale",
            f"a norm about {spike.median:.3g} for {self._watched[spike.place].name!r}",
            f"{spike.norm:.3g}, {_times(spike)} that (robust z {spike.z:.3g})",
            "Clip with ZScore() or GlobalNorm, and look at this layer: an unbounded slope, or a "
            "recurrent weight above 1.",
        )  # fmt: skip

    def _jump(
        self, one: Reading, jump: SpikeFound | None, spike: SpikeFound | None
    ) -> list[Finding]:
        """An update that stands out where its gradient does not."""
        if jump is None or spike is not None or self._quiet or self._outlier is not None:
            return []
        self._quiet = _CONSEQUENCES
        rise = one.rate / self._rate if self._rate else math.nan
        return [words.update_spike(jump, self._watched[jump.place].name, one.step, rise)]

    def _lasting_loss(self, one: Reading, off: tuple[float, float] | None) -> list[Finding]:
        self._lost = self._lost + 1 if off is not None else 0
        if off is None or self._lost != PASSES:
            return []
        found = words.loss_spike(one.loss, *off, one.step, self._lost)
        return [replace(found, remedy="Lower the learning rate, or go back to an earlier state.")]

    def _large(self, one: Reading, update: np.ndarray) -> list[Finding]:
        """Updates that replace much of a weight, step after step."""
        weights = one.by_parameter.get("weight")
        if weights is not None:
            known = np.isfinite(weights)
            self._weights[known] = weights[known]
            new = known & np.isnan(self._began)
            self._began[new] = weights[new]
        matrices = np.array([w.parameter.dim() > 1 for w in self._watched], dtype=bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = update / self._weights
        # A weight that starts at 0 is replaced by its first updates, as it should be.
        is_large = matrices & (ratios > LARGE_UPDATE) & (self._began > 0)
        self._in_a_row = np.where(is_large, self._in_a_row + 1, 0)
        ripe = np.flatnonzero(self._in_a_row == LARGE_UPDATES)
        if not len(ripe):
            return []
        worst = int(ripe[np.argmax(ratios[ripe])])
        return [
            Finding("large-updates", "error", self._watched[worst].name,
                    f"{LARGE_UPDATES} updates in a row up to step {one.step} are as large as a "
                    f"good part of the weight itself",
                    f"at most {LARGE_UPDATE:g} of its norm, 1e-3 as a rule",
                    f"{ratios[worst]:.3g}, at a learning rate of {one.rate:.3g}",
                    f"Lower the learning rate to about {one.rate * 0.01 / ratios[worst]:.1g}.")
        ]  # fmt: skip

    def _edge(self, one: Reading) -> list[Finding]:
        self._slopes.extend(one.slopes)
        if len(self._slopes) < EDGE_READINGS:
            return []
        before, after = np.array(self._slopes).T
        # Means over steps: slopes of single ones may be of any sign, and so small that quotients
        # have no mean. Updates go down, so that the slope is below 0 before them.
        down = -before.mean()
        turned = float(after.mean() / down) if down > 0 else 0.0
        error = float(after.std() / math.sqrt(len(after)) / down) if down > 0 else math.inf
        if turned < EDGE or turned < EDGE_ERRORS * error:
            return []
        return [
            Finding("edge-of-stability", "info", "model",
                    f"up to step {one.step} updates overshoot: the slope along them is turned "
                    f"round, so that sharpness times rate is near 2",
                    "a slope that keeps its sign, or is lost in noise",
                    f"{turned:.0%} ± {error:.0%} of it with the other sign, {EDGE_READINGS} steps",
                    "Training goes on at this edge, and wobbles; halve the learning rate, or warm "
                    "it up more slowly, to leave it.")
        ]  # fmt: skip


def _numbers(one: Reading, kind: str, watched: Sequence[Watched]) -> np.ndarray:
    """One number for each parameter, 0 where there is none."""
    found = one.by_parameter.get(kind)
    return np.zeros(len(watched)) if found is None else np.nan_to_num(found)


def _times(spike: SpikeFound) -> str:
    return f"{spike.norm / spike.median:.3g} times" if spike.median else "any number of times"
