"""Functions in the manner of ``torch.nn.init`` that fill one weight of a deep network.

Arguments that all share: ``generator`` as in ``torch.nn.init``; ``groups``, ``stride`` and
``transposed`` of the convolution; ``nonlinearity`` by name, as a torch module, a pointwise function
or an Activation. Where weights of a whole network should fit each other, use
``equipoise.torch.initialize``: it couples them, which no function of one tensor can.
"""

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.diagonal_noise import PUBLISHED_ALPHA, diagonal_noise, odd_sigmoid_scale
from equipoise.schemes.laws import Orthogonal, Paired
from equipoise.torch.filling import (
    GAIN_REMEDY,
    Nonlinearity,
    WeightAxes,
    activation_from,
    fill,
    weight_axes,
)

Tensor = torch.Tensor
Generator = torch.Generator | None


def delta_orthogonal_(
    tensor: Tensor, gain: float = 1.0, generator: Generator = None, *,
    groups: int = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """A kernel that is semi-orthogonal at its centre tap and 0 elsewhere: it keeps every norm.

    With fewer channels out than in the rows are orthonormal and the channels beyond them are lost:
    no linear map keeps the norms of all inputs then. With stride s only one site in s is read.

    Args:
        tensor: kernel of 1 to 3 axes.
        gain: every singular value of the tap.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for a matrix, or groups that do not fit.

    Source: Xiao et al. 2018, arXiv 1806.05393.

    >>> w = delta_orthogonal_(torch.empty(4, 4, 3, 3))
    >>> tap = w[:, :, 1, 1]
    >>> torch.allclose(tap @ tap.T, torch.eye(4), atol=1e-6), int(w.count_nonzero())
    (True, 16)
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    if not axes.convolution.kernel:
        raise ArgumentError(
            f"tensor must be a kernel of 3 axes or more, got shape {tuple(tensor.shape)}. "
            "Use orthogonal_ for matrices."
        )
    law = axes.at(Orthogonal(_checks.finite("gain", gain, GAIN_REMEDY)), axes.centre)
    return fill(tensor, law, generator)


def diagonal_noise_(
    tensor: Tensor, nonlinearity: Nonlinearity = "tanh", alpha: float = PUBLISHED_ALPHA,
    noise: str = "normal", parameter: float = 0.0, generator: Generator = None, *,
    groups: int = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """D / f'(0) + Z with D_ij = 1 where i = j (mod fan_in) and Z_ij of std alpha / sqrt(fan_in).

    Args:
        tensor: a matrix, or a kernel, whose centre tap is filled.
        nonlinearity: f, which follows the layer; its slope at 0 counts.
        alpha: scale of the noise; 0.085 is published.
        noise: law of the noise: ``normal``, ``uniform``, ``truncated_normal``, ``laplace`` or
            ``student_t``.
        parameter: bound of the truncated law or degrees of freedom of Student's; 0 for the default.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for an f without a slope at 0, or an option out of range.

    Source: Lee, Choi and Kim 2024, arXiv 2410.02242.

    >>> w = diagonal_noise_(torch.empty(4, 2), alpha=1e-6)
    >>> w.round().abs().tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    f = activation_from(nonlinearity)
    law = diagonal_noise(axes.matrix_fans(axes.centre), f, alpha, noise, parameter)
    return fill(tensor, axes.at(law, axes.centre), generator)


def odd_sigmoid_(
    tensor: Tensor, layer: int, nonlinearity: Nonlinearity = "tanh", memory: float = 0.5,
    noise: str = "normal", parameter: float = 0.0, generator: Generator = None, *,
    groups: int = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Diagonal + noise whose scale leaves a given memory of signs at a target layer.

    Args:
        tensor: a matrix, or a kernel, whose centre tap is filled.
        layer: L, the layer to be reached; the depth of the network as a rule.
        nonlinearity: f, an odd sigmoid.
        memory: E sgn x_0 sgn x_L, up to 0.88.
        noise: as for ``diagonal_noise_``.
        parameter: of that law.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: naming the property that f lacks, or a target that is out of reach.

    Source: arXiv 2509.23085 (class and target layer; the closed form is this library's own).

    >>> w = odd_sigmoid_(torch.empty(64, 64), layer=100)
    >>> abs(float((w - torch.eye(64)).std()) * 8 - 0.0988) < 0.005
    True
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    f = activation_from(nonlinearity)
    alpha = odd_sigmoid_scale(
        f, _checks.at_least("layer", layer, 1, "Pass the depth of the network."), memory
    )
    law = diagonal_noise(axes.matrix_fans(axes.centre), f, alpha, noise, parameter)
    return fill(tensor, axes.at(law, axes.centre), generator)


def mirrored_(
    tensor: Tensor, gain: float = 1.0, rows: bool = True, columns: bool = True,
    generator: Generator = None, *, groups: int = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """[[O, -O], [-O, O]] with O semi-orthogonal of half the size: gates become exactly linear.

    Units i and i + n // 2 are a pair. The first weight of a network pairs its rows only, the last
    its columns only. An odd unit receives a random row and sends nothing.

    Args:
        tensor: a matrix, or a kernel, whose centre tap is filled.
        gain: factor of O: 1 / (f'(0-) + f'(0+)) of the f that feeds the weight, 1 for ReLU, GELU
            and SiLU.
        rows: whether outputs are paired.
        columns: whether inputs are paired.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The tensor.

    Raises:
        ArgumentError: if a paired axis has fewer than 2 units.

    Source: for ReLU: Balduzzi et al. 2017, arXiv 1702.08591.

    >>> w = mirrored_(torch.empty(4, 4))
    >>> torch.equal(w[:2], -w[2:]), torch.equal(w[:, :2], -w[:, 2:])
    (True, True)
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    refuse_lone_units(tensor, axes, rows, columns)
    law = Paired(Orthogonal(_checks.finite("gain", gain, GAIN_REMEDY)), bool(rows), bool(columns))
    return fill(tensor, axes.at(law, axes.centre), generator)


def refuse_lone_units(tensor: Tensor, axes: WeightAxes, rows: bool, columns: bool) -> None:
    """Refuse a paired axis of one unit.

    Args:
        tensor: the weight.
        axes: of it.
        rows: whether outputs are paired.
        columns: whether inputs are paired.

    Raises:
        ArgumentError: naming the axis.
    """
    found = axes.convolution.block_shape(axes.centre, axes.in_size, axes.out_size)
    for name, is_paired, units in zip(("rows", "columns"), (rows, columns), found, strict=True):
        if is_paired and 0 < units < 2:
            raise ArgumentError(
                f"{name} must be at least 2 units to be paired, got shape {tuple(tensor.shape)}. "
                f"Pass {name}=False."
            )
