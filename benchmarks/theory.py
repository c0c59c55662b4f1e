"""How fast theory answers: exponents, cards, phase diagrams, each on one core.

    python benchmarks/theory.py

Arguments are never repeated, so that no cache helps, and every timing is the best of several: on a
shared machine the others tell of the neighbours. Prints a table and writes results/theory.json.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import scipy
from rich.console import Console
from rich.progress import track
from rich.table import Table

from equipoise.report.card import make_card
from equipoise.theory import (
    activations,
    critical_scale,
    expectation2,
    fractional_moment,
    known_activations,
    log_gain,
    log_gains,
    mean_field,
    phase_diagram,
    usable_odds,
)
from equipoise.theory.activation import Activation

OUT = Path("results/theory.json")
ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """One row: seconds for one answer, and the bar it is held to (nan where there is none)."""

    what: str
    seconds: float
    bar: float


def best(action: Callable[[], object], times: int, rounds: int = ROUNDS) -> float:
    """Least mean seconds of ``times`` calls over a number of rounds."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            action()
        found.append((time.perf_counter() - start) / times)
    return min(found)


def fresh_widths(low: float, high: float) -> Iterator[float]:
    """Widths that never come twice."""
    rng = np.random.default_rng(0)
    while True:
        yield float(np.exp(rng.uniform(np.log(low), np.log(high))))


def exponents() -> Iterator[Timing]:
    leaky = activations.leaky_relu(0.01)
    for law in ("gaussian", "haar"):
        for low, high in ((1.0, 10.0), (10.0, 1e3), (1e3, 1e6)):
            widths = fresh_widths(low, high)
            seconds = best(lambda w=widths, k=law: log_gain(leaky, next(w), law=k), 300)
            yield Timing(f"log_gain, {law}, width {low:g} to {high:g}", seconds, 100e-6)
    rng = np.random.default_rng(1)
    many = best(lambda: log_gains(leaky, np.exp(rng.uniform(0, np.log(1e6), 100_000))), 1, 3)
    yield Timing("log_gains, each of 100,000 widths to 1e6", many / 1e5, 20e-6)
    widths = fresh_widths(2.0, 1e3)
    yield Timing("critical_scale", best(lambda: critical_scale(leaky, next(widths)), 300), np.nan)
    yield Timing(
        "fractional_moment, order 1.3",
        best(lambda: fractional_moment(leaky, 1.3, next(widths)), 200),
        np.nan,
    )
    depths = count(50)
    yield Timing(
        "usable_odds, width 16, depth 50 and more",
        best(lambda: usable_odds(leaky, 16, next(depths), 0.35), 20),
        np.nan,
    )


def wide() -> Iterator[Timing]:
    rng = np.random.default_rng(2)
    gelu = activations.gelu()
    yield Timing(
        "expectation2 of a product of gelu",
        best(
            lambda: expectation2(lambda a, b: gelu.f(a) * gelu.f(b), 1.0 + rng.random(), 1.0, 0.5),
            3,
        ),
        np.nan,
    )
    yield Timing("mean_field, gelu", best(lambda: mean_field(gelu, 2.0 + rng.random()), 2), np.nan)
    for act in (
        activations.tanh(),
        activations.relu(),
        gelu,
        activations.sin(),
        activations.sigmoid(),
    ):
        grid = np.linspace(0.5, 4.0, 200) * (1 + 1e-9 * rng.random())
        seconds = best(lambda a=act, g=grid: phase_diagram(a, g, np.linspace(0, 1, 200)), 1, 2)
        yield Timing(f"phase_diagram 200 x 200, {act}", seconds, 5.0)


def renamed(act: Activation, number: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function nobody has seen: an activation plus a little of another."""
    return lambda x: act.f(x) + 1e-3 * (number + 1) * np.sin(x)


def cards() -> Iterator[Timing]:
    for act in track(known_activations(), "cards"):
        start = time.perf_counter()
        make_card(act, 16, 100)
        yield Timing(f"card, {act}", time.perf_counter() - start, 1.0)
    for number, act in enumerate((activations.gelu(), activations.tanh(), activations.relu6())):
        start = time.perf_counter()
        make_card(renamed(act, number), 16, 100, name="invented")
        yield Timing(f"card, invented from {act}", time.perf_counter() - start, 1.0)
    command = [sys.executable, "-m", "equipoise", "theory", "gelu", "--json"]
    seconds = best(lambda: subprocess.run(command, capture_output=True, check=True), 1, 3)
    yield Timing("equipoise theory gelu, the whole process", seconds, np.nan)


def main() -> None:
    rows = [*exponents(), *wide(), *cards()]
    table = Table("what", "time", "bar", box=None)
    for row in rows:
        bar = (
            ""
            if np.isnan(row.bar)
            else f"{units(row.bar)}{'' if row.seconds < row.bar else '  MISSED'}"
        )
        table.add_row(row.what, units(row.seconds), bar)
    Console().print(table)
    OUT.parent.mkdir(exist_ok=True)
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    data = {"versions": versions, "rows": [
        {k: v for k, v in asdict(row).items() if v == v} for row in rows]}  # fmt: skip
    OUT.write_text(json.dumps(data, indent=1), encoding="utf-8")
    Console().print(f"numbers: {OUT}")


def units(seconds: float) -> str:
    for size, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


if __name__ == "__main__":
    main()
