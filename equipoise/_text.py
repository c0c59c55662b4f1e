"""Results as text: what they print, and JSON, which knows neither nan nor infinity."""

import json
import math
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 110


def printed(show: "Callable[[Console], None]", width: int = WIDTH) -> str:
    """What ``show`` prints to a console of ``width`` columns, without colours.

    >>> printed(lambda console: console.print("[red]in balance[/red]"))
    'in balance'
    """
    # Plans know of texts and nothing of consoles.
    from rich.console import Console

    buffer = StringIO()
    show(Console(file=buffer, width=width, color_system=None, highlight=False))
    return buffer.getvalue().rstrip("\n")


def json_text(data: Any) -> str:
    """Plain data as JSON; nan and infinity become null.

    >>> print(json_text({"rate": math.nan}))
    {
     "rate": null
    }
    """
    return json.dumps(without_nan(data), indent=1, allow_nan=False)


def without_nan(data: Any) -> Any:
    """Plain JSON types with null in place of nan and infinity, which JSON does not have.

    >>> without_nan({"a": (1, math.inf)})
    {'a': [1, None]}
    """
    match data:
        case dict():
            return {k: without_nan(v) for k, v in data.items()}
        case list() | tuple():
            return [without_nan(v) for v in data]
        case float():
            return data if math.isfinite(data) else None
        case _:
            return data
