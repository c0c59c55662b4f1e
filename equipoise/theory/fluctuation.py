"""Finite width, many layers: how far log norms of signals and gradients stray from the wide limit.

Cells of one kind and width in a row, to first order in 1 / n and at any depth. Deviations of the
level fade as s^l and pull the gradient along with t; a gradient also has a share r / n along the
signal, where it grows differently: r is 1 at the start and has its own recursion.

For odd cubic f at a budget B, Haar and depth L with sqrt(3 B L) >> 1 all this adds up to
E log|J^T u|^2 = B + 1 / n - 12 B / n and Var = 20 B / n, of which 12 B / n are the layers' own and
8 B / n come from the level, while the level itself keeps a variance of only sqrt(16 B / (3 L)) / n.
"""

import math
from dataclasses import dataclass

from equipoise import _checks
from equipoise.theory.activations import Activation
from equipoise.theory.cell_fluctuation import CellFluctuation, Weights, cell_fluctuation


@dataclass(frozen=True)
class LogNormLaw:
    """Mean and spread, over draws of the weights, of a log norm after a number of layers.

    Attributes:
        wide: its value in the wide limit, nats.
        mean: its mean to first order in 1 / width, nats.
        std: its standard deviation to first order, nats.
    """

    wide: float
    mean: float
    std: float


def signal_fluctuation(
    activation: Activation,
    q: float,
    width: int,
    depth: int,
    weights: Weights = "haar",
    entry_mean: float = 0.0,
    entry_std: float = 0.0,
) -> LogNormLaw:
    """Law of log(|x_L| / norm at the fixed point) for one input after L cells of constant width.

    With d the mean and v the variance of the log norm, one cell makes d' = s d + bend v + drift / n
    and v' = s^2 v + own / n. Where s < 1 the variance levels off at own / (1 - s^2) / n; where
    s = 1 (ReLU) it grows as L own / n; where s > 1 (GELU) deviations grow and the law holds only
    until std is about 0.3. Given survival: a layer of n units of plain ReLU kills an input with
    probability 2^-n, which no first order tells.

    Args:
        activation: f, without jumps; the cells apply f - f(0).
        q: second moment of the preactivation at the fixed point, dimensionless, positive.
        width: n, at least 1.
        depth: L, number of cells, at least 1.
        weights: ``haar`` or ``gaussian``.
        entry_mean: mean of log(|x_0| / norm at the fixed point), nats, small.
        entry_std: standard deviation of the same, nats, small.

    Returns:
        Mean and standard deviation in nats. Measured on drawn Haar networks (tanh, sigmoid and ELU
        at B = 0.5, 20 to 1,000 layers): the standard deviation is too large by 2 to 14% at width
        64, 13 to 34% at 16, 24 to 69% at 8 and 54 to 150% at 4, most of it at depth 1,000, since a
        narrow level is restored faster than s says; for slopes 0.3 and 1 too small by 1 to 3% at
        64, 9% at 16, 13% at 8 and 11% at 4; for 0.01 and 1 by 5%, 24%, 78% and 178%, with a mean
        far off where few units are positive (``log_gain`` is exact there). With independent
        entries deviations are large unless (1 - s) n >> 1: tanh, 100 layers: 10% too small at
        width 64, half at 16; at 1,000 layers and width 16 the signal dies, which no first order
        tells.

    Raises:
        ArgumentError: for the arguments of ``cell_fluctuation``, a width or depth below 1, an
            entry that is not finite, or a negative ``entry_std``.

    >>> from equipoise.theory import activations
    >>> round(signal_fluctuation(activations.relu(), 1.0, 16, 50).std, 9)  # sqrt(50 * 0.75 / 16)
    1.530931089
    >>> signal_fluctuation(activations.identity(), 1.0, 16, 50).std
    0.0
    """
    cell = cell_fluctuation(activation, q, weights)
    path = _Levels.of(cell, width, depth, entry_mean, entry_std)
    return LogNormLaw(path.wide, path.mean[-1], math.sqrt(path.variance[-1]))


