"""Models of one family: the same names, but for widths and for how often a block is repeated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from equipoise.errors import PlanError
from equipoise.plan.difference import SIZES, Change
from equipoise.plan.plan import Plan
from equipoise.schemes.law_data import describe

# Attributes of laws that follow from how many units there are, or name what else is drawn.
_BY_SIZE = SIZES | {
    "rank", "block", "groups", "out_frame", "in_frame", "weight", "centre", "space", "in_space",
    "previous", "padding",
}  # fmt: skip
_SHOWN = 4
_UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Transfer:
    """A plan that was carried over to a sibling of the model that it was made for.

    Attributes:
        plan: the plan for the sibling.
        new: parameters of blocks that only the sibling has.
        gone: parameters of blocks that it lacks.
        beyond_size: parameters, one for each place in a repeated block, that are drawn in one model
            and kept in the other, or drawn from a law of another kind: what a change of size alone
            need not have brought, though it may have, as where width decides if mirroring pays.
    """

    plan: Plan
    new: tuple[str, ...]
    gone: tuple[str, ...]
    beyond_size: tuple[Change, ...]

    def __str__(self) -> str:
        lines = [
            f"plan ({self.plan.scheme}) carried over: {len(self.plan.assignments)} drawn, "
            f"{len(self.plan.untouched)} untouched, {len(self.new)} new, {len(self.gone)} gone"
        ]
        lines += [f"  {change}" for change in self.beyond_size]
        return "\n".join(lines if self.beyond_size else [*lines, "  nothing differs but size"])


def form(name: str) -> str:
    """A name with ``#`` in place of the numbers of repeated blocks.

    >>> form("blocks.11.fc1.weight")
    'blocks.#.fc1.weight'
    """
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def refuse_strangers(plan: Plan, names: Sequence[str]) -> None:
    """Refuse a model that is no sibling of the one that a plan was made for.

    Args:
        plan: the plan.
        names: parameters of the model.

    Raises:
        PlanError: naming parameters without a counterpart.
    """
    planned = _names(plan)
    ours, theirs = {form(n) for n in planned}, {form(n) for n in names}
    foreign = [n for n in names if form(n) not in ours]
    missing = [n for n in planned if form(n) not in theirs]
    if foreign or missing:
        raise PlanError(
            "model must be a sibling of the one that the plan was made for, with the same names "
            f"but for the numbers of repeated blocks; not in the plan: {_some(foreign)}, not in "
            f"the model: {_some(missing)}. Make a plan of its own for this model."
        )


def compare(first: Plan, second: Plan) -> Transfer:
    """The plan of a sibling, held against the one that it comes from.

    Args:
        first: the plan that was carried over.
        second: what came of it for the sibling.

    Returns:
        The second plan with what is different.
    """
    before, after = _laws(first), _laws(second)
    kinds: dict[str, dict[Any, str]] = {}
    for name, law in before.items():
        kinds.setdefault(form(name), {}).setdefault(_kind(law), _words(law))
    changed: dict[tuple[str, str], Change] = {}
    for name, law in after.items():
        known = kinds[form(name)]
        own = _kind(before[name]) if name in before else None
        if _kind(law) == own or (own is None and _kind(law) in known):
            continue
        was = _words(before[name]) if name in before else " or ".join(known.values())
        changed.setdefault((form(name), was), Change(name, was, _words(law)))
    return Transfer(
        second,
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(changed.values()),
    )


def _names(plan: Plan) -> list[str]:
    return [a.parameter for a in plan.assignments] + [u.parameter for u in plan.untouched]


def _laws(plan: Plan) -> dict[str, Any]:
    laws: dict[str, Any] = {a.parameter: a.law for a in plan.assignments}
    return laws | {u.parameter: None for u in plan.untouched}


def _kind(law: Any) -> Any:
    """A law without its numbers and without the names of what it refers to."""
    if not is_dataclass(law):
        return law
    return type(law).__name__, tuple(
        (f.name, _kind(getattr(law, f.name))) for f in fields(law) if f.name not in _BY_SIZE
    )


def _words(law: Any) -> str:
    return _UNTOUCHED if law is None else describe(law)


def _some(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (", ".join(repr(n) for n in found[:_SHOWN]) or "none") + more
