"""Numbers as a line of text."""

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


def sparkline(values: Sequence[float]) -> str:
    """Numbers as a line of blocks, the lowest and the highest one; '' for none.

    >>> sparkline([0.0, -1.0, -2.0, 1.0])
    '▆▃▁█'
    """
    finite = [y for y in values if math.isfinite(y)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    step = max(1, -(-len(values) // _WIDTH))
    picked = [y if math.isfinite(y) else high for y in values[::step]]
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * (y - low) / span)] for y in picked)
