"""The auto rule: which scheme each stack of layers gets, and why."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Layout, Mirrored, Plain
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify

# Pairing units halves the rank of the network at birth. It pays where the plain law would lose
# more: linear information to the activation's nonlinear part, or the signal's level to chance.
_LOSS_WORTH_MIRRORING = 2.0
_SPREAD_WORTH_MIRRORING = 2.3


@dataclass(frozen=True)
class Choice:
    """What a stack gets.

    Attributes:
        scheme: ``framed`` or ``he``.
        layouts: one for each hidden space (framed only).
        reason: one sentence.
        warning: what theory says against any scheme here, or ''.
    """

    scheme: str
    layouts: tuple[Layout, ...]
    reason: str
    warning: str = ""


@dataclass(frozen=True)
class PlainCost:
    """What variance scaling would cost a stack.

    Attributes:
        loss: sum over layers of the share of the second moment of f outside its linear part.
        spread: standard deviation of the log norm of the signal after the whole stack, nats.
    """

    loss: float
    spread: float


def plain_cost(hidden: tuple[Hidden, ...]) -> PlainCost:
    """The cost of orthogonal weights scaled to second moments, at preactivations of variance 1.

    The linear share of one layer is (E f')^2 / E f^2 (Stein), so what a layer loses of it is 1
    minus that: (1 - a)^2 / (2 (1 + a^2)) for slopes 1 and a. The log norm of n independent units
    has variance (Var f^2 / (E f^2)^2 / 4 - 1/2) / n to first order in 1 / n.
    """
    loss, variance = 0.0, 0.0
    for h in hidden:
        s = statistics(h.activation, 1.0)
        loss += 1.0 - s.linear**2 / s.second_moment
        variance += max(0.0, s.log_norm_coefficient - 0.5) / h.width
    return PlainCost(loss, math.sqrt(variance))


def choose(stack: Stack) -> Choice:
    """The scheme of one stack by the class of its activations, its depth and its widths."""
    classes = [classify(h.activation) for h in stack.hidden]
    hopeless = [c for c in classes if c.kind is ActivationClass.NEITHER]
    if hopeless:
        return _exact_moments(hopeless[0].reason, hopeless[0].reason)
    gates = [h for h, c in zip(stack.hidden, classes, strict=True) if _is_gate(c.kind)]
    centred = tuple(Plain() for _ in stack.hidden)
    if not gates:
        fixed = cannot_be_centred(stack, centred)
        if fixed:
            return _exact_moments(fixed, fixed)
        return Choice("framed", centred, _centred_reason(stack, [c.reason for c in classes]))

    cost = plain_cost(stack.hidden)
    size = (
        f"plain weights would lose {cost.loss / stack.depth:.0%} of the linear signal in each of "
        f"{stack.depth} hidden {'layer' if stack.depth == 1 else 'layers'} of width "
        f"{_range(h.width for h in stack.hidden)} ({cost.loss:.1f} in all; pairing pays above "
        f"{_LOSS_WORTH_MIRRORING:g}) and chance would spread its log norm by "
        f"{cost.spread:.2f} (above {_SPREAD_WORTH_MIRRORING:g})"
    )
    pays = cost.loss > _LOSS_WORTH_MIRRORING or cost.spread > _SPREAD_WORTH_MIRRORING
    dropped = next((h for h in gates if h.dropout > 0), None)
    narrow = next((h for h in gates if h.width < 2), None)
    if not pays:
        return _exact_moments(size)
    if dropped:
        reason = f"dropout of {dropped.dropout:g} breaks mirrored pairs of {dropped.activation}"
        return _exact_moments(reason, f"{reason}, and {size}")
    if narrow:
        reason = f"a layer of {narrow.width} unit has no pair to mirror"
        return _exact_moments(reason, f"{reason}, and {size}")
    layouts = tuple(Mirrored() if _is_gate(c.kind) else Plain() for c in classes)
    fixed = cannot_be_centred(stack, layouts)
    if fixed:
        return _exact_moments(fixed, fixed)
    why = next(c.reason for c in classes if _is_gate(c.kind))
    return Choice("framed", layouts, f"mirrored orthogonal on frames, since {why}, and {size}")


def _exact_moments(reason: str, warning: str = "") -> Choice:
    return Choice("he", (), f"independent entries with exact moments, since {reason}", warning)


def cannot_be_centred(stack: Stack, layouts: Sequence[Layout]) -> str:
    """Why a unit that does not rest at 0 cannot be moved there by the next bias, or ''."""
    for h, layout, affine, can_shift in zip(
        stack.hidden, layouts, stack.affines[1:], stack.can_shift[1:], strict=True
    ):
        if isinstance(layout, Plain) and h.activation.value_at_zero != 0.0 and not can_shift:
            return (
                f"{h.activation} is {h.activation.value_at_zero:.3g} at 0 and layer "
                f"{affine.layer!r} has no bias of its own to centre it"
            )
    return ""


def _is_gate(kind: ActivationClass) -> bool:
    return kind is ActivationClass.MIRROR


def _centred_reason(stack: Stack, reasons: list[str]) -> str:
    if not reasons:
        return "orthogonal at the scale of its inputs, for a layer that stands alone"
    return f"centred orthogonal on frames with a gain for depth {stack.depth}, since {reasons[0]}"


def _range(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
