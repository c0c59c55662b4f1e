"""Residual trunks of finite width n, plain and with LayerNorm or RMSNorm.

Two-matrix branches with Gaussian weights have the same law in every basis of the trunk, so a
tangent u at a trunk state x is described by its share along x alone. A norm takes that direction
away, LayerNorm also the mean: with d = n (RMSNorm) or n - 1 (LayerNorm) both are one problem in d
dimensions with d - 1 left for u. What is left is orthogonal to the branch's input, so f' and f'u
are independent and chi = last_var first_var E f'^2 is exact for any f.

The log of the signal follows a noisy linear recursion to first order in 1/n. With rho the share
of the branch in the mean square after a layer, the relative variance that a layer adds is
(4 rho - 2 rho^2)/n + rho^2 Var f^2 / (m (E f^2)^2), m the hidden width.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory.branch import Branch, BranchMoments, BranchScaling
from equipoise.theory.residual import Placement, WideTrunk, wide_trunk

Array = NDArray[np.float64]
Norm = Literal["layer", "rms"]


@dataclass(frozen=True)
class ResidualStack:
    """Signal and gradient along a residual trunk of finite width.

    Attributes:
        signal: mean square of the trunk before each branch and at the end, shape (L + 1,).
        gradient_log: log of the mean-square gradient at the same places over that at the end.
        correlation: of two inputs of equal size at the same places, wide limit.
        log_norm_mean: mean of log RMS of the trunk there, nats.
        log_norm_std: its standard deviation over draws of the weights, nats.
        signal_is_exact: whether ``signal`` is the exact mean at this width: two matrices, and
            without norm a homogeneous f; or post-norm, or f^2 a multiple of x^2.
        gradient_is_exact: the same of ``gradient_log``.
        law: growth with depth in a sentence.
    """

    signal: tuple[float, ...]
    gradient_log: tuple[float, ...]
    correlation: tuple[float, ...]
    log_norm_mean: tuple[float, ...]
    log_norm_std: tuple[float, ...]
    signal_is_exact: bool
    gradient_is_exact: bool
    law: str


def residual_stack(
    branch: Branch,
    depth: int,
    width: int,
    scaling: BranchScaling,
    placement: Placement = "none",
    norm: Norm = "layer",
    q: float = 1.0,
    correlation: float = 1.0,
) -> ResidualStack:
    """Signal, gradient and log-norm of a residual trunk of width n over L branches.

    The input has a fixed norm, |x_0|^2 = n q, and a uniform direction (centred for post-norm with
    LayerNorm); the cotangent is Gaussian and independent, and with post-norm it and the gradients
    are taken within the normalised trunk's sphere.

    Args:
        branch: the branch.
        depth: number of branches L, at least 1.
        width: n, at least 4.
        scaling: skip, scale and gains.
        placement: none, tracked, pre or post.
        norm: layer or rms, without affine part and epsilon; unused for none and tracked.
        q: mean square of the input.
        correlation: of two inputs, from -1 to 1; below 1 a layer costs about 10 ms more.

    Returns:
        The stack; means are exact where the flags say so. Else, simulation against it in percent,
        scale 1/sqrt(L), two matrices: tanh without norm, L = 20, n = 4, 8, 16, O(1/n): signal
        -2, -1, 0, gradient -13, -7, -3. Pre-norm gradient, L = 50, n = 8, 16, O(1/n^2): RMSNorm
        +4, +1, LayerNorm +13, +2 (n = 4: rare draws, 15 to 120 times more); at scale 1, L = 20,
        n = 16: +9, +16. log_norm_std at n = 4, 8, 16, 64: ReLU -2, -2, -1, 0, with pre-norm
        +16, +8, +3, -2, tanh without norm +15, +9 (n = 4, 8); log_norm_mean within .015 at n = 4,
        .005 at n = 8. One ReLU matrix, O(1/n): L = 20, n = 4, 16: gradient +13, +3, log_norm_std
        -19, -6; at scale 1 with RMSNorm n = 16: signal -6, gradient +27. Correlation from 0, ReLU,
        L = 20: -.4/n (absolute).

    Raises:
        ArgumentError: as ``wide_trunk``, or for a width below 4 or an unknown norm.

    >>> from equipoise.theory import activations
    >>> from equipoise.theory.branch import branch_scaling
    >>> he = Branch(activations.relu(), last_var=2.0)
    >>> stack = residual_stack(he, 100, 64, branch_scaling("depth", 100))
    >>> round(stack.signal[-1], 6), round(stack.gradient_log[0], 6)  # 1.01^100
    (2.704814, 0.995033)
    """
    _checks.at_least("width", width, 4)
    _checks.one_of("norm", norm, ("layer", "rms"))
    trunk = wide_trunk(branch, depth, scaling, placement, q, correlation)
    scaled = scaling.of(branch)
    # f^2 is a quadratic: one matrix then sees no more of the trunk than its norm.
    quadratic = branch.is_homogeneous and branch.activation.parity != "none"
    known = branch.matrices == 2 or quadratic
    plain = known and branch.is_homogeneous and placement in ("none", "tracked")

    bias, variance = _log_norm(scaled, width, scaling, placement, norm, trunk.signal)
    if placement == "post":
        growth = post_norm_growth(branch, width, scaling, norm)
        gradient = tuple((depth - layer) * math.log(growth) for layer in range(depth + 1))
    elif placement == "pre":
        inside = width - (norm == "layer")
        gradient = _pre_norm(scaled, width, inside, scaling, trunk.signal)
    else:
        steps = np.log(trunk.gradient_factors)
        gradient = (*np.cumsum(steps[::-1])[::-1].tolist(), 0.0)
    return ResidualStack(
        signal=trunk.signal,
        gradient_log=gradient,
        correlation=trunk.correlation,
        log_norm_mean=tuple((math.log(s) + b) / 2 for s, b in zip(trunk.signal, bias, strict=True)),
        log_norm_std=tuple(math.sqrt(v) / 2 for v in variance),
        signal_is_exact=plain or placement == "post" or (known and placement == "pre"),
        gradient_is_exact=plain,
        law=_law(scaled, depth, scaling, placement, trunk),
    )


def post_norm_growth(
    branch: Branch, width: int, scaling: BranchScaling, norm: Norm = "layer"
) -> float:
    """Factor of one post-norm layer on the mean-square gradient at width n, to order 1/n.

    Let s = skip, t = scale, m the hidden width, d = n for RMSNorm and n - 1 for LayerNorm,
    V, chi at q = 1, M = s^2 n/d + t^2 V, rho = t^2 V / M, h the overlap of f^2 and f'^2. The norm
    takes rho/d of the trunk's part and (1 + rho h d/m)/d of the branch's:
    X = s^2 (1 - rho/d) + t^2 chi (d/n) (1 - (1 + rho h d/m)/d), and the factor is
    (X n / (M d)) (1 + omega - rho rho_X (h - 1)/m), rho_X = t^2 chi d / (n X), omega the relative
    variance of the layer's mean square. Layers are independent and alike, so L layers have
    exactly the L-th power of the exact factor. As n grows it is
    (s^2 + t^2 chi)/(s^2 + t^2 V): 1 for homogeneous f.

    Args:
        branch: the branch, before the scaling's gains.
        width: n, at least 4.
        scaling: skip, scale and gains.
        norm: layer or rms.

    Returns:
        The factor, positive. Two matrices: O(1/n^2), low by 2 to 4 / n^2 at skip = scale for
        n = 8 to 16 (6 / n^2 at n = 4 with LayerNorm). One nonlinear matrix: O(1/n).

    Raises:
        ArgumentError: as ``residual_stack``.

    >>> from equipoise.theory import activations
    >>> linear = Branch(activations.identity(), matrices=1)
    >>> round(post_norm_growth(linear, 1000, BranchScaling("even"), "rms"), 6)  # 1 + 3/(4 n)
    1.000749
    """
    _checks.at_least("width", width, 4)
    d = width - (_checks.one_of("norm", norm, ("layer", "rms")) == "layer")
    wide_trunk(branch, 1, scaling, "post")
    scaled, s2, t2 = scaling.of(branch), scaling.skip**2, scaling.scale**2
    moments = scaled.moments(1.0)
    inverse_m = _inverse_hidden(scaled, width)
    energy = s2 * width / d + t2 * moments.energy
    rho = t2 * moments.energy / energy
    lost = _returned(rho, d, inverse_m, moments)
    branch_part = t2 * moments.slope_energy * (d / width) * (1 - lost)
    part = s2 * (1 - rho / d) + branch_part
    omega = _noise(rho, d, inverse_m, moments)
    shared = rho * (branch_part / part) * (moments.overlap - 1) * inverse_m
    return part * width / (energy * d) * (1 + omega - shared)


def _inverse_hidden(branch: Branch, width: int) -> float:
    """1/m, and 0 for one matrix, whose argument is not drawn anew in each layer."""
    return 1 / max(1, round(branch.expansion * width)) if branch.matrices == 2 else 0.0


def _returned(rho: float, d: int, inverse_m: float, m: BranchMoments) -> float:
    """Share of a branch's tangent that falls along the trunk's new state, to order 1/n."""
    share = (1 + rho * m.overlap * d * inverse_m) / d
    if share > 0.9:
        least = rho * m.overlap * d / (0.9 * d - 1)
        raise ArgumentError(
            f"expansion must leave a hidden width above {least:.3g}, got {1 / inverse_m:g}. "
            "The law in 1/n has no value there: take a wider branch."
        )
    return share


def _noise(rho: float, width: int, inverse_m: float, m: BranchMoments) -> float:
    """Relative variance that a layer adds to the mean square, to first order in 1/n."""
    return (4 * rho - 2 * rho**2) / width + m.energy_spread * rho**2 * inverse_m


def _pre_norm(
    branch: Branch, width: int, d: int, scaling: BranchScaling, signal: tuple[float, ...]
) -> tuple[float, ...]:
    """Log mean-square gradients of a pre-norm trunk, each from a tangent that starts there.

    In d dimensions: ``along`` and ``across`` are the shares along x and orthogonal to it,
    ``outside`` the share along the mean, which the branch does not see. ``joint`` is the
    covariance of the logs of tangent and signal, ``variance`` that of the signal.
    """
    s2, t2 = scaling.skip**2, scaling.scale**2
    m, inverse_m, depth = branch.moments(1.0), _inverse_hidden(branch, width), len(signal) - 1
    along, across, outside, joint, logs = np.zeros((5, depth))
    variance, back = 0.0, _returned(1.0, d, inverse_m, m)
    for layer, q in enumerate(signal[:-1]):
        # A tangent of uniform direction starts at each layer: all run side by side.
        along[layer], across[layer], outside[layer] = 1 / width, (d - 1) / width, 1 - d / width
        on, after = slice(0, layer + 1), s2 * q + t2 * m.energy
        rho = t2 * m.energy / after
        inside = along[on] + across[on]
        sent = t2 * m.slope_energy * across[on] / q * (1 + variance - joint[on])
        total = s2 * inside + sent
        turned = s2**2 * d * q * along[on] + s2 * t2 * m.energy * inside + s2 * q * sent
        turned += t2 * m.energy * sent * d * back
        moved = sent / (s2 * (inside + outside[on]) + sent)
        joint[on] = (1 - rho) * (joint[on] - moved * variance)
        joint[on] += rho * moved * (m.overlap - 1) * inverse_m
        outside[on] = s2 * outside[on] + (sent / d if d < width else 0.0)
        along[on] = turned / (d * after)
        across[on] = total - along[on]
        # Shares keep the total at 1: a long trunk would leave the range of floats.
        size = along[on] + across[on] + outside[on]
        logs[on] += np.log(size)
        for share in (along, across, outside):
            share[on] /= size
        variance = (1 - rho) ** 2 * variance + _noise(rho, d, inverse_m, m)
    return (*logs.tolist(), 0.0)


def _log_norm(
    branch: Branch, width: int, scaling: BranchScaling, placement: Placement, norm: Norm,
    signal: tuple[float, ...],
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Mean of log q minus log of ``signal``, and variance of log q, to order 1/n.

    d' = S d + noise with S = d log q' / d log q; the mean moves by half the curvature of log q'
    and by half the noise. One matrix: f^2 averaged over the trunk's own coordinates adds a
    pattern that the skip keeps, term k of its Hermite series by the k-th power of what it keeps.
    """
    if placement == "post":
        return [0.0] * len(signal), [0.0] * len(signal)
    s2, t2 = scaling.skip**2, scaling.scale**2
    inverse_m = _inverse_hidden(branch, width)
    joint, bias, variance = np.zeros(_ORDERS), [0.0], [0.0]
    for q in signal[:-1]:
        level = q if placement == "none" else 1.0
        m = branch.moments(level)
        rho, elastic = t2 * m.energy / (s2 * q + t2 * m.energy), m.elasticity
        pattern, bend = _pattern(branch, level)
        if placement == "pre":
            elastic = bend = 0.0
            # LayerNorm takes the mean away too.
            pattern[1] *= norm == "rms"
        slope = 1 - rho + rho * elastic
        curve = rho * (1 - rho) * (1 - elastic) ** 2 + rho * bend
        added = _noise(rho, width, inverse_m, m) + rho**2 * float(pattern @ pattern) / width
        bias.append(slope * bias[-1] + (curve * variance[-1] - added) / 2)
        variance.append(slope**2 * variance[-1] + added + 2 * slope * rho * float(pattern @ joint))
        kept = math.copysign(math.sqrt(1 - rho), scaling.skip) ** np.arange(_ORDERS)
        joint = kept * (slope * joint + rho * pattern / width)
    return bias, variance


