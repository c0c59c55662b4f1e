"""Which parameters are to be drawn: patterns on names of parameters and of modules."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from equipoise.errors import ArgumentError
from equipoise.plan.trace import Parameter

# How the reason of a parameter that was not selected begins.
KEPT = "kept: "
_NEAREST = 3
_SHOWN = 3


@dataclass(frozen=True)
class Selection:
    """What a caller asked to be drawn, in a form that fits other models as well.

    A pattern stands for every parameter that has a name which it matches, and for everything
    beneath every module whose name it matches; ``*`` matches dots too. What ``skip`` names is left
    out of what ``only`` names.

    Attributes:
        only: patterns of what is drawn; () for everything.
        skip: patterns of what is not drawn.
        functions: which of ``only`` and ``skip`` were functions; these patterns are then the names
            that they chose in the model that was planned, and fit no other.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()

    def kept(self, parameters: Sequence[Parameter]) -> dict[str, str]:
        """Reasons of the parameters that are not selected, by their first names.

        Args:
            parameters: those of the model. One that is tied is matched by any of its names.

        Returns:
            The reasons, in the order of the parameters.

        Raises:
            ArgumentError: for a pattern that matches nothing, or if nothing is left to be drawn.
        """
        for option, patterns in (("only", self.only), ("skip", self.skip)):
            _refuse_unmatched(option, patterns, parameters)
        kept: dict[str, str] = {}
        for parameter in parameters:
            skipped = next((p for p in self.skip if _stands_for(p, parameter)), None)
            if skipped is not None:
                kept[parameter.name] = f"{KEPT}{self._asked('skip', skipped)} leaves it out"
            elif self.only and not any(_stands_for(p, parameter) for p in self.only):
                kept[parameter.name] = f"{KEPT}not selected by {self._asked('only', *self.only)}"
        if (self.only or self.skip) and len(kept) == len(parameters):
            raise ArgumentError(
                f"only and skip must leave something to draw, got {self}, which keeps all "
                f"{len(kept)} parameters. Leave one of the two out."
            )
        return kept

    def __str__(self) -> str:
        asked = (("only", self.only), ("skip", self.skip))
        return " and ".join(self._asked(o, *p) for o, p in asked if p) or "everything"

    def _asked(self, option: str, *patterns: str) -> str:
        """An option as it was given, shortened."""
        if option in self.functions:
            return f"{option}=, a function"
        if len(patterns) == 1:
            return f"{option}={patterns[0]!r}"
        shown = ", ".join(repr(p) for p in patterns[:_SHOWN])
        return f"{option}=[{shown}{', ...' if len(patterns) > _SHOWN else ''}]"


def _names(parameter: Parameter) -> tuple[str, ...]:
    return (parameter.name, *parameter.aliases)


def _above(name: str) -> Iterator[str]:
    """Names of the modules that a parameter lies beneath, but for the model itself."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _stands_for(pattern: str, parameter: Parameter) -> bool:
    return any(
        fnmatchcase(place, pattern) for name in _names(parameter) for place in (name, *_above(name))
    )


def _refuse_unmatched(
    option: str, patterns: Collection[str], parameters: Sequence[Parameter]
) -> None:
    for pattern in patterns:
        if any(_stands_for(pattern, p) for p in parameters):
            continue
        names = [name for p in parameters for name in _names(p)]
        places = list(dict.fromkeys([*names, *(m for name in names for m in _above(name))]))
        near = difflib.get_close_matches(pattern, places, _NEAREST, cutoff=0.0)
        raise ArgumentError(
            f"{option} must name parameters or modules with parameters, got {pattern!r}, which "
            f"matches none. The nearest names are {', '.join(repr(n) for n in near)}."
        )
