"""The application that holds the commands, and its end: one line for an error, and a status."""

import sys

import typer

from equipoise.cli.compare import compare
from equipoise.cli.demo import demo
from equipoise.cli.diagnose import diagnose
from equipoise.cli.init import init
from equipoise.cli.lab import lab
from equipoise.cli.options import ListCommand
from equipoise.cli.schemes import schemes
from equipoise.cli.terminal import terminal
from equipoise.cli.theory import theory
from equipoise.errors import EquipoiseError

app = typer.Typer(
    help="Start neural networks in balance, and see why.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
for command in (init, diagnose, schemes, theory, demo):
    app.command()(command)
app.command(cls=ListCommand)(compare)
app.add_typer(lab, name="lab")


def main() -> None:
    """Run the command line; errors of ours become one red line and exit status 2."""
    try:
        app()
    except EquipoiseError as error:
        terminal(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
