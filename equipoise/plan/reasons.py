"""Why parameters keep their values, why they are drawn as they are, and remarks on a plan."""

from collections.abc import Mapping

from equipoise.plan.nodes import Affine, Gain, Nonlinearity, Opaque, Shift
from equipoise.plan.stack_plan import StackPlan
from equipoise.plan.stacks import Stack
from equipoise.plan.trace import Trace
from equipoise.plan.vectors import is_matrix
from equipoise.schemes.laws import Law, Matrix, SpreadBias, Turned, Uniform, Zero
from equipoise.schemes.part_laws import Each, Rows


def unplannable(trace: Trace, kept: Mapping[str, str]) -> dict[str, str]:
    """Parameters that keep their values, with the reason."""
    reasons: dict[str, str] = {}
    shapes = {p.name: p.shape for p in trace.parameters}
    for node in trace.nodes:
        if isinstance(node, Opaque):
            for name in node.parameters:
                if node.is_linear and is_matrix(shapes.get(name, ())):
                    continue
                reasons[name] = f"belongs to {node.layer or 'the model'}: {node.reason}"
        elif isinstance(node, Nonlinearity):
            for name in node.parameters:
                reasons[name] = f"is part of the activation {node.activation}, read as it stands"
        elif isinstance(node, Gain | Shift) and node.is_kept and node.parameter:
            reasons[node.parameter] = "goes through a function first, and is read as it stands"
    gains = {n.parameter for n in trace.nodes if isinstance(n, Gain)}
    for node in trace.nodes:
        if isinstance(node, Shift) and node.parameter and node.parameter in gains:
            reasons[node.parameter] = "is a gain and an offset at once"
    for p in trace.parameters:
        if not p.is_trainable:
            reasons[p.name] = "frozen: requires_grad is False"
        elif 0 in p.shape:
            reasons[p.name] = "has no entries"
        elif p.kept:
            reasons[p.name] = p.kept
    reasons |= kept
    for node in trace.nodes:
        # One that was selected where its weight was not starts anew.
        if isinstance(node, Affine) and node.weight in reasons.keys() - kept.keys() and node.bias:
            reasons.setdefault(node.bias, f"its weight {node.weight!r} keeps its values")
    return reasons


def laid_out(law: Law, affine: Affine) -> Law:
    """A law of a matrix of shape (out, in) for a parameter that holds it some other way."""
    if not affine.is_turned and not affine.several:
        return law
    # Linear layers have a matrix's.
    assert isinstance(law, Matrix | Rows)
    found = Turned(law) if affine.is_turned else law
    if not affine.several:
        return found
    assert not isinstance(found, Rows)
    return Each(found)


def bias_reason(bias: Law) -> str:
    """Why a bias is drawn as it is."""
    match bias:
        case Zero():
            return "starts at 0"
        case Uniform():
            return "spreads the phases of its units"
        case SpreadBias(std=std) if std > 0:
            return "moves the kinks of its pairs apart"
        case _:
            return "centres its layer"


def why_untouched(name: str, used: set[str]) -> str:
    """Why a parameter has no law, by whether any operation uses it."""
    if name in used:
        return "a gain of the model's own, which keeps its values"
    return "no operation of the model uses it"


class Remarks:
    """What a reader should know: one note for each remark, however many places it concerns."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, None]] = {}

    def add(self, place: str, remark: str) -> None:
        """Take note of a remark on a place."""
        self._places.setdefault(remark, {})[place] = None

    def notes(self) -> tuple[str, ...]:
        """Every remark once, with the first of its places."""
        found = []
        for remark, places in self._places.items():
            first, *others = places
            more = f" and {len(others)} more" if others else ""
            found.append(f"{first}{more}: {remark}.")
        return tuple(found)


def weight_reason(place: int, stack: Stack, planned: StackPlan) -> str:
    """What the weight at a place of a stack is for."""
    if stack.depth == 0:
        return planned.reason
    if place == 0:
        return "brings the inputs to the level of the stack"
    if place == stack.depth:
        return "brings the stack to its output scale"
    return f"keeps the signal after {stack.hidden[place - 1].activation}"
