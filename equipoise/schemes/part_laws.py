"""Laws of parameters that hold several matrices or vectors in one tensor.

Gates of a recurrent cell stand one above the other in one matrix, experts one behind the other in a
tensor of three axes. Each part is drawn on a stream of its own, so that no two are alike.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise.schemes.laws import Matrix, Turned


@dataclass(frozen=True)
class Chrono:
    """Entries sign * log(U), U uniform on [1, steps - 1]: gates that keep for U steps.

    Two parts of one parameter with opposite signs are opposite numbers: where a gate keeps, the
    other lets little in.

    Attributes:
        steps: largest number of steps, at least 3.
        sign: 1 for the gate that keeps, -1 for the one that lets in.

    Source: Tallec and Ollivier 2018, arXiv 1804.11188.
    """

    steps: float
    sign: float = 1.0


@dataclass(frozen=True)
class Blocks:
    """Equal parts along the first axis, one above the other, such as the gates of a cell.

    Attributes:
        parts: the law of each part, from the top.
    """

    parts: "tuple[Matrix | Chrono, ...]"


@dataclass(frozen=True)
class Each:
    """One matrix for every index of the leading axes, such as the experts of a mixture.

    Attributes:
        matrix: law of each of them; the last two axes of the parameter are its own.
    """

    matrix: "Matrix | Turned"


@dataclass(frozen=True)
class Rows:
    """A matrix of which some rows are multiplied by a factor, such as queries and keys.

    Attributes:
        matrix: law of the matrix.
        factor: of the rows named.
        rows: ranges of them, each from the first to the one behind the last.
    """

    matrix: "Matrix"
    factor: float
    rows: tuple[tuple[int, int], ...]
