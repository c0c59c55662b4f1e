"""Laws of independent entries: their moments, and whole matrices of many draws at once."""

import math

import numpy as np
from scipy.special import ndtr

from equipoise.schemes.diagonal_noise import noise_law
from equipoise.schemes.entries import truncated_normal
from equipoise.schemes.laws import (
    Array,
    DiagonalNoise,
    Identity,
    Law,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zero,
)

# Numbers that a unit must read before the law of one entry no longer shows: the fourth cumulant of
# a preactivation is that of an entry over this. Laws of heavier tails always show.
_MANY, _HEAVY = 16, 4.0

Independent = Normal | Uniform | TruncatedNormal | Sparse


def power(law: Law, fan_in: float, fan_out: float) -> float:
    """E |W x|^2 / fan_out over E |x|^2 / fan_in for x of no special direction; nan if not known."""
    match law:
        case Zero():
            return 0.0
        case Normal() | Uniform() | TruncatedNormal() | Sparse():
            mean, std = moments(law, fan_out)
            return fan_in * (std * std + mean * mean)
        case Orthogonal(gain=gain):
            return gain * gain * min(1.0, fan_in / fan_out)
        case DiagonalNoise(diagonal=diagonal, noise_std=noise_std):
            return diagonal**2 + fan_in * noise_std**2
        case Identity(gain=gain):
            return gain * gain * min(1.0, fan_in / fan_out)
        case _:
            return math.nan


def moments(law: Independent, rows: float) -> tuple[float, float]:
    """Mean and standard deviation of one entry."""
    match law:
        case Normal(std=std, mean=mean):
            return mean, std
        case Uniform(bound=bound, mean=mean):
            return mean, bound / math.sqrt(3)
        case Sparse(share=share, std=std):
            return 0.0, std * math.sqrt(1 - math.ceil(share * rows) / rows)
        case TruncatedNormal(scale=scale, low=low, high=high, mean=mean):
            a, b = (low - mean) / scale, (high - mean) / scale
            mass = float(ndtr(b) - ndtr(a))
            at_a, at_b = (math.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in (a, b))
            shift = (at_a - at_b) / mass
            ends = sum(s * t * p for s, t, p in ((1, a, at_a), (-1, b, at_b)) if math.isfinite(t))
            return mean + scale * shift, scale * math.sqrt(1 + ends / mass - shift**2)


def acts_as_normal(law: Independent | DiagonalNoise, columns: int) -> bool:
    """Whether the variance of the entries is all that a unit of so many inputs feels."""
    match law:
        case Normal():
            return True
        case DiagonalNoise(noise=noise, parameter=parameter):
            found = noise_law(noise, parameter)
            return found.is_gaussian or (columns >= _MANY and found.excess_kurtosis < _HEAVY)
        case Sparse(share=share):
            return columns * (1 - share) >= _MANY
        case _:
            return columns >= _MANY


def whole(
    law: Independent | DiagonalNoise, shape: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """Whole matrices, shape (draws, rows, columns); of diagonal + noise, the noise alone."""
    match law:
        case Normal(std=std, mean=mean):
            return np.asarray(mean + std * rng.standard_normal(shape))
        case Uniform(bound=bound, mean=mean):
            return np.asarray(rng.uniform(mean - bound, mean + bound, shape))
        case TruncatedNormal():
            return truncated_normal(law, shape, rng)
        case Sparse(share=share, std=std):
            order = rng.random(shape).argsort(axis=1).argsort(axis=1)
            kept = order >= math.ceil(share * shape[1])
            return np.asarray(std * rng.standard_normal(shape) * kept)
        case DiagonalNoise():
            noise = noise_law(law.noise, law.parameter).draw(rng, shape)
            return np.asarray(law.noise_std * noise)
