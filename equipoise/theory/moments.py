"""Fractional moments of the growth of |x| at real width, and the scales that keep them at 1.

For p = k - s / 2 > 0 and the Laplace transform M(t)^d of |f(g)|^2 (``lyapunov``),

    E |f(g)|^s = (1 / Gamma(p)) integral over t > 0 of t^(p - 1) (-1)^k (d/dt)^k M(t)^d dt.

In y = log t the integrand is analytic and positive up to small cancellations, so one trapezoid sum
serves every order. Orders are real: s = 2 is He's rule, s -> 0 the Lyapunov exponent.
"""

import math

import numpy as np
from scipy.special import gammaln, zeta

from equipoise.errors import ArgumentError
from equipoise.theory.activations import Activation
from equipoise.theory.laplace import DECAY, Array, centre, log_m_and_rate, steepness, survival
from equipoise.theory.lyapunov import WeightLaw, checked_layer, log_gain

_STEP = 0.15
_LARGEST_ORDER = 20.0
# Below this order the logarithm of a number near 1 is summed as that number less 1.
_SMALL_ORDER = 0.1
# The sum reaches as far as 1 / (distance to the order at which the moment is infinite).
_POLE_MARGIN = 2e-4


def log_moment(
    activation: Activation,
    order: float,
    fan_out: float,
    fan_in: float | None = None,
    scale: float = 1.0,
    law: WeightLaw = "gaussian",
    given_survival: bool = False,
) -> float:
    """Log E (|f(W x)| / |x|)^s over the draws of one layer.

    Gaussian W, entries N(0, scale^2): s log scale + log E|f(g)|^s. Haar: less log E chi_N^s,
    N = max(fan_in, fan_out), since length and direction of a Gaussian vector are independent.

    Args:
        activation: a line on each side of 0.
        order: s, at least 0.0002 above -fan_out and above -20, up to 20; for ReLU positive, or
            0.0002 above -1 given survival.
        fan_out: number of units, real, from 0.001 on.
        fan_in: number of inputs, fan_out where left out; it matters for Haar weights only.
        scale: standard deviation of the entries, or factor of the orthogonal matrix; positive.
        law: ``gaussian`` or ``haar``.
        given_survival: for ReLU, the moment over the draws that do not map x to 0.

    Returns:
        The log of the moment; absolute error below 1e-12 up to order 4, 1e-10 up to 20.

    Raises:
        ArgumentError: for an order at which the moment is infinite or not covered, and as for
            ``log_gain``.

    Source: moments as a criterion: arXiv 2005.11878.

    >>> from equipoise.theory import activations
    >>> round(math.exp(log_moment(activations.relu(), 2.0, 8)), 12)  # d / 2
    4.0
    """
    steep, ratio = steepness(activation)
    d, n, log_scale = checked_layer(fan_out, fan_in, scale, law)
    s = _order(order, fan_out, ratio, given_survival)
    conditional = math.log(survival(d, ratio))
    value = _log_moment_given_survival(s, d, ratio, conditional)
    value += s * (log_scale + math.log(steep))
    if not given_survival:
        value += conditional
    if law == "haar":
        value -= s / 2 * math.log(2.0) + float(gammaln((n + s) / 2) - gammaln(n / 2))
    return value


def fractional_moment(
    activation: Activation,
    order: float,
    fan_out: float,
    fan_in: float | None = None,
    scale: float = 1.0,
    law: WeightLaw = "gaussian",
    given_survival: bool = False,
) -> float:
    """Moment E (|f(W x)| / |x|)^s over the draws of one layer: exp of ``log_moment``.

    Args:
        activation: a line on each side of 0.
        order: s, as for ``log_moment``.
        fan_out: number of units, real, from 0.001 on.
        fan_in: number of inputs, fan_out where left out; it matters for Haar weights only.
        scale: standard deviation of the entries, or factor of the orthogonal matrix; positive.
        law: ``gaussian`` or ``haar``.
        given_survival: for ReLU, the moment over the draws that do not map x to 0.

    Returns:
        The moment, with the relative error that ``log_moment`` has absolutely.

    Raises:
        ArgumentError: as ``log_moment``.

    Source: arXiv 2005.11878.

    >>> from equipoise.theory import activations
    >>> round(fractional_moment(activations.identity(), 1.0, 3), 12)  # E chi_3 = 2 sqrt(2 / pi)
    1.595769121606
    """
    log_value = log_moment(activation, order, fan_out, fan_in, scale, law, given_survival)
    return _exp(log_value, "order", order)


