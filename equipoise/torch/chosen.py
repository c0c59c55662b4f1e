"""What a caller chose to be drawn, read into patterns."""

from collections.abc import Callable, Sequence

from torch import nn

from equipoise.errors import ArgumentError
from equipoise.plan.selection import Selection

Chosen = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


def read_selection(model: nn.Module, only: Chosen, skip: Chosen) -> Selection:
    """The selection that two arguments of a caller make.

    Args:
        model: the model they are for.
        only: a pattern, a list of patterns, a function of the name and the parameter that says
            whether it is meant, or None.
        skip: likewise.

    Returns:
        The selection. Of a function it holds the names that it chose.

    Raises:
        ArgumentError: for anything else, and for a function that chooses nothing.
    """
    chosen = {"only": only, "skip": skip}
    return Selection(
        _patterns("only", only, model),
        _patterns("skip", skip, model),
        tuple(option for option, value in chosen.items() if callable(value)),
    )


def _patterns(option: str, value: object, model: nn.Module) -> tuple[str, ...]:
    match value:
        case None:
            return ()
        case str() if value:
            return (value,)
        case list() | tuple() | set() | frozenset() if value:
            if all(isinstance(one, str) and one for one in value):
                return tuple(value)
    if callable(value):
        names = model.named_parameters(remove_duplicate=False)
        found = tuple(name for name, parameter in names if value(name, parameter))
        if not found:
            raise ArgumentError(
                f"{option} must choose at least one parameter, got a function that was true for "
                "none. It is called with the name and the parameter; let it return a bool."
            )
        return found
    held = repr(value) if isinstance(value, str | list | tuple) else type(value).__name__
    raise ArgumentError(
        f"{option} must be a pattern such as 'head.*', a list of patterns, or a function of name "
        f"and parameter, got {held}. Leave it out to draw everything."
    )
