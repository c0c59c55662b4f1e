"""Names with options as text, such as ``he(mode='fan_out')``."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activation import Activation
from equipoise.theory.activations import known_activations

Value = str | float | int | bool


@dataclass(frozen=True)
class Call:
    """A name with what stands in its brackets."""

    name: str
    given: tuple[Value, ...] = ()
    named: tuple[tuple[str, Value], ...] = ()


def read_call(text: str, argument: str, example: str) -> Call:
    """A name, or a name with numbers and words in brackets.

    Args:
        text: such as ``he`` or ``he(distribution='uniform')``.
        argument: what it is called in a refusal.
        example: a right one, for the refusal.

    Returns:
        The parts.

    Raises:
        ArgumentError: for anything else, such as an expression or a word without quotes.

    >>> read_call("he(mode='fan_out')", "scheme", "he")
    Call(name='he', given=(), named=(('mode', 'fan_out'),))
    """
    refusal = (
        f"{argument} must be a name, or a name with options in brackets, got {text!r}. "
        f'Write it as "{example}".'
    )
    if not isinstance(text, str):
        raise ArgumentError(refusal)
    try:
        found = ast.parse(text.strip(), mode="eval").body
    # A null byte is a ValueError, a thousand brackets are a MemoryError or a RecursionError.
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ArgumentError(refusal) from error
    if isinstance(found, ast.Name):
        return Call(found.id)
    if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name):
        raise ArgumentError(refusal)
    if any(k.arg is None for k in found.keywords):
        raise ArgumentError(refusal)
    try:
        given = tuple(_value(a) for a in found.args)
        named = tuple((str(k.arg), _value(k.value)) for k in found.keywords)
    except ValueError as error:
        raise ArgumentError(refusal) from error
    return Call(found.func.id, given, named)


def _value(node: ast.expr) -> Value:
    value = ast.literal_eval(node)
    if not isinstance(value, str | float | int | bool):
        raise ValueError(f"{value!r} is neither a number nor a word")
    return value


def write_call(name: str, options: Mapping[str, Value]) -> str:
    """The text that ``read_call`` reads.

    >>> write_call("he", {"mode": "fan_out"})
    "he(mode='fan_out')"
    """
    inside = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{name}({inside})" if inside else name


def activation_text(activation: Activation) -> str:
    """A known activation as text that ``activation_of`` reads.

    Raises:
        ArgumentError: if it is not one of the known ones.

    >>> activation_text(activations.leaky_relu(0.2))
    'leaky_relu(negative_slope=0.2)'
    """
    make = getattr(activations, activation.name, None)
    names = [n for n in activations.__all__ if n.islower()]
    if activation.name in names and callable(make):
        try:
            # Members are made once: what the factory returns is the same object or another one.
            if make(**dict(activation.parameters)) is activation:
                return write_call(activation.name, dict(activation.parameters))
        except TypeError:
            pass
    for known in known_activations():
        if known is activation and not known.parameters:
            return known.name
    raise ArgumentError(
        f"activation must be a known one to stand in a law, got {activation}. "
        "Use one of equipoise.theory.activations, or another scheme."
    )


def activation_of(text: str, argument: str = "activation") -> Activation:
    """The known activation that ``activation_text`` wrote.

    Args:
        text: its name, with arguments in brackets where it has any.
        argument: what it is called in a refusal.

    Returns:
        The activation.

    Raises:
        ArgumentError: for an unknown name or arguments that it does not know.

    >>> str(activation_of("leaky_relu(negative_slope=0.2)"))
    'leaky_relu(negative_slope=0.2)'
    """
    call = read_call(text, argument, "leaky_relu(negative_slope=0.2)")
    for known in known_activations():
        if call == Call(known.name) and not known.parameters:
            return known
    names = [n for n in activations.__all__ if n.islower() and n != "known_activations"]
    make = getattr(activations, _checks.one_of(argument, call.name, names))
    try:
        made = make(*call.given, **dict(call.named))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"arguments of {call.name} must be numbers that it knows, got {text!r} ({error}). "
            "See equipoise.theory.activations."
        ) from error
    assert isinstance(made, Activation)
    return made
