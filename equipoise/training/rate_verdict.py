"""The answer of a range test from the readings of its repeats, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from equipoise.training.rate_curve import Reading, middle, spread
from equipoise.training.rate_sweep import RateCurve

# Shares of the rates at which the loss is lowest and back at its start. Where a step does not
# shrink with its gradient, what a training is left with grows with the rate long before it
# diverges, so the best rate is farther below the edge. Fitted on 56 trainings (dense networks of 3
# to 20 layers on digits, seeds of their own), not on those of benchmarks/learning_rate.py.
_FOLLOWING = (0.9, 0.42)
_SCALE_FREE = (0.21, 0.042)
# Standard deviations over repeats, as factors, up to which an answer is sure and fairly so.
_SURE, _FAIR = 1.5, 2.5
# A fall of fewer standard deviations of the noise than this is read, but not with confidence.
_LOUD = 2.0


@dataclass(frozen=True)
class Verdict:
    """The answer and its ground.

    Attributes:
        rate: the answer.
        confidence: ``high``, ``fair``, ``low`` or ``none``.
        kind: what the curves look like.
        reason: in words.
        factor: standard deviation over repeats, as a factor; inf where there are not two.
        lowest_at: middle of the rates of the lowest loss; nan for none.
        returns_at: middle of the rates at which the loss is back; inf for none.
    """

    rate: float
    confidence: Literal["high", "fair", "low", "none"]
    kind: str
    reason: str
    factor: float
    lowest_at: float
    returns_at: float


def judge(
    curves: Sequence[RateCurve], readings: Sequence[Reading], own: float, follows_gradient: bool
) -> Verdict:
    """The answer of all repeats.

    Args:
        curves: one for each repeat.
        readings: of them.
        own: rate of the optimizer, the answer where the curves have none; 0 for none.
        follows_gradient: whether steps grow with the gradient.

    Returns:
        The verdict.
    """
    answers = [_answer(reading, follows_gradient) for reading in readings]
    factor = spread(answers)
    factor = math.inf if math.isnan(factor) else math.exp(factor)
    clear = [r for r in readings if math.isfinite(r.lowest_at)]
    low, high = curves[0].rates[0], max(curve.rates[-1] for curve in curves)
    lowest, returns = middle([r.lowest_at for r in clear]), middle([r.returns_at for r in clear])
    returns = math.inf if math.isnan(returns) else returns
    if 2 * len(clear) <= len(readings):
        return _without_minimum(readings, answers, own, low, high, lowest, returns)
    rate = middle(answers)
    share = f"{rate / lowest:.2g} of the rate of the lowest loss, {lowest:.2g}"
    loudness = middle([r.fall / max(r.noise, 1e-30) for r in clear])
    open_end = [r for r in clear if r.kind == "falls to the end"]
    if 2 * len(open_end) > len(readings):
        return Verdict(
            rate, "low", "falls to the end",
            f"The loss still falls at the highest rate tried, {high:.2g}, so the best rate may be "
            "higher. Raise highest.", factor, lowest, returns,
        )  # fmt: skip
    if math.isinf(factor) and len(readings) > 1:
        return Verdict(
            rate, "low", "noisy",
            f"Only one of {len(readings)} sweeps falls clearly. The rate is {share}. Pass larger "
            "batches or more repeats.", factor, lowest, returns,
        )  # fmt: skip
    if math.isinf(factor):
        return Verdict(
            rate, "low", "minimum",
            f"The rate is {share}, of one sweep, which tells nothing of chance. Ask for repeats.",
            factor, lowest, returns,
        )  # fmt: skip
    if factor > _FAIR or loudness < _LOUD:
        why = (
            f"sweeps differ by a factor {factor:.2g}" if factor > _FAIR
            else f"the fall is {loudness:.2g} times the noise of a batch"
        )  # fmt: skip
        return Verdict(
            rate, "low", "noisy",
            f"The rate is {share}, but {why}. Pass larger batches or more repeats.",
            factor, lowest, returns,
        )  # fmt: skip
    back = f", back at its start at {returns:.2g}" if math.isfinite(returns) else ""
    return Verdict(
        rate, "high" if factor <= _SURE and len(clear) == len(readings) else "fair", "minimum",
        f"The loss is lowest at {lowest:.2g}{back}, over {len(readings)} orders of the batches.",
        factor, lowest, returns,
    )  # fmt: skip


def _answer(reading: Reading, follows_gradient: bool) -> float:
    """The rate that one curve advises; nan where it shows no clear fall."""
    of_lowest, of_return = _FOLLOWING if follows_gradient else _SCALE_FREE
    by_lowest = of_lowest * reading.lowest_at
    if math.isnan(by_lowest) or math.isinf(reading.returns_at):
        return by_lowest
    return math.sqrt(by_lowest * of_return * reading.returns_at)


def _without_minimum(
    readings: Sequence[Reading],
    answers: Sequence[float],
    own: float,
    low: float,
    high: float,
    lowest: float,
    returns: float,
) -> Verdict:
    """The verdict where half of the sweeps or more show no clear fall."""
    some = middle(answers)
    fallback = own if own > 0 else math.sqrt(low * high)
    rises = [r for r in readings if r.kind == "rises"]
    if not math.isnan(some):
        return Verdict(
            some, "low", "noisy",
            "Half of the sweeps or more show no fall beyond the noise. Pass larger batches or more "
            "repeats.", math.inf, lowest, returns,
        )  # fmt: skip
    if rises:
        edge = middle([r.returns_at for r in rises])
        early = edge <= 10 * low
        return Verdict(
            low if early else min(fallback, edge / 10), "none",
            "diverges at once" if early else "flat",
            f"The loss rises from a rate of {edge:.2g} on and falls at none from {low:.2g} on. "
            "Diagnose the model and its targets; a smaller rate may be found with lowest.",
            math.inf, lowest, edge,
        )  # fmt: skip
    return Verdict(
        fallback, "none", "flat",
        f"The loss neither falls nor rises beyond the noise from {low:.2g} to {high:.2g}. The rate "
        "is " + ("the optimizer's own" if own > 0 else "the middle of that") + ". Diagnose the "
        "model: what does not learn at any rate has another fault.",
        math.inf, lowest, returns,
    )  # fmt: skip
