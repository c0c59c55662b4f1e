"""``equipoise demo``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.terminal import terminal


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the numbers.")] = Path(
        "results/demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the draws and of the order of batches.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Train dead 100-layer networks of width 16 on digits, from the default and from equipoise.

    Example: equipoise demo --out results/demo
    """
    from equipoise.lab.demo import run

    console = terminal(stderr=as_json)
    page = run(console, out, seed)
    console.print(f"page: {page.resolve()}", soft_wrap=True, markup=False)
    if as_json:
        typer.echo((page.parent / "demo.json").read_text(encoding="utf-8"))
