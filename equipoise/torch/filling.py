"""What functions that fill one weight share: its axes, the activation meant, and the writing."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.schemes.call_text import activation_of
from equipoise.schemes.convolution import Convolution
from equipoise.schemes.fans import Fans
from equipoise.schemes.laws import Law, Matrix, Taps
from equipoise.theory import activations
from equipoise.theory.activation import Activation
from equipoise.theory.probe import probe
from equipoise.torch.apply import draw_

Nonlinearity = str | Activation | nn.Module | Callable[[Any], Any]

GAIN_REMEDY = "1 leaves the weight as it is."
LINES = (
    "linear", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
_LARGEST_SLOPE = 1e100


@dataclass(frozen=True)
class WeightAxes:
    """The axes of one weight.

    Attributes:
        in_size, out_size: channels of all groups together.
        convolution: how sites are joined; over no axes for a matrix.
    """

    in_size: int
    out_size: int
    convolution: Convolution

    @property
    def fans(self) -> Fans:
        """Fans of a unit; those of an empty weight, which is never drawn, count axes as 1."""
        return self.convolution.fans(max(1, self.in_size), max(1, self.out_size))

    @property
    def centre(self) -> tuple[int, ...]:
        """A block of one tap."""
        return (1,) * len(self.convolution.kernel)

    def matrix_fans(self, block: tuple[int, ...]) -> Fans:
        """Fans of the matrix that a block of taps is."""
        rows, columns = self.convolution.block_shape(block, self.in_size, self.out_size)
        return Fans(max(1, columns), max(1, rows))

    def at(self, matrix: Matrix, block: tuple[int, ...]) -> Law:
        """A matrix at a block of taps; the matrix itself where there is nothing to arrange."""
        c = self.convolution
        if not c.kernel and c.groups == 1 and not c.is_transposed:
            return matrix
        return Taps(matrix, block, c.groups, c.is_transposed)


def weight_axes(
    tensor: torch.Tensor,
    groups: int = 1,
    stride: int | tuple[int, ...] = 1,
    transposed: bool = False,
) -> WeightAxes:
    """Read the axes of a weight: (out, in / groups, *kernel), transposed (in, out / groups, ...).

    Args:
        tensor: the weight, of at least 2 axes.
        groups: of the convolution; divides the first axis.
        stride: of the convolution, one number or one for each axis.
        transposed: whether it belongs to a transposed convolution (or is used as x @ w).

    Returns:
        The axes.

    Raises:
        ArgumentError: for fewer than 2 axes, or groups or strides that do not fit.
    """
    _refuse_without_shape(tensor)
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        raise ArgumentError(
            f"tensor must have at least 2 axes to have fans, got shape {shape}. "
            "Fill vectors with zeros_, constant_ or normal_."
        )
    is_count = isinstance(groups, int) and not isinstance(groups, bool) and groups >= 1
    if not is_count or shape[0] % groups:
        raise ArgumentError(
            f"groups must be a positive integer that divides the first axis, got {groups} for "
            f"shape {shape}. Pass the groups of the convolution."
        )
    kernel = shape[2:]
    steps = tuple(stride) if isinstance(stride, tuple | list) else (stride,) * len(kernel)
    is_step = [isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in (*steps, 1)]
    if len(steps) != len(kernel) or not all(is_step):
        raise ArgumentError(
            f"stride must be a positive integer, or one for each of {len(kernel)} axes, got "
            f"{stride}. Pass the stride of the convolution."
        )
    convolution = Convolution(kernel, steps, groups=groups, is_transposed=bool(transposed))
    if transposed:
        return WeightAxes(shape[0], shape[1] * groups, convolution)
    return WeightAxes(shape[1] * groups, shape[0], convolution)


def fill(
    tensor: torch.Tensor, law: Law, generator: torch.Generator | None, warn_if_empty: bool = True
) -> torch.Tensor:
    """Draw a law into a tensor, in place.

    Args:
        tensor: any floating-point tensor. On the meta device there is nothing to write: it is left
            alone, as ``torch.nn.init`` does, so that models can be built there.
        law: how to draw it.
        generator: as in ``torch.nn.init``.
        warn_if_empty: whether a tensor without entries draws a warning, as in ``torch.nn.init``.

    Returns:
        The tensor.

    Raises:
        ArgumentError: for what is no tensor, or a lazy one.
        PlanError: if the tensor cannot be written or is too narrow for the values.
    """
    _refuse_without_shape(tensor)
    if 0 in tensor.shape:
        if warn_if_empty:
            warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    if tensor.is_meta and tensor.is_floating_point():
        return tensor
    return draw_(tensor, law, generator)


def activation_from(nonlinearity: Nonlinearity, negative_slope: float = 0.01) -> Activation:
    """The activation that a name, a module, a function or an Activation stands for.

    Args:
        nonlinearity: a name of ``torch.nn.init`` or of ``theory.activations``, a torch module or
            its class, a pointwise function, or an Activation.
        negative_slope: of ``leaky_relu`` where only its name is given.

    Returns:
        The activation; what is unknown is probed.

    Raises:
        ArgumentError: for an unknown name or a function that is not pointwise.

    >>> str(activation_from(nn.GELU())), str(activation_from("leaky_relu", 0.2))
    ('gelu', 'leaky_relu(negative_slope=0.2)')
    """
    match nonlinearity:
        case Activation():
            return nonlinearity
        case str() if nonlinearity in LINES:
            return activations.identity()
        case "leaky_relu":
            return activations.leaky_relu(float(negative_slope))
        case str():
            return activation_of(nonlinearity, "nonlinearity")
        case type():
            try:
                made = nonlinearity()
            except TypeError as error:
                raise ArgumentError(
                    f"nonlinearity must be a class that needs no arguments, got "
                    f"{nonlinearity.__name__} ({error}). Pass the module itself."
                ) from error
            return activation_from(made)
        case _ if callable(nonlinearity):
            name = getattr(nonlinearity, "__name__", type(nonlinearity).__name__)
            return probe(nonlinearity, str(name))
    raise ArgumentError(
        "nonlinearity must be a name, a torch module, a pointwise function or an Activation, got "
        f"{type(nonlinearity).__name__}. Write nonlinearity='relu' or pass the module itself."
    )


def published_gain(name: str, param: float | None, argument: str = "param") -> float:
    """The gains of ``torch.nn.init.calculate_gain``; nan for a name that it does not have.

    Args:
        name: of the nonlinearity.
        param: negative slope of ``leaky_relu``, None for 0.01.
        argument: what the slope is called in a refusal.

    Returns:
        The gain.

    Raises:
        ArgumentError: for a slope that is no number, or whose square leaves the range of floats.
    """
    match name:
        case "sigmoid":
            return 1.0
        case "tanh":
            return 5.0 / 3
        case "relu":
            return math.sqrt(2.0)
        case "leaky_relu":
            slope = 0.01 if param is None else param
            if isinstance(slope, bool) or not isinstance(slope, int | float):
                raise ArgumentError(
                    f"{argument} must be a number, got {param!r}. It is the slope of leaky_relu."
                )
            # A nan here would pass for a name without a published gain.
            if not abs(slope) <= _LARGEST_SLOPE:
                raise ArgumentError(
                    f"{argument} must lie within {_LARGEST_SLOPE:g} of 0, got {param!r}. "
                    "Its square counts."
                )
            return math.sqrt(2.0 / (1 + slope**2))
        case "selu":
            return 0.75
        case _:
            return 1.0 if name in LINES else math.nan


def _refuse_without_shape(tensor: object) -> None:
    """Refuse what is no tensor, and lazy parameters before their first forward pass."""
    if not isinstance(tensor, torch.Tensor):
        raise ArgumentError(
            f"tensor must be a torch.Tensor, got {type(tensor).__name__}. Pass layer.weight."
        )
    if nn.parameter.is_lazy(tensor):
        raise ArgumentError(
            f"tensor must have a shape, got {type(tensor).__name__}. Run the model once first."
        )
