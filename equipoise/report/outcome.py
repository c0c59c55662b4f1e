"""What reports and diagnoses share: a verdict, and ways to print and save it."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise._text import json_text, printed
from equipoise.diagnose import Finding
from equipoise.errors import ArgumentError, UnhealthyError

IN_BALANCE = "in balance: signal and gradient reach every layer."


class Outcome(ABC):
    """Findings on one model, the gravest first, in words and as data."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error or a warning."""
        return all(f.severity == "info" for f in self.findings)

    @property
    def status(self) -> int:
        """0 without errors, 1 with one: an exit status."""
        return int(any(f.severity == "error" for f in self.findings))

    def raise_if_unhealthy(self) -> None:
        """Raise if a finding is an error.

        Raises:
            UnhealthyError: with the findings in words.
        """
        errors = [str(f) for f in self.findings if f.severity == "error"]
        if errors:
            raise UnhealthyError("\n".join(errors))

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; nan and infinity become null."""

    @abstractmethod
    def page(self) -> str:
        """All of it as one HTML page that needs no network."""

    @abstractmethod
    def print(self, console: Console) -> None:
        """Print it to a rich console."""

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json_text(self.to_dict())

    def save(self, path: str | Path) -> Path:
        """Write it as .html, .json or .txt, and return the path.

        Raises:
            ArgumentError: for another ending.
        """
        path = Path(path)
        match path.suffix:
            case ".html":
                text = self.page()
            case ".json":
                text = self.to_json()
            case ".txt":
                text = str(self)
            case suffix:
                raise ArgumentError(
                    f"path must end in .html, .json or .txt, got {suffix or path.name!r}. Rename."
                )
        path.write_text(text, encoding="utf-8")
        return path

    def __str__(self) -> str:
        return printed(self.print)

    def print_findings(self, console: Console) -> None:
        """Print the findings, or that there are none."""
        if self.ok:
            console.print(IN_BALANCE)
        told: set[str] = set()
        for finding in self.findings:
            words = str(finding)
            if finding.remedy and finding.remedy in told:
                words = words.removesuffix(finding.remedy) + "The remedy is the same."
            told.add(finding.remedy)
            console.print(f"  {words}", markup=False)
