"""The loss of a model on a batch, and batches that can be gone through again."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from equipoise import _checks
from equipoise.errors import ArgumentError

LossFunction = Callable[..., torch.Tensor]
_NO_PRECISION = (None, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a model by batch.

    Attributes:
        model: any module.
        loss: loss(outputs, targets), or loss(outputs) where a batch has no targets.
        precision: dtype that forward runs in under autocast, or None for its own.
    """

    model: nn.Module
    loss: LossFunction
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ArgumentError(
                "model must have a parameter that is trained, got none that requires a gradient. "
                "Unfreeze one."
            )
        if any(p.is_meta for p in self.model.parameters()):
            raise ArgumentError(
                "model must hold values, got parameters on the meta device. Call to_empty and "
                "initialize it first."
            )
        if self.precision not in _NO_PRECISION:
            raise ArgumentError(
                f"precision must be None, torch.bfloat16 or torch.float16, got {self.precision}. "
                "Leave it out to train in the dtype of the weights."
            )

    @property
    def device(self) -> torch.device:
        """Where batches go: the device of the first parameter."""
        return next(self.model.parameters()).device

    def outputs(
        self, batch: Any, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[Any, tuple[Any, ...]]:
        """What forward returns for a batch, and the targets in a tuple, empty where none are.

        Args:
            batch: as ``read_batches`` has it.
            buffers: tensors to run on in place of the model's buffers, by name.
        """
        args, kwargs, targets = _arguments(_moved(batch, self.device))
        with torch.autocast(self.device.type, self.precision, self.precision is not None):
            if buffers is None:
                made = self.model(*args, **kwargs)
            else:
                made = torch.func.functional_call(self.model, dict(buffers), args, kwargs)
        return made, targets

    def measured(self, outputs: Any, targets: tuple[Any, ...]) -> torch.Tensor:
        """The loss of outputs, a scalar.

        Raises:
            ArgumentError: if the loss does not return one real number that hangs on the outputs.
        """
        with torch.autocast(self.device.type, self.precision, self.precision is not None):
            value = self.loss(outputs, *targets)
        if (
            not isinstance(value, torch.Tensor)
            or value.numel() != 1
            or not value.is_floating_point()
        ):
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ArgumentError(
                f"loss must return one real number as a tensor, got {got}. Take its mean."
            )
        if torch.is_grad_enabled() and not value.requires_grad:
            raise ArgumentError(
                "loss must hang on the trained parameters, got a number without a gradient. Take "
                "out detach, item and no_grad, also in forward."
            )
        return value.reshape(())

    def of(self, batch: Any, buffers: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The loss on a batch, a scalar, with its graph where gradients are on."""
        return self.measured(*self.outputs(batch, buffers))


def read_batches(batches: Any, most: int) -> list[Any]:
    """The first batches of what a caller gave, as a list.

    A batch is ``(inputs, targets)``, a tensor of inputs alone, or a dict of keyword arguments of
    forward; inputs are a tensor, a tuple of positional arguments or a dict. A tuple, a tensor, a
    dict and a list of two tensors (what a DataLoader yields) are one batch; anything else is gone
    through.

    Args:
        batches: one batch, a list of them or a DataLoader.
        most: batches to read at the most, at least 1.

    Returns:
        One batch or more.

    Raises:
        ArgumentError: for an iterator, which could not be left as it was, and for none at all.
    """
    _checks.at_least("most", most, 1)
    is_pair = isinstance(batches, list) and len(batches) == 2
    if isinstance(batches, torch.Tensor | tuple | Mapping) or (
        is_pair and all(isinstance(part, torch.Tensor) for part in batches)
    ):
        return [batches]
    if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
        raise ArgumentError(
            f"batches must be a batch, a list of batches or a DataLoader, got "
            f"{type(batches).__name__}. Pass list(itertools.islice(it, 50)) for an iterator: what "
            "is taken from one cannot be put back."
        )
    found = list(islice(_apart(batches), most))
    if not found:
        raise ArgumentError("batches must hold at least one batch, got none. Pass some data.")
    return found


def generators_in(batches: Any) -> list[torch.Generator]:
    """The generators that decide the order of a DataLoader's batches."""
    samplers = [batches, getattr(batches, "sampler", None)]
    samplers.append(getattr(getattr(batches, "batch_sampler", None), "sampler", None))
    found = [getattr(holder, "generator", None) for holder in samplers]
    return [g for g in found if isinstance(g, torch.Generator)]


def _apart(batches: Iterable[Any]) -> Iterable[Any]:
    """The same, so that a caller in the middle of an epoch is not sent back to its start."""
    if isinstance(batches, DataLoader) and batches.persistent_workers:
        # Its one iterator is kept in the loader and would be reset.
        batches = copy.copy(batches)
        vars(batches)["_iterator"] = None
    return batches


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """Arguments of forward, by place and by name, and targets in a tuple."""
    match batch:
        case Mapping():
            return (), dict(batch), ()
        case (Mapping() as inputs, targets):
            return (), dict(inputs), (targets,)
        case (tuple(inputs), targets):
            return inputs, {}, (targets,)
        case (inputs, targets) if not isinstance(batch, torch.Tensor):
            return (inputs,), {}, (targets,)
        case torch.Tensor():
            return (batch,), {}, ()
    raise ArgumentError(
        f"a batch must be (inputs, targets), a tensor or a dict of arguments of forward, got "
        f"{_shown(batch)}. Put several inputs in a tuple of their own: ((a, b), targets)."
    )


def _shown(batch: Any) -> str:
    name = type(batch).__name__
    return f"a {name} of {len(batch)}" if isinstance(batch, tuple | list) else name


def _moved(batch: Any, device: torch.device) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), batch)
