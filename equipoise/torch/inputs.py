"""The inputs a caller gives: a tensor, a tuple, a dict of keyword arguments, or none."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.errors import ArgumentError
from equipoise.schemes.laws import Array
from equipoise.torch.stateless import Copies, own_randomness

Inputs = torch.Tensor | tuple[Any, ...] | Mapping[str, Any] | None
_ROWS_WITHOUT_INPUTS = 256
# What may stand beside tensors among the arguments of an exported forward.
_CONSTANTS = (
    torch.Tensor, bool, int, float, complex, str, type(None), enum.Enum,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """Arguments of a model's forward.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        is_given: False where they were made up from the first layer's shape.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_given: bool = True

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """Tensors with the name of their argument, in the order export numbers them."""
        args, _ = pytree.tree_flatten_with_path(self.args)
        keywords, _ = pytree.tree_flatten_with_path(dict(self.kwargs))
        one = len(self.args) == 1 and not self.kwargs
        named = [(f"inputs{pytree.keystr(path[one:])}", leaf) for path, leaf in args]
        named += [(f"inputs{pytree.keystr(path)}", leaf) for path, leaf in keywords]
        return [(name, leaf) for name, leaf in named if isinstance(leaf, torch.Tensor)]

    def on_meta(self) -> "ModelInputs":
        """The same shapes without storage."""
        args, kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: t.to("meta"), (self.args, dict(self.kwargs))
        )
        return ModelInputs(args, kwargs, self.is_given)

    def rows(self) -> list[Array]:
        """Values of the floating-point tensors as float64, empty where there are none to read."""
        return [
            t.detach().to("cpu", torch.float64).numpy() if not t.is_meta and self.is_given
            else np.zeros((0,))
            for _, t in self.tensors()
            if t.is_floating_point()
        ]  # fmt: skip

    def describe(self) -> str:
        """Shapes and dtypes in words."""
        parts = [
            f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} on {t.device}"
            for name, t in self.tensors()
        ]
        return ", ".join(parts) or "no tensors"

    def forward_error(self, model: nn.Module) -> Exception | None:
        """What forward raises on these inputs and copies of the model's state; None if nothing."""
        # Forward may take derivatives.
        copies = Copies(model, {}, with_gradient=True)
        try:
            with torch.enable_grad(), own_randomness(model):
                copies.call(model, self.args, self.kwargs)
        # A user's forward may raise anything; it is handed back, not swallowed.
        except Exception as error:
            return error
        return None


def read_inputs(model: nn.Module, inputs: Inputs) -> ModelInputs:
    """Check what a caller gave as inputs.

    Args:
        model: the model they are for.
        inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or None for
            a Sequential that starts with a Linear layer.

    Returns:
        The arguments of forward.

    Raises:
        ArgumentError: for another type, for values that are not finite, for tensors that are empty
            or not dense, for meta tensors where the model has storage, or for None where the first
            layer does not tell the shape.
    """
    match inputs:
        case None:
            return _made_up(model)
        case torch.Tensor():
            found = ModelInputs((inputs,))
        case tuple():
            found = ModelInputs(inputs)
        case Mapping():
            found = ModelInputs((), dict(inputs))
        case _:
            raise ArgumentError(
                "inputs must be a tensor, a tuple of positional arguments or a dict of keyword "
                f"arguments, got {type(inputs).__name__}. {_remedy(inputs)}"
            )
    _refuse_foreign(found)
    has_storage = not any(p.is_meta for p in model.parameters())
    for name, tensor in found.tensors():
        _refuse_unusable(name, tensor, has_storage)
    return _outside_inference(found)


def _remedy(value: object) -> str:
    """How to make inputs of what is none."""
    match value:
        case list():
            return (
                "Wrap lists in a tuple: (batch,) for a list that is one argument; batch[0] for "
                "(inputs, targets) from a DataLoader."
            )
        case np.ndarray():
            return "Pass torch.from_numpy(array), in the dtype of the model's weights."
        case torch.utils.data.DataLoader() | torch.utils.data.Dataset():
            return "Pass one batch of it: next(iter(DataLoader(...)))[0]."
    if dataclasses.is_dataclass(value):
        return "Pass its fields: a tuple of tensors, or a dict by the names that forward takes."
    return "Pass one batch as forward takes it."


