"""The command line: each command is one function."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from equipoise.errors import ArgumentError, EquipoiseError

if TYPE_CHECKING:
    from torch import nn

app = typer.Typer(
    help="Start neural networks in balance, and see why.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
_ROWS = 256


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the numbers.")] = Path(
        "results/demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the draws and of the order of batches.")] = 0,
) -> None:
    """Train dead 100-layer networks of width 16 on digits, from the default and from equipoise.

    Example: equipoise demo --out results/demo
    """
    from equipoise.lab.demo import run

    console = Console()
    page = run(console, out, seed)
    console.print(f"page: {page.resolve()}", soft_wrap=True, markup=False)


@app.command()
def init(
    factory: Annotated[str, typer.Argument(help="package.module:function that makes the model.")],
    inputs: Annotated[
        str, typer.Option("--input", help="Shape of one input, such as 16 or 3,32,32.")
    ],
    scheme: Annotated[str, typer.Option(help="auto, or a scheme by name.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the draw and of the inputs.")] = 0,
    report: Annotated[
        Path | None, typer.Option(help="Save the report: .html, .json or .txt.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Save the state dict (torch.save).")] = None,
) -> None:
    """Make a model, initialize it on inputs of mean 0 and variance 1, and print the report.

    The exit status is 1 if the report holds an error and 2 for bad arguments.

    Example: equipoise init mypackage.models:make_net --input 16 --report page.html
    """
    import torch

    import equipoise.torch as eq

    model = _make(factory)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(_ROWS, *_shape(inputs), generator=generator)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    result = eq.initialize(model, x.to(dtype), scheme, generator)
    result.print(Console())
    if report is not None:
        typer.echo(f"report: {result.save(report)}")
    if save is not None:
        torch.save(model.state_dict(), save)
        typer.echo(f"weights: {save}")
    if any(f.severity == "error" for f in result.findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors of ours become one line and exit status 2."""
    try:
        app()
    except EquipoiseError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


def _make(factory: str) -> "nn.Module":
    from torch import nn

    module_name, colon, attribute = factory.partition(":")
    if not colon or not module_name or not attribute:
        raise ArgumentError(
            f"factory must read package.module:function, got {factory!r}. Name the function "
            "that makes the model behind a colon."
        )
    # As for python -m: the folder one stands in counts.
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            f"factory must name a module that can be imported, got {module_name!r} ({error}). "
            "Run from its folder or install it."
        ) from error
    finally:
        sys.path.pop(0)
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ArgumentError(
            f"factory must name a function of {module_name!r}, got {attribute!r}. "
            f"It has {', '.join(n for n in dir(module) if not n.startswith('_'))}."
        )
    model = make()
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"factory must return a torch.nn.Module, got {type(model).__name__}. "
            "Return the model itself."
        )
    return model


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ArgumentError(
            f"--input must be positive integers with commas between, got {text!r}. "
            "Give the shape of one input without the batch, such as 16 or 3,32,32."
        )
    return shape
