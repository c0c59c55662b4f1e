"""Argument checks that all parts share, so that every refusal reads alike."""

import difflib
import math
from collections.abc import Iterable

from equipoise.errors import ArgumentError


def positive(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse what is not positive and finite."""
    if not (_is_finite(value) and value > 0):
        raise ArgumentError(_message(name, "positive and finite", value, remedy))
    return float(value)


def not_negative(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse what is negative or not finite."""
    if not (_is_finite(value) and value >= 0):
        raise ArgumentError(_message(name, "finite and not negative", value, remedy))
    return float(value)


def finite(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse nan and infinity."""
    if not _is_finite(value):
        raise ArgumentError(_message(name, "finite", value, remedy))
    return float(value)


def at_least(name: str, value: int, least: int, remedy: str = "") -> int:
    """Return ``value``; refuse integers below ``least``."""
    if isinstance(value, bool) or not _is_finite(value) or int(value) != value or value < least:
        raise ArgumentError(_message(name, f"an integer of at least {least}", value, remedy))
    return int(value)


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value``; refuse names that are not among ``choices`` and suggest the nearest."""
    known = sorted(choices)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.4)
        remedy = f"Did you mean {near[0]!r}?" if near else "Pass one of these names."
        raise ArgumentError(_message(name, f"one of {', '.join(known)}", repr(value), remedy))
    return value


def _is_finite(value: object) -> bool:
    """Whether a value is a finite number; words and other objects are not."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False


def _message(name: str, requirement: str, value: object, remedy: str) -> str:
    return f"{name} must be {requirement}, got {value}. {remedy}".rstrip()
