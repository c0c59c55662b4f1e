"""The command line: each command is one function."""

import ast
import importlib
import sys
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from equipoise import _checks
from equipoise.errors import ArgumentError, EquipoiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from equipoise.theory.activations import Activation

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


@app.command()
def theory(
    activation: Annotated[
        str,
        typer.Argument(
            help="A known activation, such as gelu or 'leaky_relu(0.2)', or package.module:function"
        ),
    ],
    width: Annotated[int, typer.Option(help="Units of each hidden layer.")] = 16,
    depth: Annotated[int, typer.Option(help="Number of hidden layers.")] = 100,
    scheme: Annotated[str, typer.Option(help="auto, or a scheme by name.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the card: .svg, .png or .pdf (needs matplotlib).")
    ] = None,
) -> None:
    """The card of an activation: its class, slopes, critical point, exponent and how to start it.

    Example: equipoise theory gelu --width 16 --depth 100 --plot gelu.svg
    """
    from equipoise.report.card import make_card
    from equipoise.report.card_plot import check_path, draw_card

    if plot is not None:
        check_path(plot)
    name = activation.partition(":")[2] or activation
    card = make_card(_activation(activation), width, depth, scheme, name)
    if as_json:
        typer.echo(card.to_json())
    else:
        card.print(Console())
    if plot is not None:
        typer.echo(f"picture: {draw_card(card, plot)}", err=as_json)


def main() -> None:
    """Run the command line; errors of ours become one line and exit status 2."""
    try:
        app()
    except EquipoiseError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


def _activation(text: str) -> "Activation | Callable[[Any], Any]":
    """A known activation with its arguments, or the caller's own function."""
    from equipoise.theory import activations

    if ":" in text:
        found = _imported(text, "activation")
        # A class such as torch.nn.GELU stands for its default member.
        made = found() if isinstance(found, type) else found
        return cast("Callable[[Any], Any]", made)
    try:
        call: ast.AST | None = ast.parse(text if "(" in text else f"{text}()", mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ArgumentError(
            "activation must be a name, a name with numbers in brackets or package.module:function,"
            f" got {text!r}. Write gelu, 'leaky_relu(0.2)' or mypackage.acts:mine."
        )
    names = [n for n in activations.__all__ if n.islower() and n != "known_activations"]
    make = getattr(activations, _checks.one_of("activation", call.func.id, names))
    try:
        given = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return cast("Activation", make(*given, **named))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"arguments of {call.func.id} must be numbers that it knows, got {text!r} ({error}). "
            f"Its form is {call.func.id}{signature(make)}."
        ) from error


def _make(factory: str) -> "nn.Module":
    from torch import nn

    model = _imported(factory, "factory")()
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"factory must return a torch.nn.Module, got {type(model).__name__}. "
            "Return the model itself."
        )
    return model


def _imported(path: str, argument: str) -> "Callable[..., Any]":
    """The function that package.module:function names."""
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ArgumentError(
            f"{argument} must read package.module:function, got {path!r}. Name the function "
            "behind a colon."
        )
    # As for python -m: the folder one stands in counts.
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            f"{argument} must name a module that can be imported, got {module_name!r} ({error}). "
            "Run from its folder or install it."
        ) from error
    finally:
        sys.path.pop(0)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ArgumentError(
            f"{argument} must name a function of {module_name!r}, got {attribute!r}. "
            f"It has {', '.join(n for n in dir(module) if not n.startswith('_'))}."
        )
    return cast("Callable[..., Any]", found)


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
