"""Functions that fill a weight and the bias of its layer, which depends on the weight drawn.

A layer is moved to where its units should rest: b = level - W r for units that read r at rest.
Arguments are those of ``init_depth``; both tensors are written, or neither.
"""

from collections.abc import Callable

import numpy as np
import torch

from equipoise import _checks
from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.laws import Law, Normal, Orthogonal, Paired
from equipoise.theory.shift import shifted
from equipoise.torch.filling import (
    GAIN_REMEDY,
    Nonlinearity,
    WeightAxes,
    activation_from,
    fill,
    weight_axes,
)
from equipoise.torch.init_depth import refuse_lone_units
from equipoise.torch.refusals import refuse_unwritable

Tensor = torch.Tensor
Generator = torch.Generator | None
Stride = int | tuple[int, ...]
# For preactivations of RMS 1: at 4, one Gaussian input in 25 bends in 200 layers of width 16.
_SHIFT = 4.0
_SPREAD = 1.5


def centred_(
    tensor: Tensor, bias: Tensor, nonlinearity: Nonlinearity, gain: float | None = None,
    generator: Generator = None, *,
    groups: int = 1, stride: Stride = 1, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Orthogonal weight and the bias -W f(0) that makes the units which feed it rest at 0.

    Args:
        tensor: a weight.
        bias: of the same layer, shape (out,); it is filled too.
        nonlinearity: f, which feeds the layer.
        gain: singular value of the weight, 1 / f'(0) where left out.
        generator: as in ``torch.nn.init``.
        groups: of the convolution.
        stride: of the convolution.
        transposed: whether the convolution is transposed.

    Returns:
        The weight.

    Raises:
        ArgumentError: for an f without a slope at 0, a bias of another shape, or a transposed
            convolution of stride above 1, which no bias can centre.
        PlanError: if either cannot be written or hold its values; nothing is changed then.

    >>> w, b = torch.empty(4, 4), torch.empty(4)
    >>> float((centred_(w, b, "sigmoid") @ torch.full((4,), 0.5) + b).abs().max()) < 1e-5
    True
    """
    axes = weight_axes(tensor, groups, stride, transposed)
    f = activation_from(nonlinearity)
    if transposed and axes.convolution.steps > 1 and f.value_at_zero != 0.0:
        raise ArgumentError(
            f"stride must be 1 for a transposed convolution to be centred, got {stride}: outputs "
            "between its steps are reached through different taps and want different biases. "
            "Use kaiming_normal_."
        )
    if gain is None and f.slope == 0.0:
        raise ArgumentError(
            f"nonlinearity must have a non-zero slope at 0, got {f}. Pass gain= or another scheme."
        )
    scale = 1.0 / f.slope if gain is None else _checks.finite("gain", gain, GAIN_REMEDY)
    law = axes.at(Orthogonal(scale), axes.convolution.stride_block)

    def rests(w: Tensor) -> Tensor:
        w = w.reshape(*w.shape[:2], -1).sum(-1)
        # A transposed weight has its outputs on the second axis, group by group.
        sent = w.reshape(groups, -1, w.shape[1]).sum(1).flatten() if transposed else w.sum(1)
        return -f.value_at_zero * sent

    return _fill_both(tensor, bias, axes.out_size, law, rests, generator)


def shifted_(
    tensor: Tensor, bias: Tensor, shift: float = _SHIFT, nonlinearity: Nonlinearity = "relu",
    rows: bool = True, columns: bool = True, generator: Generator = None,
) -> Tensor:  # fmt: skip
    """Semi-orthogonal over f'(c), and b = c - W f(c): units rest at c, away from the kink at 0.

    For an f that is a line above 0 the network is exactly linear, at full rank, for every input
    whose preactivations stay above 0. The first weight of a network reads inputs that rest at 0
    (``columns=False``), the outputs of the last rest at 0 (``rows=False``).

    Args:
        tensor: a matrix.
        bias: of the layer, shape (out,); filled as well.
        shift: c, in units of the preactivation; about 4 times the RMS of the part that moves.
        nonlinearity: f.
        rows: whether outputs rest at c.
        columns: whether the units that are read rest at c; else they are inputs that rest at 0,
            and the weight is semi-orthogonal.
        generator: as in ``torch.nn.init``.

    Returns:
        The weight.

    Raises:
        ArgumentError: for a kernel, a bias of another shape, or a shift where f breaks or is flat.
        PlanError: if either cannot be written or hold its values; nothing is changed then.

    >>> w, b = torch.empty(4, 4), torch.empty(4)
    >>> at_rest = torch.full((4,), 3.0)
    >>> torch.allclose(shifted_(w, b, 3.0) @ at_rest + b, at_rest, atol=1e-5)
    True
    """
    axes, f = _dense(tensor), activation_from(nonlinearity)
    slope = shifted(f, shift).slope
    sent = float(f.f(np.full(1, float(shift)))[0]) if columns else 0.0
    law = Orthogonal(1.0 / slope if columns else 1.0)

    def rests(w: Tensor) -> Tensor:
        return (float(shift) if rows else 0.0) - sent * w.sum(1)

    return _fill_both(tensor, bias, axes.out_size, law, rests, generator)


def mirrored_spread_(
    tensor: Tensor, bias: Tensor, at_rest: Tensor | None = None, spread: float = _SPREAD,
    gain: float = 1.0, rows: bool = True, columns: bool = True, generator: Generator = None,
) -> Tensor:  # fmt: skip
    """``mirrored_``, with the kinks of pairs apart: preactivations v + beta and -(v + beta).

    beta ~ N(0, spread^2) for each pair, and the bias of the next layer takes away what its weight
    makes of it: b = (beta, -beta) - W r for units that rest at r. So the network stays linear.

    Args:
        tensor: a matrix.
        bias: of the layer, shape (out,); filled as well.
        at_rest: r, what the layer reads where the network reads 0, shape (in,); left out, 0 as for
            the first layer. Carry it along: ``r = gate(layer(r))``.
        spread: standard deviation of beta; 1 to 2 times the RMS of v serve.
        gain: as for ``mirrored_``.
        rows: whether outputs are paired; those that are not rest at 0.
        columns: whether inputs are paired.
        generator: as in ``torch.nn.init``.

    Returns:
        The weight.

    Raises:
        ArgumentError: for a kernel, fewer than 2 units in a paired axis, a bias or ``at_rest`` of
            another shape, or a negative spread.
        PlanError: if either cannot be written or hold its values; nothing is changed then.

    >>> w, b = torch.empty(4, 4), torch.empty(4)
    >>> r = torch.tensor([0.5, 1.0, 0.0, 0.0])
    >>> rest = mirrored_spread_(w, b, r) @ r + b
    >>> torch.allclose(rest[:2], -rest[2:], atol=1e-6), bool((rest != 0).all())
    (True, True)
    """
    axes = _dense(tensor)
    refuse_lone_units(tensor, axes, rows, columns)
    std = _checks.not_negative("spread", spread, "1.5 times the RMS of v serve as a rule.")
    if at_rest is not None and _shape(at_rest) != (axes.in_size,):
        raise ArgumentError(
            f"at_rest must have shape ({axes.in_size},), got {_shape(at_rest)}. Pass what the "
            "layer reads where the network reads 0, without an axis of rows."
        )
    law = Paired(Orthogonal(_checks.finite("gain", gain, GAIN_REMEDY)), bool(rows), bool(columns))

    def rests(w: Tensor) -> Tensor:
        moved = torch.zeros_like(w[:, 0])
        if rows and std:
            half = len(w) // 2
            beta = fill(w.new_empty(half), Normal(std), generator)
            moved[: 2 * half] = torch.cat([beta, -beta])
        if at_rest is None:
            return moved
        return moved - w @ at_rest.detach().to(w)

    return _fill_both(tensor, bias, axes.out_size, law, rests, generator)


def _dense(tensor: Tensor) -> WeightAxes:
    axes = weight_axes(tensor)
    if axes.convolution.kernel:
        raise ArgumentError(
            f"tensor must be a matrix, got a kernel of shape {tuple(tensor.shape)}. "
            "Use mirrored_ or centred_ for kernels."
        )
    return axes


def _shape(tensor: object) -> object:
    """The shape of a tensor, or the kind of what is none."""
    return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__


def _fill_both(
    tensor: Tensor, bias: Tensor, units: int, law: Law, rests: Callable[[Tensor], Tensor],
    generator: Generator,
) -> Tensor:  # fmt: skip
    """Draw a weight, and set the bias that follows from it in float64; both or neither."""
    if not isinstance(bias, torch.Tensor) or _shape(bias) != (units,):
        raise ArgumentError(
            f"bias must have shape ({units},), got {_shape(bias)}. Pass layer.bias."
        )
    if tensor.is_meta or bias.is_meta or 0 in tensor.shape:
        return fill(tensor, law, generator)
    refuse_unwritable("tensor", tensor)
    refuse_unwritable("bias", bias)
    with torch.no_grad():
        drawn = fill(torch.empty_like(tensor), law, generator)
        wanted = rests(drawn.double())
        rest = wanted.to(bias.dtype)
        if not bool(torch.isfinite(rest).all()):
            raise PlanError(
                f"values of 'bias' must fit {bias.dtype}, got up to "
                f"{float(wanted.abs().max()):.3g}. Use a wider dtype."
            )
        tensor.copy_(drawn)
        bias.copy_(rest)
    return tensor
