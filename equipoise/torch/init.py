"""Functions that fill one tensor in place, in the manner of ``torch.nn.init``.

Names, arguments and defaults are those of ``torch.nn.init`` where it has the function. What is
more: fans of grouped, strided and transposed convolutions (``groups``, ``stride``, ``transposed``),
exact gains for every activation, truncated laws whose variance is the one wanted, and the schemes
of deep networks. Values are drawn in float64 and rounded to the tensor's dtype; the same generator
gives the same weights on any device. Tensors on the meta device are left alone.
"""

import math

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.schemes.laws import (
    Constant,
    Identity,
    Law,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zero,
)
from equipoise.schemes.variance import moment_gain
from equipoise.torch.filling import (
    GAIN_REMEDY,
    Nonlinearity,
    activation_from,
    fill,
    published_gain,
    weight_axes,
)
from equipoise.torch.init_biases import centred_, mirrored_spread_, shifted_
from equipoise.torch.init_depth import (
    delta_orthogonal_,
    diagonal_noise_,
    mirrored_,
    odd_sigmoid_,
)
from equipoise.torch.init_growth import (
    fractional_moment_,
    lyapunov_normal_,
    lyapunov_orthogonal_,
    sampled_,
)
from equipoise.torch.init_scaled import (
    kaiming_normal_,
    kaiming_trunc_normal_,
    kaiming_uniform_,
    lecun_normal_,
    lecun_trunc_normal_,
    lecun_uniform_,
    siren_,
    xavier_normal_,
    xavier_trunc_normal_,
    xavier_uniform_,
)

__all__ = [
    "calculate_gain",
    "centred_",
    "constant_",
    "delta_orthogonal_",
    "diagonal_noise_",
    "dirac_",
    "eye_",
    "fractional_moment_",
    "kaiming_normal_",
    "kaiming_trunc_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_trunc_normal_",
    "lecun_uniform_",
    "lyapunov_normal_",
    "lyapunov_orthogonal_",
    "mirrored_",
    "mirrored_spread_",
    "normal_",
    "odd_sigmoid_",
    "ones_",
    "orthogonal_",
    "sampled_",
    "shifted_",
    "siren_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_trunc_normal_",
    "xavier_uniform_",
    "zeros_",
]

Tensor = torch.Tensor
_STD = "It is a standard deviation, not a variance or its logarithm."
Generator = torch.Generator | None


def calculate_gain(nonlinearity: Nonlinearity, param: float | None = None) -> float:
    """Gain that suits a nonlinearity: torch's value for torch's names, else 1 / sqrt(E f(z)^2).

    Args:
        nonlinearity: a name of ``torch.nn.init`` (``tanh`` is 5 / 3, ``selu`` 3 / 4), another known
            activation by name, or a torch module, a function or an Activation, whose gain is exact
            for z ~ N(0, 1).
        param: negative slope of ``leaky_relu``.

    Returns:
        The gain.

    Raises:
        ArgumentError: for an unknown name, a slope that is no number, or an f that vanishes.

    >>> calculate_gain("tanh"), round(calculate_gain(torch.nn.Tanh()), 6)
    (1.6666666666666667, 1.592537)
    >>> round(calculate_gain("gelu"), 6)
    1.53353
    """
    if isinstance(nonlinearity, str):
        gain = published_gain(nonlinearity, param)
        if not math.isnan(gain):
            return gain
    return moment_gain(activation_from(nonlinearity, 0.01 if param is None else param))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Independent entries, uniform on [a, b].

    >>> w = uniform_(torch.empty(100), -2.0, 3.0)
    >>> bool((w >= -2).all() and (w <= 3).all())
    True
    """
    low, high = _checks.finite("a", a), _checks.finite("b", b)
    if low > high:
        raise ArgumentError(f"a must not exceed b, got a = {a} and b = {b}. Swap them.")
    # Halves first: the width of the widest range is not a float.
    law = Uniform(high / 2 - low / 2, low / 2 + high / 2)
    return fill(tensor, law, generator, warn_if_empty=False)


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None
) -> Tensor:
    """Independent entries N(mean, std^2).

    >>> normal_(torch.empty(2, 2), mean=3.0, std=0.0).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    law = Normal(_checks.not_negative("std", std, _STD), _checks.finite("mean", mean))
    return fill(tensor, law, generator, warn_if_empty=False)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Independent entries N(mean, std^2), given that they lie in [a, b].

    a and b are values and std is that of the law before the cut, as in ``torch.nn.init``. The
    functions named ``*_trunc_normal_`` cut in standard deviations and keep the variance instead.

    >>> w = trunc_normal_(torch.empty(100), std=0.02, a=-0.04, b=0.04)
    >>> bool((w.abs() <= 0.04).all())
    True
    """
    low, high = _checks.finite("a", a), _checks.finite("b", b)
    if not low < high:
        raise ArgumentError(f"a must be below b, got a = {a} and b = {b}. Swap or spread them.")
    law = TruncatedNormal(
        _checks.positive("std", std, _STD), low, high, _checks.finite("mean", mean)
    )
    return fill(tensor, law, generator, warn_if_empty=False)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every entry ``val``.

    >>> constant_(torch.empty(2), 0.25).tolist()
    [0.25, 0.25]
    """
    return _fill_alike(tensor, Constant(_checks.finite("val", val)))


