"""Draws of one model by one scheme; neither the caller's model nor any global generator moves."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.compare_program import Starts, stacked, trained_parameters
from equipoise.lab.rivals import starter

MakeModel = Callable[[], nn.Module]
# Rows that schemes read.
_READ = 512


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put back the global random state of torch, on all devices, of numpy and of Python."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Named one by one: torch warns where it is left to find many.
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, of numpy and of Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def fresh(make_model: MakeModel, seed: int) -> nn.Module:
    """A model made from a seed.

    Raises:
        ArgumentError: if the function returns something else.
    """
    seed_all(seed)
    model = make_model()
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"make_model must return a torch.nn.Module, got {type(model).__name__}. "
            "Return the model itself."
        )
    while isinstance(model, torch._dynamo.OptimizedModule):
        model = model._orig_mod
    return model


def check_fresh(make_model: MakeModel, seed: int) -> nn.Module:
    """A model, after making sure that the next one shares no parameter with it.

    Raises:
        ArgumentError: if two models share weights or differ in shape.
    """
    first, second = fresh(make_model, seed), fresh(make_model, seed + 1)
    held = {id(p) for p in first.parameters()}
    shared = [name for name, p in second.named_parameters() if id(p) in held]
    if shared:
        raise ArgumentError(
            f"make_model must make a new model at each call, got parameter {shared[0]!r} twice. "
            "Build all of it inside the function, or copy it with copy.deepcopy."
        )
    shapes = [[(n, tuple(p.shape)) for n, p in m.named_parameters()] for m in (first, second)]
    if shapes[0] != shapes[1]:
        odd = next(pair for pair in zip(*shapes, strict=False) if pair[0] != pair[1])
        raise ArgumentError(
            f"make_model must make the same shapes at each call, got {odd[0]} and {odd[1]}. "
            "Choose sizes before, not inside."
        )
    trained_parameters(first)
    return first


def draw(
    make_model: MakeModel,
    scheme: str,
    inputs: torch.Tensor,
    seeds: Sequence[int],
    first: int | None = None,
) -> Starts:
    """Models of one scheme, one for each seed.

    Args:
        make_model: makes a model; what a scheme leaves alone stays as that has drawn it.
        scheme: ``default``, which leaves models as they are made, or a method of ``lab.rivals``.
        inputs: rows as forward takes them; the first of them are read.
        seeds: of model and draw.
        first: seed of the model that the scheme reads, so that draws are the same in parts as
            together; the first of ``seeds`` if left out.

    Returns:
        The draws.

    Raises:
        ArgumentError, PlanError, TraceError: if the scheme cannot serve the model.
    """
    models = [fresh(make_model, seed) for seed in seeds]
    if scheme != "default":
        read = models[0] if first in (None, seeds[0]) else fresh(make_model, first or 0)
        start = starter(read, scheme, inputs[:_READ].clone())
        for model, seed in zip(models, seeds, strict=True):
            start(model, seed)
    return stacked(models)
