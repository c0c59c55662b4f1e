"""The learning rate that a start deserves, found on data held back from training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, Training, train
from equipoise.lab.data import Classification

# Half a decade: what two neighbours differ by.
STEP = 10**0.5


@dataclass(frozen=True)
class RateSearch:
    """Mean accuracy on held-back rows by learning rate.

    Attributes:
        rate: the best.
        by_rate: mean accuracy over draws of every rate tried, in the order of the rates.
    """

    rate: float
    by_rate: tuple[tuple[float, float], ...]


def rates_around(centre: float, steps: int) -> tuple[float, ...]:
    """Learning rates half a decade apart, ``steps`` on each side of the centre.

    >>> [f"{rate:.1e}" for rate in rates_around(1e-3, 1)]
    ['3.2e-04', '1.0e-03', '3.2e-03']
    """
    _checks.positive("centre", centre)
    _checks.at_least("steps", steps, 0)
    return tuple(centre * STEP**i for i in range(-steps, steps + 1))


def pick_rate(
    replicas: Replicas,
    task: Classification,
    rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int = 20,
    batch_size: int = 64,
    extensions: int = 2,
    at_most: int = 32,
) -> RateSearch:
    """The rate with the best mean accuracy; a grid whose best lies at its end goes on there.

    Args:
        replicas: one for each draw.
        task: its test part must be rows held back from the training part.
        rates: in rising order.
        seeds: of the batches, one for each draw: the same at every rate.
        epochs: as for ``train``.
        batch_size: as for ``train``.
        extensions: how many rates may be added at the ends, half a decade each.
        at_most: replicas trained at a time.

    Returns:
        The search.

    Raises:
        ArgumentError: without rates, or with rates that do not rise.
    """
    if not rates or any(a >= b for a, b in pairwise(rates)):
        raise ArgumentError(f"rates must rise, got {list(rates)}. Sort them.")
    found: dict[float, float] = {}
    wanted = list(rates)
    for extension in range(extensions + 1):
        count = len(seeds)
        repeated = replicas.repeat(len(wanted))
        each = [rate for rate in wanted for _ in seeds]
        done = train_in_parts(
            repeated, task, each, list(seeds) * len(wanted), epochs, batch_size, at_most
        )
        found |= zip(wanted, done.view(len(wanted), count).mean(1).tolist(), strict=True)
        best, ordered = max(found, key=lambda rate: found[rate]), sorted(found)
        at_end = {ordered[0]: 1 / STEP, ordered[-1]: STEP}
        if extension == extensions or best not in at_end:
            break
        # Where nothing learns, the ends lead nowhere.
        if max(found.values()) - min(found.values()) < 1 / len(task.y_test):
            break
        wanted = [best * at_end[best]]
    return RateSearch(best, tuple((rate, found[rate]) for rate in sorted(found)))


def train_in_parts(
    replicas: Replicas,
    task: Classification,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int = 20,
    batch_size: int = 64,
    at_most: int = 32,
) -> torch.Tensor:
    """Test accuracy of every replica, shape (R,), training no more than ``at_most`` at a time."""
    _checks.at_least("at_most", at_most, 1)
    parts: list[Training] = []
    for first in range(0, len(seeds), at_most):
        here = slice(first, first + at_most)
        some = Replicas(replicas.layers, replicas.parameters[here])
        parts.append(train(some, task, learning_rates[here], seeds[here], epochs, batch_size))
    return torch.cat([part.score for part in parts])
