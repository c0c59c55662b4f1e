"""What ``package.module:function`` names on the command line; the caller's own code runs here."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from equipoise.cli.terminal import stdout_kept_clean
from equipoise.errors import ArgumentError, in_words

if TYPE_CHECKING:
    from torch import nn

# What a script raises that parses arguments or ends the program when it is imported.
_ENDS = (Exception, SystemExit)


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let the folder one stands in count for imports, as for python -m; workers take it over."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def imported(path: str, argument: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Args:
        path: as it was given.
        argument: its name in a refusal.

    Returns:
        The function, or a class that can be called.

    Raises:
        ArgumentError: if the text reads otherwise, the module cannot be imported or has no such
            function.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ArgumentError(
            f"{argument} must read package.module:function, got {path!r}. Name the function "
            "behind a colon."
        )
    try:
        with stdout_kept_clean(), importable_from_here():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            f"{argument} must name a module that can be imported, got {module_name!r} ({error}). "
            "Run from its folder or install it."
        ) from error
    # The module is the caller's: importing it may raise anything.
    except _ENDS as error:
        raise ArgumentError(
            f"{argument} must name a module that can be imported, got {module_name!r}, which "
            f"raised {in_words(error)}. Mend it; what only a script does belongs under "
            "if __name__ == '__main__'."
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ArgumentError(
            f"{argument} must name a function of {module_name!r}, got {attribute!r}. "
            f"It has {', '.join(n for n in dir(module) if not n.startswith('_'))}."
        )
    return cast("Callable[..., Any]", found)


def make_model(factory: str, seed: int) -> "nn.Module":
    """The model that a factory returns, made from torch's global seed.

    Raises:
        ArgumentError: if the factory raises, or returns something else.
    """
    import torch
    from torch import nn

    make = imported(factory, "factory")
    torch.manual_seed(seed)
    try:
        with stdout_kept_clean():
            model = make()
    except _ENDS as error:
        raise ArgumentError(
            f"factory must make a model when it is called without arguments, got {factory!r}, "
            f"which raised {in_words(error)}. Wrap it in a function that passes what it needs."
        ) from error
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"factory must return a torch.nn.Module, got {type(model).__name__}. "
            "Return the model itself."
        )
    return model
