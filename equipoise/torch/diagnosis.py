"""Diagnosis: a model as it stands, at birth or from a checkpoint; nothing is touched."""

import torch
from torch import nn

from equipoise.diagnose import Finding
from equipoise.diagnose import diagnose as find
from equipoise.errors import ArgumentError, TraceError
from equipoise.plan.stacks import find_stacks
from equipoise.plan.trace import Trace
from equipoise.report.diagnosis import Diagnosis
from equipoise.rules.theory_word import theory_words
from equipoise.torch.inputs import Inputs, read_inputs
from equipoise.torch.measure import measure
from equipoise.torch.measure_loss import Loss, LossFunction
from equipoise.torch.measure_weights import weigh
from equipoise.torch.refusals import refuse_meta, refuse_mixed_meta, usable
from equipoise.torch.trace import trace

__all__ = ["Diagnosis", "diagnose"]

_NOTHING_READ = Trace((), (), (), (), ())


def diagnose(
    model: nn.Module,
    inputs: Inputs = None,
    loss: LossFunction | None = None,
    targets: torch.Tensor | None = None,
) -> Diagnosis:
    """Measure a model as it stands, say what theory says of such weights, and what is wrong.

    Forward and backward run once on copies: parameters, gradients, buffers, random state and flags
    stay as they are, bit for bit. Forward hooks of the model do fire. Of more than 1,024 rows as
    many are used, evenly spaced, and the diagnosis says so.

    Args:
        model: any module; one that torch.export cannot follow is measured all the same, without
            its activations and without theory's word.
        inputs: as for ``plan``.
        loss: what gradients are of: a function of (outputs, targets), or of the outputs alone where
            no targets are given. Chosen by the targets where it is left out: cross-entropy for
            class numbers, mean squared error for floats of the output's shape. With neither,
            gradients are of a random projection of the outputs.
        targets: what the outputs are held against.

    Returns:
        Measurements, theory's word and findings.

    Raises:
        ArgumentError: for an empty model, inputs that are not usable, or targets and loss that do
            not fit the outputs.
        TraceError: if forward or backward fails.
        PlanError: if any part of the model is on the meta device.

    >>> dead = nn.Sequential(*[nn.Linear(16, 16) for _ in range(60)])
    >>> diagnose(dead, torch.randn(64, 16)).ok
    False
    """
    model = usable(model)
    refuse_mixed_meta(model)
    refuse_meta(model)
    arguments = read_inputs(model, inputs)
    given = _loss(loss, targets)
    traced, unread = _NOTHING_READ, list[Finding]()
    try:
        traced = trace(model, arguments)
    except TraceError as error:
        if arguments.forward_error(model) is not None:
            raise
        unread = [_not_read(model, error)]
    measured = measure(model, traced, arguments, loss=given)
    stacks = find_stacks(traced)
    words = theory_words(measured, stacks, weigh(model, stacks))
    findings = find(measured, None, stacks)
    return Diagnosis(type(model).__name__, measured, (*findings, *unread), words)


def _loss(function: LossFunction | None, targets: object) -> Loss:
    if function is not None and not callable(function):
        raise ArgumentError(
            f"loss must be a function of outputs and targets, got {type(function).__name__}. Pass "
            "torch.nn.functional.cross_entropy or one like it."
        )
    if targets is not None and not isinstance(targets, torch.Tensor):
        raise ArgumentError(
            f"targets must be a tensor, got {type(targets).__name__}. Pass torch.as_tensor(targets)"
            ", or a loss of the outputs alone that holds them."
        )
    return Loss(function, targets)


def _not_read(model: nn.Module, error: TraceError) -> Finding:
    return Finding(
        "not-read", "info", type(model).__name__, "torch.export cannot follow forward", "", "",
        f"Layers are measured without their activations, and theory has no word. {error}",
    )  # fmt: skip
