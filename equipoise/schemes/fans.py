"""Fans: how many numbers a unit reads and how many read it."""

from dataclasses import dataclass

from equipoise import _checks


@dataclass(frozen=True)
class Fans:
    """Number of inputs and outputs of a weight.

    >>> Fans(64, 16)
    Fans(fan_in=64, fan_out=16)
    """

    fan_in: int
    fan_out: int

    def __post_init__(self) -> None:
        _checks.at_least("fan_in", self.fan_in, 1)
        _checks.at_least("fan_out", self.fan_out, 1)
