"""Many replicas of one network trained in one tensor program.

Every replica has its own weights, learning rate and order of batches, and equals a run of its own.
``lab/layers.py`` makes the forward pass one program; all parameters of a replica are a row of one
matrix, and Adam is five elementwise passes over it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.data import Classification
from equipoise.lab.layers import common_layers, forward

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
# A test part of thousands of images would not fit as one batch of many replicas.
_MOST_TEST_ROWS = 512


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
                parameter-free layers that mix no units.

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
        accuracy: on the test part, shape (R,); outputs that are not finite are wrong.
        curve: test accuracy after each epoch, shape (epochs, R), empty unless asked for.
        diverged_at: step at which the loss was first not finite, -1 where it never was; such a
            replica keeps the weights it had then.
    """

    replicas: Replicas
    loss: torch.Tensor
    accuracy: torch.Tensor
    curve: torch.Tensor
    diverged_at: torch.Tensor = field(repr=False)


def train(
    replicas: Replicas,
    task: Classification,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int = 20,
    batch_size: int = 64,
    with_curve: bool = False,
    progress: Callable[[int], None] = lambda epoch: None,
) -> Training:
    """Train every replica with Adam on the cross-entropy, each with its own rate and batches.

    Args:
        replicas: where to start; left as they are.
        task: the data.
        learning_rates: one for each replica.
        seeds: one for each replica: of the generator that shuffles its batches.
        epochs: passes over the training part.
        batch_size: rows in a batch; the last one of an epoch may be smaller.
        with_curve: also test after each epoch.
        progress: called with the number of epochs done.

    Returns:
        The training.

    Raises:
        ArgumentError: if counts or shapes do not fit.
    """
    count = len(replicas.parameters)
    for name, given in (("learning_rates", learning_rates), ("seeds", seeds)):
        if len(given) != count:
            raise ArgumentError(f"{name} must hold {count} numbers, got {len(given)}. Add some.")
    _refuse_unfit(replicas.layers, task)
    _checks.at_least("epochs", epochs, 1)
    _checks.at_least("batch_size", batch_size, 1)

    with _one_thread():
        return _train(
            replicas, task, learning_rates, seeds, epochs, batch_size, with_curve, progress
        )


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


def _train(
    replicas: Replicas,
    task: Classification,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
    batch_size: int,
    with_curve: bool,
    progress: Callable[[int], None],
) -> Training:
    count = len(replicas.parameters)
    weights = replicas.parameters.clone().requires_grad_()
    adam = _Adam(weights, torch.tensor([_checks.positive("learning_rates", r)
                                        for r in learning_rates]))  # fmt: skip
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows, losses, curve = len(task.x_train), [], []
    diverged_at = torch.full((count,), -1)
    step = 0
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(rows, generator=g) for g in generators])
        total = torch.zeros(count)
        for start in range(0, rows, batch_size):
            batch = order[:, start : start + batch_size]
            loss = _losses(weights, replicas, task, batch)
            (gradient,) = torch.autograd.grad(loss.sum(), weights)
            step += 1
            failed = ~torch.isfinite(loss.detach())
            if bool(failed.any()):
                diverged_at[failed & (diverged_at < 0)] = step
                # A frozen replica must not write nan into its own moments either.
                gradient[failed] = 0.0
                adam.freeze(failed)
            adam.step(gradient)
            total += loss.detach() * batch.shape[1]
        losses.append(total / rows)
        if with_curve:
            curve.append(_accuracy(weights, replicas, task))
        progress(epoch + 1)
    final = weights.detach()
    return Training(
        Replicas(replicas.layers, final),
        torch.stack(losses),
        curve[-1] if curve else _accuracy(weights, replicas, task),
        torch.stack(curve) if curve else torch.empty(0, count),
        diverged_at,
    )


class _Adam:
    """Adam with one learning rate for each row; the update of torch.optim.Adam."""

    def __init__(self, weights: torch.Tensor, rates: torch.Tensor) -> None:
        self._weights, self._rates = weights, rates[:, None]
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._steps = 0

    def freeze(self, rows: torch.Tensor) -> None:
        """Never move these rows again."""
        self._rates[rows] = 0.0

    @torch.no_grad()
    def step(self, gradient: torch.Tensor) -> None:
        """One update, in place."""
        self._steps += 1
        self._mean.lerp_(gradient, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        root = self._square.sqrt().div_(math.sqrt(1 - _BETA2**self._steps)).add_(_EPSILON)
        rates = self._rates / (1 - _BETA1**self._steps)
        self._weights.addcdiv_(self._mean * rates, root, value=-1.0)


def _losses(
    weights: torch.Tensor, replicas: Replicas, task: Classification, batch: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of each replica on its own batch, shape (R,)."""
    outputs = forward(weights, replicas.layers, task.x_train[batch])
    loss = nn.functional.cross_entropy(
        outputs.flatten(0, 1), task.y_train[batch].flatten(), reduction="none"
    )
    return loss.view(batch.shape).mean(1)


@torch.no_grad()
def _accuracy(weights: torch.Tensor, replicas: Replicas, task: Classification) -> torch.Tensor:
    right = torch.zeros(len(weights))
    rows = torch.split(task.x_test, _MOST_TEST_ROWS)
    parts = zip(rows, torch.split(task.y_test, _MOST_TEST_ROWS), strict=True)
    for x, y in parts:
        outputs = forward(weights, replicas.layers, x)
        right += ((outputs.argmax(-1) == y) & torch.isfinite(outputs).all(-1)).float().sum(1)
    return right / len(task.y_test)


def _refuse_unfit(layers: Sequence[nn.Module], task: Classification) -> None:
    """Refuse a network whose first or last layer does not fit the task."""
    first, last = layers[0], layers[-1]
    shape = tuple(task.x_train.shape[1:])
    if isinstance(first, nn.Linear):
        fits = shape == (first.in_features,)
    else:
        channels = next((x.in_channels for x in layers if isinstance(x, nn.Conv2d)), 0)
        fits = len(shape) == 3 and shape[0] == channels
    if not fits or not isinstance(last, nn.Linear) or last.out_features != task.classes:
        raise ArgumentError(
            f"the network must read inputs of shape {shape} and end with a Linear layer of "
            f"{task.classes} outputs for this task, got {first!r} and {last!r}. "
            "Change the first or the last, or pass task.images()."
        )
