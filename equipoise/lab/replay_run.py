"""Replays published results: units of work, kept as they finish, then tables and pictures."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.replay_data import BUDGETS, MODES, Budget, Mode
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.replay_result import Replayed
from equipoise.lab.work import Finished, Place, run_units


def replay(
    name: str,
    budget: Budget = "quick",
    modes: Sequence[Mode] = MODES,
    draws: int = 0,
    seed: int = 0,
    store: Path | None = None,
    on: Place = "here",
    jobs: int = 0,
    is_quiet: bool = False,
) -> Replayed:
    """Replay a published result: the source's experiment, its corrected form, and our rule.

    Args:
        name: one of ``equipoise lab replays``.
        budget: ``quick``, minutes on two cores with data reduced, or ``paper``, the source's.
        modes: ``faithful``, as the source does it, ``corrected``, or both.
        draws: number of them, 0 for as many as the budget has.
        seed: of the first draw; draw i has seed + i.
        store: folder of results; the same call goes on where one was stopped.
        on: ``here``, ``processes``, ``ray`` or ``auto``, as ``lab.work.run_units`` has it.
        jobs: units at a time, 0 for one on each core; not for ``here``.
        is_quiet: whether no progress is shown.

    Returns:
        The result, the same numbers wherever it ran.

    Raises:
        ArgumentError: for a name, budget, mode, number or store that cannot be used, before any
            work.
        WorkError: if a unit fails; what is finished is in the store.

    >>> from equipoise.lab import replay
    >>> try:
    ...     replay("tanh-deep")
    ... except ArgumentError as error:
    ...     print(str(error)[-26:])
    Did you mean 'tanh-depth'?
    """
    _checks.one_of("name", name, REPLAYS)
    _checks.one_of("budget", budget, BUDGETS)
    given = (modes,) if isinstance(modes, str) else tuple(modes)
    if not given:
        raise ArgumentError(
            f"modes must hold {' or '.join(MODES)}, got none. Leave it out for both."
        )
    for mode in given:
        _checks.one_of("modes", mode, MODES)
    _checks.at_least("draws", draws, 0, "Pass 0 for as many as the budget has.")
    _checks.at_least("seed", seed, 0)
    chosen = REPLAYS[name]
    # In one order, however they were given.
    wanted = tuple(mode for mode in MODES if mode in given)
    count = draws or chosen.draws[budget]
    units = chosen.units(budget, wanted, range(seed, seed + count))
    seconds: list[float] = []
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), TextColumn("{task.fields[what]}"),
        disable=is_quiet,
    ) as progress:  # fmt: skip
        line = progress.add_task(name, total=len(units), what="")

        def done(unit: Finished) -> None:
            seconds.append(unit.seconds)
            progress.update(line, advance=1, what=unit.key[:60])

        found = run_units(chosen.work, units, store, on, jobs, done, version=chosen.version)
        progress.update(line, what="")
    pairs = [(dict(units[key]), result) for key, result in found.items()]
    return Replayed(
        chosen.name, chosen.source, chosen.title, chosen.setting, chosen.faithful,
        chosen.corrected, budget, wanted, count, seed, sum(seconds), max(seconds),
        chosen.findings(pairs, wanted),
    )  # fmt: skip
