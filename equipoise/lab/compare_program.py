"""Losses and gradients of replicas of any model: all at once under vmap, or one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from equipoise.errors import ArgumentError, TraceError, in_words
from equipoise.lab.compare_loss import Loss
from equipoise.lab.compare_rows import Rows

# Rows of the test part that go through the model at a time.
_TESTED = 512


@dataclass(frozen=True, eq=False)
class Starts:
    """R replicas of one model.

    Attributes:
        weights: what is trained, shape (R, P), parameter by parameter.
        fixed: buffers and frozen parameters by name, shape (R, ...) each.
    """

    weights: torch.Tensor
    fixed: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.weights)

    def at(self, index: torch.Tensor) -> "Starts":
        """Copies of the replicas of these numbers."""
        return Starts(self.weights[index], {name: v[index] for name, v in self.fixed.items()})


class Program:
    """What a model computes with other weights than its own, which are never touched.

    Attributes:
        is_vectorised: whether all replicas are computed at once.
    """

    def __init__(self, model: nn.Module, loss: Loss, is_vectorised: bool) -> None:
        """Make the program of a model.

        Args:
            model: whose forward is used; its mode changes.
            loss: mean over rows of outputs and targets.
            is_vectorised: whether to compute all replicas at once.
        """
        self.is_vectorised = is_vectorised
        self._model, self._loss = model, loss
        trained = trained_parameters(model)
        self._shapes = {name: p.shape for name, p in trained.items()}
        self._dtypes = {name: p.dtype for name, p in trained.items()}
        self._sizes = [p.numel() for p in trained.values()]

    @property
    def size(self) -> int:
        """Number of trained entries of one replica."""
        return sum(self._sizes)

    def gradients(self, starts: Starts, batch: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass in training mode; running statistics in ``starts.fixed`` move on.

        Args:
            starts: the replicas.
            batch: inputs and targets of each, shapes (R, B, ...).

        Returns:
            Losses, shape (R,), and their gradients, shape (R, P).
        """
        self._model.train()
        parts = self._parts(starts.weights)
        with torch.enable_grad():
            for part in parts.values():
                part.requires_grad_()
            losses, fixed = self._run(parts, starts.fixed, batch, shared=False)
            found = torch.autograd.grad(losses.sum(), list(parts.values()), allow_unused=True)
        starts.fixed.update({name: value.detach() for name, value in fixed.items()})
        rows = len(starts)
        gradient = [
            # What forward does not use has no gradient.
            torch.zeros_like(part).view(rows, -1) if g is None else g.reshape(rows, -1)
            for g, part in zip(found, parts.values(), strict=True)
        ]
        return losses.detach(), torch.cat(gradient, 1).to(starts.weights.dtype)

    @torch.no_grad()
    def test_losses(self, starts: Starts, rows: Rows) -> torch.Tensor:
        """Mean loss of each replica over rows in evaluation mode, shape (R,)."""
        self._model.eval()
        parts, total = self._parts(starts.weights), torch.zeros(())
        for piece in rows.pieces(_TESTED):
            losses, _ = self._run(parts, dict(starts.fixed), piece, shared=True)
            total = total.to(losses) + losses * len(piece)
        return total / len(rows)

    @torch.no_grad()
    def outputs(self, starts: Starts, rows: Rows) -> Any:
        """Outputs of the first replica in evaluation mode."""
        self._model.eval()
        parts = {name: part[0] for name, part in self._parts(starts.weights).items()}
        fixed = {name: value[0] for name, value in starts.fixed.items()}
        return functional_call(self._model, {**parts, **fixed}, (rows.x.clone(),))

    def try_out(self, starts: Starts, rows: Rows) -> None:
        """Run one replica on some rows, and refuse a model or a loss that cannot be trained.

        Raises:
            TraceError: if forward fails.
            ArgumentError: if the loss fails, or is not one number that depends on the weights.
        """
        self._model.train()
        parts = {
            name: part[0].requires_grad_() for name, part in self._parts(starts.weights).items()
        }
        state = {**parts, **{name: value[0].clone() for name, value in starts.fixed.items()}}
        shape = tuple(rows.x.shape)
        with torch.enable_grad():
            try:
                outputs = functional_call(self._model, state, (rows.x.clone(),))
            # Forward is the caller's: it may raise anything.
            except Exception as error:
                raise TraceError(
                    f"forward must take a batch of inputs, got one of shape {shape}, on which it "
                    f"raised {in_words(error)}. Shape x as forward wants it."
                ) from error
            try:
                value = self._loss(outputs, rows.y)
            except ArgumentError:
                raise
            # So is the loss.
            except Exception as error:
                raise ArgumentError(
                    f"loss must take outputs and targets of shape {tuple(rows.y.shape)}, on which "
                    f"it raised {in_words(error)}. Check the shape and dtype of y."
                ) from error
        is_number = isinstance(value, torch.Tensor) and value.numel() == 1
        if not is_number or not value.requires_grad:
            got = (
                f"shape {tuple(value.shape)}{'' if value.requires_grad else ' without gradient'}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ArgumentError(
                f"loss must return one number as a tensor that depends on the weights, got {got}. "
                "Return a mean over rows, without detach or item."
            )

    def _parts(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of the weights by parameter, shape (R, ...)."""
        named = zip(self._shapes, torch.split(weights, self._sizes, 1), strict=True)
        return {
            name: part.view(len(weights), *self._shapes[name]).to(self._dtypes[name]).detach()
            for name, part in named
        }

    def _run(
        self,
        parts: dict[str, torch.Tensor],
        fixed: dict[str, torch.Tensor],
        batch: Rows,
        shared: bool,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses, and what forward made of the buffers; rows are each replica's, or shared."""
        if self.is_vectorised:
            rows = None if shared else 0
            call: Callable[..., Any] = vmap(self._one, in_dims=(0, 0, rows, rows))
            losses, after = call(parts, fixed, batch.x, batch.y)
            return losses, after
        each = []
        for i in range(len(next(iter(parts.values())))):
            some = {name: part[i] for name, part in parts.items()}
            # Buffers are written in place.
            kept = {name: value[i].clone() for name, value in fixed.items()}
            x, y = (batch.x, batch.y) if shared else (batch.x[i], batch.y[i])
            each.append(self._one(some, kept, x, y))
        after = {name: torch.stack([kept[name] for _, kept in each]) for name in fixed}
        return torch.stack([loss for loss, _ in each]), after

    def _one(
        self,
        parts: dict[str, torch.Tensor],
        fixed: dict[str, torch.Tensor],
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # Buffers that forward replaces come back in the same dict.
        state = {**parts, **fixed}
        # Forward may write into its input.
        loss = self._loss(functional_call(self._model, state, (x.clone(),)), y)
        return loss.reshape(()), {name: state[name] for name in fixed}


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that ask for gradients, by name; tied ones once.

    Raises:
        ArgumentError: if there are none, or some are complex.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ArgumentError(
            f"model must have parameters that are trained, got none in {type(model).__name__}. "
            "Set requires_grad."
        )
    odd = [name for name, p in trained.items() if p.is_complex()]
    if odd:
        raise ArgumentError(
            f"parameters must be real to be compared, got complex {odd[0]!r}. "
            "Hold its two parts apart."
        )
    return trained


def stacked(models: list[nn.Module]) -> Starts:
    """Copies of the weights and buffers of models of one shape."""
    rows, others = [], []
    for model in models:
        trained = trained_parameters(model)
        rows.append(torch.cat([p.detach().reshape(-1) for p in trained.values()]))
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        others.append({k: v.detach() for k, v in held.items() if k not in trained})
    return Starts(torch.stack(rows), {k: torch.stack([o[k] for o in others]) for k in others[0]})
