"""Numbers and rows of printed tables."""

import math

_SHOWN_LAYERS = 12


def shown_rows(count: int) -> tuple[int, ...]:
    """Which of ``count`` layers a printed table shows: even steps, and those next to both ends.

    >>> shown_rows(3)
    (0, 1, 2)
    >>> len(shown_rows(100))
    12
    """
    if count <= _SHOWN_LAYERS:
        return tuple(range(count))
    # Most goes wrong near the ends.
    step = (count - 1) / (_SHOWN_LAYERS - 3)
    return tuple(sorted({round(i * step) for i in range(_SHOWN_LAYERS - 2)} | {1, count - 2}))


def number(x: float, otherwise: str = "-") -> str:
    """A number in three digits, or a word for nan.

    >>> number(0.12345), number(math.nan)
    ('0.123', '-')
    """
    return otherwise if math.isnan(x) else f"{x:.3g}"
