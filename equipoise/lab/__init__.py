"""Experiments that a user can run again."""

from equipoise.lab.compare_run import compare
from equipoise.lab.replay_run import replay

__all__ = ["compare", "replay"]
