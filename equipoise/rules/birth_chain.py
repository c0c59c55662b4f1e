"""One input through drawn weights, and a cotangent back: the exact law, sampled without weights.

Given x, an independent Gaussian W makes W x = std |x| g, and given W x the rest of W is as it was:
W^T u = x (W x . u) / |x|^2 + std |u| h across x. A Haar-distributed W = gain * Q, cut from a square
Q of max(fan_in, fan_out) rows, turns x to a random place and all that is orthogonal to it at
random. So signal and gradient of one input are followed exactly at any width, for any f, through
vectors alone; what is sampled has only the error of sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from equipoise.drift import slope_weights
from equipoise.rules.weight_law import LawKind
from equipoise.theory.activations import Activation

Array = NDArray[np.float64]

_MOST_DRAWS, _LEAST_DRAWS, _MOST_NUMBERS = 256, 32, 1_500_000


@dataclass(frozen=True)
class Link:
    """One hidden layer and the weight that brings the next.

    Attributes:
        width: units.
        activation: f.
        kept: share of units that dropout keeps as the model stands.
        law: of the weight that leaves the layer; '' behind the last.
        scale: standard deviation of its entries, or its singular value.
        bias_rms: of the next layer.
    """

    width: int
    activation: Activation
    kept: float = 1.0
    law: LawKind = ""
    scale: float = 1.0
    bias_rms: float = 0.0


@dataclass(frozen=True, eq=False)
class Births:
    """Logs over many draws of the weights.

    Attributes:
        signal: log RMS of the preactivation, shape (draws, layers); -inf where it died.
        gradient: log RMS of the gradient there, up to a constant, same shape.
    """

    signal: Array
    gradient: Array

    def slopes(self, which: str) -> Array:
        """Slope over depth of each draw that lives, nats per layer in the direction of travel."""
        logs = self.signal if which == "signal" else self.gradient[:, ::-1]
        alive = np.isfinite(self.signal).all(axis=1) & np.isfinite(self.gradient).all(axis=1)
        found: Array = logs[alive] @ slope_weights(np.arange(float(logs.shape[1])))
        return found

    def usable(self, decades: float = 1.0) -> float:
        """Share of draws whose signal and gradient both stay within so many factors of 10."""
        with np.errstate(invalid="ignore"):
            moved = [abs(x[:, -1] - x[:, 0]) for x in (self.signal, self.gradient)]
        edge = decades * math.log(10.0)
        return float(((moved[0] <= edge) & (moved[1] <= edge)).mean())


def births(links: Sequence[Link], log_start: float, seed: int = 0) -> Births:
    """Follow one input forward and a random cotangent back through many draws.

    Args:
        links: hidden layers in order, at least two.
        log_start: log RMS of the first layer's preactivations, which are taken as Gaussian.
        seed: of the sample.

    Returns:
        Logs by draw and layer; 32 to 256 draws, fewer for large networks, whose spread is small.
    """
    rng = np.random.default_rng(seed)
    total = sum(link.width for link in links)
    draws = max(_LEAST_DRAWS, min(_MOST_DRAWS, _MOST_NUMBERS // total))
    z = math.exp(log_start) * rng.standard_normal((draws, links[0].width))
    states: list[tuple[Array, Array, Array]] = []
    signal = [_log_rms(z)]
    with np.errstate(all="ignore"):
        for link, after in pairwise(links):
            x, slope = _fire(link, z, rng)
            sent = _sent(link, x, after.width, rng)
            states.append((x, sent, slope))
            z = _seen(sent, after.width)
            if link.bias_rms:
                z = z + link.bias_rms * rng.standard_normal(z.shape)
            signal.append(_log_rms(z))
        cotangent = rng.standard_normal(z.shape) * _fire(links[-1], z, rng)[1]
        gradient = [_log_rms(cotangent)]
        for link, (x, sent, slope) in zip(links[-2::-1], states[::-1], strict=True):
            cotangent = slope * _returned(link, x, sent, cotangent, rng)
            gradient.append(_log_rms(cotangent))
    return Births(np.stack(signal, axis=1), np.stack(gradient[::-1], axis=1))


def _fire(link: Link, z: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """F and f', both with the same units dropped."""
    x, slope = link.activation.f(z), link.activation.df(z)
    if link.kept < 1.0:
        mask = (rng.random(z.shape) < link.kept) / link.kept
        return x * mask, slope * mask
    return x, slope


def _sent(link: Link, x: Array, width: int, rng: np.random.Generator) -> Array:
    """W x; for Haar weights the whole of it, of which the first ``width`` entries are seen."""
    norm = link.scale * np.linalg.norm(x, axis=1, keepdims=True)
    if link.law == "gaussian":
        drawn: Array = norm * rng.standard_normal((len(x), width))
        return drawn
    place = rng.standard_normal((len(x), max(width, x.shape[1])))
    found: Array = norm * place / np.linalg.norm(place, axis=1, keepdims=True)
    return found


def _seen(sent: Array, width: int) -> Array:
    return sent[:, :width]


def _returned(
    link: Link, x: Array, sent: Array, cotangent: Array, rng: np.random.Generator
) -> Array:
    """W^T u for a weight that is known to send x to ``sent``."""
    u = _padded(cotangent, sent.shape[1])
    energy = np.square(x).sum(axis=1, keepdims=True)
    there = np.square(sent).sum(axis=1, keepdims=True)
    along = np.divide((sent * u).sum(axis=1, keepdims=True), energy, where=energy > 0,
                      out=np.zeros_like(energy))  # fmt: skip
    size = sent.shape[1] if link.law == "haar" else x.shape[1]
    place = _padded(x, size)
    across = rng.standard_normal((len(x), size))
    inside = np.divide((across * place).sum(axis=1, keepdims=True), energy, where=energy > 0,
                       out=np.zeros_like(energy))  # fmt: skip
    across -= place * inside
    if link.law == "haar":
        # What of u is across W x keeps its norm, in a random direction across x.
        share = np.divide((sent * u).sum(axis=1, keepdims=True), there, where=there > 0,
                          out=np.zeros_like(there))  # fmt: skip
        norm = link.scale * np.linalg.norm(u - sent * share, axis=1, keepdims=True)
        across *= norm / np.linalg.norm(across, axis=1, keepdims=True)
    else:
        across *= link.scale * np.linalg.norm(u, axis=1, keepdims=True)
    found: Array = (place * along + across)[:, : x.shape[1]]
    return found


def _padded(rows: Array, size: int) -> Array:
    missing = size - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, missing))) if missing > 0 else rows


def _log_rms(rows: Array) -> Array:
    with np.errstate(divide="ignore"):
        found: Array = 0.5 * np.log(np.square(rows).mean(axis=1))
    return found
