"""Phase diagrams: the mean-field phase over a grid of weight and bias variances.

log E f^2 and log E f'^2 are smooth functions of log q. They are computed by quadrature at evenly
spaced nodes, joined by splines of degree 7, and compared with quadrature again half way between
the nodes; the spacing is halved until the two agree.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline, make_interp_spline

from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.layermaps import check_map, energy, refuse_jumps, slope_energy
from equipoise.theory.lengthpoints import search_range

Array = NDArray[np.float64]

PHASES = ("vanishing", "ordered", "critical", "chaotic", "exploding")

# Nodes for each factor e of q, error of a logarithm at which they suffice, and how often they are
# doubled at most; levels considered; degree of the splines.
_PER_E_FOLD, _TARGET, _DOUBLINGS = 4, 1e-9, 3
_SMALLEST, _DEGREE = 1e-8, 7
# |log(q'/q)| that counts as rounding at a node, |chi_1 - 1| that counts as critical.
_SAME, _CRITICAL = 4e-13, 1e-7
_BISECTIONS = 50


@dataclass(frozen=True)
class PhaseDiagram:
    """Mean-field numbers over a grid; every array has shape (weight variances, bias variances).

    Attributes:
        weight_vars: variances of the weights times fan_in, shape (m,).
        bias_vars: variances of the biases, shape (n,).
        q_star: level reached from q = 1; 0 where the signal vanishes, infinite where it explodes.
        chi_1: growth per layer of the mean-square gradient at q_star; nan where it explodes.
        xi_q: depth scale of the signal's length, in layers; nan where it explodes.
        xi_c: 1 / |log chi_1|, in layers: where chi_1 < 1 the depth over which inputs become alike,
            where chi_1 > 1 the depth over which gradients grow by e (and inputs that are nearly
            alike part), which is not the depth scale of convergence to c* that ``mean_field``
            gives; infinite at criticality, nan where the signal explodes.
        phase: index into ``PHASES``, int8.
        interpolation_error: largest error seen between the nodes, of E f^2 relative to itself plus
            1e-12 q and of E f'^2 relative to itself plus 1e-12; that of chi_1 is about the same,
            that of q_star is divided by |1 - dq'/dq|.
    """

    weight_vars: Array
    bias_vars: Array
    q_star: Array
    chi_1: Array
    xi_q: Array
    xi_c: Array
    phase: NDArray[np.int8]
    interpolation_error: float


def phase_diagram(
    activation: Activation, weight_vars: ArrayLike, bias_vars: ArrayLike
) -> PhaseDiagram:
    """Phase, q*, chi_1 and depth scales for all pairs of a weight and a bias variance.

    Where the length map has several fixed points the one reached from q = 1 is given: the next
    above 1 if the signal grows there, else the next below (exact for a length map that rises).
    Levels from 1e-8, or below where bias_vars or f(0) ask for it, to 1e12, 1,000 times the largest
    of bias_vars, or twice the largest q' of a bounded f, are told apart; a signal that leaves them,
    or the range of floats, vanishes or explodes.

    Args:
        activation: the function f, without jumps.
        weight_vars: variances of the weights times fan_in, positive, shape (m,).
        bias_vars: variances of the biases, at least 0, shape (n,).

    Returns:
        The diagram, exact for infinite width up to its ``interpolation_error``.

    Raises:
        ArgumentError: for an axis that is empty or not one-dimensional, a variance out of range,
            or an activation that jumps.

    Source: Schoenholz et al. 2016, arXiv 1611.01232.

    >>> from equipoise.theory import activations
    >>> diagram = phase_diagram(activations.tanh(), [0.5, 3.0], [0.1])
    >>> [PHASES[code] for code in diagram.phase[:, 0]]
    ['ordered', 'chaotic']
    """
    refuse_jumps(activation)
    weights, biases = _axis("weight_vars", weight_vars), _axis("bias_vars", bias_vars)
    for weight in weights.tolist():
        check_map(1.0, weight)
    for bias in biases.tolist():
        check_map(1.0, 1.0, bias)
    moments = _Moments.of(activation, weights, biases)

    w, b = (a.ravel() for a in np.meshgrid(weights, biases, indexing="ij"))
    q = _reached(activation, moments, w, b)
    inside = (q > 0) & np.isfinite(q)
    x = np.where(inside, np.log(np.where(inside, q, 1.0)), moments.x[0])
    chi = w * np.where(inside, np.exp(moments.log_slope(x)), slope_energy(activation, 0.0))
    growth = np.where(
        inside, w * np.exp(moments.log_energy(x) - x) * moments.log_energy.derivative()(x), chi
    )
    exploding = np.isinf(q)
    chi[exploding] = growth[exploding] = np.nan
    codes = np.select(
        [exploding, np.abs(chi - 1) <= _CRITICAL, q == 0.0, chi < 1], [4, 2, 0, 1], default=3
    )
    shape = (len(weights), len(biases))
    return PhaseDiagram(
        weights,
        biases,
        q.reshape(shape),
        chi.reshape(shape),
        _depth(growth).reshape(shape),
        _depth(chi).reshape(shape),
        codes.astype(np.int8).reshape(shape),
        moments.error,
    )


@dataclass(frozen=True)
class _Moments:
    """log E f^2 and log E f'^2 over log q, with a node at 0."""

    x: Array
    energies: Array
    log_energy: BSpline
    log_slope: BSpline
    error: float

    @staticmethod
    def of(activation: Activation, weights: Array, biases: Array) -> "_Moments":
        """Splines on a grid fine enough for the target error."""
        ranges = [
            search_range(activation, w, b)
            for w in (weights.min(), weights.max())
            for b in (biases.min(), biases.max())
        ]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        low = min(0.0, low if _has_floor(activation, biases) else math.log(_SMALLEST))
        step = 1.0 / _PER_E_FOLD
        x = np.asarray(
            np.arange(math.floor(low / step), math.ceil(max(high, 1.0) / step) + 1) * step,
            dtype=np.float64,
        )
        values = _logs(activation, x)
        # Beyond the range of floats a signal explodes.
        finite = np.logical_and.accumulate(np.isfinite(values[0]) & np.isfinite(values[1]))
        x, values = x[finite], [v[finite] for v in values]
        for doubling in range(_DOUBLINGS + 1):
            splines = [make_interp_spline(x, v, k=_DEGREE) for v in values]
            middle = np.asarray((x[1:] + x[:-1]) / 2, dtype=np.float64)
            exact = _logs(activation, middle)
            # Moments below these floors move neither q* nor a phase.
            floors = (1e-12 * np.exp(middle), 1e-12)
            error = max(
                float(np.max(np.abs(np.exp(s(middle)) - np.exp(e)) / (np.exp(e) + floor)))
                for s, e, floor in zip(splines, exact, floors, strict=True)
            )
            if error <= _TARGET or doubling == _DOUBLINGS:
                break
            order = np.argsort(np.concatenate([x, middle]))
            x = np.concatenate([x, middle])[order]
            values = [np.concatenate([v, e])[order] for v, e in zip(values, exact, strict=True)]
        return _Moments(x, np.exp(values[0]), splines[0], splines[1], error)


