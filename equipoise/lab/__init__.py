"""Experiments that a user can run again."""
