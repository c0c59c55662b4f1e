"""The units of all schemes of a comparison, from the first to the last, and the bar that shows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equipoise.lab.compare_scheme import Scheme
from equipoise.lab.compare_units import VERSION, Bench, train_part
from equipoise.lab.work import Finished, Place, run_units
from equipoise.report.panels import shown


def train_schemes(
    schemes: Sequence[Scheme],
    bench: Bench,
    total: int,
    show_progress: bool,
    store: Path | None,
    place: Place,
    jobs: int,
) -> bool:
    """Train all schemes; what became of them is in them.

    Args:
        schemes: none of them begun.
        bench: what their trainings share.
        total: steps of single replicas that a scheme takes.
        show_progress: whether to show a bar, on stderr, where that is a terminal.
        store: folder of results, None for none.
        place: where to train.
        jobs: units at a time, 0 for one on each core.

    Returns:
        Whether all were finished.

    Raises:
        KeyboardInterrupt: if interrupted before the first scheme was finished.
        WorkError: if a training raises; what is finished is in the store.
    """
    owners: dict[str, Scheme] = {}
    first: dict[str, dict[str, Any]] = {}
    for scheme in schemes:
        units = scheme.choosing()
        owners |= dict.fromkeys(units, scheme)
        first |= units
    with _bars(schemes, total, show_progress) as (progress, bars):
        if place == "here":
            # Elsewhere nobody hears of single steps.
            bench = replace(bench, progress=lambda name, steps: progress.advance(bars[name], steps))
        done = dict.fromkeys(bars, 0)

        def follow(unit: Finished) -> Mapping[str, Mapping[str, Any]]:
            scheme = owners[unit.key]
            more = scheme.take(unit.key, unit.result)
            owners.update(dict.fromkeys(more, scheme))
            done[scheme.name] += steps_of(unit.key)
            bar = bars[scheme.name]
            progress.update(bar, completed=done[scheme.name], said=_said(scheme))
            return more

        def steps_of(key: str) -> int:
            given = owners[key].units[key]
            return len(given["runs"]) * int(given["steps"])

        try:
            run_units(
                train_part, first, store, place, jobs, version=VERSION, shared=bench, follow=follow
            )
        except KeyboardInterrupt:
            if not any(scheme.finished for scheme in schemes):
                raise
            return False
    return True


def _said(scheme: Scheme) -> str:
    """What is known of a scheme so far."""
    if scheme.left_out:
        return "left out"
    if scheme.finished is None:
        return ""
    losses = scheme.finished.trained.at_end
    return f"test loss {shown(float(losses.median()))} at rate {shown(scheme.finished.rate)}"


@contextmanager
def _bars(
    schemes: Sequence[Scheme], total: int, is_shown: bool
) -> Iterator[tuple[Progress, dict[str, Any]]]:
    """A bar for each scheme, which tells its result as soon as there is one."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:10}"), BarColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[said]}"),
    )  # fmt: skip
    hidden = not (is_shown and (console.is_terminal or console.is_jupyter))
    with Progress(*columns, console=console, disable=hidden) as progress:
        yield progress, {s.name: progress.add_task(s.name, total=total, said="") for s in schemes}
