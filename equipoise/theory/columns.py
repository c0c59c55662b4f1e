"""The columns of telescoping frames, in groups that every layer of a stack treats alike."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from equipoise import _checks
from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Columns:
    """Columns of the frames in groups, from the first on.

    Attributes:
        ends: number of columns up to and with each group.
        sizes: columns in each group.
        kept: number of columns that each weight carries, from the entry to the exit.
        entry: relative energy of each group at the entry; its mean over the columns that survive
            every width is 1.
    """

    ends: tuple[int, ...]
    sizes: tuple[int, ...]
    kept: tuple[int, ...]
    entry: tuple[float, ...]

    @staticmethod
    def of(
        widths: Sequence[int], fan_in: int, fan_out: int, spectrum: Sequence[float] = ()
    ) -> "Columns":
        """The columns of a stack: weight l carries the first min(n_l, n_{l+1}).

        Args:
            widths: of the hidden layers, at least one.
            fan_in: number of inputs of the stack, at least 1.
            fan_out: number of outputs of the stack, at least 1.
            spectrum: relative second moments of the input along its first min(fan_in, first
                width) columns, finite and not negative; equal where left out.

        Returns:
            The groups.

        Raises:
            ArgumentError: if a width is below 1, or the spectrum is too short, vanishes or is
                negative somewhere.

        >>> columns = Columns.of((16, 4), 12, 7)
        >>> columns.kept, columns.ends, columns.entry
        ((12, 4, 4), (4, 12, 16), (1.0, 1.0, 0.0))
        """
        widths = [_checks.at_least("width", n, 1) for n in widths]
        sizes = [_checks.at_least("fan_in", fan_in, 1), *widths]
        sizes.append(_checks.at_least("fan_out", fan_out, 1))
        kept = tuple(min(a, b) for a, b in itertools.pairwise(sizes))
        surviving = min(kept[0], *widths)
        energies = [float(e) for e in spectrum[: kept[0]]] if len(spectrum) else [1.0] * kept[0]
        valid = len(energies) == kept[0] and all(0.0 <= e < math.inf for e in energies)
        if not (valid and 0.0 < sum(energies[:surviving]) < math.inf):
            raise ArgumentError(
                f"spectrum must hold {kept[0]} energies, finite and not negative, with a positive "
                f"sum over the first {surviving}, got {list(spectrum)}. Leave it out for equals."
            )
        unit = sum(energies[:surviving]) / surviving
        ends = tuple(sorted({*kept, *widths, surviving}))
        starts = (0, *ends[:-1])
        counts = tuple(b - a for a, b in zip(starts, ends, strict=True))
        entry = tuple(
            sum(energies[a:b]) / (unit * (b - a)) for a, b in zip(starts, ends, strict=True)
        )
        return Columns(ends, counts, kept, entry)