def ones_(tensor: Tensor) -> Tensor:
    """Every entry 1.

    >>> ones_(torch.empty(2)).tolist()
    [1.0, 1.0]
    """
    return _fill_alike(tensor, Constant(1.0))


def zeros_(tensor: Tensor) -> Tensor:
    """Every entry 0.

    >>> zeros_(torch.empty(2)).tolist()
    [0.0, 0.0]
    """
    return _fill_alike(tensor, Zero())


def eye_(tensor: Tensor) -> Tensor:
    """The identity: ones on the diagonal of a matrix, as many as fit.

    >>> eye_(torch.empty(2, 3)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if weight_axes(tensor).convolution.kernel:
        raise ArgumentError(
            f"tensor must have 2 axes, got shape {tuple(tensor.shape)}. Use dirac_ for kernels."
        )
    return _fill_alike(tensor, Identity())


def dirac_(tensor: Tensor, groups: int = 1, *, transposed: bool = False) -> Tensor:
    """The identity as a convolution: ones at the centre tap, group by group, as many as fit.

    >>> dirac_(torch.empty(1, 1, 3)).tolist()
    [[[0.0, 1.0, 0.0]]]
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    if not 1 <= len(axes.convolution.kernel) <= 3:
        raise ArgumentError(
            f"tensor must have 3, 4 or 5 axes, got shape {tuple(tensor.shape)}. "
            "Use eye_ for matrices."
        )
    return _fill_alike(tensor, axes.at(Identity(), axes.centre))


def orthogonal_(
    tensor: Tensor, gain: float = 1, generator: Generator = None, *,
    groups: int = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Haar semi-orthogonal: of the matrix whose columns are all axes but the first.

    With groups each group is one matrix of its own. For kernels that keep norms see
    ``delta_orthogonal_``. Source: Saxe et al. 2013, arXiv 1312.6120.

    >>> w = orthogonal_(torch.empty(2, 5))
    >>> torch.allclose(w @ w.T, torch.eye(2), atol=1e-6)
    True
    """
    axes = weight_axes(tensor, groups, 1, transposed)
    law = axes.at(Orthogonal(_checks.finite("gain", gain, GAIN_REMEDY)), axes.convolution.kernel)
    return fill(tensor, law, generator, warn_if_empty=False)


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator = None
) -> Tensor:
    """Normal entries of which a share is 0 in each column, ceil(sparsity * rows) of them.

    Source: Martens 2010.

    >>> (sparse_(torch.empty(10, 3), 0.4) == 0).sum(0).tolist()
    [4, 4, 4]
    """
    if weight_axes(tensor).convolution.kernel:
        raise ArgumentError(
            f"tensor must have 2 axes, got shape {tuple(tensor.shape)}. Reshape a view of it."
        )
    if not 0 <= _checks.finite("sparsity", sparsity) <= 1:
        raise ArgumentError(f"sparsity must lie between 0 and 1, got {sparsity}. It is a share.")
    law = Sparse(float(sparsity), _checks.not_negative("std", std, _STD))
    return fill(tensor, law, generator, warn_if_empty=False)


def _fill_alike(tensor: Tensor, law: Law) -> Tensor:
    """Fill with what has no randomness, without a step of torch's global generator."""
    return fill(tensor, law, torch.Generator(), warn_if_empty=False)
