"""Argument checks that all parts share, so that every refusal reads alike."""

import difflib
import math
from collections.abc import Iterable

from equipoise.errors import ArgumentError

# What to do where a caller has nothing more apt to say.
_POSITIVE = "Pass a number above 0."
_NOT_NEGATIVE = "Pass 0 or a number above it."
_FINITE = "Pass a number that is neither nan nor infinite."


def positive(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse what is not positive and finite."""
    if not (_is_finite(value) and value > 0):
        raise ArgumentError(_message(name, "positive and finite", value, remedy or _POSITIVE))
    return float(value)


def not_negative(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse what is negative or not finite."""
    if not (_is_finite(value) and value >= 0):
        raise ArgumentError(
            _message(name, "finite and not negative", value, remedy or _NOT_NEGATIVE)
        )
    return float(value)


def finite(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse nan and infinity."""
    if not _is_finite(value):
        raise ArgumentError(_message(name, "finite", value, remedy or _FINITE))
    return float(value)


def in_unit_interval(name: str, value: float, remedy: str = "") -> float:
    """Return ``value`` as a float; refuse what is not from 0 to 1."""
    if not (_is_finite(value) and 0 <= value <= 1):
        raise ArgumentError(_message(name, "from 0 to 1", value, remedy or "Pass a share."))
    return float(value)


def at_least(name: str, value: int, least: int, remedy: str = "") -> int:
    """Return ``value``; refuse integers below ``least``."""
    if isinstance(value, bool) or not _is_finite(value) or int(value) != value or value < least:
        remedy = remedy or f"Pass a whole number from {least} on."
        raise ArgumentError(_message(name, f"an integer of at least {least}", value, remedy))
    return int(value)


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value``; refuse names that are not among ``choices`` and suggest the nearest."""
    known = sorted(choices)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.4)
        remedy = f"Did you mean {near[0]!r}?" if near else "Pass one of these names."
        # An empty name that may be given must be seen.
        listed = ", ".join(word or "''" for word in known)
        raise ArgumentError(_message(name, f"one of {listed}", value, remedy))
    return value


def _is_finite(value: object) -> bool:
    """Whether a value is a finite number; words and other objects are not."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        return False


def _message(name: str, requirement: str, value: object, remedy: str) -> str:
    # Numbers and arrays read better as they print.
    shown = repr(value) if isinstance(value, str) else value
    return f"{name} must be {requirement}, got {shown}. {remedy}"