def gradient_fluctuation(
    activation: Activation,
    q: float,
    width: int,
    depth: int,
    weights: Weights = "haar",
    entry_mean: float = 0.0,
    entry_std: float = 0.0,
) -> LogNormLaw:
    """Law of log|J^T u|, J the Jacobian of L cells of constant width, u uniform of norm 1.

    Each cell adds log(chi) / 2 + gradient_drift / n, its own noise, the response to the deviation
    of the level, and what the share of the cotangent along the signal loses. log|J v| for uniform
    v has the same law to this order.

    Args:
        activation: f, without jumps; the cells apply f - f(0).
        q: second moment of the preactivation at the fixed point, dimensionless, positive.
        width: n, at least 1.
        depth: L, number of cells, at least 1.
        weights: ``haar`` or ``gaussian``.
        entry_mean: mean of log(|x_0| / norm at the fixed point), nats, small.
        entry_std: standard deviation of the same, nats, small.

    Returns:
        Mean and standard deviation in nats. Measured on drawn Haar networks (tanh, sigmoid and ELU
        at B = 0.5, 20 to 1,000 layers): the mean is off by at most 0.005 at width 64, 0.03 at 16,
        0.12 at 8 and 0.35 at 4 (too low); the standard deviation by -1 to 10% at width 64, -2 to
        14% at 16, -2 to 23% at 8 and -2 to 31% at 4. For slopes 0.3 and 1 it is 1 to 2% too small
        at width 64, 8 to 13% at 16, 12% at 8 and 11 to 13% at 4. Independent entries, 20 and 100
        layers: 0 to 2% at 64, 0 to 11% at 16, at 1,000 layers 6 to 10% at 64 and useless at 16 and
        below.

    Raises:
        ArgumentError: as ``signal_fluctuation``.

    >>> from equipoise.theory import activations
    >>> law = gradient_fluctuation(activations.identity(), 1.0, 16, 50, "gaussian")
    >>> round(law.mean, 9), round(law.std, 9)  # -L / (2 n) and sqrt(L / (2 n))
    (-1.5625, 1.25)
    """
    cell = cell_fluctuation(activation, q, weights)
    path = _Levels.of(cell, width, depth, entry_mean, entry_std)
    s, t, n, layers = cell.restoring, cell.response, int(width), int(depth)
    mean, variance, common = layers * (cell.log_growth + cell.gradient_drift / n), 0.0, 0.0
    for level, spread in zip(path.mean[:-1], path.variance[:-1], strict=True):
        mean += t * level + cell.gradient_bend * spread
        variance += cell.gradient_variance / n + t * t * spread + 2 * t * common
        # Covariance of the log gradient of the cells so far with the level of the next.
        common = s * (common + t * spread) + cell.covariance / n

    along = 1.0
    for _ in range(layers):
        mean += (along - 1.0) * cell.along / (2 * n)
        along = s * s * along / math.exp(2 * cell.log_growth) + cell.fed
        if weights == "gaussian":
            # Independent entries carry the share along the signal on top of a full cotangent.
            mean += (along - 1.0) / (2 * n)
    return LogNormLaw(layers * cell.log_growth, mean, math.sqrt(max(0.0, variance)))


@dataclass(frozen=True)
class _Levels:
    """Mean and variance of the log norm of the signal before each cell and after the last.

    ``wide`` is the mean after the last cell in the wide limit.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    wide: float

    @staticmethod
    def of(
        cell: CellFluctuation, width: int, depth: int, entry_mean: float, entry_std: float
    ) -> "_Levels":
        n, layers = _checks.at_least("width", width, 1), _checks.at_least("depth", depth, 1)
        wide = _checks.finite("entry_mean", entry_mean)
        _checks.not_negative("entry_std", entry_std, "Pass 0 for inputs of one norm.")
        s = cell.restoring
        mean, variance = [wide], [entry_std * entry_std]
        for _ in range(layers):
            d, v = mean[-1], variance[-1]
            wide *= s
            mean.append(s * d + cell.signal_bend * v + cell.signal_drift / n)
            variance.append(s * s * v + cell.signal_variance / n)
        return _Levels(tuple(mean), tuple(variance), wide)
