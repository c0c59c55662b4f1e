"""Trainings of dense networks on digits that may fail, and how: stuck, saturated, diverged.

A case is one network from one start with one optimizer and clip; all its draws and rates train as
one tensor program, and are looked at before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import EquipoiseError, PlanError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.classification import Classification
from equipoise.lab.clip_parts import PartClipping, UsualClipping, layer_places, unit_places
from equipoise.lab.data import digits
from equipoise.lab.models import activation_module, mlp
from equipoise.lab.naive_losses import naive_log_softmax
from equipoise.lab.optimizers import NO_CLIPPING, SGD, Adam, Clipping, Cutting, Optimizer
from equipoise.lab.rivals import starters
from equipoise.lab.setting import flushed_denormals
from equipoise.lab.task import Forward
from equipoise.lab.unit_states import gradient_sizes, unit_states

OPTIMIZERS: Mapping[str, Optimizer] = {"SGD, momentum .9": SGD(0.9), "Adam": Adam()}
CLIPS = (
    "none", "global norm 1", "value .01", "layer norm .3", "unit norm .1", "usual norm, median",
)  # fmt: skip
# Accuracy on ten classes from which a network counts as trained.
TRAINS = 0.8
_ROWS, _BATCH = 1024, 64


@dataclass(frozen=True)
class StabilityCase:
    """Trainings of one network from one or more starts.

    Attributes:
        width, depth: of the hidden layers.
        activation: as ``activation_module`` reads it.
        methods: of ``rivals.methods()``, trained together.
        optimizer: one of ``OPTIMIZERS``.
        rates: learning rates.
        clip: one of ``CLIPS``.
        epochs: passes over 1,024 rows in batches of 64: 16 steps each.
        loud_hidden: factor on the hidden weights of the start.
        loud_output: factor on the output weights of the start.
        is_naive: whether softmax and logarithm are taken as they stand on paper.
    """

    width: int
    depth: int
    activation: str
    methods: tuple[str, ...]
    optimizer: str
    rates: tuple[float, ...]
    clip: str = "none"
    epochs: int = 13
    loud_hidden: float = 1.0
    loud_output: float = 1.0
    is_naive: bool = False

    def __post_init__(self) -> None:
        _checks.one_of("optimizer", self.optimizer, OPTIMIZERS)
        _checks.one_of("clip", self.clip, CLIPS)


@dataclass(frozen=True)
class StabilityDraw:
    """One draw, at birth and behind training at each rate.

    Attributes:
        method: that started it.
        seed: of weights and batches.
        born_stuck, born_saturated: as ``UnitStates`` has them.
        born_silent: whether no signal at all passes at birth.
        born_norm: of the gradient of a batch.
        born_ratio: of the gradient of the first weight over that of the last.
        accuracy, stuck, saturated: on the test part at the end, by rate.
        diverged_at: step of the first loss that is not finite, -1 where there is none, by rate.
    """

    method: str
    seed: int
    born_stuck: float
    born_saturated: float
    born_silent: bool
    born_norm: float
    born_ratio: float
    accuracy: tuple[float, ...]
    stuck: tuple[float, ...]
    saturated: tuple[float, ...]
    diverged_at: tuple[int, ...]


class NaiveClassification(Classification):
    """A classification whose loss is -log(exp(x_c) / sum exp(x)), as it stands on paper."""

    def losses(self, call: Forward, batch: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of each replica on its own batch; not finite where logits are large.

        Args:
            call: outputs of the replicas, shape (R, B, classes), for inputs of shape (R, B, ...).
            batch: int64 numbers of training rows, shape (R, B).

        Returns:
            Shape (R,).
        """
        logs = naive_log_softmax(call(self.x_train[batch]))
        return -logs.gather(2, self.y_train[batch][..., None])[..., 0].mean(1)


def train_case(case: StabilityCase, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train all draws of a case at all of its rates.

    Args:
        case: the network and how it is trained.
        seeds: of the draws.

    Returns:
        Fields of one ``StabilityDraw`` for each method and seed, as plain data.

    Raises:
        PlanError: if a method cannot start the network.

    >>> case = StabilityCase(8, 2, "relu", ("he",), "Adam", (1e-2,), epochs=2)
    >>> [draw["seed"] for draw in train_case(case, (0, 1))]
    [0, 1]
    """
    task = digits(_ROWS)
    if case.is_naive:
        task = NaiveClassification(
            task.x_train, task.y_train, task.x_test, task.y_test, task.classes
        )
    born = _born(case, seeds, task)
    drawn = [(method, seed) for method in case.methods for seed in seeds]
    repeated = born.repeat(len(case.rates))
    with flushed_denormals():
        states, sizes = unit_states(born, task.x_test), gradient_sizes(born, digits(_ROWS))
        done = train(
            repeated, task, [rate for rate in case.rates for _ in drawn],
            [seed for _ in case.rates for _, seed in drawn], case.epochs, _BATCH,
            optimizer=OPTIMIZERS[case.optimizer], clipping=_clipping(case.clip, born.layers),
        )  # fmt: skip
        ends = unit_states(done.replicas, task.x_test)
    shape = (len(case.rates), len(drawn))
    by_draw = [
        value.view(shape).t().tolist()
        for value in (done.score, ends.stuck, ends.saturated, done.diverged_at)
    ]
    return [
        asdict(
            StabilityDraw(
                method, seed, float(states.stuck[i]), float(states.saturated[i]),
                bool(states.silent[i]),
                float(sizes.norm[i]), float(sizes.ratio[i]),
                *(tuple(column[i]) for column in by_draw),
            )
        )
        for i, (method, seed) in enumerate(drawn)
    ]  # fmt: skip


def _born(case: StabilityCase, seeds: Sequence[int], task: Classification) -> Replicas:
    def network() -> nn.Sequential:
        sizes = [task.features, *(case.width,) * case.depth, task.outputs]
        return mlp(sizes, lambda: activation_module(case.activation))

    models = []
    for start in starters(network(), case.methods, task.x_train).values():
        if isinstance(start, EquipoiseError):
            raise PlanError(str(start))
        for seed in seeds:
            model = network()
            start(model, seed)
            linear = [layer for layer in model if isinstance(layer, nn.Linear)]
            with torch.no_grad():
                for layer in linear[:-1]:
                    layer.weight.mul_(case.loud_hidden)
                linear[-1].weight.mul_(case.loud_output)
            models.append(model)
    return Replicas.of(models)


def _clipping(name: str, layers: Sequence[nn.Module]) -> Cutting:
    match name:
        case "global norm 1":
            return Clipping(norm=1.0)
        case "value .01":
            return Clipping(value=0.01)
        case "layer norm .3":
            return PartClipping(0.3, layer_places(layers))
        case "unit norm .1":
            return PartClipping(0.1, unit_places(layers))
        case "usual norm, median":
            return UsualClipping(0.5)
        case _:
            return NO_CLIPPING
