"""What goes to the terminal: results to stdout, everything else to stderr."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console

from equipoise.errors import EquipoiseWarning

# Into a file or a pipe, where no terminal tells a width.
_WIDTH = 110
# The status that a shell reports of a program that was interrupted.
INTERRUPTED = 130


def terminal(stderr: bool = False) -> Console:
    """A console as wide as the terminal; into a pipe wide enough that tables stay whole."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_WIDTH)


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send what the caller's code prints, and warnings of ours as one line each, to stderr."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("always", EquipoiseWarning)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, EquipoiseWarning):
                words = f"warning: {message}"
                terminal(stderr=True).print(words, style="yellow", markup=False, soft_wrap=True)
            else:
                before(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