def _refuse_foreign(inputs: ModelInputs) -> None:
    """Refuse arguments that no exported forward takes."""
    leaves = pytree.tree_leaves_with_path((inputs.args, dict(inputs.kwargs)))
    for path, leaf in leaves:
        if isinstance(leaf, _CONSTANTS):
            continue
        name = f"inputs{pytree.keystr(path[1:])}"
        remedy = _remedy(leaf)
        if dataclasses.is_dataclass(leaf):
            kind = type(leaf).__name__
            remedy = f"Call torch.export.register_dataclass({kind}) once, or pass its fields."
        raise ArgumentError(
            f"{name} must be a tensor, a number, a string, None or a list, tuple or dict of them, "
            f"got {type(leaf).__name__}. {remedy}"
        )


def _refuse_unusable(name: str, tensor: torch.Tensor, has_storage: bool) -> None:
    """Refuse tensors whose values cannot be read."""
    if tensor.is_nested:
        raise ArgumentError(
            f"{name} must be dense, got a nested tensor. Pad it with "
            "torch.nested.to_padded_tensor(x, 0.0), or pass rows of one length."
        )
    if tensor.layout != torch.strided:
        raise ArgumentError(
            f"{name} must be dense, got layout {tensor.layout}. Call .to_dense() on a batch."
        )
    if tensor.is_quantized:
        raise ArgumentError(
            f"{name} must hold plain numbers, got {tensor.dtype}. Call .dequantize() on it."
        )
    if tensor.numel() == 0:
        raise ArgumentError(
            f"{name} must hold at least one entry, got shape {tuple(tensor.shape)}. "
            "Pass a batch of data."
        )
    if tensor.is_meta:
        if has_storage:
            raise ArgumentError(
                f"{name} must hold values as the model does, got a tensor on the meta device. "
                "Pass a batch of data on the model's device."
            )
        return
    if tensor.is_floating_point() or tensor.is_complex():
        # Types of 8 bits have no test of their own.
        readable = tensor if tensor.is_complex() else tensor.detach().float()
        wide = tensor if tensor.dtype.itemsize > 4 else readable
        bad = int((~torch.isfinite(wide)).sum())
        if bad:
            raise ArgumentError(
                f"{name} must be finite, got {bad} nan or infinite of {tensor.numel()} "
                "entries. Clean the data before the model is initialized with it."
            )


def _outside_inference(inputs: ModelInputs) -> ModelInputs:
    """Tensors made in inference mode cannot be traced; copies of them can."""
    with torch.inference_mode(False):
        args, kwargs = pytree.tree_map_only(
            torch.Tensor,
            lambda t: t.clone() if t.is_inference() else t,
            (inputs.args, dict(inputs.kwargs)),
        )
    return ModelInputs(args, kwargs, inputs.is_given)


def _made_up(model: nn.Module) -> ModelInputs:
    first: nn.Module = model
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if not isinstance(model, nn.Sequential) or not isinstance(first, nn.Linear):
        raise ArgumentError(
            "inputs must be given unless the model is a Sequential that starts with Linear, got "
            f"None for {type(model).__name__}. Pass a batch of its inputs."
        )
    weight = first.weight
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(
        _ROWS_WITHOUT_INPUTS, first.in_features,
        generator=generator, dtype=torch.float32, device="cpu",
    )  # fmt: skip
    return ModelInputs((rows.to(weight.device, weight.dtype),), is_given=False)


def batch_rms(tensor: torch.Tensor) -> float:
    """Root mean square of all entries, in float64; nan where there are none."""
    if tensor.numel() == 0:
        return math.nan
    return math.sqrt(float(tensor.detach().double().square().mean()))
