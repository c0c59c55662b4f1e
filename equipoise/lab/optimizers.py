"""Optimizers of many replicas at once: each row of a matrix has a learning rate of its own.

The updates are those of ``torch.optim``; a replica moves as it would in a run of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from equipoise import _checks

Schedule = Callable[[int], float]


class Stepper(Protocol):
    """Moves the weights of replicas, in place."""

    def step(self, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        """One update.

        Args:
            gradient: shape (R, P).
            rates: learning rate of each replica, shape (R, 1); 0 leaves one as it is.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Gradient descent, ``torch.optim.SGD``.

    Attributes:
        momentum: 0 (none) to below 1.
        is_nesterov: whether the step looks ahead.
        weight_decay: added to the gradient times the weight.
    """

    momentum: float = 0.0
    is_nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _checks.in_unit_interval("momentum", self.momentum)
        _checks.not_negative("weight_decay", self.weight_decay)

    def start(self, weights: torch.Tensor) -> Stepper:
        """What moves these weights, shape (R, P)."""
        return _Descent(self, weights)


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam``, or ``AdamW`` where decay is decoupled.

    Attributes:
        beta1, beta2: decay of the two means.
        epsilon: added to the root.
        weight_decay: added to the gradient times the weight, or taken off the weight.
        is_decoupled: the latter.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    is_decoupled: bool = False

    def __post_init__(self) -> None:
        _checks.in_unit_interval("beta1", self.beta1)
        _checks.in_unit_interval("beta2", self.beta2)
        _checks.positive("epsilon", self.epsilon)
        _checks.not_negative("weight_decay", self.weight_decay)

    def start(self, weights: torch.Tensor) -> Stepper:
        """What moves these weights, shape (R, P)."""
        return _Moments(self, weights)


def AdamW(weight_decay: float = 0.01) -> Adam:
    """``torch.optim.AdamW`` with its defaults."""
    return Adam(weight_decay=weight_decay, is_decoupled=True)


Optimizer = SGD | Adam


class _Descent:
    def __init__(self, law: SGD, weights: torch.Tensor) -> None:
        self._law, self._weights = law, weights
        self._velocity: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        law = self._law
        if law.weight_decay:
            gradient = gradient.add(self._weights, alpha=law.weight_decay)
        if law.momentum:
            if self._velocity is None:
                self._velocity = gradient.clone()
            else:
                self._velocity.mul_(law.momentum).add_(gradient)
            ahead = gradient.add(self._velocity, alpha=law.momentum)
            gradient = ahead if law.is_nesterov else self._velocity
        self._weights.addcmul_(gradient, rates, value=-1.0)


class _Moments:
    def __init__(self, law: Adam, weights: torch.Tensor) -> None:
        self._law, self._weights = law, weights
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._steps = 0

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: torch.Tensor) -> None:
        law = self._law
        self._steps += 1
        if law.weight_decay and law.is_decoupled:
            self._weights.mul_(1.0 - rates * law.weight_decay)
        elif law.weight_decay:
            gradient = gradient.add(self._weights, alpha=law.weight_decay)
        self._mean.lerp_(gradient, 1 - law.beta1)
        self._square.mul_(law.beta2).addcmul_(gradient, gradient, value=1 - law.beta2)
        root = self._square.sqrt().div_(math.sqrt(1 - law.beta2**self._steps)).add_(law.epsilon)
        scaled = rates / (1 - law.beta1**self._steps)
        self._weights.addcdiv_(self._mean * scaled, root, value=-1.0)


def constant(step: int) -> float:
    """The schedule that leaves the rate as it is.

    >>> constant(7)
    1.0
    """
    return 1.0


def warmup_cosine(steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from 0 over ``warmup`` steps, then half a cosine down to ``floor`` at ``steps``.

    Args:
        steps: of the whole training, at least 1.
        warmup: steps of the rise, 0 to steps.
        floor: factor at the end, 0 to 1.

    Returns:
        Factor of the learning rate by step, counted from 0.

    >>> rate = warmup_cosine(100, warmup=10)
    >>> [round(rate(i), 3) for i in (0, 9, 55, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """
    _checks.at_least("steps", steps, 1)
    _checks.at_least("warmup", warmup, 0)
    _checks.in_unit_interval("floor", floor)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


class Cutting(Protocol):
    """Keeps the gradients of replicas within limits."""

    def cut(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient within its limits, shape (R, P), each replica by itself."""
        ...


@dataclass(frozen=True)
class Clipping:
    """What gradients are cut to, each replica by itself.

    Attributes:
        norm: largest Euclidean norm of a replica's gradient, as ``clip_grad_norm_``.
        value: largest entry, as ``clip_grad_value_``; cut first.
    """

    norm: float = math.inf
    value: float = math.inf

    def __post_init__(self) -> None:
        for name, limit in (("norm", self.norm), ("value", self.value)):
            if limit != math.inf:
                _checks.positive(name, limit)

    def cut(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient within its limits, shape (R, P)."""
        if self.value < math.inf:
            gradient = gradient.clamp(-self.value, self.value)
        if self.norm < math.inf:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            # As torch has it, with 1e-6 against division by 0.
            gradient = gradient * (self.norm / (norms + 1e-6)).clamp(max=1.0)
        return gradient


NO_CLIPPING = Clipping()
