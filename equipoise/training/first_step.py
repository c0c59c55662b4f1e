"""The first step of an optimizer as a line: how far along it the loss falls, and where it is back.

Adam's first step moves every weight by the rate, along the sign of its gradient. To first order the
loss falls by the rate times the sum of |g|; that all weights move together makes hidden values
change by a factor long before, and the loss turns. Where it turns is found with forward passes
alone, on the very step that the optimizer would take.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.utils import _pytree as pytree

from equipoise.training.kept import kept
from equipoise.training.objective import LossFunction, Objective
from equipoise.training.one_step import Stepper

# The search starts where weights change by a thousandth and goes up in factors of 4, then 2.
_SMALL, _COARSE, _FINE, _MOST = 1e-3, 4.0, 2.0, 16
# Weights that a trial step should change by, for rounding not to show in the difference.
_VISIBLE = 1e-2


@dataclass(frozen=True)
class StepLine:
    """The loss along one step.

    Attributes:
        loss: before the step.
        slope: change of the loss per unit of the rate, to first order; below 0 where the step
            goes down.
        rates: where the loss was measured, in order, shape (n,).
        losses: there, on the batch that made the step; inf where not finite.
        lowest_at: rate at which the loss along the step is lowest.
        returns_at: rate at which it is back where it was; inf where it is never seen there.
        output_change: RMS of the change of the outputs per unit of the rate, over the RMS of the
            outputs, at the smallest rate; nan where outputs are 0.
        passes: forward passes that it took; a backward pass counts as two.
        has_settled: whether a small step was taken before, since some weights had no gradient.
    """

    loss: float
    slope: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    lowest_at: float
    returns_at: float
    output_change: float
    passes: int
    has_settled: bool


def step_line(
    objective: Objective,
    optimizer: Any,
    batch: Any,
    scaler: GradScaler | None = None,
    clip_norm: float = math.inf,
    seed: int = 0,
) -> StepLine:
    """Follow the step that an optimizer would take on a batch.

    Args:
        objective: what is minimised.
        optimizer: as it is; its own state counts.
        batch: one batch.
        scaler: as in training.
        clip_norm: as in training.
        seed: of torch before each pass, so that dropout has one mask.

    Returns:
        What was found; model, optimizer and generators are as before.
    """
    with kept(objective.model, optimizer, scaler):
        stepper = Stepper(objective, optimizer, scaler, clip_norm)
        moved = [p for p in stepper.parameters if p.requires_grad]
        settled = _settle(stepper, objective, moved, batch, seed)
        before = [p.detach().clone() for p in moved]
        direction, slope = _direction(stepper, objective, moved, before, batch, seed)
        with torch.no_grad():
            loss_at = _along(objective, moved, before, direction, batch, seed)
            start, outputs = loss_at(0.0)
            size = _norm(before) or math.sqrt(sum(p.numel() for p in moved))
            first = _SMALL * size / (_norm(direction) or 1.0)
            found, near = {0.0: start}, loss_at(first)
            found[first] = near[0]
            _search(found, first, lambda rate: loss_at(rate)[0])
            change = _relative(outputs, near[1]) / first
    rates = sorted(rate for rate in found if rate > 0)
    losses = [found[rate] for rate in rates]
    lowest, returns = _lowest(rates, losses, start), _returns(rates, losses, start)
    passes = len(found) + 3 * (1 + settled) + 3
    return StepLine(
        start, slope, tuple(rates), tuple(losses), lowest, returns, change, passes, settled
    )


def _settle(
    stepper: Stepper, objective: Objective, moved: list[torch.Tensor], batch: Any, seed: int
) -> bool:
    """Take one small step where some weights wait for others that are 0, such as a zeroed head."""
    torch.manual_seed(seed)
    gradients = torch.autograd.grad(objective.of(batch), moved, allow_unused=True)
    if not any(g is not None and not bool(g.any()) for g in gradients):
        return False
    before = [p.detach().clone() for p in moved]
    direction, _ = _direction(stepper, objective, moved, before, batch, seed)
    size = _norm(before) or 1.0
    with torch.no_grad():
        for p, b, d in zip(moved, before, direction, strict=True):
            p.copy_(b + d * (_SMALL * size / (_norm(direction) or 1.0)))
    return True


def _direction(
    stepper: Stepper,
    objective: Objective,
    moved: list[torch.Tensor],
    before: list[torch.Tensor],
    batch: Any,
    seed: int,
) -> tuple[list[torch.Tensor], float]:
    """Change of the weights per unit of the rate, and the slope of the loss along it."""
    rate = 1.0
    for _ in range(2):
        with kept(objective.model, stepper.optimizer, stepper.scaler):
            torch.manual_seed(seed)
            stepper.set_rate(rate)
            stepper.step(batch)
            direction = [
                (p.detach() - b).div_(rate) for p, b in zip(moved, before, strict=True)
            ]  # fmt: skip
        share = rate * _norm(direction) / (_norm(before) or 1.0)
        if share >= _VISIBLE or share == 0.0 or not math.isfinite(share):
            break
        # So small a difference is mostly rounding: look at a longer step.
        rate *= 10 * _VISIBLE / share
    torch.manual_seed(seed)
    gradients = torch.autograd.grad(objective.of(batch), moved, allow_unused=True)
    slope = sum(
        float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None
    )
    return direction, slope


def _along(
    objective: Objective,
    moved: list[torch.Tensor],
    before: list[torch.Tensor],
    direction: list[torch.Tensor],
    batch: Any,
    seed: int,
) -> Callable[[float], tuple[float, list[torch.Tensor]]]:
    def at(rate: float) -> tuple[float, list[torch.Tensor]]:
        for p, b, d in zip(moved, before, direction, strict=True):
            p.copy_(torch.add(b, d, alpha=rate))
        torch.manual_seed(seed)
        outputs, targets = objective.outputs(batch)
        loss = float(objective.measured(outputs, targets))
        numbers = [
            t.double() for t in pytree.tree_leaves(outputs)
            if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]  # fmt: skip
        return (loss if math.isfinite(loss) else math.inf), numbers

    return at


def _search(found: dict[float, float], first: float, loss_at: Callable[[float], float]) -> None:
    """Measure until the lowest point is between two neighbours and the loss is back behind it."""
    start, rate = found[0.0], first
    while found[rate] < start and len(found) < _MOST:
        rate *= _COARSE
        found[rate] = loss_at(rate)
    low = first
    while found[low] >= start and len(found) < _MOST and low > 1e-6 * first:
        low /= _COARSE
        found[low] = loss_at(low)
    lowest = min(found, key=lambda r: found[r])
    for rate in (lowest / _FINE, lowest * _FINE):
        if rate > 0:
            found[rate] = loss_at(rate)


def _lowest(rates: list[float], losses: list[float], start: float) -> float:
    """Rate of the lowest loss, by a parabola in the logarithm of the rate; nan where none falls."""
    i = min(range(len(rates)), key=lambda k: losses[k])
    if losses[i] >= start:
        return math.nan
    if 0 < i < len(rates) - 1 and all(math.isfinite(y) for y in losses[i - 1 : i + 2]):
        (a, x, b), (p, y, q) = (math.log(r) for r in rates[i - 1 : i + 2]), losses[i - 1 : i + 2]
        up, down = (q - y) / (b - x), (y - p) / (x - a)
        bend = (up - down) / (b - a)
        if bend > 0:
            middle = (a + x) / 2 - down / (2 * bend)
            return math.exp(min(max(middle, a), b))
    return rates[i]


def _returns(rates: list[float], losses: list[float], start: float) -> float:
    """Rate at which the loss crosses its start from below, inf where it does not."""
    for (a, p), (b, q) in zip(
        zip(rates, losses, strict=True), list(zip(rates, losses, strict=True))[1:], strict=False
    ):
        if p < start <= q:
            # An infinite loss tells only that the crossing lies in between.
            share = (start - p) / (q - p) if math.isfinite(q) else 0.5
            return math.exp(math.log(a) + share * math.log(b / a))
    return math.inf


def _norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def _relative(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    size = _norm(before)
    if size == 0.0:
        return math.nan
    return _norm([b - a for a, b in zip(before, after, strict=True)]) / size


def follows_gradient(objective: Objective, optimizer: Any, batch: Any, seed: int = 0) -> bool:
    """Whether a first step grows with its gradient, as that of SGD does and Adam's does not.

    Args:
        objective: what is minimised.
        optimizer: asked without its state; left as it was.
        batch: one batch.
        seed: of torch before each pass.
    """
    sizes = list[float]()
    for factor in (1.0, 4.0):
        with kept(objective.model, optimizer):
            if hasattr(optimizer, "state"):
                optimizer.state.clear()
            louder = Objective(
                objective.model, _times(objective.loss, factor), objective.precision
            )  # fmt: skip
            stepper = Stepper(louder, optimizer)
            moved = [p for p in stepper.parameters if p.requires_grad]
            before = [p.detach().clone() for p in moved]
            torch.manual_seed(seed)
            stepper.set_rate(1.0)
            stepper.step(batch)
            sizes.append(_norm([p.detach() - b for p, b in zip(moved, before, strict=True)]))
    # Halfway between a factor of 1 and of 4.
    return sizes[1] > 2.0 * sizes[0]


def _times(loss: LossFunction, factor: float) -> LossFunction:
    return lambda *given: factor * loss(*given)
