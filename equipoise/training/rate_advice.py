"""What learning rate and clipping a network takes, of everything that can be known at its start.

Three estimates, from the cheapest on. *First step*: the loss along the very step that the optimizer
would take, with forward passes alone. *Range test*: a training while the rate grows. *Sharpness*:
the largest rate at which steps on the local quadratic do not grow. Each one's share that makes a
rate of it was fitted on networks of its own; ``docs/training-learning-rate.md`` says how far each
can be trusted.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from equipoise import _checks
from equipoise._text import json_text, printed
from equipoise.errors import ArgumentError
from equipoise.training.first_step import StepLine, follows_gradient, step_line
from equipoise.training.kept import kept
from equipoise.training.objective import LossFunction, Objective, generators_in, read_batches
from equipoise.training.one_step import own_rate
from equipoise.training.rate_curve import middle
from equipoise.training.rate_test import find_learning_rate
from equipoise.training.sharpness import sharpness

# What each method says as shares of what it measures, by whether a step follows its gradient: the
# best rate, the largest that works, and how far the best strays from that share, in nats. Fitted on
# 56 trainings: dense networks of 3 to 20 layers on digits, seeds of their own.
_OF_LINE = {False: (0.25, 1.3, 0.55), True: (0.3, 0.45, 1.0)}
_OF_RETURN = {False: (0.22, 0.45), True: (0.53, 0.5)}
_OF_EDGE = {False: (0.04, 0.2, 0.65), True: (0.5, 1.0, 1.1)}
# Ordinary gradients vary by less than this about their median; spikes are what is beyond.
_ABOVE_ORDINARY = 3.0
# Estimates within this factor agree.
_AGREED = 3.0
_METHODS = ("first step", "range test", "sharpness")


@dataclass(frozen=True)
class Estimate:
    """What one method says.

    Attributes:
        method: ``first step``, ``range test`` or ``sharpness``.
        rate: to train at; nan where it has none.
        at_most: largest rate that is expected to work; nan where it has none.
        spread: how far the best rate was found to stray from such an estimate, nats.
        passes: forward passes of one batch that it took; a backward pass counts as two.
        ground: why, in words.
    """

    method: str
    rate: float
    at_most: float
    spread: float
    passes: int
    ground: str


@dataclass(frozen=True)
class RateAdvice:
    """A learning rate, its limit and a clipping norm, with the ground for each.

    Attributes:
        rate: to train at.
        at_most: largest rate that is expected to work.
        clip_norm: norm to clip gradients at, above every ordinary one; nan where none was seen.
        confidence: ``high`` where the estimates agree within a factor 3 and steps do not grow with
            their gradient, else ``fair``; ``low`` with one estimate, ``none`` without any.
        own_rate: what the optimizer has.
        network: class of the model, with the number of its layers.
        optimizer: class of the optimizer.
        estimates: one for each method asked for.
    """

    rate: float
    at_most: float
    clip_norm: float
    confidence: str
    own_rate: float
    network: str
    optimizer: str
    estimates: tuple[Estimate, ...]

    @property
    def warning(self) -> str:
        """What is wrong with the optimizer's own rate, or ''."""
        if self.own_rate > self.at_most:
            return (
                f"The optimizer's rate of {self.own_rate:.2g} is "
                f"{self.own_rate / self.at_most:.2g} times what this network takes. Set "
                f"lr={self.rate:.1g}."
            )
        if 0.0 < self.own_rate < self.rate / 10:
            return (
                f"The optimizer's rate of {self.own_rate:.2g} is {self.rate / self.own_rate:.2g} "
                f"times below what this network can use. Set lr={self.rate:.1g}."
            )
        return ""

    def to_json(self) -> str:
        """Everything as JSON text; nan and infinity become null."""
        return json_text(asdict(self) | {"warning": self.warning})

    def print(self, console: Console) -> None:
        """Print the advice and its grounds to a rich console."""
        console.print(
            f"{self.network} with {self.optimizer} takes a learning rate of at most "
            f"{self.at_most:.2g}. Start at {self.rate:.2g} (confidence {self.confidence}).",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        if math.isfinite(self.clip_norm):
            console.print(
                f"Clip gradients at a norm of {self.clip_norm:.2g}: ordinary ones are a third of "
                "that, so only spikes are cut.", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
        if self.warning:
            console.print(self.warning, style="yellow", markup=False, soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for name in ("method", "rate", "at most", "passes", "ground"):
            table.add_column(name, justify="left" if name in ("method", "ground") else "right")
        for e in self.estimates:
            table.add_row(e.method, _shown(e.rate), _shown(e.at_most), str(e.passes), e.ground)
        console.print(table)

    def __str__(self) -> str:
        return printed(self.print)


def advise(
    model: nn.Module,
    optimizer: Any,
    batches: Any,
    loss: LossFunction,
    *,
    methods: Sequence[str] = _METHODS,
    most_batches: int = 64,
    seed: int = 0,
) -> RateAdvice:
    """Which learning rate and clipping this network takes with this optimizer.

    Rate and limit are geometric means of what the methods say, each weighted by one over the square
    of how far the best rate was found to stray from it. The model, the optimizer and all generators
    are left as they were.

    Args:
        model: any module, best as ``initialize`` left it, in the mode that it trains in.
        optimizer: the one that will train it.
        batches: a batch, ``(inputs, targets)``, a list of batches or a DataLoader.
        loss: loss(outputs, targets), or loss(outputs) for batches without targets; their mean.
        methods: which of ``first step``, ``range test`` and ``sharpness`` to ask.
        most_batches: to read at the most, from 1.
        seed: of orders, dropout and the search for the sharpness.

    Returns:
        The advice. A method that cannot serve this model says why in its ground.

    Raises:
        ArgumentError: for an unknown method, an optimizer without rates, a loss that is not one
            number, or batches that cannot be gone through again.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> x = torch.randn(64, 4)
    >>> adam = torch.optim.Adam(net.parameters(), lr=10.0)
    >>> found = advise(net, adam, (x, x[:, :1]), nn.functional.mse_loss, methods=["first step"])
    >>> found.network, found.rate < found.at_most < 1, "Set lr=" in found.warning
    ('Sequential of 2 layers', True, True)
    """
    for method in methods:
        _checks.one_of("methods", method, _METHODS)
    if not methods:
        raise ArgumentError("methods must name at least one, got none. Leave it out for all.")
    with torch.inference_mode(False), torch.enable_grad():
        with kept(model, optimizer, *generators_in(batches)):
            found = read_batches(batches, most_batches)
        objective = Objective(model, loss)
        follows = follows_gradient(objective, optimizer, found[0], seed)
        norms = _gradient_norms(objective, optimizer, found[:8])
    estimates = list[Estimate]()
    if "first step" in methods:
        lines = [step_line(objective, optimizer, batch, seed=seed) for batch in found[:4]]
        estimates.append(_of_lines(lines, follows))
    if "range test" in methods:
        estimates.append(_of_test(model, optimizer, found, loss, follows, seed))
    if "sharpness" in methods:
        estimates.append(_of_sharpness(model, optimizer, found, loss, follows, seed))
    return _joined(model, optimizer, follows, estimates, middle(norms))


def _of_lines(lines: Sequence[StepLine], follows: bool) -> Estimate:
    lowest, passes = middle([line.lowest_at for line in lines]), sum(x.passes for x in lines)
    best, most, strays = _OF_LINE[follows]
    ground = f"a first step goes lowest at {lowest:.2g}"
    if math.isnan(lowest):
        ground = "no first step goes down"
    return Estimate("first step", best * lowest, most * lowest, strays, passes, ground)


def _of_test(
    model: nn.Module,
    optimizer: Any,
    batches: list[Any],
    loss: LossFunction,
    follows: bool,
    seed: int,
) -> Estimate:
    test = find_learning_rate(model, optimizer, batches, loss, repeats=2, seed=seed)
    most, strays = _OF_RETURN[follows]
    ground = f"{test.verdict}, confidence {test.confidence}"
    if test.confidence == "none":
        return Estimate("range test", math.nan, math.nan, strays, test.passes, ground)
    limit = most * test.returns_at if math.isfinite(test.returns_at) else math.nan
    return Estimate("range test", test.rate, limit, strays, test.passes, ground)


def _of_sharpness(
    model: nn.Module,
    optimizer: Any,
    batches: list[Any],
    loss: LossFunction,
    follows: bool,
    seed: int,
) -> Estimate:
    best, most, strays = _OF_EDGE[follows]
    try:
        found = sharpness(model, loss, batches, optimizer, tolerance=0.1, seed=seed)
    except ArgumentError as error:
        # Not every optimizer has a known edge, nor every operation a second derivative.
        return Estimate("sharpness", math.nan, math.nan, strays, 0, str(error))
    edge = found.largest_rate if math.isfinite(found.largest_rate) else math.nan
    ground = f"{found.reach:.3g} / {found.value:.3g} on the quadratic at the start"
    return Estimate("sharpness", best * edge, most * edge, strays, found.passes, ground)


def _joined(
    model: nn.Module, optimizer: Any, follows: bool, estimates: list[Estimate], norm: float
) -> RateAdvice:
    own = own_rate(optimizer)
    rate = _mean([(e.rate, e.spread) for e in estimates])
    most = _mean([(e.at_most, e.spread) for e in estimates])
    rates = [e.rate for e in estimates if math.isfinite(e.rate)]
    confidence = ("none", "low")[min(len(rates), 1)]
    if len(rates) > 1:
        # Where steps follow the gradient, the edge moves with the first of them: from a quiet start
        # it falls by a factor 10 and more, and all estimates at birth miss that together.
        agree = max(rates) <= _AGREED * min(rates) and not follows
        confidence = "high" if agree else "fair"
    layers = sum(
        1 for m in model.modules() if any(p.dim() > 1 for p in m.parameters(recurse=False))
    )
    return RateAdvice(
        own if math.isnan(rate) else rate, most if math.isnan(rate) else max(most, rate),
        _ABOVE_ORDINARY * norm, confidence, own, f"{type(model).__name__} of {layers} layers",
        type(optimizer).__name__, tuple(estimates),
    )  # fmt: skip


def _mean(estimates: list[tuple[float, float]]) -> float:
    """Geometric mean of those that are finite, weighted by what they are good for; nan for none."""
    logs = [(math.log(x), s**-2) for x, s in estimates if math.isfinite(x)]
    total = sum(weight for _, weight in logs)
    return math.exp(sum(x * weight for x, weight in logs) / total) if logs else math.nan


def _gradient_norms(objective: Objective, optimizer: Any, batches: list[Any]) -> list[float]:
    """Norm of the gradient of each batch."""
    norms = list[float]()
    with kept(objective.model, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [p for p in parameters if p.requires_grad]
        for batch in batches:
            found = torch.autograd.grad(objective.of(batch), trained, allow_unused=True)
            norms.append(
                math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))
            )
    return norms


def _shown(x: float) -> str:
    return f"{x:.2g}" if math.isfinite(x) else "-"
