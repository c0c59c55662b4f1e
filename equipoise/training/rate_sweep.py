"""One sweep of a range test: the rate grows by a factor with every step, and the loss is watched.

A step is judged by the loss on the next batch, less what that batch had before the first step. So
the curve starts at 0, batches that differ in difficulty do not make it rough, and a value belongs
to the rate of the step that made it, not to the one that comes after.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equipoise.training.objective import Objective
from equipoise.training.one_step import Stepper

# Steps whose median decides whether a sweep has diverged: one bad batch must not end it.
_WATCHED = 5
# Looks at the loss of a batch at the start, where dropout makes it random.
_LOOKS = 6


@dataclass(frozen=True)
class RateCurve:
    """What one sweep saw.

    Attributes:
        rates: of the steps, shape (steps,), each a constant times the one before.
        change: loss behind each step less the loss that its batch had at the start, shape (steps,);
            inf where it was not finite.
        gradient_norms: of the gradient that each step followed, shape (steps,).
        has_diverged: whether the sweep ended early, at a loss that was not finite or had doubled.
    """

    rates: tuple[float, ...]
    change: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    has_diverged: bool


@torch.no_grad()
def losses_at_birth(objective: Objective, batches: Sequence[Any]) -> list[float]:
    """The loss of every batch on the weights as they stand, the mean of some where it is random."""
    looks = [[float(objective.of(batch)) for batch in batches] for _ in range(2)]
    if looks[0] != looks[1]:
        looks += [[float(objective.of(batch)) for batch in batches] for _ in range(_LOOKS - 2)]
    return [statistics.fmean(losses) for losses in zip(*looks, strict=True)]


def sweep(
    stepper: Stepper,
    objective: Objective,
    batches: Sequence[Any],
    at_birth: Sequence[float],
    rates: Sequence[float],
    seed: int,
) -> RateCurve:
    """Train through all rates, or until the loss has doubled.

    Args:
        stepper: takes the steps.
        objective: what is minimised.
        batches: to train on, in an order that the seed decides, again and again.
        at_birth: loss of each at the start.
        rates: in order.
        seed: of the order, and of torch while the sweep lasts.

    Returns:
        The curve; the model is left where the sweep ended.
    """
    torch.manual_seed(seed)
    order = _order(len(batches), len(rates) + 1, seed)
    scale = abs(statistics.mean(at_birth))
    change, norms = list[float](), list[float]()
    diverged = False
    for step, (which, rate) in enumerate(zip(order, rates, strict=False)):
        stepper.set_rate(rate)
        taken = stepper.step(batches[which])
        norms.append(taken.gradient_norm)
        if step:
            change.append(_change(taken.loss, at_birth[which]))
            watched = statistics.median(change[-_WATCHED:])
            if math.isinf(change[-1]) or watched > scale - min(0.0, *change):
                diverged = True
                break
    if not diverged:
        with torch.no_grad():
            after = float(objective.of(batches[order[-1]]))
        change.append(_change(after, at_birth[order[-1]]))
        diverged = math.isinf(change[-1])
    done = len(change)
    return RateCurve(tuple(rates[:done]), tuple(change), tuple(norms[:done]), diverged)


def _change(loss: float, before: float) -> float:
    return loss - before if math.isfinite(loss) else math.inf


def _order(count: int, length: int, seed: int) -> list[int]:
    """Every batch once in a random order, then again in another."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(count) for _ in range(-(-length // count))]
    return [int(i) for i in np.concatenate(rounds)[:length]]
