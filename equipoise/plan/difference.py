"""What two plans do otherwise, parameter by parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from equipoise.schemes.law_data import describe
from equipoise.schemes.laws import Array, Law

# Attributes of laws that say how large entries are; all others say of what kind they are.
SIZES = frozenset(
    {"std", "bound", "scale", "low", "high", "gain", "norm", "diagonal", "noise_std", "value",
     "mean", "target", "in_std", "level", "constant"}
)  # fmt: skip
_NONE = np.empty(0)


@dataclass(frozen=True)
class Change:
    """One parameter on which two plans differ.

    Attributes:
        parameter: its name.
        before, after: the laws in words.
    """

    parameter: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.parameter}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class Difference:
    """What a plan and another one do otherwise; false where they draw the same.

    Attributes:
        only_first: parameters that the first plan draws and the second does not.
        only_second: the reverse.
        laws: parameters that both draw, from laws of another kind.
        scales: parameters that both draw, from laws of one kind that differ in their numbers.
        arrays: names of arrays (axes, means of inputs) that differ.
    """

    only_first: tuple[Change, ...] = ()
    only_second: tuple[Change, ...] = ()
    laws: tuple[Change, ...] = ()
    scales: tuple[Change, ...] = ()
    arrays: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts: list[tuple[str, tuple[Any, ...]]] = [
            ("drawn by the first alone", self.only_first),
            ("drawn by the second alone", self.only_second),
            ("other law", self.laws),
            ("other scale", self.scales),
            ("other array", self.arrays),
        ]
        lines = []
        for title, found in parts:
            if found:
                lines += [f"{title}:", *(f"  {one}" for one in found)]
        return "\n".join(lines) or "both draw the same"


def difference(
    first: Mapping[str, Law],
    second: Mapping[str, Law],
    first_arrays: Mapping[str, Array],
    second_arrays: Mapping[str, Array],
) -> Difference:
    """What two sets of laws draw otherwise.

    Args:
        first: laws by parameter.
        second: those that they are held against.
        first_arrays: what the first refer to.
        second_arrays: what the second refer to.

    Returns:
        The difference; parameters in the order of the first, then of the second.
    """
    only_first, only_second = list[Change](), list[Change]()
    laws, scales = list[Change](), list[Change]()
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name), second.get(name)
        if one == other:
            continue
        change = Change(name, _words(one), _words(other))
        if other is None:
            only_first.append(change)
        elif one is None:
            only_second.append(change)
        elif kind(one) != kind(other):
            laws.append(change)
        else:
            scales.append(change)
    arrays = tuple(
        name
        for name in dict.fromkeys([*first_arrays, *second_arrays])
        if not np.array_equal(first_arrays.get(name, _NONE), second_arrays.get(name, _NONE))
    )
    return Difference(tuple(only_first), tuple(only_second), tuple(laws), tuple(scales), arrays)


def kind(law: Any) -> Any:
    """A law without the numbers that say how large its entries are."""
    if not is_dataclass(law):
        return law
    return type(law).__name__, tuple(
        (f.name, kind(getattr(law, f.name))) for f in fields(law) if f.name not in SIZES
    )


def _words(law: Law | None) -> str:
    return "untouched" if law is None else describe(law)
