"""Read an unknown pointwise function by evaluating it."""

from collections.abc import Callable

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation, Array, Parity, known_activations

_GRID = np.concatenate([-np.geomspace(30.0, 1e-3, 400), [0.0], np.geomspace(1e-3, 30.0, 400)])
_STEP = 1e-5


def probe(
    f: Callable[[Array], Array], name: str = "probed", df: Callable[[Array], Array] | None = None
) -> Activation:
    """An Activation from a callable: a known one where the values agree, else with found features.

    Parity, jumps, kinks and the one-sided slopes at 0 are found on [-30, 30]; what lies outside
    is not seen. Without ``df`` the derivative is a central difference (relative error about 1e-9).

    Args:
        f: pointwise function of a float64 array, the same shape out.
        name: name for an activation that is not a known one.
        df: its derivative, if there is a better one than a difference.

    Returns:
        The activation.

    Raises:
        ArgumentError: if f changes the shape, mixes entries or gives values that are not finite.

    >>> import numpy as np
    >>> probe(lambda x: x / (1 + np.exp(-x))).name
    'silu'
    """
    values = _values(f, _GRID, name)
    # Fewer entries unmask means and norms, another order what depends on neighbours.
    fewer = _values(f, _GRID[::2].copy(), name)
    backwards = _values(f, _GRID[::-1].copy(), name)[::-1]
    if not (
        np.allclose(values[::2], fewer, rtol=1e-9, atol=1e-12)
        and np.allclose(values, backwards, rtol=1e-9, atol=1e-12)
    ):
        raise ArgumentError(
            f"{name} must be pointwise, got a function whose values depend on the other entries. "
            "Functions such as softmax or normalizations are not activations."
        )
    for known in known_activations():
        if np.allclose(values, known.f(_GRID), rtol=1e-6, atol=1e-9):
            return known

    def difference(x: Array) -> Array:
        h = _STEP * np.maximum(1.0, np.abs(x))
        return np.asarray((f(x + h) - f(x - h)) / (2 * h))

    jumps, kinks = _breaks(f)
    scale = float(np.abs(values).max())
    mirrored = values[::-1]
    parity: Parity = "none"
    if scale > 0 and np.abs(values + mirrored).max() <= 1e-9 * scale:
        parity = "odd"
    elif scale > 0 and np.abs(values - mirrored).max() <= 1e-9 * scale:
        parity = "even"
    h = 1e-7
    at = f(np.array([-h, 0.0, h]))
    return Activation(
        name,
        f,
        df or difference,
        kinks=kinks,
        jumps=jumps,
        parity=parity,
        slope_left=float(_tidy((at[1] - at[0]) / h)),
        slope_right=float(_tidy((at[2] - at[1]) / h)),
    )


def _values(f: Callable[[Array], Array], x: Array, name: str) -> Array:
    values = np.asarray(f(x), dtype=np.float64)
    if values.shape != x.shape:
        raise ArgumentError(
            f"{name} must keep the shape of its input, got {values.shape} for {x.shape}. "
            "Only pointwise functions are activations."
        )
    if not np.isfinite(values).all():
        bad = float(x[~np.isfinite(values)][0])
        raise ArgumentError(
            f"{name} must be finite on [-30, 30], got a non-finite value at {bad:.3g}. "
            "Clip its argument or leave it out of the stack."
        )
    return values


def _tidy(slope: float) -> float:
    """Take off the rounding of a difference quotient: 7 digits are real."""
    rounded = round(slope, 6)
    return rounded if abs(slope - rounded) < 3e-7 else slope


def _breaks(f: Callable[[Array], Array]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Jumps and kinks on a uniform grid, each pinned down by bisection."""
    x = np.linspace(-30.0, 30.0, 12001)
    step = float(x[1] - x[0])
    y = np.asarray(f(x))
    # In units of the steepest ordinary slope: a scaled function breaks where the function does.
    unit = float(np.quantile(np.abs(np.diff(y)), 0.99)) / step
    if unit == 0.0:
        unit = float(np.abs(np.diff(y)).max()) or 1.0
    y = y / unit
    second = np.abs(np.diff(y, 2))
    # A kink makes one or two second differences stand out against their neighbours; a smooth
    # function has neighbours of its own size.
    around = np.maximum(np.roll(second, 4), np.roll(second, -4))
    found = np.flatnonzero((second > 20 * around + 1e-9) & (second > 1e-3 * step))
    jumps: list[float] = []
    kinks: list[float] = []
    for i in found:
        place = _bisect(f, float(x[i]), float(x[i + 2]))
        if any(abs(place - p) < 3 * step for p in (*jumps, *kinks)):
            continue
        # The gap over a jump stays as the step shrinks; over a kink or a steep stretch it shrinks
        # along. The wider step straddles a break that bisection left within 1e-6 of this place.
        wide, narrow = (
            abs(float(np.diff(np.asarray(f(np.array([place - h, place + h]))))[0]) / unit)
            for h in (2e-5, 2e-6)
        )
        (jumps if wide > 1e-4 and narrow > 0.5 * wide else kinks).append(round(place, 5) + 0.0)
    return tuple(jumps), tuple(kinks)


def _bisect(f: Callable[[Array], Array], a: float, b: float) -> float:
    """The point of [a, b] around which f bends most."""
    while b - a > 1e-6:
        points = np.linspace(a, b, 9)
        bend = np.abs(np.diff(f(points), 2))
        i = int(np.argmax(bend))
        a, b = float(points[i]), float(points[i + 2])
        if bend[i] < 1e-13:
            break
    return (a + b) / 2
