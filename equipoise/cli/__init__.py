"""The command line: each command is one function in a file of its own."""

from equipoise.cli.commands import app, main

__all__ = ["app", "main"]
