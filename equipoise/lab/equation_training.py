"""Training on an equation as the field does it: Adam on all points, then L-BFGS-B of scipy.

Several networks are trained side by side, each as if it were alone: their evaluations are one pass.
Small networks on few points spend most of their time between operations: on 30 layers of 16 units
and 500 points eight together take less than half of the time of eight in turn.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.equation import INSIDE, Array, EquationLoss
from equipoise.lab.jets import jets_together

# scipy's own default ends a line search after 20 evaluations; steep valleys want a few more.
_LINE_SEARCH = 50


@dataclass(frozen=True)
class Descent:
    """How long to train.

    Attributes:
        steps: of Adam on all points.
        rate: of Adam.
        iterations: of L-BFGS-B, at most.
        corrections: that it keeps.
    """

    steps: int = 300
    rate: float = 1e-3
    iterations: int = 300
    corrections: int = 50

    def __post_init__(self) -> None:
        _checks.at_least("steps", self.steps, 0)
        _checks.positive("rate", self.rate)
        _checks.at_least("iterations", self.iterations, 0)
        _checks.at_least("corrections", self.corrections, 1)


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        losses: with all weights 1, at each of Adam's steps and after each iteration of L-BFGS-B.
        evaluations: of loss and gradient, made until then.
        terms: mean squares at the end by name, without weights.
        stopped: why L-BFGS-B ended.
    """

    losses: tuple[float, ...]
    evaluations: tuple[int, ...]
    terms: dict[str, float]
    stopped: str

    @property
    def loss(self) -> float:
        """The loss at the end, all weights 1."""
        return math.fsum(self.terms.values())


def solve_(network: nn.Module, loss: EquationLoss, descent: Descent) -> Trained:
    """Train a network in place.

    Args:
        network: dense, as ``lab.jets`` takes it, with parameters of float64.
        loss: of the equation.
        descent: how long.

    Returns:
        Losses by the number of evaluations of loss and gradient.

    >>> from equipoise.lab.equations import poisson
    >>> net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    >>> loss = EquationLoss(poisson(), poisson().points(20, 1, seed=0))
    >>> solve_(net, loss, Descent(steps=2, iterations=0)).evaluations
    (1, 2, 2)
    """
    return solve_together_([network], [loss], descent)[0]


def solve_together_(
    networks: Sequence[nn.Module], losses: Sequence[EquationLoss], descent: Descent
) -> list[Trained]:
    """Train networks of one form in place, each on a loss of its own, side by side.

    Args:
        networks: as for ``solve_``, of one form.
        losses: one for each, of one equation and as many points.
        descent: how long.

    Returns:
        What each came to.

    Raises:
        ArgumentError: for networks or losses that are not alike.
    """
    batch = _Batch.of(networks, losses)
    weights = torch.stack([parameters_to_vector(_learning(n)).detach() for n in networks])
    runs = [_Run() for _ in networks]
    every = range(len(networks))
    weights.requires_grad_()
    adam = torch.optim.Adam([weights], lr=descent.rate)
    for _ in range(descent.steps):
        found = batch.evaluate(weights.detach(), every)
        for i in every:
            runs[i].saw(found.terms[i])
            runs[i].keep()
        weights.grad = found.gradient
        adam.step()
    ends = weights.detach().numpy().copy()
    if descent.iterations:
        _refine(batch, runs, ends, descent)
    for i, network in enumerate(networks):
        vector_to_parameters(torch.from_numpy(ends[i].copy()), _learning(network))
        with torch.no_grad():
            last = {name: float(t) for name, t in losses[i].terms(network).items()}
        runs[i].terms = last
        runs[i].keep()
    return [Trained(tuple(run.losses), tuple(run.counts), run.terms, run.stopped) for run in runs]


