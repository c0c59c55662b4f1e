"""Putting a model, its optimizer and every generator back, bit for bit."""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_HOLDERS = (nn.Module, Optimizer, GradScaler, LRScheduler, torch.Tensor)


class Kept:
    """What stands in some objects and in the random generators at one time.

    Reached are attributes of the objects given and of modules, optimizers, scalers and schedulers
    inside them, plain containers, tensors with their gradients, and generators. All are put back in
    place: a tensor is the same tensor, with the bits that it had.

    Args:
        roots: models, optimizers, scalers, generators; None is passed over.
    """

    def __init__(self, *roots: Any) -> None:
        self._seen: dict[int, Any] = {}
        self._tensors: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._gradients: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._generators: list[tuple[torch.Generator, torch.Tensor]] = []
        # Of an object of another kind, such as what wraps an optimizer, the attributes are meant.
        waiting = [
            vars(root) if hasattr(root, "__dict__") and not isinstance(root, _HOLDERS) else root
            for root in roots
        ]
        while waiting:
            value = waiting.pop()
            if id(value) not in self._seen:
                # Kept alive, so that no other object takes its place in memory.
                self._seen[id(value)] = value
                waiting.extend(self._record(value))
        self._random = _random_states()

    def _record(self, value: Any) -> list[Any]:
        """Note one object; what is inside it is returned."""
        match value:
            case torch.Tensor():
                if _can_be_written(value):
                    alias = value.detach()
                    self._tensors.append((value, alias, alias.clone()))
                gradient = value.grad if value.is_leaf else None
                if value.is_leaf:
                    self._gradients.append((value, gradient))
                return [] if gradient is None else [gradient]
            case torch.Generator():
                self._generators.append((value, value.get_state()))
                return []
            case tuple():
                return list(value)
            case list() | set() | deque():
                self._contents.append((value, value.copy()))
                return list(value)
            case dict():
                self._contents.append((value, dict(value)))
                return list(value.values())
            case nn.Module() | Optimizer() | GradScaler() | LRScheduler():
                return [vars(value)]
        return []

    @torch.no_grad()
    def put_back(self) -> None:
        """Make everything what it was; may be called again."""
        for value, before in self._contents:
            refill(value, before)
        for tensor, alias, bits in self._tensors:
            alias.copy_(bits)
            if tensor.layout == torch.strided and tensor.data_ptr() != alias.data_ptr():
                tensor.data = alias
        for tensor, gradient in self._gradients:
            tensor.grad = gradient
        for generator, state in self._generators:
            generator.set_state(state)
        _set_random_states(self._random)


@contextmanager
def kept(*roots: Any) -> Iterator[None]:
    """Put models, optimizers and generators back when this ends, however it ends.

    Weights, buffers, gradients, modes, attributes of modules, everything an optimizer or a scaler
    remembers, and the random state of torch, numpy and Python are as before, bit for bit, also
    after an exception or Ctrl-C. This takes the memory of a copy of the tensors. Out of reach are
    the state of a dataset and objects of other kinds.

    Args:
        roots: models, optimizers, scalers, generators; None is passed over.

    >>> layer = nn.Linear(2, 2)
    >>> before = layer.weight.clone()
    >>> with kept(layer):
    ...     nn.init.zeros_(layer.weight).sum()
    tensor(0., grad_fn=<SumBackward0>)
    >>> bool((layer.weight == before).all())
    True
    """
    memory = Kept(*roots)
    try:
        yield
    finally:
        try:
            memory.put_back()
        except KeyboardInterrupt:
            # A second Ctrl-C while the first is being cleaned up after must not leave half of it.
            memory.put_back()
            raise


def _can_be_written(tensor: torch.Tensor) -> bool:
    """Whether every entry has a place of its own; nothing can write into others."""
    if tensor.is_meta or tensor.is_inference():
        return False
    return tensor.layout != torch.strided or not any(
        stride == 0 and size > 1
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )  # fmt: skip


def refill(value: Any, before: Any) -> None:
    """Give a plain container the contents it had, in their order."""
    match value:
        case list():
            value[:] = before
        case deque():
            value.clear()
            value.extend(before)
        case dict() | set():
            value.clear()
            value.update(before)


def _random_states() -> tuple[Any, ...]:
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if on_cuda else [],
    )


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, torch_state, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_state)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
