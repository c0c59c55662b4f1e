"""Weights that are all 0, and which of them start so on purpose: a head, or the end of a branch."""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Plan
from equipoise.plan.stacks import Stack
from equipoise.rules.finding import Finding
from equipoise.schemes.laws import Zero

# Share of a later layer's mean square that differs between inputs: they got there some other way.
_DIFFERS = 1e-6


@dataclass(frozen=True)
class Zeros:
    """Layers by their place in the order of computation.

    Attributes:
        meant: those whose zero weights leave the network trainable: a head, whose own weights move
            in the first step, and the end of a branch that signal and gradient go around.
        waiting: those before them whose gradient is 0 until they have moved.
        planned: those that the plan starts at 0; nothing need be said of them.
    """

    meant: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()
    planned: frozenset[int] = frozenset()


def zeros_on_purpose(m: Measurements, stacks: Sequence[Stack], plan: Plan | None = None) -> Zeros:
    """Which layers of zeros are a way to start, and which layers wait for them.

    Args:
        m: what was measured.
        stacks: the stacks of the layers, as far as known.
        plan: what was drawn, if the network was planned.
    """
    silent = plan.silent if plan else ()
    laws = plan.assignments if plan else ()
    zeros = {*silent, *(a.parameter for a in laws if a.law == Zero())}
    planned = frozenset(
        i for i, x in enumerate(m.layers)
        if x.weight in silent or (x.weight_norm == 0.0 and x.weight in zeros)
    )  # fmt: skip
    ends = {s.affines[-1].weight for s in stacks if not s.is_last}
    meant = planned | frozenset(
        i for i, x in enumerate(m.layers)
        if x.weight_norm == 0.0 and _is_meant(x, m.layers[i + 1 :], x.weight in ends)
    )  # fmt: skip
    waiting: set[int] = set()
    for i in meant:
        before = i - 1
        while before >= 0 and m.layers[before].gradient == 0.0:
            waiting.add(before)
            before -= 1
    if silent:
        # Gains at 0 hold back a branch as weights do, and a head of zeros all before it.
        still = (i for i, x in enumerate(m.layers) if x.gradient == 0.0)
        return Zeros(meant, frozenset(waiting) | frozenset(still) - planned, planned)
    return Zeros(meant, frozenset(waiting), planned)


def _is_meant(zero: LayerMeasurement, later: Sequence[LayerMeasurement], ends_branch: bool) -> bool:
    if not later:
        # A head that reads zeros gets no gradient: nothing would ever move.
        return zero.weight_gradient != 0.0
    if all(x.weight_norm == 0.0 for x in later):
        # Behind a head of zeros no difference shows that a branch is gone around.
        return ends_branch
    return any(x.weight_norm != 0.0 and x.input_share > _DIFFERS for x in later)


def zero_weights(m: Measurements, zeros: Zeros) -> list[Finding]:
    """A finding on layers whose weights are all 0."""
    zero = (i for i, x in enumerate(m.layers) if x.weight_norm == 0.0)
    at = [i for i in zero if i not in zeros.planned]
    if not at:
        return []
    cutting = [i for i in at if i not in zeros.meant]
    first = m.layers[(cutting or at)[0]]
    what, expected = "all weights are 0", "a weight that passes something on"
    observed = f"norm 0 in {len(at)} of {len(m.layers)} layers"
    if cutting:
        return [
            Finding("zero-weights", "error", first.layer, what, expected, observed,
                    f"Draw {first.weight!r} with equipoise.torch.initialize.")
        ]  # fmt: skip
    place = "the network" if at[0] == len(m.layers) - 1 else "a branch"
    return [
        Finding("zero-weights", "warning", first.layer, what, expected, observed,
                f"At the end of {place} that may be meant: this layer moves in the first step, "
                "those that only it reads from the second on, and neither is judged until then. "
                f"Otherwise draw {first.weight!r}.")
    ]  # fmt: skip
