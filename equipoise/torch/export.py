"""torch.export with errors that say whose fault it is."""

import functools
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
import torch.fx.config
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.errors import TraceError
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.stateless import undisturbed
from equipoise.torch.unfit import refuse_unfit_reads, refuse_unfit_where

# Torch versions without this switch export a little slower.
_STACK_TRACES = "do_not_emit_stack_traces"


def export(model: nn.Module, inputs: ModelInputs) -> torch.export.ExportedProgram:
    """The graph of a model's forward on the inputs given; nothing of the model changes.

    Args:
        model: any module whose forward torch.export can follow.
        inputs: its arguments.

    Returns:
        The exported program.

    Raises:
        TraceError: if forward raises on these inputs, or cannot be followed.
        ArgumentError: if a linear layer cannot use its weight or bias in the form that it has.
    """
    try:
        # A graph that export gave up on is printed to stderr: the error says what matters in it.
        with (
            _lean_export(),
            undisturbed(model),
            _plain_outputs(model),
            redirect_stderr(io.StringIO()),
        ):
            program = torch.export.export(model, inputs.args, dict(inputs.kwargs), strict=False)
    # What a model's forward raises is its own: any kind is possible and all mean the same here.
    except Exception as error:
        raise TraceError(_why(model, inputs, error)) from error
    _refuse_open_shapes(model, program)
    refuse_unfit_reads(model, program)
    return program


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


def _refuse_open_shapes(model: nn.Module, program: torch.export.ExportedProgram) -> None:
    """Refuse graphs in which a shape follows from values, as behind a selection of rows."""
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and not all(type(n) is int for n in value.shape):
                raise TraceError(
                    f"forward of {type(model).__name__} must make tensors of shapes that do not "
                    f"depend on values, got one from operation {str(node.target)!r}. Multiply by "
                    "a mask in place of selecting rows, or initialize its parts one by one."
                )


@contextmanager
def _lean_export() -> Iterator[None]:
    """Export without what is not read here: stack traces, collections of its many small objects.

    Together they are a quarter of its time on a deep model. Warnings of export's own internals are
    not the caller's to mend.
    """
    collecting = gc.isenabled()
    # A refused forward is reported once, by us, and not by each layer of torch it passes through.
    loud = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, loud.disabled = loud.disabled, True
    traces = getattr(torch.fx.config, _STACK_TRACES, None)
    gc.disable()
    try:
        if traces is not None:
            setattr(torch.fx.config, _STACK_TRACES, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.disabled = was_disabled
        if traces is not None:
            setattr(torch.fx.config, _STACK_TRACES, traces)
        if collecting:
            gc.enable()


def _why(model: nn.Module, inputs: ModelInputs, error: Exception) -> str:
    """Tell a forward that fails from one that only export refuses."""
    first_line = str(error).strip().split("\n")[0]
    name = type(model).__name__
    raised = inputs.forward_error(model)
    if raised is not None:
        refuse_unfit_where(model, raised)
        return (
            f"forward of {name} must accept the inputs given, {inputs.describe()}; it raised "
            f"{type(raised).__name__}: {str(raised).strip().splitlines()[0] if str(raised) else ''}"
            ". Pass inputs of the shape, dtype and device that the model is trained on."
        )
    return (
        f"forward of {name} runs but torch.export cannot follow it: {first_line}. Remove branches "
        "on values of tensors and .item() calls from forward, or initialize its parts one by one."
    )
