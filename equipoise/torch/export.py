"""torch.export with errors that say whose fault it is."""

import functools
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import torch
import torch.fx.config
import torch.fx.experimental.symbolic_shapes
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.errors import TraceError
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.program import Program, exported
from equipoise.torch.recording import record
from equipoise.torch.stateless import undisturbed
from equipoise.torch.unfit import refuse_unfit_reads, refuse_unfit_where

# Torch versions without this switch export a little slower.
_STACK_TRACES = "do_not_emit_stack_traces"
_LOUD = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
# What export says in its own terms, and what that means for the writer of a forward.
_MEANINGS = {
    "Could not guard on data-dependent expression": "a branch in it depends on values of tensors",
    "Could not extract specialized integer": "a number in it depends on values of tensors",
    "We found a fake tensor": "it takes derivatives, or keeps what it computes",
}
_MOST_LETTERS = 160
_NEW_SYMBOL = "create_unbacked_symint"
_UNKNOWN_SIZE = "a shape or number in it depends on values of tensors"


class _UnknownSizeError(Exception):
    """Export met a number that depends on values."""


def export(model: nn.Module, inputs: ModelInputs) -> Program:
    """The graph of a model's forward on the inputs given; nothing of the model changes.

    Where torch.export refuses and the model has storage, one real forward is recorded instead.

    Args:
        model: any module whose forward runs on the inputs.
        inputs: its arguments.

    Returns:
        The program.

    Raises:
        TraceError: if forward raises on these inputs, or cannot be followed.
        ArgumentError: if a linear layer cannot use its weight or bias in the form that it has.
    """
    is_meta = _is_meta(model, inputs)
    try:
        # A graph that export gave up on is printed to stderr: the error says what matters in it.
        with (
            _lean_export(),
            nullcontext() if is_meta else _known_sizes(),
            undisturbed(model),
            _plain_outputs(model),
            redirect_stderr(io.StringIO()),
        ):
            found = torch.export.export(model, inputs.args, dict(inputs.kwargs), strict=False)
        why = _open_shape(found)
        program = exported(found, inputs) if not why else _recorded(model, inputs, why, None)
    # What a model's forward raises is its own: any kind is possible and all mean the same here.
    except TraceError:
        raise
    except Exception as error:
        program = _recorded(model, inputs, _in_words(error), error)
    refuse_unfit_reads(model, program)
    return program


def _recorded(model: nn.Module, inputs: ModelInputs, why: str, cause: Exception | None) -> Program:
    """The record of a real forward, where export cannot follow."""
    name = type(model).__name__
    refused = f"forward of {name} runs but torch.export cannot follow it: {why}. "
    is_meta = _is_meta(model, inputs)
    raised = inputs.forward_error(model)
    # On meta, forward fails where it asks for a value, whatever the shapes are.
    if raised is not None and not (is_meta and "meta tensor" in first_line(raised).lower()):
        refuse_unfit_where(model, raised)
        raise TraceError(
            f"forward of {name} must accept the inputs given, {inputs.describe()}; it raised "
            f"{type(raised).__name__}: {first_line(raised)}. Pass inputs of the shape, dtype and "
            "device that the model is trained on."
        ) from raised
    if is_meta:
        raise TraceError(
            f"{refused}Build the model with storage, so that one real forward can be recorded, or "
            "remove branches on values of tensors and .item() calls from forward."
        ) from cause
    try:
        with redirect_stderr(io.StringIO()):
            return record(model, inputs, why)
    # Likewise: only the recording raises here, since forward ran.
    except Exception as error:
        raise TraceError(
            f"{refused}Nor could a real forward be recorded: {first_line(error)}. Remove branches "
            "on values of tensors and .item() calls from forward, or initialize its parts one by "
            "one."
        ) from error


def _is_meta(model: nn.Module, inputs: ModelInputs) -> bool:
    return any(t.is_meta for t in (*model.parameters(), *(t for _, t in inputs.tensors())))


def _in_words(error: Exception) -> str:
    """Why export refused, for people who do not know its insides."""
    line = first_line(error)
    known = (words for start, words in _MEANINGS.items() if line.startswith(start))
    return next(known, line[:_MOST_LETTERS])


def first_line(error: Exception) -> str:
    """The first line of an error's text, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else ""


@contextmanager
def _plain_outputs(model: nn.Module) -> Iterator[None]:
    """Let forward return its tensors alone: caches and other objects that export cannot take."""
    own = vars(model).get("forward")
    forward = model.forward

    @functools.wraps(forward)
    def tensors(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        leaves = pytree.tree_leaves(forward(*args, **kwargs))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    vars(model)["forward"] = tensors
    try:
        yield
    finally:
        if own is None:
            vars(model).pop("forward", None)
        else:
            vars(model)["forward"] = own


def _open_shape(program: torch.export.ExportedProgram) -> str:
    """Why shapes follow from values, as behind a selection of rows; '' where they do not."""
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and not all(type(n) is int for n in value.shape):
                return f"the shape that operation {str(node.target)!r} makes depends on values"
    return ""


@contextmanager
def _known_sizes() -> Iterator[None]:
    """Give up at the first number that depends on values.

    Export would go on with a symbol in its place, at many times the cost, and end in a branch on
    it or in a shape that is open; a real forward knows the number.
    """

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise _UnknownSizeError(_UNKNOWN_SIZE)

    # Torch versions without this method take longer.
    kind = torch.fx.experimental.symbolic_shapes.ShapeEnv
    method = getattr(kind, _NEW_SYMBOL, None)
    if method is not None:
        setattr(kind, _NEW_SYMBOL, refuse)
    try:
        yield
    finally:
        if method is not None:
            setattr(kind, _NEW_SYMBOL, method)


@contextmanager
def _lean_export() -> Iterator[None]:
    """Export without what is not read here: stack traces, collections of its many small objects.

    Together they are a quarter of its time on a deep model. Warnings of export's own internals are
    not the caller's to mend.
    """
    collecting = gc.isenabled()
    # A refused forward is reported once, by us, and not by each layer of torch it passes through.
    loud = [logging.getLogger(name) for name in _LOUD]
    was_disabled = [logger.disabled for logger in loud]
    for logger in loud:
        logger.disabled = True
    traces = getattr(torch.fx.config, _STACK_TRACES, None)
    gc.disable()
    try:
        if traces is not None:
            setattr(torch.fx.config, _STACK_TRACES, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loud, was_disabled, strict=True):
            logger.disabled = before
        if traces is not None:
            setattr(torch.fx.config, _STACK_TRACES, traces)
        if collecting:
            gc.enable()