def _has_floor(activation: Activation, biases: Array) -> bool:
    """Whether q' has a positive lower bound at every pair of variances."""
    return bool(biases.min() > 0) or activation.value_at_zero != 0.0


def _logs(activation: Activation, x: Array) -> list[Array]:
    # The smallest float stands for moments that vanish below it, as of softshrink at small q.
    tiny = float(np.finfo(np.float64).tiny)
    q = np.exp(x).tolist()
    return [
        np.log(np.maximum([moment(activation, v) for v in q], tiny))
        for moment in (energy, slope_energy)
    ]


def _reached(activation: Activation, moments: _Moments, w: Array, b: Array) -> Array:
    """The level reached from q = 1 for each pair: bracketed by nodes, then bisected."""
    x, n = moments.x, len(moments.x)
    origin = int(np.searchsorted(x, -1e-9))
    if origin == n:
        # The moments leave the range of floats below q = 1.
        return np.full(len(w), np.inf)
    lower, upper = np.full(len(w), -1), np.full(len(w), n)
    undecided_up, undecided_down = np.ones(len(w), dtype=bool), np.ones(len(w), dtype=bool)

    # A q' of exactly 0 has minus infinity as its logarithm, and that is meant.
    with np.errstate(divide="ignore"):
        start = np.log(w * moments.energies[origin] + b)
        for i in range(origin, n):
            r = np.log(w * moments.energies[i] + b) - x[i]
            hit = undecided_up & (r <= _SAME)
            upper[hit] = i
            undecided_up &= ~hit
        for i in range(origin, -1, -1):
            r = np.log(w * moments.energies[i] + b) - x[i]
            hit = undecided_down & (r >= -_SAME)
            lower[hit] = i
            undecided_down &= ~hit
    grows, shrinks = start > _SAME, start < -_SAME
    left = np.where(grows, upper - 1, lower)
    q = np.ones(len(w))
    q[grows & undecided_up] = np.inf
    q[shrinks & undecided_down] = 0.0
    open_ = (grows & ~undecided_up) | (shrinks & ~undecided_down)
    low, high = x[left[open_]], x[left[open_] + 1]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = np.log(w[open_] * np.exp(moments.log_energy(middle)) + b[open_]) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    q[open_] = np.exp((low + high) / 2)
    return q


def _depth(slope: Array) -> Array:
    """1 / |log|slope||: 0 at slope 0 and infinite at slope 1."""
    # Both ends are limits: log(0) and 1 / 0 are infinite there.
    with np.errstate(divide="ignore"):
        logs = np.abs(np.log(np.abs(slope)))
        return np.asarray(np.where(logs <= _CRITICAL, np.inf, 1 / logs))


def _axis(name: str, values: ArrayLike) -> Array:
    axis = np.asarray(values, dtype=np.float64)
    if axis.ndim != 1 or axis.size == 0:
        raise ArgumentError(
            f"{name} must be a one-dimensional array that is not empty, got shape {axis.shape}. "
            "Pass a list of variances."
        )
    return axis
