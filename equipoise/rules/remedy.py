"""What to do about a layer that is out of balance: the scheme that fits this very stack."""

from collections.abc import Callable, Sequence

from equipoise.plan.choose import choose
from equipoise.plan.plan import Plan
from equipoise.plan.stacks import Stack

Remedy = Callable[[str], str]

_START_ANEW = "Initialize with scheme='auto'."
_NOTHING_BETTER = "Theory knows no better law for this stack: see the plan's choice and its notes."


def remedies(plan: Plan | None, stacks: Sequence[Stack]) -> Remedy:
    """A function that says, for a layer by name, how its stack is started in balance.

    Args:
        plan: how the model was drawn, or None.
        stacks: of the model, as far as they are known.
    """
    if plan is not None and plan.scheme == "auto":
        return lambda _: _NOTHING_BETTER
    at = {affine.layer: stack for stack in stacks for affine in stack.affines}

    def remedy(layer: str) -> str:
        stack = at.get(layer)
        if stack is None or not all(h.width for h in stack.hidden):
            return _START_ANEW
        choice = choose(stack)
        first, last = stack.affines[0].layer, stack.affines[-1].layer
        where = f"layers {first} to {last}" if first != last else f"layer {first}"
        hopeless = f" No scheme keeps this activation: {choice.warning}." if choice.warning else ""
        return f"Initialize with scheme='auto': {where} {choice.reason}.{hopeless}"

    return remedy


def activation_names(stacks: Sequence[Stack]) -> dict[str, str]:
    """Name of the activation behind each layer of the stacks."""
    found = {}
    for stack in stacks:
        behind = [*(h.activation for h in stack.hidden), stack.exit_activation]
        found.update({a.layer: str(f) for a, f in zip(stack.affines, behind, strict=True)})
    return found
