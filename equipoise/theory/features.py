"""Properties of a function read off its values, each with its evidence."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equipoise.theory.activation import Activation, Array
from equipoise.theory.breaks import REACH, Break, Scan
from equipoise.theory.evidence import Certainty, Evidence

_FRESH = 200
# From 30 to 1e6, two points in each doubling.
_FAR = REACH * 2.0 ** (np.arange(31.0) / 2)
# A tail that changes by less than this from one such point to the next, relative to f, has settled.
_SETTLED = 1e-12


def fresh_points(seed: int) -> Array:
    """200 random points of [-30, 30], half of them within [-3, 3].

    >>> fresh_points(3).shape
    (200,)
    """
    rng = np.random.default_rng(seed)
    half = _FRESH // 2
    return np.concatenate([rng.uniform(-3.0, 3.0, half), rng.uniform(-REACH, REACH, half)])


def parity(f: Callable[[Array], Array], scanned: Scan) -> Evidence:
    """Whether f is odd, even or neither, at 200 random points and 400 others.

    >>> import numpy as np
    >>> from equipoise.theory.breaks import scan
    >>> parity(np.cos, scan(np.cos)).value
    'even'
    """
    x = np.concatenate([fresh_points(3), np.geomspace(1e-3, REACH, 400)])
    here, there = f(x), f(-x)
    largest = float(np.abs([here, there]).max())
    if largest == 0.0:
        return Evidence("parity", "none", "firm", "f is 0: odd and even at once")
    slack = max(1e-9, 100 * scanned.noise) * (np.abs(here) + np.abs(there))
    slack += max(1e-13, 100 * scanned.noise) * scanned.size
    for name, gap, text in (("odd", here + there, "-f(x)"), ("even", here - there, "f(x)")):
        if (np.abs(gap) <= slack).all():
            off = float(np.abs(gap).max()) / largest
            return Evidence(
                "parity", name, "firm",
                f"f(-x) = {text} to {off:.0e} of its largest value at {len(x)} points in "
                f"[-30, 30], of which {_FRESH} were drawn at random",
            )  # fmt: skip
    worst = int(np.argmax(np.minimum(np.abs(here + there), np.abs(here - there))))
    return Evidence(
        "parity", "none", "firm",
        f"f(x) = {here[worst]:.6g} and f(-x) = {there[worst]:.6g} at x = {x[worst]:.6g}",
    )  # fmt: skip


def homogeneity(f: Callable[[Array], Array], scanned: Scan) -> Evidence:
    """The degree k with f(t x) = t^k f(x) for all t > 0, if there is one.

    >>> import numpy as np
    >>> from equipoise.theory.breaks import scan
    >>> homogeneity(np.abs, scan(np.abs)).value
    1.0
    """
    probe = f(np.array([1.0, 16.0, -1.0, -16.0]))
    one, sixteen = (probe[0], probe[1]) if probe[0] != 0 else (probe[2], probe[3])
    if one == 0.0 or not sixteen / one > 0:
        return Evidence("homogeneity", None, "firm", "f(x) and f(16 x) have no power for a ratio")
    degree = math.log2(float(sixteen / one)) / 4
    near = round(degree, 6)
    degree = near if abs(degree - near) < max(1e-9, 100 * scanned.noise) else degree
    x = fresh_points(4) / 3
    t = np.exp(np.random.default_rng(5).uniform(-2.0, 1.0, len(x)))
    expected, found = t**degree * f(x), f(t * x)
    gap = np.abs(expected - found)
    slack = max(1e-9, 1000 * scanned.noise) * np.abs(expected)
    if (gap > slack).any():
        i = int(np.argmax(gap - slack))
        return Evidence(
            "homogeneity", None, "firm",
            f"f({t[i]:.4g} x) is {found[i]:.6g} and not {expected[i]:.6g} at x = {x[i]:.4g}",
        )  # fmt: skip
    off = float((gap / np.maximum(np.abs(expected), np.finfo(np.float64).tiny)).max())
    return Evidence(
        "homogeneity", degree, "firm",
        f"f(t x) = t^{degree:g} f(x) to {off:.0e} relative at {len(x)} random pairs (t, x)",
    )  # fmt: skip


def monotone(f: Callable[[Array], Array], scanned: Scan) -> Evidence:
    """Whether f is ``increasing`` (nowhere falling), ``decreasing``, ``constant`` or ``none``.

    >>> import numpy as np
    >>> from equipoise.theory.breaks import scan
    >>> monotone(np.tanh, scan(np.tanh)).value
    'increasing'
    """
    x = np.sort(np.concatenate([scanned.x, fresh_points(6)]))
    y = f(x)
    steps = np.diff(y)
    slack = 16 * scanned.noise * np.maximum(np.maximum(np.abs(y[1:]), np.abs(y[:-1])), scanned.size)
    rises, falls = steps > slack, steps < -slack
    where = f"at {len(x)} points in [-30, 30], of which {_FRESH} were drawn at random"
    if rises.any() and falls.any():
        up, down = x[:-1][rises][0], x[:-1][falls][0]
        return Evidence("monotone", "none", "firm", f"it rises at {up:.4g} and falls at {down:.4g}")
    if rises.any():
        return Evidence("monotone", "increasing", "firm", f"it never falls {where}")
    if falls.any():
        return Evidence("monotone", "decreasing", "firm", f"it never rises {where}")
    return Evidence("monotone", "constant", "firm", f"one value {where}: it carries no signal")


@dataclass(frozen=True)
class _Tail:
    """What f does on one side beyond 30: its limit (nan: none seen), and what it reached."""

    limit: float
    reached: tuple[float, float]
    certainty: Certainty
    how: str


def _tail(f: Callable[[Array], Array], sign: float, size: float) -> _Tail:
    x = sign * _FAR
    y = f(x)
    finite = np.isfinite(y)
    count = len(y) if finite.all() else int(np.argmin(finite))
    end = f"x = {x[count - 1]:.2g}"
    y = y[:count]
    reached = (float(y.min()), float(y.max()))
    if count < 6:
        return _Tail(math.nan, reached, "weak", f"not finite beyond {end}")
    steps = np.diff(y)
    last = float(steps[-1])
    if abs(last) <= _SETTLED * max(abs(float(y[-1])), size):
        return _Tail(float(y[-1]), reached, "firm", f"settled at {y[-1]:.6g} by {end}")
    if not (np.sign(steps[-4:]) == np.sign(last)).all():
        return _Tail(math.nan, reached, "weak", f"still swings at {end}")
    ratio = last / float(steps[-2])
    if ratio < 0.95:
        limit = float(y[-1]) + last * ratio / (1 - ratio)
        near = round(limit, 6)
        limit = near if abs(limit - near) < 1e-9 * max(1.0, abs(limit)) else limit
        return _Tail(limit, reached, "weak", f"still changing at {end}, extrapolated")
    sure = bool((steps[-3:] / steps[-4:-1] > 1.1).all())
    way = f"{'grows' if last > 0 else 'falls'} without limit out to {end}"
    return _Tail(math.copysign(math.inf, last), reached, "firm" if sure else "weak", way)


def bounds(
    f: Callable[[Array], Array], scanned: Scan, breaks: tuple[Break, ...] = ()
) -> tuple[Evidence, Evidence]:
    """Infimum and supremum of f: extremes on [-30, 30] made sharp, and tails out to 1e6.

    >>> import numpy as np
    >>> from equipoise.theory.breaks import scan
    >>> [e.value for e in bounds(np.tanh, scan(np.tanh))]
    [-1.0, 1.0]
    """
    tails = [_tail(f, sign, scanned.size) for sign in (-1.0, 1.0)]
    special = f(np.array([0.0, *(b.place for b in breaks)]))
    found = []
    for name, sign in (("lower", 1.0), ("upper", -1.0)):
        inner = sign * _least(lambda x, sign=sign: sign * f(x), scanned.x)  # type: ignore[misc]
        ends = [
            v
            for t in tails
            for v in (t.limit, *t.reached)
            if not math.isnan(v)
        ]  # fmt: skip
        value = sign * min(sign * v for v in (inner, *ends, *special.tolist()))
        # A tail bears on this bound if it swings or is not known, or if the bound is its limit.
        bearing = [t for t in tails if math.isnan(t.limit) or t.limit == value]
        sure: Certainty = "weak" if any(t.certainty == "weak" for t in bearing) else "firm"
        beyond = sign * f(fresh_points(7)) < sign * value - 1e-9 * scanned.size
        if beyond.any():
            sure = "weak"
        how = "; ".join(
            f"{side}: {t.how}" for side, t in zip(("left", "right"), tails, strict=True)
        )
        found.append(Evidence(name, value, sure, f"extreme {inner:.6g} on [-30, 30]; {how}"))
    return found[0], found[1]


def _least(g: Callable[[Array], Array], x: Array) -> float:
    """Least value of g near the grid, by looking closer around the best point."""
    best = math.inf
    for _ in range(6):
        y = g(x)
        i = int(np.argmin(y))
        best = min(best, float(y[i]))
        width = float(x[1] - x[0])
        x = np.linspace(x[i] - 1.5 * width, x[i] + 1.5 * width, 41)
    return best


def slopes_at_zero(
    f: Callable[[Array], Array],
    df: Callable[[Array], Array],
    accuracy: float,
    breaks: tuple[Break, ...],
) -> tuple[Evidence, Evidence]:
    """One-sided derivatives at 0, extrapolated from df at 1e-6, 2e-6 and 4e-6 on either side.

    Args:
        f: the function.
        df: its derivative off its breaks.
        accuracy: relative error of df.
        breaks: the breaks of f.

    Returns:
        Evidence of ``slope_left`` and ``slope_right``; infinite where difference quotients grow as
        their step shrinks.

    >>> import numpy as np
    >>> left, right = slopes_at_zero(np.abs, np.sign, 0.0, ())
    >>> left.value, right.value
    (-1.0, 1.0)
    """
    at_zero = [b for b in breaks if abs(b.place) <= b.error + 1e-9]
    jumps = any(b.order == 0 for b in at_zero)
    values, errors = [], []
    for sign in (-1.0, 1.0):
        slope = df(sign * 1e-6 * np.array([1.0, 2.0, 4.0]))
        near, far = 2 * slope[0] - slope[1], 2 * slope[1] - slope[2]
        h = sign * np.array([0.0, 1e-8, 1e-6, 1e-4])
        y = f(h)
        chords = np.abs((y[1:] - y[0]) / h[1:])
        if not jumps and at_zero and chords[0] > 2 * chords[1] > 4 * chords[2] > 0:
            near, far = sign * np.sign(y[1] - y[0]) * math.inf, 0.0
        values.append(float(near))
        errors.append(abs(float(near - far)) + 4 * accuracy * abs(float(near)) + 1e-15)
    if not any(b.order in (-1, 0, 1) for b in at_zero) and math.isfinite(sum(values)):
        agree = abs(values[0] - values[1]) <= 10 * sum(errors) + 1e-6 * abs(values[0])
        values = [sum(values) / 2] * 2 if agree else values
    sides = zip(("left", "right"), values, errors, strict=True)
    left, right = (
        Evidence(
            f"slope_{side}",
            _tidy(value, error),
            "firm" if error <= 1e-6 * max(1.0, abs(value)) < math.inf else "weak",
            f"f' at 1e-6 and 2e-6 to the {side} of 0, extrapolated, to {error:.0e}"
            if math.isfinite(value)
            else f"difference quotients to the {side} of 0 grow as their step shrinks",
        )
        for side, value, error in sides
    )
    return left, right


def _tidy(value: float, error: float) -> float:
    """A round number within the error, if there is one."""
    if not math.isfinite(value):
        return value
    rounded = round(value, 9)
    return (rounded if abs(value - rounded) <= error else value) + 0.0


def agreement(f: Callable[[Array], Array], known: Activation, tolerance: float) -> float:
    """Greatest gap of f to a known activation at fresh points, as a share of its slack.

    The points are 200 random ones in [-30, 30] and, unless the tolerance says that f works in
    single precision, those out to 1e6 at which f is finite. At most 1 means the same function.

    >>> import numpy as np
    >>> from equipoise.theory import activations
    >>> agreement(activations.relu().f, activations.relu(), 1e-6)
    0.0
    >>> agreement(lambda x: np.clip(x, -99, 99), activations.identity(), 1e-6) > 1
    True
    """
    near = fresh_points(8)
    share = gap_share(near, f(near), known.f(near), tolerance)
    if tolerance > 1e-6:
        return share
    x = np.concatenate([-_FAR, _FAR])
    values = f(x)
    finite = np.isfinite(values)
    far = gap_share(x[finite], values[finite], known.f(x[finite]), tolerance) if finite.any() else 0
    return max(share, far)


def gap_share(x: Array, values: Array, known: Array, tolerance: float) -> float:
    """Greatest |values - known| at x as a share of its slack.

    The slack is tolerance * |known|, and the rounding of terms as large as x, which may cancel:
    1e-12 + 16 eps |x|, or the tolerance itself where that is coarser than 1e-6.

    >>> import numpy as np
    >>> gap_share(np.zeros(2), np.ones(2), np.ones(2), 1e-6)
    0.0
    """
    rounding = 1e-12 + 4e-15 * np.abs(x) if tolerance <= 1e-6 else tolerance
    return float((np.abs(values - known) / (tolerance * np.abs(known) + rounding)).max())
