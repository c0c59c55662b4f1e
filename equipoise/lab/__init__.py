"""Experiments that a user can run again."""

from equipoise.lab.compare_run import compare

__all__ = ["compare"]
