"""How a weight joins sites: convolutions of any number of axes, a linear layer having none."""

import math
from dataclasses import dataclass

from equipoise.schemes.fans import Fans


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolution; every tuple has one entry for each axis that it runs over.

    Attributes:
        kernel: taps along each axis; empty for a linear layer.
        stride: step along each axis.
        padding: sites added before and after each axis.
        dilation: distance of taps along each axis.
        groups: number of groups of channels that do not see each other.
        is_transposed: whether it spreads inputs instead of gathering them; its weight then has
            shape (in, out / groups, *kernel).
        padding_mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    is_transposed: bool = False
    padding_mode: str = "zeros"

    @property
    def taps(self) -> int:
        """Number of taps of the kernel; 1 for a linear layer."""
        return math.prod(self.kernel)

    @property
    def steps(self) -> int:
        """Product of the strides: input sites for each output site (the reverse if transposed)."""
        return math.prod(self.stride)

    def fans(self, in_size: int, out_size: int) -> Fans:
        """Fans of a unit away from the border, as means over sites.

        A group reads in_size / groups channels at each tap. With stride s an input site is read
        through taps / s of the taps on average; where the convolution is transposed it is the
        output that is reached through so many.

        >>> Convolution((3, 3), (1, 1), groups=8).fans(8, 8)
        Fans(fan_in=9.0, fan_out=9.0)
        >>> Convolution().fans(64, 16)
        Fans(fan_in=64.0, fan_out=16.0)
        """
        fan_in = in_size / self.groups * self.taps
        fan_out = out_size / self.groups * self.taps
        if self.is_transposed:
            return Fans(fan_in / self.steps, fan_out)
        return Fans(fan_in, fan_out / self.steps)

    def block_shape(self, block: tuple[int, ...], in_size: int, out_size: int) -> tuple[int, int]:
        """Shape of the matrix that a block of taps is, for one group of channels (``laws.Taps``).

        >>> Convolution((3, 3), (2, 2)).block_shape((2, 2), 8, 16)
        (16, 32)
        """
        rows, columns, taps = out_size // self.groups, in_size // self.groups, math.prod(block)
        return (rows * taps, columns) if self.is_transposed else (rows, columns * taps)

    @property
    def stride_block(self) -> tuple[int, ...]:
        """Taps that touch every site once: as many along each axis as the step has sites."""
        return tuple(min(k, s) for k, s in zip(self.kernel, self.stride, strict=True))


DENSE = Convolution()
