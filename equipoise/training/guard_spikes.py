"""Spikes: an update or a loss that is far from those of the steps before it.

An update that is out of scale comes before the loss shows anything, since the loss of this step
was computed with the weights before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equipoise import _checks
from equipoise.training.gradient_norms import local, over_shards

# The median absolute deviation of a Gaussian times this is its standard deviation.
_GAUSSIAN = 1.4826
# Least standard deviation of a log norm, and of a loss relative to its median: without one, a run
# whose updates are nearly equal (Adam) would call every change a spike.
_LOG_FLOOR, _LOSS_FLOOR = 0.05, 0.05
# Losses from which on a run that dies at once is seen, by a larger deviation.
_EARLY, _EARLY_FLOOR = 4, 0.25
# A parameter with less of the whole update than this is never the one to blame.
_SHARE = 0.01
# Steps for which median and deviation are used again.
_REUSE = 8
_SMALLEST = 1e-30


@dataclass(frozen=True)
class Spikes:
    """What counts as a spike.

    An update is one if its norm is above the median of the window by ``threshold`` robust standard
    deviations (of logarithms, by the median absolute deviation) and by ``factor``; that of a single
    parameter by ``factor`` squared. A loss is one by ``threshold`` alone; in warm-up, in units of
    the range of the losses so far.

    Attributes:
        window: steps that are compared with, at least 8.
        threshold: robust standard deviations, above 0.
        factor: least ratio to the median, at least 1.
        warmup: steps before updates are judged, at least 2.
        sample: entries of each parameter that are followed, evenly spread; 0 for all, which takes
            the memory of the weights once more.

    >>> Spikes(threshold=12.0).window
    128
    """

    window: int = 128
    threshold: float = 8.0
    factor: float = 3.0
    warmup: int = 20
    sample: int = 1024

    def __post_init__(self) -> None:
        _checks.at_least("window", self.window, 8)
        _checks.positive("threshold", self.threshold)
        _checks.positive("factor - 1", self.factor - 1.0, "Pass a factor above 1.")
        _checks.at_least("warmup", self.warmup, 2)
        _checks.at_least("sample", self.sample, 0)


class Updates:
    """Norms of the updates of parameters, from a sample of their entries."""

    def __init__(self, rule: Spikes, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = list(parameters)
        self._rule = rule
        self._places: list[int] = []
        self._views: list[torch.Tensor] = []
        self._before: list[torch.Tensor] = []
        self._factors: list[float] = []
        self._scales = torch.zeros(0)

    def __getstate__(self) -> dict[str, Any]:
        # A copy follows the weights of the copy.
        return {**self.__dict__, "_places": [], "_views": [], "_before": []}

    @property
    def sample(self) -> list[torch.Tensor]:
        """The entries that are followed as they are now, in memory that is shared."""
        return self._views

    @property
    def moved(self) -> list[torch.Tensor]:
        """The last move of these entries, times -1; until the next ``begin``."""
        return self._before

    @property
    def factors(self) -> list[float]:
        """From the norm of the sample of each parameter to that of all its entries."""
        return self._factors

    def begin(self) -> None:
        """Remember the sample; call before the weights move."""
        here = [local(p.detach()) for p in self._parameters]
        # The memory of a weight may have been exchanged since.
        places = [tensor.data_ptr() for tensor in here]
        if places != self._places:
            self._places = places
            found = [sampled(tensor, self._rule.sample) for tensor in here]
            self._views = [view for view, _ in found]
            self._before = [torch.empty_like(view) for view in self._views]
            device = here[0].device if here else None
            self._factors = [scale for _, scale in found]
            self._scales = torch.tensor(self._factors, device=device)
        torch._foreach_copy_(self._before, self._views)

    def end(self) -> torch.Tensor:
        """Norm of each update since ``begin``, shape (parameters,), on the device."""
        torch._foreach_sub_(self._before, self._views)
        norms = torch._foreach_norm(self._before, 2, dtype=_wide(self._before))
        device = self._scales.device
        if not all(norm.device == device for norm in norms):
            norms = tuple(norm.to(device) for norm in norms)
        return over_shards(torch.stack(norms) * self._scales, self._parameters, 2.0)


def _wide(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def sampled(tensor: torch.Tensor, sample: int) -> tuple[torch.Tensor, float]:
    """Every so many entries, in memory that is shared, and the factor for the norm of all."""
    count = tensor.numel()
    flat = tensor
    if count:
        # Dense in memory, whatever the order of its axes; others are followed as a whole.
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        turned = tensor.permute(order)
        if not turned.is_contiguous():
            return tensor, 1.0
        flat = turned.view(-1)
    step = 1 if not sample else max(1, count // sample)
    # A step that shares no divisor with the axes meets every row and column.
    while step > 1 and math.gcd(step, count) != 1:
        step += 1
    view = flat[::step]
    return view, math.sqrt(count / view.numel()) if count else 1.0


@dataclass(frozen=True)
class SpikeFound:
    """An update out of scale.

    Attributes:
        place: of the parameter that stands out most, -1 for all together.
        norm: of its update.
        median: of the window.
        z: robust standard deviations above it.
    """

    place: int
    norm: float
    median: float
    z: float


class UpdateWindow:
    """Log norms of the last updates; column 0 is for all parameters together."""

    def __init__(self, rule: Spikes, count: int) -> None:
        self._rule = rule
        self.values = np.full((rule.window, count + 1), np.nan)
        self.seen = 0
        self._centre = self._spread = np.zeros(count + 1)
        self._fresh = 0

    def judge(self, norms: np.ndarray) -> SpikeFound | None:
        """Compare updates, shape (parameters,), with the window, then take them into it."""
        whole = float(np.linalg.norm(norms))
        logs = np.log(np.maximum(np.concatenate([[whole], norms]), _SMALLEST))
        found = self._compared(logs, norms, whole) if self.seen >= self._rule.warmup else None
        self.values[self.seen % self._rule.window] = logs
        self.seen += 1
        self._fresh -= 1
        return found

    def restore(self, values: np.ndarray, seen: int) -> None:
        """Compare with other updates from here on."""
        self.values, self.seen, self._fresh = values.copy(), seen, 0

    def _compared(self, logs: np.ndarray, norms: np.ndarray, whole: float) -> SpikeFound | None:
        rule = self._rule
        if self._fresh <= 0:
            known = self.values[: min(self.seen, rule.window)]
            self._centre = np.median(known, axis=0)
            self._spread = _GAUSSIAN * np.median(np.abs(known - self._centre), axis=0)
            # Early on, when norms still fall, the window is read anew at each step.
            self._fresh = _REUSE if self.seen >= rule.window else 1
        above = logs - self._centre
        z = above / np.maximum(self._spread, _LOG_FLOOR)
        is_out = (z > rule.threshold) & (above > 2 * math.log(rule.factor))
        is_out[1:] &= norms >= _SHARE * whole
        is_out[0] = z[0] > rule.threshold and above[0] > math.log(rule.factor)
        # What never moved before has no scale to be out of.
        is_out &= self._centre > math.log(_SMALLEST) / 2
        if not is_out.any():
            return None
        blamed = is_out[1:] if is_out[1:].any() else norms >= _SHARE * whole
        place = int(np.argmax(np.where(blamed, z[1:], -np.inf)))
        column = place + 1
        return SpikeFound(
            place, float(norms[place]), float(np.exp(self._centre[column])), float(z[column])
        )


class LossWindow:
    """The last losses."""

    def __init__(self, rule: Spikes) -> None:
        self._rule = rule
        self.values = np.full(rule.window, np.nan)
        self.seen = 0

    def judge(self, loss: float) -> tuple[float, float] | None:
        """Median and robust z of a loss that is a spike, None for others; then take it in.

        Losses may be negative, so that they are compared as they are and not by logarithms.
        """
        found = None
        if self.seen >= _EARLY:
            known = self.values[: min(self.seen, self._rule.window)]
            centre = float(np.median(known))
            spread = _GAUSSIAN * float(np.median(np.abs(known - centre)))
            floor = _LOSS_FLOOR
            if self.seen < self._rule.warmup:
                # Of few losses the deviation is not known, and many a run dies in its first steps.
                spread, floor = float(np.ptp(known)), _EARLY_FLOOR
            z = (loss - centre) / max(spread, floor * abs(centre), _SMALLEST)
            found = (centre, z) if z > self._rule.threshold else None
        self.values[self.seen % self._rule.window] = loss
        self.seen += 1
        return found
