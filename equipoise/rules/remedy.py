"""What to do about a layer that is out of balance: the scheme that fits this very stack."""

from collections.abc import Callable, Sequence

from equipoise.plan.choose import choose
from equipoise.plan.plan import Plan
from equipoise.plan.stacks import Stack

Remedy = Callable[[str], str]

_START_ANEW = "Initialize with scheme='auto'."


def remedies(plan: Plan | None, stacks: Sequence[Stack]) -> Remedy:
    """A function that says, for a layer by name, how its stack is started in balance.

    Where the plan is ``auto``'s own, it says what keeps that from doing better, or ''.

    Args:
        plan: how the model was drawn, or None.
        stacks: of the model, as far as they are known.
    """
    at = {affine.layer: stack for stack in stacks for affine in stack.affines}

    def after_auto(layer: str) -> str:
        stack = at.get(layer)
        return "" if stack is None else _what_limits(stack, len(stacks))

    def remedy(layer: str) -> str:
        stack = at.get(layer)
        if stack is None or not all(h.width for h in stack.hidden):
            return _START_ANEW
        choice = choose(stack)
        hopeless = f" No law keeps this activation: {choice.warning}." if choice.is_unstable else ""
        return f"Initialize with scheme='auto': {_where(stack)} {choice.reason}.{hopeless}"

    return after_auto if plan is not None and plan.scheme == "auto" else remedy


def _what_limits(stack: Stack, stacks: int) -> str:
    """What keeps the best known law of a stack from doing better, '' where nothing is known."""
    choice = choose(stack)
    dropped = max((h.active_dropout for h in stack.hidden), default=0.0)
    if choice.is_unstable:
        return f"Theory knows no law that keeps the signal of {_where(stack)}: {choice.warning}."
    if dropped > 0:
        return (
            f"Dropout of {dropped:g} in {_where(stack)} was active: measure in eval mode to see "
            "the weights alone, or drop less."
        )
    if choice.warning:
        return f"No better law was open to {_where(stack)}, since {choice.warning}."
    if stacks > 1:
        return (
            f"The law was chosen for {_where(stack)} alone, one of {stacks} stacks of this model. "
            "Where branches are summed, scaling them down keeps the sum at the scale of one."
        )
    return ""


def _where(stack: Stack) -> str:
    first, last = stack.affines[0].layer, stack.affines[-1].layer
    return f"layers {first} to {last}" if first != last else f"layer {first}"


def activation_names(stacks: Sequence[Stack]) -> dict[str, str]:
    """Name of the activation behind each layer of the stacks."""
    found = {}
    for stack in stacks:
        behind = [*(h.activation for h in stack.hidden), stack.exit_activation]
        found.update({a.layer: str(f) for a, f in zip(stack.affines, behind, strict=True)})
    return found
