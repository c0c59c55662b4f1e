"""What a replay of a published result is, and what comes of one: plain data.

A replay is one file with a ``REPLAY``: words, a function that lists its units of work, the work
itself, and a function that makes tables and pictures of what the units gave. ``replay_names`` lists
them all.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Budget = Literal["quick", "paper"]
BUDGETS: tuple[Budget, ...] = ("quick", "paper")
Mode = Literal["faithful", "corrected"]
MODES: tuple[Mode, ...] = ("faithful", "corrected")


@dataclass(frozen=True)
class Estimate:
    """A number that was measured, and what it is held against.

    Attributes:
        mean: over the draws.
        standard_error: of that mean; nan for a single draw, 0 for what has no chance in it.
        draws: number of them.
        reference: the source's number or theory's, nan where there is none.
    """

    mean: float
    standard_error: float
    draws: int
    reference: float = math.nan

    @staticmethod
    def of(values: Sequence[float], reference: float = math.nan) -> "Estimate":
        """Mean and standard error of one value for each draw, at least one.

        >>> Estimate.of([1.0, 2.0, 3.0]).mean
        2.0
        """
        error = math.nan
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
        return Estimate(statistics.fmean(values), error, len(values), reference)

    @property
    def errors_off(self) -> float:
        """How many standard errors the mean is above its reference; nan where one is missing."""
        if not self.standard_error > 0:
            return math.nan
        return (self.mean - self.reference) / self.standard_error


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        names: what it is of, one text for each of the table's ``names``.
        values: one number for each of the table's ``quantities``.
    """

    names: tuple[str, ...]
    values: tuple[Estimate, ...]


@dataclass(frozen=True)
class ResultTable:
    """Numbers of a replay.

    Attributes:
        title: what it shows.
        mode: whether this is how the source did it, or how it should have been done.
        names: headings of the columns that say what a row is of.
        quantities: headings of the columns of numbers, units among them.
        reference: what the references are, such as ``published`` or ``closed form``.
        rows: in order.
    """

    title: str
    mode: Mode
    names: tuple[str, ...]
    quantities: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """One line or set of points of a picture.

    Attributes:
        name: for the legend; curves of one name share their entry and colour.
        x, y: numbers.
        error: half the height of the band around y, () for none.
        style: ``line``, ``dashed`` (theory, or what is held against) or ``points``.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    style: Literal["line", "dashed", "points"] = "line"


@dataclass(frozen=True)
class HeatMap:
    """Numbers over a plane, drawn as colours behind the curves.

    Attributes:
        x, y: coordinates.
        z: one row for each y, of one number for each x.
        title: of the colours.
        middle: number at the middle of the colours, nan for none.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    title: str
    middle: float = math.nan


@dataclass(frozen=True)
class Picture:
    """One pair of axes.

    Attributes:
        title: what it shows.
        summary: what is seen, for those who do not see it.
        x_title, y_title: of the axes.
        curves: in order.
        log_x, log_y: whether an axis is logarithmic; what is not positive is then left out.
        heat: behind the curves, () or one.
        y_least: where a logarithmic y ends, since what is below it is as good as 0; nan for none.
        x_names, y_names: what stands at 0, 1, 2 ... of an axis, () for numbers.
    """

    title: str
    summary: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    heat: tuple[HeatMap, ...] = ()
    y_least: float = math.nan
    x_names: tuple[str, ...] = ()
    y_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What came of a replay's units.

    Attributes:
        headline: the answer in one sentence, without a full stop.
        sentences: what to know beside the tables.
        tables: numbers.
        pictures: curves.
    """

    headline: str
    sentences: tuple[str, ...]
    tables: tuple[ResultTable, ...]
    pictures: tuple[Picture, ...]


Arguments = dict[str, Any]
Done = tuple[Arguments, Any]


@dataclass(frozen=True)
class Replay:
    """A published result that can be replayed.

    Attributes:
        name: on the command line.
        source: whose it is, with its arXiv id.
        title: what it is about, in a few words.
        setting: network, data and budget of the source.
        faithful: what is done as the source does it.
        corrected: what differs in the corrected mode, and why.
        draws: number of draws by budget.
        units: arguments of each unit of work by key, from budget, modes and seeds of the draws.
        work: the function of a module that computes a unit, plain data in and out.
        findings: tables and pictures from arguments and results of all units, and the modes.
        version: of what a unit computes; results of an earlier one are refused.
    """

    name: str
    source: str
    title: str
    setting: str
    faithful: str
    corrected: str
    draws: Mapping[Budget, int]
    units: Callable[[Budget, Sequence[Mode], Sequence[int]], dict[str, Arguments]]
    work: Callable[[Arguments], Any]
    findings: Callable[[Sequence[Done], Sequence[Mode]], Findings]
    version: str = "1"
