"""Exact mean and spread of the slope of log norms over depth, f a line on each side of 0.

|f(z)| / |z| depends on the direction of z alone, and z of an independent or orthogonal weight has a
direction that its norm knows nothing of. So with b the log norm of a layer's draw and h the log of
|f(z)| / |z|, log|z| at layer i is a constant + sum_(j < i) h_j + sum_(j <= i) b_j, all of them
independent, and any weighted sum over layers has a mean and a variance in closed form.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma, psi

from equipoise.drift import slope_weights
from equipoise.rules.birth_chain import Link
from equipoise.theory.activation import Activation
from equipoise.theory.lyapunov import log_gain

Array = NDArray[np.float64]


def exact_slopes(links: Sequence[Link]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the slope of the log RMS, nats per layer.

    ``signal`` is there for homogeneous activations without bias; ``gradient`` for independent
    entries, with biases too: signs of preactivations are fair coins whatever the biases, and given
    them the weights that a cotangent meets are still Gaussian.

    Args:
        links: hidden layers in order, at least two.

    Returns:
        Those of the two that are exact, by name; given survival for ReLU.
    """
    if not all(link.activation.homogeneity == 1.0 and link.kept == 1.0 for link in links):
        return {}
    found = {}
    if not any(link.bias_rms for link in links):
        found["signal"] = _signal(links)
    if links[0].law == "gaussian":
        found["gradient"] = _gradient(links)
    return found


def _signal(links: Sequence[Link]) -> tuple[float, float]:
    widths = np.array([link.width for link in links], dtype=np.float64)
    weights = slope_weights(np.arange(float(len(links))))
    behind = np.append(weights[::-1].cumsum()[::-1][1:], 0.0)
    mean = variance = 0.0
    logs = np.zeros(len(links))
    for i, link in enumerate(links):
        gain = log_gain(link.activation, link.width)
        # h: what f adds to the log norm of a random direction.
        turned = gain.mean - _log_chi(link.width)
        spread = max(0.0, gain.variance - _log_chi_variance(link.width))
        variance += behind[i] ** 2 * spread
        if i + 1 < len(links):
            after = links[i + 1].width
            drawn, drawn_variance = _log_chi(after), _log_chi_variance(after)
            if link.law == "haar":
                whole = max(link.width, after)
                drawn -= _log_chi(whole)
                drawn_variance -= _log_chi_variance(whole)
            logs[i + 1] = logs[i] + turned + math.log(link.scale) + drawn
            variance += (weights[i + 1] + behind[i + 1]) ** 2 * max(0.0, drawn_variance)
    mean = float(weights @ (logs - 0.5 * np.log(widths)))
    return mean, math.sqrt(variance)


def _gradient(links: Sequence[Link]) -> tuple[float, float]:
    """Backward, each layer multiplies the norm of a cotangent by std |D g|, independently."""
    weights = slope_weights(np.arange(float(len(links))))
    behind = weights[::-1].cumsum()[::-1]
    logs, variance = [-0.5 * math.log(links[-1].width)], 0.0
    total = 0.0
    for step, link in enumerate(links[-2::-1], start=1):
        gain = log_gain(link.activation, link.width)
        total += gain.mean + math.log(link.scale)
        logs.append(total - 0.5 * math.log(link.width))
        variance += behind[step] ** 2 * gain.variance
    return float(weights @ np.array(logs)), math.sqrt(variance)


def log_gain_of_net(links: Sequence[Link]) -> tuple[Activation, int, float] | None:
    """Activation, width and scale of a net of one width without bias, f a line on each side of 0.

    None for any other. The scale is the geometric mean over its layers.
    """
    f, width = links[0].activation, links[0].width
    is_one = all(x.activation == f and x.width == width and x.kept == 1.0 for x in links)
    if not is_one or f.homogeneity != 1.0 or any(x.bias_rms for x in links):
        return None
    scales = [math.log(x.scale) for x in links[:-1]]
    return f, width, math.exp(float(np.mean(scales)))


def _log_chi(dimension: float) -> float:
    """Mean log norm of a standard normal vector."""
    return 0.5 * (float(psi(dimension / 2)) + math.log(2.0))


def _log_chi_variance(dimension: float) -> float:
    return 0.25 * float(polygamma(1, dimension / 2))
