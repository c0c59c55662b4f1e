"""The loss that gradients are of: the caller's, one that fits the targets, or none."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.errors import ArgumentError

LossFunction = Callable[..., torch.Tensor]
# What torch leaves out of a cross-entropy by default.
_IGNORED = -100


@dataclass(frozen=True)
class LossFacts:
    """What is known of a loss, under the names that ``Measurements`` has for it."""

    loss: float = math.nan
    loss_name: str = ""
    classes: int = 0
    target_rms: float = math.nan
    target_mean: float = math.nan
    target_problem: str = ""


@dataclass(frozen=True, eq=False)
class Loss:
    """What gradients are of.

    Attributes:
        function: loss(outputs, targets), or loss(outputs) without targets; None to choose by the
            targets.
        targets: what the outputs are held against, or None.
    """

    function: LossFunction | None = None
    targets: torch.Tensor | None = None

    def at(self, rows: torch.Tensor) -> "Loss":
        """The same for some of the rows."""
        if self.targets is None:
            return self
        return Loss(self.function, self.targets[rows.to(self.targets.device)])

    def of(self, output: Any) -> tuple[torch.Tensor | None, LossFacts]:
        """The loss of a model's output, and what is known of it.

        Args:
            output: what forward returned.

        Returns:
            The loss, None where there is none to compute: gradients are then of a random
            projection of the output.

        Raises:
            ArgumentError: if no loss fits the targets, or the caller's loss raises or does not
                return one number.
        """
        if self.function is None and self.targets is None:
            return None, LossFacts()
        if self.function is None:
            return _chosen(output, self.targets)
        classes = _classes(output) if _is_cross_entropy(self.function) else 0
        facts = _facts(_name(self.function), classes, self.targets)
        if facts.target_problem:
            return None, facts
        given = (output,) if self.targets is None else (output, self.targets)
        try:
            value = self.function(*given)
        # A user's loss may raise anything.
        except Exception as error:
            shown = "outputs" if self.targets is None else "outputs, targets"
            raise ArgumentError(
                f"loss must accept ({shown}), it raised {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}. Wrap it so "
                "that it takes what forward returns."
            ) from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ArgumentError(
                f"loss must return one number as a tensor, got {found}. Take its mean."
            )
        value = value.reshape(())
        return value, LossFacts(**{**facts.__dict__, "loss": float(value.detach())})


NO_LOSS = Loss()


def _chosen(output: Any, targets: torch.Tensor | None) -> tuple[torch.Tensor | None, LossFacts]:
    """Cross-entropy for class numbers, mean squared error for numbers of the output's shape."""
    assert targets is not None
    made = next(
        (t for t in pytree.tree_leaves(output)
         if isinstance(t, torch.Tensor) and t.is_floating_point()), None,
    )  # fmt: skip
    if made is None:
        raise ArgumentError(
            f"targets need a loss where forward returns {type(output).__name__}. Pass loss=."
        )
    shape, wanted = tuple(made.shape), tuple(targets.shape)
    if targets.is_floating_point():
        if shape != wanted and made.numel() == targets.numel() and shape[:1] == wanted[:1]:
            made = made.reshape(wanted)
        if tuple(made.shape) == wanted:
            value = F.mse_loss(made, targets.to(made))
            facts = _facts("mean squared error, by float targets of the output's shape", 0, targets)
            return value, LossFacts(**{**facts.__dict__, "loss": float(value.detach())})
    elif not targets.is_complex():
        scores = None
        if len(shape) > 1 and shape[:1] + shape[2:] == wanted:
            scores = made
        elif len(shape) > 1 and shape[:-1] == wanted:
            scores = made.movedim(-1, 1)
        if scores is not None and scores.shape[1] > 1:
            facts = _facts("cross-entropy, by integer targets", scores.shape[1], targets)
            if facts.target_problem:
                return None, facts
            value = F.cross_entropy(scores, targets.long())
            return value, LossFacts(**{**facts.__dict__, "loss": float(value.detach())})
    raise ArgumentError(
        f"targets must be class numbers of shape {shape[:1] + shape[2:]} or floats of shape "
        f"{shape}, got {str(targets.dtype).removeprefix('torch.')} of shape {wanted}. Pass loss= "
        "for anything else."
    )


def _facts(name: str, classes: int, targets: torch.Tensor | None) -> LossFacts:
    if targets is None or not targets.numel():
        return LossFacts(loss_name=name, classes=classes)
    if targets.is_floating_point():
        numbers = targets.detach().double()
        bad = int((~torch.isfinite(numbers)).sum())
        problem = f"{bad} of {numbers.numel()} targets are nan or infinite" if bad else ""
        rms = float(numbers.square().mean().sqrt())
        return LossFacts(math.nan, name, classes, rms, float(numbers.mean()), problem)
    problem = ""
    if classes:
        kept = targets[targets != _IGNORED]
        low, high = (int(kept.min()), int(kept.max())) if kept.numel() else (0, 0)
        if low < 0 or high >= classes:
            problem = f"class numbers run from {low} to {high}, the output has {classes} classes"
    return LossFacts(loss_name=name, classes=classes, target_problem=problem)


def _is_cross_entropy(function: LossFunction) -> bool:
    return function is F.cross_entropy or isinstance(function, nn.CrossEntropyLoss)


def _classes(output: Any) -> int:
    is_scores = isinstance(output, torch.Tensor) and output.dim() > 0
    return int(output.shape[1 if output.dim() > 1 else 0]) if is_scores else 0


def _name(function: LossFunction) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
