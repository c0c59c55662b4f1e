"""Many replicas of one network trained in one tensor program.

Every replica has its own weights, learning rate and order of batches, and equals a run of its own.
All parameters of a replica are a row of one matrix, and an optimizer is a few elementwise passes
over it. Dense networks are run by ``lab/dense.py``, without a graph; convolutions, and losses that
need derivatives by the inputs, by ``lab/layers.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.dense import DenseProgram
from equipoise.lab.layers import common_layers, forward, has_shared_rows
from equipoise.lab.optimizers import NO_CLIPPING, Adam, Cutting, Optimizer, Schedule, constant
from equipoise.lab.task import Forward, Task

_ADAM = Adam()


@dataclass(frozen=True, eq=False)
class Replicas:
    """R copies of one network.

    Attributes:
        layers: of the network; only their types and shapes are used.
        parameters: shape (R, P); weights and biases, layer by layer.
    """

    layers: tuple[nn.Module, ...]
    parameters: torch.Tensor

    @staticmethod
    def of(models: Sequence[nn.Sequential]) -> "Replicas":
        """Stack the weights of models of one shape.

        Args:
            models: as ``lab.models`` makes them: Linear and Conv2d with bias, Flatten, and
                parameter-free layers that mix no units; Linear before Flatten acts on each row of
                an image alone.

        Returns:
            Replicas in the order of the models; the models keep their own weights.

        Raises:
            ArgumentError: for no model, differing layers or a layer of another kind.
        """
        layers = common_layers(models)
        rows = [torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in models]
        return Replicas(layers, torch.stack(rows))

    def repeat(self, times: int) -> "Replicas":
        """Every replica again, ``times`` times over."""
        return Replicas(self.layers, self.parameters.repeat(times, 1))

    def write(self, index: int, model: nn.Sequential) -> None:
        """Copy one replica's weights into a model of the same shape."""
        if [repr(layer) for layer in model] != [repr(layer) for layer in self.layers]:
            raise ArgumentError(
                f"model must have the layers of the replicas, got {model!r}. Make one like them."
            )
        nn.utils.vector_to_parameters(self.parameters[index], model.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs, shape (R, B, out), for inputs of shape (R, B, ...) or (B, ...)."""
        return forward(self.parameters, self.layers, x)


@dataclass(frozen=True, eq=False)
class Training:
    """What became of every replica.

    Attributes:
        replicas: with their weights at the end.
        loss: mean training loss of each epoch, shape (epochs, R).
        score: on the test part, shape (R,): accuracy, or what the task calls its score.
        curve: test score after each epoch, shape (epochs, R), empty unless asked for.
        diverged_at: step at which the loss was first not finite, -1 where it never was; such a
            replica keeps the weights it had then.
    """

    replicas: Replicas
    loss: torch.Tensor
    score: torch.Tensor
    curve: torch.Tensor
    diverged_at: torch.Tensor = field(repr=False)


def train(
    replicas: Replicas,
    task: Task,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int = 20,
    batch_size: int = 64,
    with_curve: bool = False,
    progress: Callable[[int], None] = lambda epoch: None,
    optimizer: Optimizer = _ADAM,
    schedule: Schedule = constant,
    clipping: Cutting = NO_CLIPPING,
) -> Training:
    """Train every replica on a task, each with its own rate and batches.

    Args:
        replicas: where to start; left as they are. They train on the device that they are on.
        task: the data and the loss.
        learning_rates: one for each replica.
        seeds: one for each replica: of the generator that shuffles its batches.
        epochs: passes over the training part.
        batch_size: rows in a batch; the last one of an epoch may be smaller.
        with_curve: also test after each epoch.
        progress: called with the number of epochs done.
        optimizer: how weights move.
        schedule: factor of all rates by step, counted from 0.
        clipping: what gradients are cut to.

    Returns:
        The training.

    Raises:
        ArgumentError: if counts or shapes do not fit.
    """
    count = len(replicas.parameters)
    for name, given in (("learning_rates", learning_rates), ("seeds", seeds)):
        if len(given) != count:
            raise ArgumentError(f"{name} must hold {count} numbers, got {len(given)}. Add some.")
    for rate in learning_rates:
        _checks.positive("learning_rates", rate)
    _refuse_unfit(replicas.layers, task)
    _checks.at_least("epochs", epochs, 1)
    _checks.at_least("batch_size", batch_size, 1)
    run = _Run(replicas, task, learning_rates, optimizer, schedule, clipping)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    losses, curve = [], []
    with _one_thread():
        for epoch in range(epochs):
            losses.append(run.epoch(generators, batch_size))
            if with_curve:
                curve.append(run.scores())
            progress(epoch + 1)
        score = curve[-1] if curve else run.scores()
    return Training(
        Replicas(replicas.layers, run.weights.detach()),
        torch.stack(losses),
        score,
        torch.stack(curve) if curve else torch.empty(0, count),
        run.diverged_at,
    )


class _Run:
    """The state of a training."""

    def __init__(
        self,
        replicas: Replicas,
        task: Task,
        rates: Sequence[float],
        optimizer: Optimizer,
        schedule: Schedule,
        clipping: Cutting,
    ) -> None:
        self.weights = replicas.parameters.clone().requires_grad_()
        self._task, self._schedule, self._clipping = task, schedule, clipping
        device = self.weights.device
        self._rates = torch.tensor(list(rates), device=device)[:, None]
        self._stepper = optimizer.start(self.weights)
        self.diverged_at = torch.full((len(self.weights),), -1, device=device)
        self._steps = 0
        layers = replicas.layers
        # A graph is needed for second derivatives, and convolutions have no other way.
        is_dense = not any(isinstance(x, nn.Conv2d) for x in layers)
        if is_dense and not task.needs_derivatives:
            program = DenseProgram(layers)
            self._call: Forward = lambda x: program(self.weights, x)
        else:
            self._call = lambda x: forward(self.weights, layers, x)

    def epoch(self, generators: Sequence[torch.Generator], batch_size: int) -> torch.Tensor:
        """One pass over the training part; the mean loss of each replica, shape (R,)."""
        rows = len(self._task.x_train)
        order = torch.stack([torch.randperm(rows, generator=g) for g in generators])
        order = order.to(self.weights.device)
        total = torch.zeros(len(self.weights), device=self.weights.device)
        for batch in torch.split(order, batch_size, dim=1):
            total += self._step(batch) * batch.shape[1]
        return total / rows

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self._task.losses(self._call, batch)
        (gradient,) = torch.autograd.grad(loss.sum(), self.weights)
        gradient = self._clipping.cut(gradient)
        self._steps += 1
        failed = ~torch.isfinite(loss.detach())
        if bool(failed.any()):
            self.diverged_at[failed & (self.diverged_at < 0)] = self._steps
            # A frozen replica must not write nan into its own moments either.
            gradient[failed] = 0.0
            self._rates[failed] = 0.0
        self._stepper.step(gradient, self._rates * self._schedule(self._steps - 1))
        return loss.detach()

    @torch.no_grad()
    def scores(self) -> torch.Tensor:
        """Scores on the test part, shape (R,)."""
        return self._task.scores(self._call)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Narrow layers are too small to share out: two threads take two to four times as long as one.

    Cores are better used by a process for each setting.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_unfit(layers: Sequence[nn.Module], task: Task) -> None:
    """Refuse a network whose first or last layer does not fit the task."""
    first, last = layers[0], layers[-1]
    shape = tuple(task.x_train.shape[1:])
    if has_shared_rows(layers):
        fits = len(shape) == 2 and isinstance(first, nn.Linear) and shape[1] == first.in_features
    elif isinstance(first, nn.Linear):
        fits = shape == (first.in_features,)
    else:
        channels = next((x.in_channels for x in layers if isinstance(x, nn.Conv2d)), 0)
        fits = len(shape) == 3 and shape[0] == channels
    if not fits or not isinstance(last, nn.Linear) or last.out_features != task.outputs:
        raise ArgumentError(
            f"the network must read inputs of shape {shape} and end with a Linear layer of "
            f"{task.outputs} outputs for this task, got {first!r} and {last!r}. "
            "Change the first or the last, or pass task.images()."
        )
