"""The inputs a caller gives: a tensor, a tuple, a dict of keyword arguments, or none."""

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
        copies = Copies(model, {}, with_gradient=False)
        try:
            with torch.no_grad(), own_randomness(model):
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
        ArgumentError: for another type, for values that are not finite, for empty tensors, or for
            None where the first layer does not tell the shape.
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
                f"arguments, got {type(inputs).__name__}. Wrap lists in a tuple."
            )
    for name, tensor in found.tensors():
        if tensor.layout != torch.strided:
            raise ArgumentError(
                f"{name} must be dense, got layout {tensor.layout}. Call .to_dense() on a batch."
            )
        if tensor.numel() == 0:
            raise ArgumentError(
                f"{name} must hold at least one entry, got shape {tuple(tensor.shape)}. "
                "Pass a batch of data."
            )
        if tensor.is_floating_point() and not tensor.is_meta:
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise ArgumentError(
                    f"{name} must be finite, got {bad} nan or infinite of {tensor.numel()} "
                    "entries. Clean the data before the model is initialized with it."
                )
    return _outside_inference(found)


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
        _ROWS_WITHOUT_INPUTS, first.in_features, generator=generator, dtype=torch.float32
    )
    return ModelInputs((rows.to(weight.device, weight.dtype),), is_given=False)


def batch_rms(tensor: torch.Tensor) -> float:
    """Root mean square of all entries, in float64; nan where there are none."""
    if tensor.numel() == 0:
        return math.nan
    return math.sqrt(float(tensor.detach().double().square().mean()))
