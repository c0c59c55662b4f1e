"""Read an unknown pointwise function by evaluating it.

Everything is found on [-30, 30], and the bounds on [-1e6, 1e6]; what lies outside is not seen.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.theory.activation import Activation, Array, Parity
from equipoise.theory.activations import known_activations, leaky_relu, linear
from equipoise.theory.breaks import Break, Scan, find_breaks, scan, unresolved
from equipoise.theory.callables import REFUSALS, ArrayFunction, array_function
from equipoise.theory.derivative import best_step, choose_derivative, difference_slope
from equipoise.theory.evidence import Certainty, Evidence, Probe, Value
from equipoise.theory.features import (
    agreement,
    bounds,
    fresh_points,
    gap_share,
    homogeneity,
    monotone,
    parity,
    slopes_at_zero,
)

_GRID = np.concatenate([-np.geomspace(30.0, 1e-3, 400), [0.0], np.geomspace(1e-3, 30.0, 400)])
_MOST_BREAKS = 256
_UNSEEN = "Nothing beyond 30 is seen"


def probe(
    f: Callable[[Any], Any], name: str = "probed", df: Callable[[Array], Array] | None = None
) -> Activation:
    """An Activation from a callable: a known one where the values agree, else with found features.

    ``examine`` gives the evidence with it.

    Args:
        f: pointwise function of a numpy array, of a torch tensor or of a number, or a torch module.
        name: name for an activation that is not a known one.
        df: its derivative on float64 arrays, if there is a better one than can be found.

    Returns:
        The activation.

    Raises:
        ArgumentError: if f changes the shape or the type, mixes entries, answers differently when
            asked again, gives values that are not finite, or breaks in more than 256 places.

    >>> import numpy as np
    >>> probe(lambda x: x / (1 + np.exp(-x))).name
    'silu'
    """
    return examine(f, name, df).activation


def examine(
    f: Callable[[Any], Any], name: str = "probed", df: Callable[[Array], Array] | None = None
) -> Probe:
    """An Activation from a callable, with what was found out about it and how sure that is.

    The derivative is, in this order: ``df``; torch's; that of a complex step; that of a degree-6
    polynomial through values that do not straddle a break (relative error about 1e-12). torch's and
    the complex one are used where they agree with the last.

    Args:
        f: pointwise function of a numpy array, of a torch tensor or of a number, or a torch module.
        name: name for an activation that is not a known one.
        df: its derivative on float64 arrays, if there is a better one than can be found.

    Returns:
        The activation with its evidence.

    Raises:
        ArgumentError: if f changes the shape or the type, mixes entries, answers differently when
            asked again, gives values that are not finite, or breaks in more than 256 places.

    >>> import numpy as np
    >>> found = examine(lambda x: np.maximum(x - np.sqrt(2), 0))
    >>> round(found.activation.kinks[0], 12), found.about("kinks").certainty
    (1.414213562373, 'firm')
    """
    made = array_function(f, name, _GRID)
    # A steep f may come near the end of floats on the way to 1e6.
    with np.errstate(over="ignore", invalid="ignore"):
        values = made.f(_GRID)
        _require_finite(_GRID, values, name)
        pointwise = _pointwise(made.f, values, name)
        found = _recognised(made.f, values) or _found(made, name, df, pointwise)
        # What draws numbers or counts its calls has changed its mind by now.
        _refuse_change(values, made.f(_GRID), name)
    return found


def _require_finite(x: Array, values: Array, name: str) -> None:
    if not np.isfinite(values).all():
        bad = float(x[~np.isfinite(values)][0])
        raise ArgumentError(
            f"{name} must be finite on [-30, 30], got a non-finite value at {bad:.6g}. "
            "Clip its argument or leave it out of the stack."
        )


def _pointwise(f: Callable[[Array], Array], values: Array, name: str) -> Evidence:
    """Refuse what looks at other entries, at its position, or at more than its argument."""
    _refuse_change(values, f(_GRID), name)
    order = np.random.default_rng(0).permutation(len(_GRID))
    # Uneven parts unmask means and norms, another order what depends on neighbours and places.
    parts = (order, order[:100], np.arange(300), np.arange(500, 801), *order[:6, None])
    for part in parts:
        try:
            gap = np.abs(f(_GRID[part]) - values[part])
        except REFUSALS:
            # It wants a certain number of entries.
            gap = np.array(math.inf)
        if (gap > _slack(values)[part]).any():
            _refuse_change(values, f(_GRID), name)
            raise ArgumentError(
                f"{name} must be pointwise, got a function whose values depend on the other "
                "entries. Functions such as softmax or normalizations are not activations."
            )
    return Evidence(
        "pointwise", True, "firm",
        f"the same values at {len(_GRID)} points in another order, in three parts, and alone",
    )  # fmt: skip


def _slack(values: Array) -> Array:
    # Vector and scalar code may round apart, in single precision by 1e-7.
    coarse = bool((values.astype(np.float32) == values).all())
    return (1e-6 if coarse else 1e-9) * np.abs(values) + (1e-7 if coarse else 1e-12)


def _refuse_change(before: Array, after: Array, name: str) -> None:
    if (np.abs(before - after) > _slack(before)).any():
        raise ArgumentError(
            f"{name} must be a fixed function, got other values at the second call. Put dropout "
            "and other random layers into evaluation mode, or leave them out."
        )


def _recognised(f: Callable[[Array], Array], values: Array) -> Probe | None:
    """A known activation with the same values, to the precision of a network's weights."""
    # Single precision leaves 1e-7 of the largest term, where the sum is small.
    coarse = bool((values.astype(np.float32) == values).all())
    minus, zero, plus = (float(v) for v in f(np.array([-1.0, 0.0, 1.0])))
    members = list(known_activations())
    if zero == 0.0 and plus == 1.0:
        members.append(leaky_relu(-minus))
    if zero == 0.0 and plus == -minus != 0.0:
        members.append(linear(plus))
    for known in members:
        exact = known.f(_GRID)
        tolerance = 2e-6 if coarse else 1e-6
        if gap_share(_GRID, values, exact, tolerance) > 1 or agreement(f, known, tolerance) > 1:
            continue
        off = float(np.abs(values - exact).max() / np.abs(exact).max())
        how = (
            f"the values of {known} to {off:.0e} of the largest at {len(_GRID)} points in "
            f"[-30, 30], and at {len(fresh_points(8))} drawn at random"
        )
        sure: Certainty = "exact" if off <= 1e-12 else "firm"
        shown: dict[str, Value] = {
            "pointwise": True, "parity": known.parity,
            "homogeneity": known.homogeneity, "jumps": known.jumps, "kinks": known.kinks,
            "corners": known.corners, "slope_left": known.slope_left,
            "slope_right": known.slope_right, "lower": known.lower, "upper": known.upper,
        }  # fmt: skip
        rest = (Evidence(k, v, sure, f"a property of {known}") for k, v in shown.items())
        return Probe(known, True, (Evidence("name", str(known), sure, how), *rest))
    return None


