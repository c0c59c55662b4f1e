"""Xavier, Kaiming and LeCun: one weight filled with independent entries of the right variance.

Arguments that all share: ``generator`` as in ``torch.nn.init``; ``groups``, ``stride`` and
``transposed`` of the convolution, for its fans (the defaults give torch's). ``bound`` is the cut of
a truncated law, in standard deviations of the law that is cut; the variance after it is the one
named.
"""

import math

import torch

from equipoise import _checks
from equipoise.schemes.laws import Law
from equipoise.schemes.siren import siren
from equipoise.schemes.variance import MODES, he, independent, lecun, xavier
from equipoise.torch.filling import (
    Nonlinearity,
    WeightAxes,
    activation_from,
    fill,
    published_gain,
    weight_axes,
)

Tensor = torch.Tensor
Generator = torch.Generator | None
Stride = int | tuple[int, ...]


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform entries of variance 2 gain^2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010.

    >>> bool((xavier_uniform_(torch.empty(4, 2)).abs() <= 1).all())
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, xavier(axes.fans, gain), generator)


def xavier_normal_(
    tensor: Tensor, gain: float = 1.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Normal entries of variance 2 gain^2 / (fan_in + fan_out).

    Source: Glorot and Bengio 2010.

    >>> xavier_normal_(torch.empty(4, 2)).shape
    torch.Size([4, 2])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, xavier(axes.fans, gain, "normal"), generator)


def xavier_trunc_normal_(
    tensor: Tensor, gain: float = 1.0, bound: float = 2.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Truncated normal entries of variance 2 gain^2 / (fan_in + fan_out) after the cut.

    ``bound`` is the cut in standard deviations of the law that is cut.

    >>> xavier_trunc_normal_(torch.empty(4, 2)).shape
    torch.Size([4, 2])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, xavier(axes.fans, gain, "truncated", bound=bound), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator = None, *, groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform entries of variance gain^2 / fan.

    For torch's names the gain is torch's; for modules, functions and activations it is exact in
    either pass: E f^2 counts for ``fan_in``, E f'^2 for ``fan_out``.
    Source: He et al. 2015, arXiv 1502.01852.

    >>> bool((kaiming_uniform_(torch.empty(4, 6)).abs() <= 1).all())
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, _kaiming(axes, a, mode, nonlinearity, "uniform"), generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: Nonlinearity = "leaky_relu",
    generator: Generator = None, *, groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Normal entries of variance gain^2 / fan; gains as for ``kaiming_uniform_``.

    Source: He et al. 2015, arXiv 1502.01852.

    >>> kaiming_normal_(torch.empty(4, 6), nonlinearity=torch.nn.GELU()).shape
    torch.Size([4, 6])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, _kaiming(axes, a, mode, nonlinearity, "normal"), generator)


def kaiming_trunc_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: Nonlinearity = "leaky_relu",
    bound: float = 2.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Truncated normal entries of variance gain^2 / fan after the cut; gains as above.

    >>> kaiming_trunc_normal_(torch.empty(4, 6)).shape
    torch.Size([4, 6])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, _kaiming(axes, a, mode, nonlinearity, "truncated", bound), generator)


def lecun_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform entries of variance gain^2 / fan_in.

    >>> bool((lecun_uniform_(torch.empty(4, 3)).abs() <= 1).all())
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, lecun(axes.fans, gain, "uniform"), generator)


def lecun_normal_(
    tensor: Tensor, gain: float = 1.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Normal entries of variance gain^2 / fan_in, as SELU wants them.

    >>> lecun_normal_(torch.empty(4, 3)).shape
    torch.Size([4, 3])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, lecun(axes.fans, gain), generator)


def lecun_trunc_normal_(
    tensor: Tensor, gain: float = 1.0, bound: float = 2.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Truncated normal entries of variance gain^2 / fan_in after the cut.

    >>> lecun_trunc_normal_(torch.empty(4, 3)).shape
    torch.Size([4, 3])
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, lecun(axes.fans, gain, "truncated", bound), generator)


def siren_(
    tensor: Tensor, frequency: float = 1.0, is_first: bool = False, c: float = 6.0,
    first: float = 1.0, generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Uniform entries for a network of sin(w x): sqrt(c / fan_in) / w, first / fan_in in layer one.

    Args:
        tensor: the weight.
        frequency: w of the sine that follows.
        is_first: whether the layer reads coordinates.
        c: 6 in the paper.
        first: numerator of the first layer's bound.
        generator: as in ``torch.nn.init``.
        groups: of channels.
        stride: of the convolution.
        transposed: whether it is a transposed convolution.

    Source: Sitzmann et al. 2020, arXiv 2006.09661.

    >>> bool((siren_(torch.empty(64, 2), 30.0, is_first=True).abs() <= 0.5).all())
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    return fill(tensor, siren(axes.fans, frequency, c, is_first, first), generator)


def _kaiming(
    axes: WeightAxes, a: float, mode: str, nonlinearity: Nonlinearity, distribution: str,
    bound: float = 2.0,
) -> Law:  # fmt: skip
    """Torch's gain for torch's names, exact ones for the rest."""
    mode = _checks.one_of("mode", str(mode).lower(), MODES)
    gain = published_gain(nonlinearity, a, "a") if isinstance(nonlinearity, str) else math.nan
    if math.isnan(gain):
        activation = activation_from(nonlinearity)
        return he(axes.fans, activation, 1.0, distribution, mode, bound)
    fans = axes.fans
    fan = {"fan_in": fans.fan_in, "fan_out": fans.fan_out}
    counted = fan.get(mode, (fans.fan_in + fans.fan_out) / 2)
    return independent(gain / math.sqrt(counted), distribution, bound)
