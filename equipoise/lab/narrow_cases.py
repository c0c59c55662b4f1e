"""Cases of replays of narrow networks: slope, start and mode, and the draws of each.

Two replays of one source train the same starts at the same slopes, rates and steps, on different
tasks: what they ask for and how results are gathered stands here.
"""

import math
from collections.abc import Mapping, Sequence

from equipoise.lab.narrow_study import NarrowDraw
from equipoise.lab.replay_data import Arguments, Budget, Done, Mode
from equipoise.lab.work import in_parts

SLOPES = (0.5, 0.1, 0.01)
ROWS, BATCH = 2000, 64
# Methods by the name in tables: seven of the source's kind, then ours.
METHODS: Mapping[str, str] = {
    "framework default": "default",
    "Xavier": "xavier(distribution='normal')",
    "He": "he",
    "orthogonal": "orthogonal",
    "Lyapunov, Gaussian": "lyapunov",
    "Lyapunov, orthogonal": "lyapunov(distribution='orthogonal')",
    "Lyapunov, best of several draws": "sampled",
    "mirrored": "mirrored",
    "shifted": "shifted",
    "auto": "auto",
}
_NAMES = {method: name for name, method in METHODS.items()}
RATES: Mapping[Budget, tuple[float, ...]] = {
    "quick": (1e-3, 3e-3), "paper": (3e-4, 1e-3, 3e-3, 1e-2),
}  # fmt: skip
_STEPS: Mapping[Budget, int] = {"quick": 1000, "paper": 3000}
_MOST_AT_ONCE = 400

Cases = Mapping[tuple[Mode, float, str], Sequence[NarrowDraw]]


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """Trainings of all starts at one slope and all rates, for a part of the draws."""
    cases = {
        f"{mode}, slope {slope:g}": {
            "mode": mode, "slope": slope, "rates": list(RATES[budget]), "steps": _STEPS[budget],
        }
        for mode in modes
        for slope in SLOPES
    }  # fmt: skip
    at_once = _MOST_AT_ONCE // (len(RATES[budget]) * len(METHODS))
    return in_parts(cases, "seeds", seeds, at_once)


def epochs_of(steps: int) -> int:
    """Passes over the rows that take at least so many steps.

    >>> epochs_of(1000)
    32
    """
    return math.ceil(steps / math.ceil(ROWS / BATCH))


def gathered(
    done: Sequence[Done],
) -> tuple[dict[tuple[Mode, float, str], list[NarrowDraw]], tuple[float, ...]]:
    """Draws by mode, slope and name of the start, and the learning rates."""
    cases: dict[tuple[Mode, float, str], list[NarrowDraw]] = {}
    rates: tuple[float, ...] = ()
    for a, result in done:
        rates = tuple(a["rates"])
        for draw in result:
            key = (a["mode"], a["slope"], _NAMES[draw["method"]])
            cases.setdefault(key, []).append(NarrowDraw(**draw))
    return cases, rates


def slopes_of(cases: Cases, mode: Mode) -> list[float]:
    """Slopes that a mode has, in order."""
    return [s for s in SLOPES if any(m == mode and s == slope for m, slope, _ in cases)]


def methods_of(cases: Cases, mode: Mode) -> list[str]:
    """Names of starts that a mode has, in order."""
    return [method for method in METHODS if any((m, k) == (mode, method) for m, _, k in cases)]
