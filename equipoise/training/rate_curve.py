"""Reading the curves of a range test: where the loss falls, turns and is back, beside the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.signal import savgol_coeffs, savgol_filter

from equipoise.training.rate_sweep import RateCurve

# A window of half a decade of the rate, or of one where that shows no fall in the noise; a parabola
# in it keeps a minimum in its place.
_WINDOWS, _DEGREE = (7, 15), 2
# A fall counts if it is this many times the noise that smoothing leaves.
_CLEAR = 4.0


@dataclass(frozen=True)
class Reading:
    """What one curve says.

    Attributes:
        smooth: change of the loss, smoothed, shape (steps,).
        noise: standard deviation of the change about it.
        falls_from: first rate at which a tenth of the whole fall is done; nan where none is clear.
        lowest_at: rate of the lowest smoothed loss; nan where no fall is clear.
        returns_at: rate at which the loss is back at its start, or the sweep diverged; inf where
            neither was seen.
        fall: depth of the lowest point, 0 or more.
        kind: ``minimum``, ``falls to the end``, ``flat`` or ``rises``.
    """

    smooth: tuple[float, ...]
    noise: float
    falls_from: float
    lowest_at: float
    returns_at: float
    fall: float
    kind: str


def read_curve(curve: RateCurve) -> Reading:
    """Read one curve.

    Args:
        curve: of a sweep.

    Returns:
        The reading; never an error, whatever the curve.

    >>> rates = tuple(10 ** (k / 10 - 5) for k in range(41))
    >>> change = tuple(min(0.5, 100 * r * (r - 0.02)) for r in rates)
    >>> reading = read_curve(RateCurve(rates, change, (), True))
    >>> reading.kind, round(reading.lowest_at, 3), round(reading.returns_at, 3)
    ('minimum', 0.01, 0.019)
    """
    readings = [_read(curve, window) for window in _WINDOWS]
    return next((r for r in readings if math.isfinite(r.lowest_at)), readings[0])


def _read(curve: RateCurve, window: int) -> Reading:
    """Read one curve through windows of some length."""
    rates, change = np.asarray(curve.rates), _capped(curve)
    smooth = _smoothed(change, window)
    lowest = int(np.argmin(smooth))
    # Behind the lowest point the loss is another, and so is its noise.
    calm = slice(lowest + 1 if lowest >= 2 * window else None)
    noise = _noise(change[calm], smooth[calm], window)
    # What a parabola in a window leaves of independent noise at its middle.
    blur = noise * math.sqrt(_share_left(window))
    fall = max(0.0, -float(smooth[lowest]))
    around = change[max(0, lowest - window // 2) : lowest + window // 2 + 1]
    if float(np.median(around)) >= 0.0:
        # A parabola swings below a curve that only rises.
        fall = 0.0
    if fall <= _CLEAR * blur or fall <= 0.0:
        has_risen = curve.has_diverged or float(np.max(smooth)) > _CLEAR * blur
        first = int(np.argmax(smooth > _CLEAR * blur)) if has_risen else -1
        returns = float(rates[first]) if has_risen else math.inf
        kind = "rises" if has_risen else "flat"
        return Reading(tuple(smooth), noise, math.nan, math.nan, returns, 0.0, kind)
    behind = np.flatnonzero(smooth[lowest:] >= 0.0)
    returns = math.inf
    if len(behind):
        returns = _crossing(rates, smooth, lowest + int(behind[0]))
    elif curve.has_diverged:
        returns = float(rates[-1])
    started = int(np.argmax(smooth <= -0.1 * fall))
    has_turned = math.isfinite(returns) or float(smooth[-1]) > -fall + _CLEAR * blur
    return Reading(
        tuple(smooth), noise, float(rates[started]), float(rates[lowest]), returns, fall,
        "minimum" if has_turned else "falls to the end",
    )  # fmt: skip


def _capped(curve: RateCurve) -> np.ndarray:
    """The change of the loss, its last explosion cut, so that it does not reach back in a window.

    Cut is what is higher above the start than the lowest point is below it, or than the noise of
    the first third.
    """
    change = np.asarray(curve.change, dtype=float)
    finite = change[np.isfinite(change)]
    if not len(finite):
        return np.ones_like(change)
    early = finite[: max(3, len(finite) // 3)]
    limit = max(-float(finite.min()), 4 * float(np.std(early)), 1e-12)
    return np.minimum(np.where(np.isfinite(change), change, math.inf), limit)


def _smoothed(change: np.ndarray, window: int) -> np.ndarray:
    """A parabola through each window, symmetric about its step, so that nothing shifts."""
    if len(change) < window:
        return change
    smooth: np.ndarray = savgol_filter(change, window, _DEGREE, mode="interp")
    return smooth


def _noise(change: np.ndarray, smooth: np.ndarray, window: int) -> float:
    """Standard deviation about the smooth curve, from the middle of the deviations."""
    if len(change) < window:
        return float(np.std(change))
    spread = 1.4826 * float(np.median(np.abs(change - smooth)))
    return spread / math.sqrt(1 - _share_left(window))


@lru_cache
def _share_left(window: int) -> float:
    """Variance of smoothed independent noise over its own: the middle weight of the filter."""
    return float(savgol_coeffs(window, _DEGREE)[window // 2])


def _crossing(rates: np.ndarray, smooth: np.ndarray, at: int) -> float:
    low, high = float(smooth[at - 1]), float(smooth[at])
    share = -low / (high - low) if high > low else 1.0
    return float(rates[at - 1] * (rates[at] / rates[at - 1]) ** share)


def middle(rates: Sequence[float]) -> float:
    """Median in the logarithm of the finite rates; nan for none."""
    logs = [math.log(r) for r in rates if math.isfinite(r) and r > 0]
    return math.exp(float(np.median(logs))) if logs else math.nan


def spread(rates: Sequence[float]) -> float:
    """Standard deviation of the logarithm of the finite rates, nats; nan for fewer than two."""
    logs = [math.log(r) for r in rates if math.isfinite(r) and r > 0]
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else math.nan
