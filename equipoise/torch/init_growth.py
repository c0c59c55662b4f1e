"""Lyapunov, fractional moments and sampled draws: one weight at the scale of finite width.

Arguments that all share: ``generator`` as in ``torch.nn.init``; ``groups``, ``stride`` and
``transposed`` of the convolution; ``nonlinearity`` by name, as a torch module, a pointwise function
or an Activation.
"""

import torch

from equipoise import _checks
from equipoise.schemes.call_text import activation_text
from equipoise.schemes.laws import BestOf, Matrix
from equipoise.schemes.lyapunov import is_two_lines, kept_moment, kept_moment_at_unit_level
from equipoise.theory.activation import Activation
from equipoise.torch.filling import (
    Nonlinearity,
    WeightAxes,
    activation_from,
    fill,
    weight_axes,
)

Tensor = torch.Tensor
Generator = torch.Generator | None
Stride = int | tuple[int, ...]


def lyapunov_normal_(
    tensor: Tensor, nonlinearity: Nonlinearity = "relu", generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Normal entries at the scale where E log RMS(f(W x)) = log RMS(x): Lyapunov exponent 0.

    Exact at any width for an f of two lines, which follows the layer. For every other f, which
    then feeds the layer, of first order in 1 / width at preactivations of variance 1. Kernels are
    scaled for images that are alike at all positions.

    Args:
        tensor: a weight.
        nonlinearity: f.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        stride: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for an f that vanishes.

    Source: arXiv 2602.10949.

    >>> lyapunov_normal_(torch.empty(8, 8)).shape
    torch.Size([8, 8])
    """
    return fractional_moment_(
        tensor, 0.0, nonlinearity, generator, groups=groups, stride=stride, transposed=transposed
    )


def lyapunov_orthogonal_(
    tensor: Tensor, nonlinearity: Nonlinearity = "relu", generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Orthogonal weight at the scale where E log RMS(f(W x)) = log RMS(x), as above.

    A kernel is filled at as many taps around the centre as its stride has sites.

    Args:
        tensor: a weight.
        nonlinearity: f, as for ``lyapunov_normal_``.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        stride: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for an f that vanishes.

    Source: arXiv 2602.10949.

    >>> w = lyapunov_orthogonal_(torch.empty(8, 8), "linear")
    >>> torch.allclose(w @ w.T, torch.eye(8), atol=1e-6)
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    law = _kept(axes, activation_from(nonlinearity), 0.0, "orthogonal")
    return fill(tensor, axes.at(law, axes.convolution.stride_block), generator)


def fractional_moment_(
    tensor: Tensor, order: float, nonlinearity: Nonlinearity = "relu", generator: Generator = None,
    *, groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Normal entries at the scale where E RMS(f(W x))^s = RMS(x)^s: He's rule at s = 2.

    Args:
        tensor: a weight.
        order: s, from 0 (the typical draw) to below 4.
        nonlinearity: f, as for ``lyapunov_normal_``.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        stride: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for an order out of range or an f that vanishes.

    Source: arXiv 2005.11878.

    >>> fractional_moment_(torch.empty(8, 8), 1.0).shape
    torch.Size([8, 8])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, _kept(axes, activation_from(nonlinearity), order, "normal"), generator)


def sampled_(
    tensor: Tensor, nonlinearity: Nonlinearity = "relu", draws: int = 16,
    generator: Generator = None, *, groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Of several Lyapunov draws the one that keeps the log RMS of Gaussian probes best.

    A single weight cannot know which direction will reach it, so that this mends its mean gain
    over directions and little else; ``scheme='sampled'`` follows the signal through the network.

    Args:
        tensor: a weight.
        nonlinearity: f, a known activation.
        draws: number of candidates.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        stride: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for an f that is not a known one, or fewer than 1 draw.

    >>> sampled_(torch.empty(8, 8), draws=4).shape
    torch.Size([8, 8])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    f = activation_from(nonlinearity)
    law, count = (
        _kept(axes, f, 0.0, "normal"),
        _checks.at_least("draws", draws, 1, "16 serve as a rule."),
    )
    text = activation_text(f)
    best = (
        BestOf(law, count, text) if is_two_lines(f) else BestOf(law, count, "identity", feed=text)
    )
    return fill(tensor, axes.at(best, axes.convolution.kernel), generator)


def _kept(axes: WeightAxes, f: Activation, order: float, distribution: str) -> Matrix:
    """The law that keeps a moment: exact for two lines, else of first order in 1 / width."""
    block = axes.convolution.stride_block
    is_haar = distribution == "orthogonal"
    fans = axes.matrix_fans(block) if is_haar else axes.fans
    if is_two_lines(f):
        units = int(fans.fan_out) if is_haar else max(1, axes.out_size)
        return kept_moment(fans, units, f, order, distribution)
    return kept_moment_at_unit_level(fans, max(1, axes.in_size), f, order, distribution)
