"""Derivatives of any order of smooth activations, in closed form.

Each is a polynomial times what the first derivative has for a factor: of the value itself where
the function solves an equation f' = p(f), as tanh and the sigmoid do, of the preactivation else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from numpy.polynomial import Polynomial
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.models import Arctan, Erf, Sine

Slopes = Callable[[torch.Tensor, torch.Tensor, int], list[torch.Tensor]]
_Z = Polynomial([0.0, 1.0])
# Coefficients from the lowest power, those that are 0 left out where parity says so.
Factor = tuple[tuple[float, ...], str]


@dataclass(frozen=True)
class Smooth:
    """A function of each number alone that has derivatives of every order.

    Attributes:
        value: f.
        slopes: f', f'' ... up to an order, from z, f(z) and the order.
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    slopes: Slopes


def smooth(module: nn.Module) -> Smooth | None:
    """A module as a function with derivatives of every order, None where it has none.

    Args:
        module: an activation.

    Returns:
        The function and its derivatives.

    >>> f = smooth(nn.Tanh())
    >>> z = torch.zeros(1)
    >>> [float(d) for d in f.slopes(z, f.value(z), 3)]
    [1.0, -0.0, -2.0]
    """
    match module:
        case nn.Tanh():
            return Smooth(torch.tanh, _tanh)
        case nn.Sigmoid():
            return Smooth(torch.sigmoid, _sigmoid)
        case Sine():
            return Smooth(torch.sin, lambda z, y, order: _turning(y, torch.cos(z), order))
        case Erf():
            return Smooth(torch.erf, _erf)
        case Arctan():
            return Smooth(torch.atan, _arctan)
        case nn.SiLU():
            return Smooth(nn.functional.silu, _silu)
        case nn.GELU(approximate="none"):
            return Smooth(nn.functional.gelu, _gelu)
        case nn.Softplus(beta=beta, threshold=threshold):
            return Smooth(
                lambda z: nn.functional.softplus(z, beta, threshold),
                lambda z, y, order: _softplus(z, beta, order),
            )
        case nn.Identity():
            return Smooth(lambda z: z, _line)
        case _:
            return None


def smooth_or_refuse(module: nn.Module) -> Smooth:
    """``smooth``, or a refusal that says what is served.

    Raises:
        ArgumentError: for a module that is no smooth activation.
    """
    found = smooth(module)
    if found is None:
        raise ArgumentError(
            "network must be made of Linear layers, Fourier features, learnable slopes and "
            "Tanh, Sigmoid, SiLU, GELU, Softplus, Sine, Erf, Arctan or Identity between them, got "
            f"{module!r}. Use one with derivatives of every order."
        )
    return found


def _tanh(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    first = torch.addcmul(_one(y), y, y, value=-1.0)
    return _times(first, y, _of_value((1.0, 0.0, -1.0), order))


def _sigmoid(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    return _times(y * (1.0 - y), y, _of_value((0.0, 1.0, -1.0), order))


def _erf(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    first = torch.exp(-z * z).mul_(2 / math.sqrt(math.pi))
    return _times(first, z, _bell(2.0, order))


def _gelu(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Z Phi(z): Phi + z phi, then phi (2 - z^2) and its derivatives."""
    density = torch.exp(-0.5 * z * z).mul_(1 / math.sqrt(2 * math.pi))
    first = torch.addcmul(0.5 * torch.erfc(z * -math.sqrt(0.5)), z, density)
    # Of density times a polynomial r the derivative is density times r' - z r.
    rest, factor = list[torch.Tensor](), Polynomial([2.0, 0.0, -1.0])
    for _ in range(order - 1):
        rest.append(density * _at(_factor(factor), z))
        factor = factor.deriv() - _Z * factor
    return [first, *rest]


def _arctan(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    """p_k / (1 + z^2)^k, p_(k+1) = p_k' (1 + z^2) - 2 k z p_k."""
    first = 1.0 / (1.0 + z * z)
    found, power, factor = list[torch.Tensor](), first, Polynomial([1.0])
    for k in range(1, order + 1):
        found.append(power * _at(_factor(factor), z) if k > 1 else first)
        factor = factor.deriv() * (1 + _Z**2) - 2 * k * _Z * factor
        power = power * first
    return found


def _silu(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    """(z s)^(k) = z s^(k) + k s^(k-1)."""
    s = torch.sigmoid(z)
    tower = [s, *_sigmoid(z, s, order)]
    return [torch.addcmul(k * tower[k - 1], z, tower[k]) for k in range(1, order + 1)]


def _softplus(z: torch.Tensor, beta: float, order: int) -> list[torch.Tensor]:
    s = torch.sigmoid(beta * z)
    tower = [s, *(_sigmoid(z, s, order - 1) if order > 1 else [])]
    return [d * beta**k for k, d in enumerate(tower)]


def _line(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    return [torch.ones_like(z), *(torch.zeros_like(z) for _ in range(order - 1))]


def _turning(sine: torch.Tensor, cosine: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Derivatives of a sine, cosine first."""
    tower = (cosine, -sine, -cosine, sine)
    return [tower[k % 4] for k in range(order)]


def cosine_slopes(z: torch.Tensor, y: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Derivatives of the cosine, from z and cos z."""
    return _turning(y, -torch.sin(z), order) if order else []


COSINE = Smooth(torch.cos, cosine_slopes)
SINE = Smooth(torch.sin, lambda z, y, order: _turning(y, torch.cos(z), order))


def _one(like: torch.Tensor) -> torch.Tensor:
    return torch.ones((), dtype=like.dtype, device=like.device)


@lru_cache(maxsize=64)
def _of_value(first: tuple[float, ...], order: int) -> tuple[Factor, ...]:
    """r_k with f^(k) = f' r_k(f), where f' = p(f): r_(k+1) = r_k' p + r_k p'."""
    p, factor, found = Polynomial(first), Polynomial([1.0]), list[Factor]()
    for _ in range(order):
        found.append(_factor(factor))
        factor = factor.deriv() * p + factor * p.deriv()
    return tuple(found)


@lru_cache(maxsize=64)
def _bell(rate: float, order: int) -> tuple[Factor, ...]:
    """r_k with f^(k) = f' r_k(z), where f' is exp(-rate z^2 / 2): r_(k+1) = r_k' - rate z r_k."""
    factor, found = Polynomial([1.0]), list[Factor]()
    for _ in range(order):
        found.append(_factor(factor))
        factor = factor.deriv() - rate * _Z * factor
    return tuple(found)


def _times(
    first: torch.Tensor, at: torch.Tensor, factors: tuple[Factor, ...]
) -> list[torch.Tensor]:
    return [first, *(first * _at(r, at) for r in factors[1:])]


def _factor(polynomial: Polynomial) -> Factor:
    c = [float(v) for v in polynomial.trim().coef]
    if len(c) > 1 and not any(c[0::2]):
        return tuple(c[1::2]), "odd"
    return (tuple(c[0::2]), "even") if not any(c[1::2]) else (tuple(c), "none")


def _at(factor: Factor, x: torch.Tensor) -> torch.Tensor:
    """By Horner's rule, in the square of x where the polynomial is even or odd."""
    c, parity = factor
    if len(c) == 1:
        return c[0] * x if parity == "odd" else torch.full_like(x, c[0])
    square = x if parity == "none" else x * x
    found = c[-1] * square
    for lower in c[-2:0:-1]:
        found.add_(lower).mul_(square)
    found.add_(c[0])
    return found.mul_(x) if parity == "odd" else found
