"""Fans: how many numbers a unit reads and how many read it."""

from dataclasses import dataclass

from equipoise import _checks


@dataclass(frozen=True)
class Fans:
    """Number of inputs and outputs of a unit; means over sites, so they need not be whole.

    >>> Fans(64, 16)
    Fans(fan_in=64, fan_out=16)
    """

    fan_in: float
    fan_out: float

    def __post_init__(self) -> None:
        _checks.positive("fan_in", self.fan_in)
        _checks.positive("fan_out", self.fan_out)
