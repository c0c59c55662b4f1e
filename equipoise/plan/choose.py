"""The auto rule: which scheme each stack of layers gets, and why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from equipoise.plan.stack_maps import cannot_be_framed
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Layout, Mirrored, Plain
from equipoise.theory import pairing
from equipoise.theory.oddpart import ActivationClass, classify
from equipoise.theory.pairing import LOSS_WORTH_MIRRORING, SPREAD_WORTH_MIRRORING, PlainCost
from equipoise.theory.structured import HiddenLayer


@dataclass(frozen=True)
class Choice:
    """What a stack gets.

    Attributes:
        scheme: ``framed`` or ``he``.
        layouts: one for each hidden space (framed only).
        reason: one sentence.
        warning: what theory says against any scheme here, or ''.
        is_unstable: whether that is that no level of the signal is stable in depth.
    """

    scheme: str
    layouts: tuple[Layout, ...]
    reason: str
    warning: str = ""
    is_unstable: bool = False


def plain_cost(hidden: tuple[Hidden, ...]) -> PlainCost:
    """The cost of orthogonal weights scaled to second moments, at preactivations of variance 1."""
    return pairing.plain_cost([HiddenLayer(h.width, h.activation) for h in hidden])


def choose(stack: Stack) -> Choice:
    """The scheme of one stack by the class of its activations, its depth and its widths."""
    apart = cannot_be_framed(stack)
    if apart:
        return _exact_moments(apart)
    classes = [classify(h.activation) for h in stack.hidden]
    hopeless = [c for c in classes if c.kind is ActivationClass.NEITHER]
    if hopeless:
        why = hopeless[0].reason
        return Choice("he", (), f"independent entries with exact moments, since {why}", why, True)
    gates = [h for h, c in zip(stack.hidden, classes, strict=True) if _is_gate(c.kind)]
    centred = tuple(Plain() for _ in stack.hidden)
    if not gates:
        fixed = cannot_be_centred(stack, centred)
        if fixed:
            return _exact_moments(fixed, fixed)
        if not classes:
            reason = "orthogonal at the scale of its inputs, for a layer that stands alone"
            return Choice("framed", centred, reason)
        return centred_choice(stack, classes[0].reason)

    cost = plain_cost(stack.hidden)
    size = (
        f"plain weights would lose {cost.loss / stack.depth:.0%} of the linear signal in each of "
        f"{stack.depth} hidden {'layer' if stack.depth == 1 else 'layers'} of width "
        f"{_range(h.width for h in stack.hidden)} ({cost.loss:.1f} in all; pairing pays above "
        f"{LOSS_WORTH_MIRRORING:g}) and chance would spread its log norm by "
        f"{cost.spread:.2f} (above {SPREAD_WORTH_MIRRORING:g})"
    )
    dropped = next((h for h in gates if h.dropout > 0), None)
    narrow = next((h for h in gates if h.width < 2), None)
    if not cost.is_worth_mirroring:
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


def centred_choice(stack: Stack, why: str) -> Choice:
    """Units centred at f(0) without pairs, for the reason given."""
    gain = f"centred orthogonal on frames with a gain for depth {stack.depth}"
    return Choice("framed", tuple(Plain() for _ in stack.hidden), f"{gain}, since {why}")


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


def _range(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
