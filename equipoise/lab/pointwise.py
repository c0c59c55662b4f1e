"""Activations as pairs of functions: forward, and the way back without a graph.

A graph of autograd holds and calls more than one number by one number needs: written out, a step of
narrow networks takes a third less time. On a CPU some functions come from numpy, whose vector code
takes a fraction of torch's time: nanoseconds a number in float32, one thread, torch and numpy,
tanh 2.55 and .36, arctan 2.54 and .39, sin 1.23 and .52.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from equipoise.lab.models import Arctan, Bump, Erf, Scaled, Sine

Saved = tuple[torch.Tensor, ...]
_ATEN = torch.ops.aten
# Of torch.nn.SELU; arXiv 1706.02515.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_ERF_SLOPE = 2 / math.sqrt(math.pi)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A function of each number alone.

    Attributes:
        forward: values -> result and what the way back needs.
        backward: gradient at the result, what was kept -> gradient at the values.
    """

    forward: Callable[[torch.Tensor], tuple[torch.Tensor, Saved]]
    backward: Callable[[torch.Tensor, Saved], torch.Tensor]


def pointwise(module: nn.Module) -> Pointwise:
    """The pair of a parameter-free module; by autograd where nothing faster is known.

    Args:
        module: a function of each number alone.

    Returns:
        The pair.

    >>> tanh = pointwise(nn.Tanh())
    >>> h, kept = tanh.forward(torch.zeros(1))
    >>> tanh.backward(torch.ones(1), kept)
    tensor([1.])
    """
    match module:
        case nn.Identity():
            return Pointwise(lambda z: (z, ()), lambda g, kept: g)
        case nn.Tanh():
            return _of_result(_faster(np.tanh, torch.tanh), _ATEN.tanh_backward)
        case nn.Sigmoid():
            return _of_result(torch.sigmoid, _ATEN.sigmoid_backward)
        case nn.ReLU():
            return _of_values(torch.relu, lambda g, z: _ATEN.threshold_backward(g, z, 0))
        case nn.LeakyReLU(negative_slope=slope):
            return _of_values(
                lambda z: nn.functional.leaky_relu(z, slope),
                lambda g, z: _ATEN.leaky_relu_backward(g, z, slope, False),
            )
        case nn.SiLU():
            return _of_values(nn.functional.silu, _ATEN.silu_backward)
        case nn.GELU(approximate=kind):
            return _of_values(
                lambda z: nn.functional.gelu(z, approximate=kind),
                lambda g, z: _ATEN.gelu_backward(g, z, approximate=kind),
            )
        case nn.ELU(alpha=alpha):
            return _of_values(
                lambda z: nn.functional.elu(z, alpha),
                lambda g, z: _ATEN.elu_backward(g, alpha, 1.0, 1.0, False, z),
            )
        case nn.Softplus(beta=beta, threshold=threshold):
            return _of_values(
                lambda z: nn.functional.softplus(z, beta, threshold),
                lambda g, z: _ATEN.softplus_backward(g, z, beta, threshold),
            )
        case nn.SELU():
            return _of_values(
                nn.functional.selu,
                lambda g, z: _ATEN.elu_backward(g, _SELU_ALPHA, _SELU_SCALE, 1.0, False, z),
            )
        case nn.Mish():
            return Pointwise(_mish, _mish_back)
        case nn.Hardswish():
            return _of_values(nn.functional.hardswish, _ATEN.hardswish_backward)
        case nn.Softsign():
            return _of_values(nn.functional.softsign, lambda g, z: g / z.abs().add_(1.0).square_())
        case Sine(frequency=w):
            sine, cosine = _faster(np.sin, torch.sin), _faster(np.cos, torch.cos)
            return _of_values(lambda z: sine(w * z), lambda g, z: g * cosine(w * z) * w)
        case Bump(scale=scale):
            return _of_both(
                lambda z: torch.exp(-0.5 * (z / scale) ** 2),
                lambda g, z, h: g * h * z * (-1.0 / scale**2),
            )
        case Scaled(activation=inner, scale=a):
            plain = pointwise(inner)
            return Pointwise(
                lambda z: plain.forward(a * z), lambda g, kept: a * plain.backward(g, kept)
            )
        case Arctan():
            return _of_values(_faster(np.arctan, torch.atan), lambda g, z: g / (z * z).add_(1.0))
        case Erf():
            return _of_values(torch.erf, lambda g, z: g * torch.exp(-z * z) * _ERF_SLOPE)
        case _:
            return _by_autograd(module)


def _faster(
    ours: np.ufunc, otherwise: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function by numpy where the numbers lie in the memory of the host, else by torch."""

    def function(z: torch.Tensor) -> torch.Tensor:
        if z.device.type != "cpu" or z.dtype not in (torch.float32, torch.float64):
            return otherwise(z)
        made = torch.empty_like(z)
        ours(z.numpy(), out=made.numpy())
        return made

    return function


def _mish(z: torch.Tensor) -> tuple[torch.Tensor, Saved]:
    """Mish, z tanh(softplus(z)), and its slope, from two sigmoids.

    With s the sigmoid of z and c = 1 - s, tanh(softplus(z)) = (1 - c^2) / (1 + c^2) =
    s (1 + c) / (1 + c^2), of which the slope is 4 c^2 s / (1 + c^2)^2.
    """
    s = torch.sigmoid(z)
    c = torch.sigmoid(-z)
    square = c * c
    below = square + 1.0
    gate = s * (c + 1.0) / below
    slope = torch.addcmul(gate, z, square.mul_(s).mul_(4.0).div_(below.square_()))
    return z * gate, (slope,)


def _mish_back(gradient: torch.Tensor, kept: Saved) -> torch.Tensor:
    (slope,) = kept
    return gradient * slope


def _of_result(
    f: Callable[[torch.Tensor], torch.Tensor],
    back: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Pointwise:
    """One whose slope is a function of its result."""

    def forward(z: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        h = f(z)
        return h, (h,)

    return Pointwise(forward, lambda g, kept: back(g, *kept))


def _of_values(
    f: Callable[[torch.Tensor], torch.Tensor],
    back: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Pointwise:
    return Pointwise(lambda z: (f(z), (z,)), lambda g, kept: back(g, *kept))


def _of_both(
    f: Callable[[torch.Tensor], torch.Tensor],
    back: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Pointwise:
    """One whose slope is cheapest from its argument and its result."""

    def forward(z: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        h = f(z)
        return h, (z, h)

    return Pointwise(forward, lambda g, kept: back(g, *kept))


def _by_autograd(module: nn.Module) -> Pointwise:
    def forward(z: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            # A copy, since a module may write to what it is given.
            h = module(leaf.clone())
        return h.detach(), (leaf, h)

    def backward(gradient: torch.Tensor, kept: Saved) -> torch.Tensor:
        leaf, h = kept
        (found,) = torch.autograd.grad(h, leaf, gradient)
        return found

    return Pointwise(forward, backward)