def _found(
    made: ArrayFunction, name: str, df: Callable[[Array], Array] | None, pointwise: Evidence
) -> Probe:
    f = made.f
    scanned = scan(f)
    _require_finite(scanned.x, scanned.y, name)
    breaks = find_breaks(f, scanned)
    if len(breaks) > _MOST_BREAKS:
        raise ArgumentError(
            f"{name} must break at no more than {_MOST_BREAKS} places in [-30, 30], got "
            f"{len(breaks)} jumps and kinks. No quadrature can end a panel at each: "
            "leave it out of the stack."
        )
    narrow = unresolved(f, scanned, breaks)
    jumps = tuple(b.place for b in breaks if b.order == 0)
    kinks = tuple(b.place for b in breaks if b.order != 0)
    places = tuple(b.place for b in breaks)
    slope, derivative, accuracy = choose_derivative(made, df, places)
    beside_zero = slope
    if derivative.value == "difference":
        # The step that is best at large need not be so at 0.
        step, accuracy = best_step(f, places, np.array([-4e-6, -1e-6, 1e-6, 4e-6]))
        beside_zero = difference_slope(f, places, step)
    left, right = slopes_at_zero(f, beside_zero, accuracy, breaks)
    even_or_odd, degree, way = parity(f, scanned), homogeneity(f, scanned), monotone(f, scanned)
    lower, upper = bounds(f, scanned, breaks)
    evidence: tuple[Evidence, ...] = (
        pointwise, even_or_odd, degree, way, _shown_breaks("jumps", breaks, scanned),
        _shown_breaks("kinks", breaks, scanned), left, right, lower, upper, derivative,
        _resolution(narrow),
    )  # fmt: skip
    if len(narrow):
        # A feature that the grid steps over can belie whatever was found on it.
        evidence = (pointwise, *(_weaker(e) for e in evidence[1:]))
    activation = Activation(
        name,
        f,
        slope,
        kinks=kinks,
        jumps=jumps,
        parity=_as_parity(even_or_odd),
        slope_left=_number(left),
        slope_right=_number(right),
        bends=tuple(b.place for b in breaks if b.order >= 2),
        lower=_number(lower),
        upper=_number(upper),
        homogeneity=None if degree.value is None else _number(degree),
    )
    return Probe(activation, False, evidence)


def _number(evidence: Evidence) -> float:
    assert isinstance(evidence.value, float)
    return evidence.value


def _as_parity(evidence: Evidence) -> Parity:
    match evidence.value:
        case "odd":
            return "odd"
        case "even":
            return "even"
        case _:
            return "none"


def _shown_breaks(name: str, breaks: tuple[Break, ...], scanned: Scan) -> Evidence:
    some = [b for b in breaks if (b.order == 0) == (name == "jumps")]
    value = tuple(b.place for b in some)
    if not some:
        how = f"no fourth difference stands out on {len(scanned.x)} points. {_UNSEEN}"
        return Evidence(name, value, "firm", how)
    error = max(b.error for b in some)
    if name == "jumps":
        how = f"the step stays as its bracket shrinks to {error:.0e}. {_UNSEEN}"
        return Evidence(name, value, "firm", how)
    orders = {-1: "a steep stretch", 1: "the slope", 2: "the second", 3: "the third derivative"}
    kinds = ", ".join(dict.fromkeys(orders[b.order] for b in some))
    how = f"{kinds}: places to {error:.0e}, where one-sided polynomials meet. {_UNSEEN}"
    steep = any(b.order == -1 for b in some)
    return Evidence(name, value, "weak" if steep or error > 1e-6 else "firm", how)


def _resolution(narrow: Array) -> Evidence:
    if len(narrow):
        how = (
            f"values at {len(narrow)} random points, such as {narrow[0]:.6g}, are not what their "
            "neighbours on the grid promise: f has features that the search may have missed"
        )
        return Evidence("resolution", False, "weak", how)
    how = "a random point in each cell of 0.005 has the value that its neighbours promise"
    return Evidence("resolution", True, "firm", how)


def _weaker(evidence: Evidence) -> Evidence:
    return Evidence(evidence.property, evidence.value, "weak", evidence.how)