def _learning(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


@dataclass
class _Run:
    """What one network has seen so far."""

    count: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    stopped: str = "no iterations were asked for"

    def saw(self, terms: dict[str, float]) -> None:
        self.count += 1
        self.terms = terms

    def keep(self) -> None:
        self.losses.append(math.fsum(self.terms.values()))
        self.counts.append(self.count)


@dataclass(frozen=True, eq=False)
class _Found:
    """Losses that are minimised, shape (k,), gradients, shape (k, P), and terms of each."""

    totals: torch.Tensor
    gradient: torch.Tensor
    terms: list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Losses of networks of one form, by rows of their parameters."""

    form: nn.Module
    losses: Sequence[EquationLoss]
    inside: torch.Tensor
    edges: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    fixed: dict[str, torch.Tensor]

    @staticmethod
    def of(networks: Sequence[nn.Module], losses: Sequence[EquationLoss]) -> "_Batch":
        if not networks or len(networks) != len(losses):
            raise ArgumentError(
                f"losses must be one for each network, at least one, got {len(losses)} for "
                f"{len(networks)}. Pass as many."
            )
        if len({(repr(n), loss.equation.name, len(loss.points.inside), len(loss.points.all))
                for n, loss in zip(networks, losses, strict=True)}) > 1:  # fmt: skip
            raise ArgumentError(
                "networks must have one form, and losses one equation and as many points, got some "
                "that differ. Train each kind apart."
            )
        points = [loss.points for loss in losses]
        return _Batch(
            networks[0], losses, torch.stack([p.inside for p in points]),
            {name: torch.stack([p.edges[name] for p in points]) for name in points[0].edges},
            {name: torch.stack([p.values[name] for p in points]) for name in points[0].values},
            {
                name: torch.stack([n.get_parameter(name) for n in networks])
                for name, p in networks[0].named_parameters()
                if not p.requires_grad
            },
        )  # fmt: skip

    def evaluate(self, weights: torch.Tensor, which: Sequence[int]) -> _Found:
        """Loss and gradient of some of the networks, shape (k, P)."""
        rows = list(which)
        flat = weights.detach().clone().requires_grad_()
        named = [(n, p) for n, p in self.form.named_parameters() if p.requires_grad]
        sizes = [p.numel() for _, p in named]
        # One split has one backward pass: a slice for each would fill a whole matrix each.
        own = {
            name: part.view(len(rows), *p.shape)
            for (name, p), part in zip(named, torch.split(flat, sizes, dim=1), strict=True)
        }
        own |= {name: each[rows] for name, each in self.fixed.items()}
        equation, x = self.losses[0].equation, self.inside[rows]
        jet = jets_together(self.form, own, x, equation.orders)
        # A residual is written for rows of one network.
        missing = equation.residual(
            {orders: value.flatten(0, 1) for orders, value in jet.items()}, x.flatten(0, 1)
        )
        terms = {INSIDE: missing.view(len(rows), -1).square().mean(1)}
        for name, edge in self.edges.items():
            (u,) = jets_together(self.form, own, edge[rows], ()).values()
            terms[name] = (u - self.values[name][rows]).square().mean((1, 2))
        factors = torch.tensor(
            [[self.losses[i].weights.get(name, 1.0) for i in rows] for name in terms],
            dtype=flat.dtype,
        )
        totals = (factors * torch.stack(list(terms.values()))).sum(0)
        (gradient,) = torch.autograd.grad(totals.sum(), flat)
        each = [{name: float(t[k].detach()) for name, t in terms.items()} for k in range(len(rows))]
        return _Found(totals.detach(), gradient, each)


def _refine(batch: _Batch, runs: Sequence[_Run], weights: Array, descent: Descent) -> None:
    """L-BFGS-B of all networks, whose evaluations wait for each other; writes to ``weights``."""
    # scipy calls back: each network has a thread that waits while all are evaluated at once.
    asked: SimpleQueue[tuple[int, Array, Future[Any]] | tuple[int, None, None]] = SimpleQueue()
    errors: list[BaseException] = []

    def run(i: int) -> None:
        def value_and_slope(at: Array) -> tuple[float, Array]:
            answer: Future[Any] = Future()
            asked.put((i, at.copy(), answer))
            value, slope, terms = answer.result()
            runs[i].saw(terms)
            return value, slope

        try:
            found = minimize(
                value_and_slope, weights[i], jac=True, method="L-BFGS-B",
                callback=lambda _: runs[i].keep(),
                options={
                    "maxcor": descent.corrections, "maxiter": descent.iterations,
                    "maxls": _LINE_SEARCH, "maxfun": 50 * descent.iterations,
                    "ftol": np.finfo(float).eps, "gtol": 1e-9,
                },
            )  # fmt: skip
            weights[i], runs[i].stopped = found.x, str(found.message)
        except BaseException as error:
            errors.append(error)
        asked.put((i, None, None))

    threads = [Thread(target=run, args=(i,), daemon=True) for i in range(len(runs))]
    for thread in threads:
        thread.start()
    living, waiting = len(threads), dict[int, tuple[Array, Future[Any]]]()
    while living:
        i, at, answer = asked.get()
        if at is None or answer is None:
            living -= 1
        else:
            waiting[i] = (at, answer)
        if living and len(waiting) == living:
            _answer(batch, waiting)
            waiting.clear()
    if errors:
        raise errors[0]


def _answer(batch: _Batch, waiting: dict[int, tuple[Array, "Future[Any]"]]) -> None:
    order = sorted(waiting)
    try:
        found = batch.evaluate(torch.from_numpy(np.stack([waiting[i][0] for i in order])), order)
    except BaseException as error:
        for _, answer in waiting.values():
            answer.set_exception(error)
        return
    for k, i in enumerate(order):
        value = (float(found.totals[k]), found.gradient[k].numpy(), found.terms[k])
        waiting[i][1].set_result(value)