def critical_scale(
    activation: Activation,
    fan_out: float,
    fan_in: float | None = None,
    law: WeightLaw = "gaussian",
    order: float = 0.0,
) -> float:
    """The scale of the weights at which a moment of the RMS is kept over each layer.

    sigma_s = (E|f(g)|^s)^(-1/s) sqrt(fan_out / fan_in), and likewise for Haar weights. Order 0
    keeps the typical draw (Lyapunov initialization): sigma = exp(-I(d)) sqrt(fan_out / fan_in).
    Order 2 is He's rule. At sigma_s the typical draw decays by s / 2 times the variance of its log
    gain in each layer, to first order in s.

    Args:
        activation: a line on each side of 0.
        fan_out: number of units, real, from 0.001 on.
        fan_in: number of inputs, fan_out where left out.
        law: ``gaussian``: the standard deviation of the entries; ``haar``: the factor of the
            (semi-)orthogonal matrix.
        order: s. For ReLU order 0 is over the draws that survive, others over all draws, as the
            moments are published; the second does not tend to the first as s tends to 0.

    Returns:
        The scale; relative error below 1e-12 up to order 4.

    Raises:
        ArgumentError: as ``log_moment``.

    Source: order 0 arXiv 2602.10949, fractional orders arXiv 2005.11878, order 2 arXiv 1502.01852.

    >>> from equipoise.theory import activations
    >>> round(critical_scale(activations.relu(), 8, order=2.0), 12)  # sqrt(2 / 8)
    0.5
    >>> round(critical_scale(activations.relu(), 8), 6)
    0.610328
    """
    inputs = fan_out if fan_in is None else fan_in
    if order == 0.0:
        log_root = log_gain(activation, fan_out, fan_in, law=law).mean
    else:
        log_root = log_moment(activation, order, fan_out, fan_in, law=law) / order
    return _exp(-log_root, "fan_out", fan_out) * math.sqrt(fan_out / inputs)


def _exp(log_value: float, name: str, value: float) -> float:
    try:
        return math.exp(log_value)
    except OverflowError:
        raise ArgumentError(
            f"{name} must keep the result within the range of floats, got {value} for "
            f"exp({log_value:.6g}). Use log_moment or log_gain."
        ) from None


def _order(order: float, fan_out: float, ratio: float, given_survival: bool) -> float:
    pole = -float(fan_out)
    if ratio == 0:
        pole = -1.0 if given_survival else 0.0
    margin = _POLE_MARGIN if pole < 0 else 0.0
    least = max(pole, -_LARGEST_ORDER)
    if not (least < order <= _LARGEST_ORDER and order >= pole + margin):
        raise ArgumentError(
            f"order must be above {least:g} (by {margin:g} at a pole) and at most "
            f"{_LARGEST_ORDER:g} at fan_out {fan_out:g}, got {order}. "
            "At lower orders small draws make the moment infinite; order 0 is in critical_scale."
        )
    return float(order)


def _log_moment_given_survival(s: float, d: float, ratio: float, log_alive: float) -> float:
    middle = centre(d, ratio)
    # k derivatives leave the integrand a decay of at least 1/2 on the left.
    k = max(1, math.ceil(s / 2 + 0.5))
    p = k - s / 2
    right = (s + (d if ratio > 0 else 1.0)) / 2
    start = middle - DECAY / min(p, 1.0)
    stop = middle + DECAY / right + 8 - 2 * math.log(ratio or 1.0)
    y = start + _STEP * np.arange(math.ceil((stop - start) / _STEP) + 1.0)
    log_m, rate = log_m_and_rate(y, ratio)
    # Narrow layers spread log T over 1 / d: the order is small against that.
    if abs(s) < _SMALL_ORDER * min(d if ratio > 0 else 1.0, 1.0):
        mass = rate * np.exp(d * log_m)
        excess = float(mass @ np.expm1(-s / 2 * (y - middle))) / float(mass.sum())
        return math.log1p(excess) - _log_gamma_one_minus(s / 2) - s / 2 * middle
    # In logs: the parts over- and underflow long before the moment does.
    log_parts = _log_power_derivative(y, k, d, ratio, log_m) - s / 2 * (y - middle)
    peak = float(log_parts.max())
    total = peak + math.log(_STEP * float(np.exp(log_parts - peak).sum()))
    return total + math.lgamma(k + 1) - math.lgamma(p) - s / 2 * middle - log_alive


def _log_gamma_one_minus(x: float) -> float:
    """Log Gamma(1 - x) for |x| <= 0.05 without forming 1 - x: gammaE x + sum zeta(k) x^k / k."""
    k = np.arange(2, 14)
    return float(np.euler_gamma * x + (zeta(k) * x**k / k).sum())


def _log_power_derivative(y: Array, k: int, d: float, ratio: float, log_m: Array) -> Array:
    """Log of (-t)^k / k! times the k-th derivative of M^d.

    The coefficients u_j = (-t)^j M^(j) / (j! M) of M are positive, those of its power follow by
    v_k = (1 / k) sum over j = 1..k of (j (d + 1) - k) u_j v_(k-j), v_0 = 1. Small t make v_k as
    small as (d share)^k, large ones for ReLU as small as its root: both are kept apart.
    """
    # share = x / (1 + x) and root = (1 + x)^(-1/2) / M with x = 2 a^2 t, of the sides that live.
    log_x = [y + math.log(2.0) + 2 * math.log(a) for a in (1.0, ratio) if a > 0]
    shares = [x - np.logaddexp(0.0, x) for x in log_x]
    roots = [-0.5 * np.logaddexp(0.0, x) - log_m for x in log_x]
    unit, root = shares[0] + math.log(max(d, 1.0)), roots[-1]
    rising, u = 1.0, []
    for j in range(1, k + 1):
        rising *= (j - 0.5) / j
        sides = zip(shares, roots, strict=True)
        parts = (np.exp(r - root + j * (share - shares[0])) for share, r in sides)
        u.append(0.5 * rising * max(d, 1.0) ** -j * sum(parts, np.zeros_like(y)))
    live = np.exp(root)
    v: list[Array] = []
    for i in range(1, k + 1):
        terms = [(j * (d + 1) - i) * live * u[j - 1] * v[i - j - 1] for j in range(1, i)]
        v.append(sum(terms, i * d * u[i - 1]) / i)
    return np.asarray(d * log_m + root + k * unit + np.log(v[-1]))
