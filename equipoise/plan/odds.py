"""The chance that a draw of a stack is usable, and the outlook at its last layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from equipoise.plan.predict_chain import Draws
from equipoise.plan.stack_plan import Expected

_DECADE = math.log(10.0)


@dataclass(frozen=True)
class Outlook:
    """What a plan expects of one stack as a whole, nan where theory does not reach.

    A draw is usable if, for an input and a random cotangent, neither the signal from the first
    hidden layer to the last nor the gradient from the last to the first changes by more than a
    factor 10: in RMS or in norm, since a change of width alone changes one of them. An input that
    ReLU units map to 0 on the way is lost. With fewer than two hidden layers only that counts.

    Attributes:
        where: first and last layer of the stack.
        signal: RMS at the output of its last layer, in the median draw.
        gradient: RMS at the output of its first layer relative to its last, in the median draw.
        correlation: mean cosine of its outputs for two different inputs.
        odds: chance that a draw is usable, over draws and inputs.
        odds_error: standard error of the odds.
        odds_method: how they were found.
    """

    where: str
    signal: float
    gradient: float
    correlation: float
    odds: float
    odds_error: float
    odds_method: str


def outlook(where: str, expected: Expected) -> Outlook:
    """The outlook of a stack.

    Args:
        where: names of its first and last layer.
        expected: what ``plan.predict.predict`` says of it.

    Returns:
        Its values at the ends of the stack.
    """
    return Outlook(
        where,
        expected.signal[-1],
        expected.gradient[0],
        expected.correlation[-1],
        expected.odds,
        expected.odds_error,
        expected.method,
    )


def usable_share(draws: Draws, widths: Sequence[int]) -> float:
    """Share of draws that are usable in the sense of ``Outlook``.

    Args:
        draws: of networks, one input each.
        widths: of the hidden layers in order.

    Returns:
        A share from 0 to 1.
    """
    alive = np.isfinite(draws.signal).all(axis=1)
    if len(widths) < 2:
        return float(alive.mean())
    last = len(widths) - 1
    wider = 0.5 * math.log(widths[last] / widths[0])
    usable = alive & np.isfinite(draws.gradient).all(axis=1)
    with np.errstate(invalid="ignore"):
        forward = draws.signal[:, last] - draws.signal[:, 0]
        back = draws.gradient[:, 0] - draws.gradient[:, last]
        for change, shift in ((forward, wider), (back, -wider)):
            low = np.minimum(change, change + shift)
            high = np.maximum(change, change + shift)
            usable &= (low <= _DECADE) & (high >= -_DECADE)
    return float(usable.mean())


def normal_odds(
    signal: Sequence[float], gradient: Sequence[float], log_std: float, widths: Sequence[int]
) -> float:
    """Odds of a stack whose log signal and log gradient are normal with one standard deviation.

    The two are taken to stray together, as they do where one level moves both; the odds are then
    the smaller of the two chances.

    Args:
        signal: RMS at each layer in the median draw.
        gradient: the same, relative to the last.
        log_std: of both, nats.
        widths: of the hidden layers in order.

    Returns:
        A probability, nan where signal or gradient are.
    """
    if len(widths) < 2:
        return 1.0
    last = len(widths) - 1
    wider = 0.5 * math.log(widths[last] / widths[0])
    chances = []
    for ratio, shift in ((signal[last] / signal[0], wider), (gradient[0] / gradient[last], -wider)):
        if not ratio > 0:
            return math.nan
        low, high = sorted((math.log(ratio), math.log(ratio) + shift))
        if log_std == 0.0:
            chances.append(float(low <= _DECADE and high >= -_DECADE))
        else:
            chances.append(
                float(ndtr((_DECADE - low) / log_std) - ndtr((-_DECADE - high) / log_std))
            )
    return min(chances)
