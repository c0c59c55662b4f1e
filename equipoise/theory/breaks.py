"""Where a function or one of its first derivatives jumps, found from values alone.

Fourth differences of a smooth function vary slowly along a grid. A jump of the p-th derivative
leaves a spike that shrinks as step^p, against step^4 elsewhere: so a break stands out the more, the
closer one looks, until rounding hides it. What stops standing out is merely steep.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from equipoise.theory.activation import Array

REACH = 30.0
CELLS = 12_000
_STEP = 2 * REACH / CELLS
_EPS = float(np.finfo(np.float64).eps)
# Rounding puts at most 8 eps into a fourth difference; this leaves room for sums inside f.
_ROUNDING = 64.0
_ZOOM = np.linspace(0.0, 1.0, 41)
_LEVELS = 14
# Steps of f of this relative size are the rounding of single precision, which a model may add.
# torch's softplus leaves out the last 2e-9 above its threshold.
_SINGLE = 6e-8
# Below this width a steep stretch is as hard on a quadrature as a kink.
_STEEP = 1e-4

# One-sided fits: nodes in units of their reach, and the maps from values to coefficients.
_U = 0.54 - 0.46 * np.cos(np.pi * (np.arange(10) + 0.5) / 10)
_FITS = [np.linalg.pinv(np.vander(_U, k + 1, increasing=True)) for k in (5, 6)]
_REACHES = (0.05, 0.01, 2e-3, 4e-4)


@dataclass(frozen=True)
class Break:
    """A point where a derivative of f jumps.

    Attributes:
        place: abscissa.
        error: bound on the error of the place.
        order: the lowest derivative that jumps: 0 for f itself, 1 for the slope and so on; -1 for
            a smooth stretch so steep that it looks like a break down to steps of 1e-4.
    """

    place: float
    error: float
    order: int


@dataclass(frozen=True)
class Scan:
    """A function on the uniform grid of the search.

    Attributes:
        x: abscissae.
        y: values.
        size: mean of |f| on [-8, 8].
        noise: relative size of the rounding noise of f.
    """

    x: Array
    y: Array
    size: float
    noise: float


def scan(f: Callable[[Array], Array]) -> Scan:
    """Values on [-30, 30] at steps of 0.005, with the noise of f measured apart.

    The noise is read off sixth differences at steps of 1e-4, where a smooth f leaves nothing.

    >>> import numpy as np
    >>> scan(np.tanh).noise < 1e-15, scan(lambda x: np.tanh(x).astype(np.float32)).noise > 1e-9
    (True, True)
    """
    # The offset keeps round numbers, where breaks like to lie, off the grid.
    x = np.asarray(-REACH + _STEP * (np.arange(CELLS) + 0.382), dtype=np.float64)
    y = f(x)
    size = float(np.abs(y[np.abs(x) <= 8]).mean()) or float(np.abs(y).max())
    near = np.random.default_rng(1).uniform(-8.0, 8.0, 48)
    values = f(near[:, None] + 1e-4 * np.arange(7.0))
    # 924 is the sum of the squares of the binomial coefficients of 6.
    wobble = np.abs(np.diff(values, 6, axis=1)[:, 0]) / math.sqrt(924)
    relative = wobble / np.maximum(np.abs(values).max(axis=1), size or 1.0)
    return Scan(x, y, size, max(_EPS, 4 * float(np.quantile(relative, 0.75))))


def find_breaks(f: Callable[[Array], Array], scanned: Scan) -> tuple[Break, ...]:
    """Jumps of f and of its first three derivatives on [-30, 30], in order.

    Slopes that change by 1e-3 of the mean of |f| are seen. Of three or more breaks within 0.02 some
    may hide. Steps of f below the rounding of single precision are none. Jumps are located to a
    rounding, kinks to about 1e-14 over their relative size, jumps of higher derivatives less
    sharply: each has its bound.

    Args:
        f: function of float64 arrays.
        scanned: f on its grid.

    Returns:
        The breaks.

    >>> import numpy as np
    >>> f = lambda x: np.abs(x - np.sqrt(2))
    >>> [(round(b.place, 9), b.order) for b in find_breaks(f, scan(f))]
    [(1.414213562, 1)]
    """
    centres = _candidates(scanned)
    if not len(centres):
        return ()
    places, widths, orders = _zoom(f, centres, 4 * _STEP, scanned)
    # One break outshines another nearby: look again at both of its flanks.
    flanks = np.concatenate([places - 2.05 * _STEP, places + 2.05 * _STEP])
    more = _zoom(f, flanks, 2 * _STEP, scanned)
    places, widths, orders = (
        np.concatenate(both) for both in zip((places, widths, orders), more, strict=True)
    )
    found: list[Break] = []
    is_jump, is_rounding = np.zeros((2, len(places)), dtype=bool)
    low = orders < 0.75
    if low.any():
        at, jumps, gaps = _bisect(f, places[low] - widths[low], places[low] + widths[low])
        is_jump[low] = jumps
        is_rounding[low] = jumps & (gaps <= _SINGLE * np.maximum(np.abs(f(at)), scanned.size))
        places[low] = np.where(jumps, at, places[low])
        widths[low] = np.where(jumps, 4 * _EPS * np.maximum(1.0, np.abs(at)), widths[low])
    steep = np.isnan(orders)
    whole = np.where(steep, -1, np.clip(np.round(np.where(steep, 1, orders)), 1, 3)).astype(int)
    whole[is_jump] = 0
    # A root or another power has no one-sided polynomials to intersect.
    bent = np.flatnonzero((whole > 0) & (np.abs(orders - whole) < 0.3))
    for order in (1, 2, 3):
        some = bent[whole[bent] == order]
        for _ in range(2 if len(some) else 0):
            places[some], widths[some] = _intersect(f, places, widths, some, order, scanned)
    for i in (j for j in np.argsort(places) if not is_rounding[j]):
        here = Break(_tidy(float(places[i]), float(widths[i])), float(widths[i]), int(whole[i]))
        if found and here.place - found[-1].place <= here.error + found[-1].error + 1e-7:
            # Two candidates have closed in on one break: the sharper place stays.
            found[-1] = min(found[-1], here, key=lambda b: b.error)
        else:
            found.append(here)
    return tuple(found)


def unresolved(f: Callable[[Array], Array], scanned: Scan, breaks: tuple[Break, ...]) -> Array:
    """Random abscissae, one in each cell of the grid, where f misses its 6-point interpolation.

    Cells next to a break are left out. What is found is narrower than the grid can follow.

    Args:
        f: function of float64 arrays.
        scanned: f on its grid.
        breaks: those that were found.

    Returns:
        The abscissae where the misfit exceeds 1e-6 of the size of f, or a hundred times its noise.

    >>> import numpy as np
    >>> f = lambda x: np.sin(600 * x)
    >>> len(unresolved(f, scan(f), ())) > 1000
    True
    """
    x, y = scanned.x, scanned.y
    s = np.random.default_rng(2).uniform(0.0, 1.0, CELLS - 5)
    at = x[2:-3] + _STEP * s
    nodes = np.arange(-2.0, 4.0)
    weights = [np.prod([(s - o) / (t - o) for o in nodes if o != t], axis=0) for t in nodes]
    expected = sum(w * y[j : j + len(s)] for j, w in enumerate(weights))
    size = np.maximum(np.abs(sliding_window_view(y, 6)).max(axis=1), scanned.size)
    misses = np.abs(f(at) - expected) > max(1e-6, 100 * scanned.noise) * size
    for b in breaks:
        misses &= np.abs(at - b.place) > 4 * _STEP
    return np.asarray(at[misses])


def _candidates(scanned: Scan) -> Array:
    """Places on the grid where a fourth difference exceeds 20 times those 5 to 10 cells away."""
    x, y = scanned.x, scanned.y
    spike = np.abs(np.diff(y, 4))
    windows = sliding_window_view(np.pad(spike, 10, constant_values=np.inf), 6).max(axis=1)
    # Two breaks may be neighbours: the quieter side is the measure.
    around = np.minimum(windows[: len(spike)], windows[15 : 15 + len(spike)])
    local = sliding_window_view(y, 5)
    # Sums of steps leave the rounding of the end of the grid everywhere on it.
    floor = _floor(local, _STEP, np.full(len(spike), REACH), scanned)
    found = np.flatnonzero(spike > 20 * around + floor)
    if not len(found):
        return np.empty(0)
    groups = np.split(found, np.flatnonzero(np.diff(found) > 2) + 1)
    return np.array([x[2 + g[np.argmax(spike[g])]] for g in groups])


def _floor(values: Array, step: float | Array, x: Array, scanned: Scan) -> Array:
    """Fourth differences that rounding of f and of x can make."""
    steepest = np.abs(np.diff(values, axis=-1)).max(axis=-1) / step
    size = np.maximum(np.abs(values).max(axis=-1), scanned.size)
    return np.asarray(_ROUNDING * scanned.noise * size + 16 * _EPS * np.abs(x) * steepest)


def _zoom(
    f: Callable[[Array], Array], centres: Array, width: float, scanned: Scan
) -> tuple[Array, Array, Array]:
    """Close in on each candidate fivefold at a time; drop those that turn out smooth.

    Returns:
        Places, half-widths of the brackets that hold them, and estimated orders (nan: steep).
    """
    n = len(centres)
    places, widths = centres.copy(), np.full(n, width)
    alive, kept = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    steep = np.zeros(n, dtype=bool)
    sizes: list[list[tuple[float, float]]] = [[] for _ in range(n)]
    for level in range(_LEVELS):
        i = np.flatnonzero(alive)
        if not len(i):
            break
        step = 2 * widths[i] / (len(_ZOOM) - 1)
        x = (places[i] - widths[i])[:, None] + 2 * widths[i][:, None] * _ZOOM
        y = f(x)
        spike = np.abs(np.diff(y, 4, axis=1))
        top = spike.argmax(axis=1)
        rows, columns = np.arange(len(i)), np.arange(spike.shape[1])
        apart = columns - top[:, None]
        left = np.where(apart < -5, spike, 0.0).max(axis=1)
        right = np.where(apart > 5, spike, 0.0).max(axis=1)
        # A side with too few points to judge by does not count.
        left = np.where(top < 8, np.inf, left)
        right = np.where(top > spike.shape[1] - 9, np.inf, right)
        peak = spike[rows, top]
        hidden = peak <= _floor(y, step, places[i], scanned)
        stands = ~hidden & (peak > 10 * np.minimum(left, right))
        is_smooth = ~hidden & ~stands
        kept[i[(hidden & (level == 0)) | (is_smooth & (step > _STEEP))]] = False
        steep[i[is_smooth & (step <= _STEEP)]] = True
        total = np.where(np.abs(apart) <= 5, spike, 0.0).sum(axis=1)
        for j in np.flatnonzero(stands):
            sizes[i[j]].append((math.log(step[j]), math.log(total[j])))
        go = i[stands]
        places[go] = x[rows, top + 2][stands]
        widths[go] = 4 * step[stands]
        alive[i[~stands]] = False
    orders = np.array([math.nan if s else _order(v) for s, v in zip(steep, sizes, strict=True)])
    return places[kept], widths[kept], orders[kept]


def _order(sizes: list[tuple[float, float]]) -> float:
    """Power of the step with which a spike shrinks."""
    if len(sizes) < 2:
        # It went under in rounding at the second look: a jump of a high derivative.
        return 3.0
    steps, spikes = np.array(sizes).T
    return float(np.polyfit(steps, spikes, 1)[0])


def _bisect(
    f: Callable[[Array], Array], a: Array, b: Array
) -> tuple[Array, NDArray[np.bool_], Array]:
    """The points around which f changes most, whether that is a step, and its size."""
    # The span of values, not the gap of the ends: |x|^(1/2) has no gap around 0.
    span = np.ptp(f(a[:, None] + (b - a)[:, None] * _ZOOM), axis=1)
    left, right = f(a), f(b)
    for _ in range(60):
        middle = (a + b) / 2
        value = f(middle)
        go = np.abs(value - left) > np.abs(right - value)
        a, b = np.where(go, a, middle), np.where(go, middle, b)
        left, right = np.where(go, left, value), np.where(go, value, right)
        if (b - a <= 2 * _EPS * np.maximum(1.0, np.abs(a))).all():
            break
    gap = np.asarray(np.abs(right - left))
    return (a + b) / 2, gap > 0.5 * span, gap


def _intersect(
    f: Callable[[Array], Array],
    places: Array,
    widths: Array,
    some: Array,
    order: int,
    scanned: Scan,
) -> tuple[Array, Array]:
    """Sharpen places by one-sided polynomials: the difference of both sides has its root there.

    For a jump of derivative p the difference is about c (x - b)^p: the root is that of its
    derivative of order p - 1.
    """
    here, best = places[some].copy(), widths[some].copy()
    gaps = np.abs(places[some][:, None] - places[None, :])
    gaps[gaps == 0.0] = np.inf
    room = gaps.min(axis=1)
    for reach in _REACHES:
        usable = (widths[some] < 0.5 * _U[0] * reach) & (2 * reach < room)
        i = np.flatnonzero(usable)
        if not len(i):
            continue
        at = places[some][i]
        right, left = (f(at[:, None] + sign * reach * _U) for sign in (1.0, -1.0))
        roots = []
        for fit in _FITS:
            powers = (-1.0) ** np.arange(fit.shape[0])
            difference = right @ fit.T - (left @ fit.T) * powers
            roots.append(_root(difference, order))
        size = np.maximum(np.abs(right).max(axis=1), np.abs(left).max(axis=1))
        amplified = float(np.abs(_FITS[1][order - 1]).sum()) * 2 * scanned.noise * size
        lead = np.abs(difference[:, order]) * order
        with np.errstate(divide="ignore", invalid="ignore"):
            # A break of a higher order than thought has no lead: its bound is infinite.
            # Two degrees may agree by chance: four times their gap is the bound.
            error = 4 * reach * (np.abs(roots[1] - roots[0]) + amplified / lead)
        error += 4 * _EPS * np.maximum(1.0, np.abs(at))
        better = (error < best[i]) & (np.abs(roots[1]) * reach <= 2 * widths[some][i])
        here[i[better]] = (at + reach * roots[1])[better]
        best[i[better]] = error[better]
    return here, best


def _root(difference: Array, order: int) -> Array:
    """Root near 0 of the derivative of order ``order - 1`` of polynomials, by Newton's steps."""
    p = difference.T
    for _ in range(order - 1):
        p = np.asarray(np.polynomial.polynomial.polyder(p), dtype=np.float64)
    slope = np.polynomial.polynomial.polyder(p)
    u: Array = np.zeros(p.shape[1])
    for _ in range(4):
        with np.errstate(divide="ignore", invalid="ignore"):
            # No lead, no root: the caller drops what is not finite.
            u -= np.polynomial.polynomial.polyval(u, p, tensor=False) / (
                np.polynomial.polynomial.polyval(u, slope, tensor=False)
            )
    return np.asarray(u, dtype=np.float64)


def _tidy(place: float, error: float) -> float:
    """A round number within the error, if there is one; no negative zero."""
    rounded = round(place, 6)
    return (rounded if abs(place - rounded) <= error else place) + 0.0
