"""The inputs a caller gives: a tensor, a tuple, a dict of keyword arguments, or none."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.schemes.laws import Array

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

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors with the name of their argument, in the order export numbers them."""
        for i, value in enumerate(self.args):
            if isinstance(value, torch.Tensor):
                yield f"inputs[{i}]" if len(self.args) > 1 else "inputs", value
        for name, value in self.kwargs.items():
            if isinstance(value, torch.Tensor):
                yield f"inputs[{name!r}]", value

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
        state = {name: t.detach().clone() for name, t in model.state_dict(keep_vars=True).items()}
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.func.functional_call(model, state, self.args, dict(self.kwargs))
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
    return found


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
    """Root mean square of all entries, in float64."""
    return math.sqrt(float(tensor.detach().double().square().mean()))
