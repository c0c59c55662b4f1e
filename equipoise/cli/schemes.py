"""``equipoise schemes``."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from equipoise import _checks
from equipoise._text import json_text
from equipoise.cli.terminal import terminal
from equipoise.schemes.call_text import write_call
from equipoise.schemes.catalogue import CATALOGUE, SchemeEntry


def schemes(
    name: Annotated[str, typer.Argument(help="One scheme, in detail.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print as JSON and nothing else.")
    ] = False,
) -> None:
    """List the schemes, or show one with its options, its source and an example.

    Example: equipoise schemes lyapunov
    """
    if name:
        _checks.one_of("scheme", name, CATALOGUE)
    chosen = [CATALOGUE[name]] if name else list(CATALOGUE.values())
    if as_json:
        data = [_data(entry) for entry in chosen]
        typer.echo(json_text(data[0] if name else data))
    elif name:
        _print_entry(terminal(), chosen[0])
    else:
        _print_all(terminal(), chosen)


def example(entry: SchemeEntry) -> str:
    """A scheme as it is passed, with its first option written out.

    >>> example(CATALOGUE["he"])
    "he(distribution='normal')"
    """
    first = {option.name: option.default for option in entry.options[:1]}
    return write_call(entry.name, first)


def _print_all(console: Console, entries: list[SchemeEntry]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("scheme", "what it draws", "suits", "options"):
        table.add_column(title, no_wrap=title == "scheme", overflow="fold")
    for entry in entries:
        options = ", ".join(option.name for option in entry.options)
        table.add_row(entry.name, entry.summary, entry.suits, options)
    console.print(table)
    console.print("One in detail: equipoise schemes NAME", markup=False)


def _print_entry(console: Console, entry: SchemeEntry) -> None:
    console.print(f"{entry.name}: {entry.summary}", markup=False)
    console.print(f"suits: {entry.suits}", markup=False)
    console.print(f"source: {entry.source or 'this library'}", markup=False)
    if entry.options:
        table = Table(box=None, pad_edge=False)
        for title in ("option", "default", "allowed", "meaning"):
            table.add_column(title, no_wrap=title in ("option", "default"), overflow="fold")
        for o in entry.options:
            table.add_row(o.name, repr(o.default), o.requirement, o.meaning)
        console.print(table)
    console.print(
        f'equipoise init mypackage.models:make_net --input 16 --scheme "{example(entry)}"',
        markup=False, soft_wrap=True, highlight=False,
    )  # fmt: skip


def _data(entry: SchemeEntry) -> dict[str, Any]:
    """An entry as plain JSON types; the ends of a range that has none are null."""
    data = asdict(entry) | {"example": example(entry)}
    for option in data["options"]:
        for end in ("least", "most"):
            if abs(option[end]) == float("inf"):
                option[end] = None
    return data