_ORDERS = 24
_GRID = np.arange(-1200, 1201) / 100


@lru_cache(maxsize=1)
def _weights() -> tuple[Array, Array]:
    """Trapezoid weights of the normal law on the grid, and orthonormal Hermite polynomials."""
    rows = [np.ones_like(_GRID), _GRID]
    for k in range(1, _ORDERS - 1):
        rows.append((_GRID * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    density = np.exp(-(_GRID**2) / 2) / math.sqrt(2 * math.pi) / 100
    return density, np.array(rows)


def _pattern(branch: Branch, level: float) -> tuple[Array, float]:
    """Hermite terms of f^2 / E f^2 beyond the norm (one matrix), and d elasticity / d log q."""
    density, rows = _weights()
    first = branch.first_var if branch.matrices == 2 else 1.0
    squares = branch.activation.f(math.sqrt(first * level) * _GRID) ** 2 * density
    whole = float(squares.sum())
    if whole == 0.0:
        return np.zeros(_ORDERS), 0.0
    wave = (_GRID**2 - 1) / 2
    bend = ((wave**2 - _GRID**2 / 2) @ squares) / whole - ((wave @ squares) / whole) ** 2
    if branch.matrices == 2:
        return np.zeros(_ORDERS), float(bend)
    terms = rows @ squares / whole
    # Order 2 is the mean square itself, which the slope S already follows.
    terms[[0, 2]] = 0.0
    return terms, float(bend)


def _law(
    branch: Branch, depth: int, scaling: BranchScaling, placement: Placement, trunk: WideTrunk
) -> str:
    """Growth with depth in a sentence."""
    m, s2 = branch.moments(1.0), scaling.skip**2
    sent, ratio = scaling.scale**2 * m.energy, m.slope_energy / m.energy if m.energy else math.nan
    if sent == 0.0:
        words = "No branch at birth: nothing but the skip acts"
    elif placement == "post":
        words = f"Signal held at 1; gradient exponential in depth, chi/V = {ratio:.4g}"
    elif placement == "none":
        rate = "exponential in depth" if branch.is_homogeneous else "at rates that move with q"
        words = f"Signal and gradient grow {rate}"
    elif math.isclose(s2, 1.0):
        words = f"Signal linear in depth, gradient of order depth^(chi/V), chi/V = {ratio:.4g}"
    elif s2 < 1.0:
        words = f"Signal tends to {sent / (1 - s2):.4g}; gradient exponential, chi/V = {ratio:.4g}"
    else:
        words = "Signal and gradient exponential in depth, as skip^2"
    signal = math.log(trunk.signal[-1]) - math.log(trunk.signal[0])
    gradient = sum(math.log(f) for f in trunk.gradient_factors)
    return (
        f"{words}. In the wide limit over {depth} layers the mean squares grow by e^{signal:.4g} "
        f"and e^{gradient:.4g}; in the last layer by factors "
        f"{trunk.signal[-1] / trunk.signal[-2]:.6g} and {trunk.gradient_factors[-1]:.6g}."
    )
