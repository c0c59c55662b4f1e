"""Training of replicas of any model, each with its own rate and batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from equipoise.lab.compare_program import Program, Starts
from equipoise.lab.compare_rows import Rows
from equipoise.lab.compare_starts import seed_all
from equipoise.lab.optimizers import Optimizer

# Replicas trained at a time: no more than these, nor than so many entries of a matrix of weights.
_REPLICAS, _ENTRIES = 64, 2**26
# Of those trained one by one, in one unit of work.
_LOOPED = 4


@dataclass(frozen=True, eq=False)
class Trained:
    """What became of replicas.

    Attributes:
        curve: training loss by step, shape (steps, R); nan from where a replica diverged.
        has_diverged: shape (R,): whether loss or gradient was ever not finite.
        at_birth: test loss before the first step, shape (R,).
        at_end: test loss after the last one, shape (R,).
    """

    curve: torch.Tensor
    has_diverged: torch.Tensor
    at_birth: torch.Tensor
    at_end: torch.Tensor


@dataclass(frozen=True)
class Course:
    """How replicas are trained.

    Attributes:
        steps: of the optimizer.
        batch_size: rows of one step.
        optimizer: how weights move.
    """

    steps: int
    batch_size: int
    optimizer: Optimizer


def most_in_unit(program: Program) -> int:
    """Replicas of one unit of work: those that train at once, or a few that train one by one.

    It follows from the model alone, never from the number of cores: what is computed together
    decides the last bits.
    """
    return most_at_once(program) if program.is_vectorised else _LOOPED


def most_at_once(program: Program) -> int:
    """Replicas that train as one, as far as the program and the memory have room."""
    return max(1, min(_REPLICAS, _ENTRIES // program.size)) if program.is_vectorised else 1


def train_in_parts(
    program: Program,
    starts: Starts,
    which: Sequence[int],
    rows: tuple[Rows, Rows],
    rates: Sequence[float],
    seeds: Sequence[int],
    course: Course,
    progress: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Train replicas, as many at a time as the program and the memory have room for.

    Args:
        program: of the model.
        starts: where to start.
        which: number of the start of each replica.
        rows: as for ``train``.
        rates: as for ``train``.
        seeds: as for ``train``; where replicas are looped, also of what forward draws.
        course: how.
        progress: called with the steps of single replicas done since the last call.

    Returns:
        The training of all.
    """
    most = most_at_once(program)
    done = []
    for first in range(0, len(which), most):
        here = slice(first, first + most)
        some = starts.at(torch.tensor(which[here]))
        if not program.is_vectorised:
            seed_all(seeds[first])
        part, _ = train(program, some, rows, rates[here], seeds[here], course, progress)
        done.append(part)
    return Trained(
        torch.cat([part.curve for part in done], 1),
        torch.cat([part.has_diverged for part in done]),
        torch.cat([part.at_birth for part in done]),
        torch.cat([part.at_end for part in done]),
    )


def train(
    program: Program,
    starts: Starts,
    rows: tuple[Rows, Rows],
    rates: Sequence[float],
    seeds: Sequence[int],
    course: Course,
    progress: Callable[[int], None] = lambda steps: None,
) -> tuple[Trained, Starts]:
    """Train replicas together; each equals a run of its own.

    Args:
        program: of the model.
        starts: where to start; left as they are.
        rows: to train on and to test on.
        rates: learning rate of each replica.
        seeds: of each replica's batches.
        course: how.
        progress: called with the steps of single replicas done since the last call.

    Returns:
        The training, and the replicas at its end; one that diverged keeps the weights that it had
        before.
    """
    starts = starts.at(torch.arange(len(starts)))
    training, test = rows
    device, count = starts.weights.device, len(starts)
    at_birth = program.test_losses(starts, test).cpu()
    speeds = torch.tensor(list(rates), device=device)[:, None].to(starts.weights.dtype)
    stepper = course.optimizer.start(starts.weights)
    lost = torch.zeros(count, dtype=torch.bool, device=device)
    curve = torch.full((course.steps, count), math.nan)
    batches = _batches(seeds, len(training), course.batch_size)
    for step in range(course.steps):
        losses, gradient = program.gradients(starts, training.at(next(batches).to(device)))
        lost |= ~(torch.isfinite(losses) & torch.isfinite(gradient).all(1))
        # Frozen for good: neither weights nor moments may move, or take in a nan.
        gradient[lost] = 0.0
        speeds[lost] = 0.0
        stepper.step(gradient, speeds)
        curve[step] = torch.where(lost, math.nan, losses).cpu()
        progress(count)
        if bool(lost.all()):
            progress(count * (course.steps - step - 1))
            break
    at_end = program.test_losses(starts, test).cpu()
    return Trained(curve, lost.cpu(), at_birth, at_end), starts


def _batches(seeds: Sequence[int], rows: int, size: int) -> Iterator[torch.Tensor]:
    """Numbers of rows, shape (R, size), without end; every epoch in a new order.

    An epoch's last rows are left out where they fill no batch: all steps have one shape.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = min(size, rows)
    while True:
        order = torch.stack([torch.randperm(rows, generator=g) for g in generators])
        yield from torch.split(order[:, : rows - rows % size], size, 1)
