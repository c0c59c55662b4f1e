"""How results of the lab are shown: printed, as JSON and as a page."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from equipoise._text import WIDTH, json_text, printed


class Presented(ABC):
    """A result that is read on a terminal, by a program and in a browser.

    Attributes:
        width: columns of its text.
    """

    width: ClassVar[int] = WIDTH

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""

    @abstractmethod
    def page(self) -> str:
        """All of it as one HTML page that needs no network."""

    @abstractmethod
    def print(self, console: Console) -> None:
        """Print it to a rich console."""

    def to_json(self, path: str | Path) -> Path:
        """Write it as JSON, and return the path."""
        Path(path).write_text(json_text(self.to_dict()), encoding="utf-8")
        return Path(path)

    def to_html(self, path: str | Path) -> Path:
        """Write it as one page that needs no network, and return the path."""
        Path(path).write_text(self.page(), encoding="utf-8")
        return Path(path)

    def __str__(self) -> str:
        return printed(self.print, self.width)
