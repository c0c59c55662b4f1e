"""One step of an optimizer at a rate, as a training loop would take it."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from equipoise.errors import ArgumentError
from equipoise.training.objective import Objective


@dataclass(frozen=True)
class Step:
    """What a step started from.

    Attributes:
        loss: on the batch, before the step.
        gradient_norm: over all parameters, before clipping.
    """

    loss: float
    gradient_norm: float


class Stepper:
    """Takes steps of an optimizer, at one rate for all groups but for the ratios they have.

    Args:
        objective: what is minimised.
        optimizer: anything with ``param_groups``, ``zero_grad`` and ``step``.
        scaler: of gradients in half precision, or None.
        clip_norm: largest norm of the gradient, inf for none.

    Raises:
        ArgumentError: if the optimizer has no learning rate, or moves nothing of the model.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Any,
        scaler: GradScaler | None = None,
        clip_norm: float = math.inf,
    ) -> None:
        _refuse_unfit(objective, optimizer)
        self.optimizer, self.scaler = optimizer, scaler
        self._objective, self._clip_norm = objective, clip_norm
        parameters = inspect.signature(optimizer.step).parameters
        # A scaler cannot step with a closure: it must look at the gradients in between.
        self._takes_closure = "closure" in parameters and scaler is None
        if scaler is not None and parameters.get("closure", None) is not None:
            if parameters["closure"].default is inspect.Parameter.empty:
                raise ArgumentError(
                    f"scaler must be left out for {type(optimizer).__name__}, whose step takes a "
                    "closure. Train it in bfloat16 or float32."
                )
        self._shares = group_shares(optimizer)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What the optimizer moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def set_rate(self, rate: float) -> None:
        """Give the first group this rate, and every other in proportion."""
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share

    def step(self, batch: Any) -> Step:
        """Forward, backward and one step on a batch; gradients from before are dropped."""
        seen: list[Step] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self._objective.of(batch)
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            seen.append(Step(float(loss.detach()), self._cut()))
            return loss

        if self._takes_closure:
            self.optimizer.step(closure)
        else:
            closure()
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        return seen[0]

    def _cut(self) -> float:
        held = [p for p in self.parameters if p.grad is not None]
        return float(torch.nn.utils.clip_grad_norm_(held, self._clip_norm))


def group_shares(optimizer: Any) -> list[float]:
    """Rate of each group over that of the first.

    A schedule may have set all rates to 0, as at the start of a warm-up: then what it started from
    counts, and groups are alike where that is not known.
    """
    for key in ("lr", "initial_lr"):
        rates = [float(group.get(key, 0.0)) for group in optimizer.param_groups]
        if rates[0] > 0:
            return [rate / rates[0] for rate in rates]
    return [1.0] * len(optimizer.param_groups)


def own_rate(optimizer: Any) -> float:
    """The rate of the first group as it stands, or as its schedule started."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) or float(group.get("initial_lr", 0.0))


def _refuse_unfit(objective: Objective, optimizer: Any) -> None:
    groups = getattr(optimizer, "param_groups", [])
    if not groups or any("lr" not in group for group in groups):
        raise ArgumentError(
            f"optimizer must have param_groups with a learning rate 'lr', got "
            f"{type(optimizer).__name__}. Pass the optimizer of torch.optim, or what wraps it."
        )
    moved = {id(p) for group in groups for p in group["params"]}
    if not any(id(p) in moved for p in objective.model.parameters() if p.requires_grad):
        raise ArgumentError(
            "optimizer must hold trained parameters of the model, got none of them. Make it from "
            "model.parameters() of this very model."
        )
