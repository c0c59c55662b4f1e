"""``equipoise theory``."""

import ast
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from equipoise import _checks
from equipoise.cli.imported import imported
from equipoise.cli.terminal import terminal
from equipoise.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from equipoise.theory.activations import Activation


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
    card = make_card(activation_given(activation), width, depth, scheme, name)
    if as_json:
        typer.echo(card.to_json())
    else:
        card.print(terminal())
    if plot is not None:
        typer.echo(f"picture: {draw_card(card, plot)}", err=as_json)


def activation_given(text: str) -> "Activation | Callable[[Any], Any]":
    """A known activation with its arguments, or the caller's own function."""
    from equipoise.theory import activations

    if ":" in text:
        found = imported(text, "activation")
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
