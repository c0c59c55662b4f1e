"""Carrying a plan over to a sibling of the model that it was made for."""

import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.plan import Plan
from equipoise.plan.selection import Selection
from equipoise.plan.siblings import Transfer, compare, refuse_strangers
from equipoise.torch.chosen import Chosen, read_selection
from equipoise.torch.initialize import planned
from equipoise.torch.inputs import Inputs
from equipoise.torch.parameters import parameters_of
from equipoise.torch.refusals import refuse_mixed_meta, usable

__all__ = ["Transfer", "transfer"]


def transfer(
    plan: Plan,
    model: nn.Module,
    inputs: Inputs = None,
    *,
    only: Chosen = None,
    skip: Chosen = None,
) -> Transfer:
    """The plan for a sibling: the same intent for other widths, and for more or fewer blocks.

    A plan's laws are not rescaled, the sibling is planned anew with what the plan was asked for:
    its scheme, its aim, and the patterns of ``only`` and ``skip``. The numbers in laws follow from
    fans, but from much else besides: how many branches share a stream, the axes and the scale of
    the inputs, how many columns of a frame survive the narrowest layer, whether mirroring pays at
    this width. Multiplying them by a ratio of fans would be right for independent entries alone.
    What does carry over is the request, and it is exact: with the same inputs and sizes this gives
    the plan itself. What came out otherwise than size alone explains is listed.

    No tensor is touched, and models on the meta device are welcome, as in ``plan``.

    Args:
        plan: the plan, as made here or loaded from a file.
        model: a model whose parameters have the same names, but for the numbers of blocks.
        inputs: as for ``plan``; those of the sibling.
        only: in place of the plan's own; needed where that was a function, which no plan can hold.
        skip: likewise.

    Returns:
        The plan for the sibling (``.plan``, for ``apply``) and what is different.

    Raises:
        ArgumentError: if the plan is none, or as in ``plan``.
        TraceError: as in ``plan``.
        PlanError: if the model is no sibling, the plan selected by a function and none is given, or
            as in ``plan``.

    >>> small = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> wide = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    >>> from equipoise.torch.initialize import plan
    >>> moved = transfer(plan(small, torch.eye(4)), wide, torch.eye(4))
    >>> moved.plan.assignments[0].shape
    (64, 4)
    """
    if not isinstance(plan, Plan):
        raise ArgumentError(
            f"plan must be a Plan, got {type(plan).__name__}. Load a file with Plan.load(path)."
        )
    with torch.inference_mode(False):
        model = usable(model)
        refuse_mixed_meta(model)
        refuse_strangers(plan, [p.name for p in parameters_of(model)])
        selection = _selection(plan.selection, read_selection(model, only, skip))
        made, *_ = planned(model, inputs, plan.scheme, plan.aim, selection, plan.residual)
        return compare(plan, made)


def _selection(before: Selection, given: Selection) -> Selection:
    """What is selected in the sibling: the plan's patterns, where no others are given."""
    for option in before.functions:
        if not getattr(given, option):
            raise PlanError(
                f"{option} must be given again, got a plan that selected by a function, of which "
                f"it holds only the names chosen then. Pass {option}= with the same function."
            )
    return Selection(given.only or before.only, given.skip or before.skip, given.functions)
