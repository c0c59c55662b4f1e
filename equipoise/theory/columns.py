"""The columns of telescoping frames, in groups that every layer of a stack treats alike.

Where a weight reads several sites of every channel at once (a flattened map, the patch of a strided
convolution) its input frame is a Haar mixture of the carried columns at these sites: their energies
become equal, and as many columns can go on as there are carried columns times sites.
"""

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
            every width (up to the first weight that joins sites) is 1.
        read: number of columns that each weight reads of one site; as many as are kept but where
            sites are joined.
        surviving: number of columns that survive.
        copies: number of sites that each weight joins.
    """

    ends: tuple[int, ...]
    sizes: tuple[int, ...]
    kept: tuple[int, ...]
    entry: tuple[float, ...]
    read: tuple[int, ...]
    surviving: int
    copies: tuple[int, ...]

    @staticmethod
    def of(
        widths: Sequence[int],
        fan_in: int,
        fan_out: int,
        spectrum: Sequence[float] = (),
        copies: Sequence[int] = (),
    ) -> "Columns":
        """The columns of a stack: weight l carries the first min(n_l, n_{l+1}).

        A weight that joins m sites reads k columns of each and carries min(k m, n_{l+1}). Those
        that hold the signal are enough where they fill the next layer; else k is as large as it
        takes, up to the width.

        Args:
            widths: of the hidden layers, at least one.
            fan_in: number of inputs of the stack, at least 1.
            fan_out: number of outputs of the stack, at least 1.
            spectrum: relative second moments of the input along its first min(fan_in, first
                width) columns, finite and not negative; equal where left out.
            copies: for each hidden layer, how many of its sites the next weight joins; 1 where
                left out.

        Returns:
            The groups.

        Raises:
            ArgumentError: if a width or a number of sites is below 1, their counts differ, or the
                spectrum is too short, vanishes or is negative somewhere.

        >>> columns = Columns.of((16, 4), 12, 7)
        >>> columns.kept, columns.ends, columns.entry
        ((12, 4, 4), (4, 12, 16), (1.0, 1.0, 0.0))
        >>> Columns.of((8, 8), 3, 10, copies=(4, 1)).kept  # three columns at four sites fill eight
        (3, 8, 8)
        """
        widths = [_checks.at_least("width", n, 1) for n in widths]
        sizes = [_checks.at_least("fan_in", fan_in, 1), *widths]
        sizes.append(_checks.at_least("fan_out", fan_out, 1))
        joined = [_checks.at_least("copies", m, 1) for m in copies or [1] * len(widths)]
        if len(joined) != len(widths):
            raise ArgumentError(
                f"copies must hold one number for each of {len(widths)} hidden layers, got "
                f"{list(copies)}. Leave it out where no sites are joined."
            )
        read, kept = [min(sizes[0], sizes[1])], [min(sizes[0], sizes[1])]
        for n, following, m in zip(widths, sizes[2:], joined, strict=True):
            holding = min(kept[-1], n)
            read.append(
                min(n, following) if m == 1 else max(holding, min(n, math.ceil(following / m)))
            )
            kept.append(min(read[-1] * m, following))
        first_join = next((i for i, m in enumerate(joined) if m > 1), len(widths) - 1)
        surviving = min(kept[0], *widths[: first_join + 1])
        energies = [float(e) for e in spectrum[: kept[0]]] if len(spectrum) else [1.0] * kept[0]
        valid = len(energies) == kept[0] and all(0.0 <= e < math.inf for e in energies)
        if not (valid and 0.0 < sum(energies[:surviving]) < math.inf):
            raise ArgumentError(
                f"spectrum must hold {kept[0]} energies, finite and not negative, with a positive "
                f"sum over the first {surviving}, got {list(spectrum)}. Leave it out for equals."
            )
        unit = sum(energies[:surviving]) / surviving
        ends = tuple(sorted({*kept, *read, *widths, surviving}))
        starts = (0, *ends[:-1])
        counts = tuple(b - a for a, b in zip(starts, ends, strict=True))
        entry = tuple(
            sum(energies[a:b]) / (unit * (b - a)) for a, b in zip(starts, ends, strict=True)
        )
        return Columns(
            ends, counts, tuple(kept), entry, tuple(read), surviving, (1, *joined)
        )  # fmt: skip

    def carried(self, weight: int, profile: Sequence[float]) -> tuple[float, ...]:
        """Energies by group that a weight reads, for those of one site behind an activation.

        Args:
            weight: number of the weight, 0 at the entry.
            profile: energy of a column of each group.

        Returns:
            Energies of the columns of its input frame, 0 beyond those that it carries.

        >>> Columns.of((8, 8), 3, 10, copies=(4, 1)).carried(1, (2.0, 0.0))
        (2.0, 2.0)
        """
        kept, read = self.kept[weight], self.read[weight]
        if self.copies[weight] == 1:
            return tuple(e if end <= kept else 0.0
                         for e, end in zip(profile, self.ends, strict=True))  # fmt: skip
        mean = self._total(profile, read) / read
        return tuple(mean if end <= kept else 0.0 for end in self.ends)

    def returned(self, weight: int, profile: Sequence[float]) -> tuple[float, ...]:
        """Mean-square cotangent by group that a weight sends back, summed over joined sites.

        Args:
            weight: number of the weight, 0 at the entry.
            profile: of a column of its input frame, by group.

        Returns:
            Of a column behind the activation, 0 beyond those that are read.

        >>> Columns.of((8, 8), 3, 10, copies=(4, 1)).returned(1, (1.0, 1.0))
        (2.6666666666666665, 0.0)
        """
        kept, read = self.kept[weight], self.read[weight]
        if self.copies[weight] == 1:
            return tuple(b if end <= kept else 0.0
                         for b, end in zip(profile, self.ends, strict=True))  # fmt: skip
        mean = self._total(profile, kept) / read
        return tuple(mean if end <= read else 0.0 for end in self.ends)

    def _total(self, profile: Sequence[float], columns: int) -> float:
        return sum(e * n for e, n, end in zip(profile, self.sizes, self.ends, strict=True)
                   if end <= columns)  # fmt: skip
