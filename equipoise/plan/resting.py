"""Where the units of a stack on frames should rest: at 0, or away from it."""

from dataclasses import dataclass
from typing import Literal

from equipoise.plan.entry import Inputs
from equipoise.plan.shifted_plan import MOST_DIRECTIONS, directions_of, is_line
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Framed, Mirrored, Plain
from equipoise.theory.rest import rest


@dataclass(frozen=True)
class Elsewhere:
    """Another place for the units of a stack than the one it was planned with.

    Attributes:
        scheme: ``shifted``, away from 0, or ``centred``, at 0 but not in pairs.
        why: one clause.
    """

    scheme: Literal["shifted", "centred"]
    why: str


def elsewhere(stack: Stack, planned: StackPlan, inputs: Inputs) -> Elsewhere | None:
    """Where the units of a stack on frames should rest instead, and why.

    A pair keeps one direction where two units that rest apart keep two. Where pairs hold fewer
    than half of the directions in which inputs vary and outputs are wanted, what they lose decides;
    where they hold more, pairs are better, since they bend at once and bear larger steps. Units
    that are centred beside a line lose nothing but bend at once, which so few of them cannot
    afford: the line is better by the same rule. A single pair is one direction, whose sign no small
    step turns: half of the draws start with the wrong one, and a product of numbers has to pass 0,
    where all gradients vanish. Pairs that are no lines are worth less: their slopes fade or grow
    with depth as those of any unit. Where a function is steepest it is nearly odd, which serves
    inputs of many directions; few want its bend at 0.

    Args:
        stack: the layers.
        planned: their laws on frames.
        inputs: what enters.

    Returns:
        The place; None where the stack should stay as it is, or cannot be moved.
    """
    rests = [rest(h.activation) for h in stack.hidden]
    are_pairs = are_pairs_that_can_move(stack, planned)
    are_beside_lines = all(r.kind == "line" for r in rests) and _can_move(stack, planned, Plain())
    # Directions are found in the rows, which few stacks need.
    if any(r.kind == "none" for r in rests) or not (are_pairs or are_beside_lines):
        return None
    directions, outputs = directions_of(stack, inputs), stack.affines[-1].out_size
    wanted = min(directions, outputs)
    of = f"of the {directions:.2g} directions in which inputs vary, for {outputs} outputs"
    held = min((w.rank for w in planned.weights[:-1] if isinstance(w, Framed)), default=0)
    if are_pairs:
        bent = next(
            (h.activation for h, r in zip(stack.hidden, rests, strict=True)
             if r.kind == "steepest" and not is_line(h)), None
        )  # fmt: skip
        if bent is not None:
            why = f"pairs of {bent} are no lines"
            if directions > MOST_DIRECTIONS:
                return Elsewhere("shifted", why)
            return Elsewhere("centred", f"{why}, and where it is steepest it is nearly odd")
        if min(h.width for h in stack.hidden) < 4:
            why = "a single pair has one direction, whose sign training cannot turn"
            return Elsewhere("shifted", why)
        return Elsewhere("shifted", f"pairs would hold {held} {of}") if 2 * held < wanted else None
    if 2 * held < wanted:
        return Elsewhere("shifted", f"layers hold {held} {of}, too few to bend from the start")
    return None


def are_pairs_that_can_move(stack: Stack, planned: StackPlan) -> bool:
    """Whether all hidden layers are dense, mirrored, without dropout, with biases of their own."""
    return _can_move(stack, planned, Mirrored())


def _can_move(stack: Stack, planned: StackPlan, layout: Mirrored | Plain) -> bool:
    # Odd units between gates are no pairs, and rest at 0.
    alike = sum(isinstance(w, Framed) and w.out_layout == layout for w in planned.weights[:-1])
    is_dense = not any(a.convolution.kernel for a in stack.affines)
    has_dropout = any(h.dropout for h in stack.hidden)
    return 0 < alike == stack.depth and is_dense and not has_dropout and all(stack.can_shift)
