"""Arguments and options that several commands take, and how lists of words are written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from equipoise import _checks

if TYPE_CHECKING:
    from equipoise.lab.work import Place

Factory = Annotated[str, typer.Argument(help="package.module:function that makes the model.")]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of one input without the batch, such as 16 or 3,32,32; made up with mean 0 "
        "and variance 1. Once for each argument of forward.",
    ),
]
Rows = Annotated[int, typer.Option(help="Rows to make, or to take from the file.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 1 for a warning too.")]
Page = Annotated[Path | None, typer.Option(help="Save it all as one page, .html.")]
On = Annotated[
    str,
    typer.Option(
        help="here, processes, ray (the cluster of RAY_ADDRESS or of this machine, or a new one) "
        "or auto."
    ),
]
Jobs = Annotated[
    int, typer.Option(help="Trainings at a time, 0 for one on each core; not for here.")
]
Numbers = Annotated[Path | None, typer.Option(help="Save the numbers as .json.")]

_LISTS = ("--schemes", "--rates", "--starts")


def starts_of(left_out: str) -> Any:
    """The option that lists starts to compare; in words, which ones where it is left out."""
    words = f"Starts to compare, such as: auto he default. Left out: {left_out}."
    return typer.Option(help=words)


def place_named(on: str) -> "Place":
    """The place of ``--on``.

    Raises:
        ArgumentError: for one that is not known.
    """
    from equipoise.lab.work import PLACES

    return cast("Place", _checks.one_of("--on", on, PLACES))


class ListCommand(TyperCommand):
    """A command whose lists are written with spaces: ``--rates 1e-3 3e-3``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each word of its list, as click wants it."""
        return super().parse_args(ctx, spelled_out(args))


def spelled_out(args: list[str]) -> list[str]:
    """Arguments with the option of a list before each of its words.

    >>> spelled_out(["my:net", "--rates", "1e-3", "3e-3", "--seed", "1"])
    ['my:net', '--rates', '1e-3', '--rates', '3e-3', '--seed', '1']
    """
    made: list[str] = []
    option = ""
    for word in args:
        if word.startswith("-"):
            option = word if word in _LISTS else ""
            made.append(word)
        elif option and made[-1] != option:
            made += [option, word]
        else:
            made.append(word)
    return made
