"""Work units that run here, in processes or on Ray, and lose nothing.

A unit is plain data: a key and arguments. The work is a function of a module, from arguments to a
plain result. Arguments and results pass through JSON wherever the work runs, so that it gives the
same on one core, on all of them, on a cluster, and when it is read again::

    def measure(arguments):  # in a module
        return {"loss": train(**arguments)}

    units = {f"width {n}": {"width": n, "seed": 0} for n in (64, 128, 256)}
    run_units(measure, units, store=Path("measured"), on="processes")
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any, Literal

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.work_processes import run_in_processes
from equipoise.lab.work_queue import Attempt, Queue, Work, run_here
from equipoise.lab.work_ray import has_ray, run_on_ray
from equipoise.lab.work_store import Store, Stored, exact_json

Place = Literal["here", "processes", "ray", "auto"]
PLACES: tuple[Place, ...] = ("here", "processes", "ray", "auto")


@dataclass(frozen=True)
class Finished:
    """A unit that has its result.

    Attributes:
        key: of the unit.
        result: plain data.
        seconds: that the work took, now or when the result was stored.
        stored: whether the result was there before this run.
    """

    key: str
    result: Any
    seconds: float
    stored: bool


Follow = Callable[[Finished], Mapping[str, Mapping[str, Any]]]


def run_units(
    work: Work,
    units: Mapping[str, Mapping[str, Any]],
    store: Path | None = None,
    on: Place = "here",
    jobs: int = 0,
    done: Callable[[Finished], object] | None = None,
    tries: int = 3,
    version: str = "",
    address: str = "",
    shared: Any = None,
    follow: Follow | None = None,
) -> dict[str, Any]:
    """The work's result for every unit; what a store holds is not done again.

    Ctrl-C stops all workers and keeps what is finished: the same call goes on from there. So does
    it after an error, a killed process or a machine that went down.

    Args:
        work: a function of a module, called with a dict of arguments; it must not change what
            other units see. Exceptions of its own end the run once the units under way are done.
        units: arguments by key: None, bool, int, float, str, lists and dicts of them. Tuples
            arrive as lists.
        store: folder with a file for each result, written whole or not at all.
        on: ``here``, one after another in this process; ``processes`` of this machine with one
            thread each; ``ray``, tasks on a cluster, one core each; ``auto``, see ``choose_place``.
        jobs: units at a time, 0 for one on each core; not for ``here``.
        done: called in this process with every unit as it finishes, stored ones first, after its
            result has been stored.
        tries: how often a unit is started whose worker dies.
        version: of what the work computes, kept with the results. The store knows the work by its
            name and cannot see that its code has changed: say so here.
        address: of a Ray cluster: ``host:port``, ``auto`` for the one that this machine is part
            of, ``local`` for a new one of this machine's cores; left out, the one that this process
            or machine is part of, and a new one where there is none. Its nodes must be able to
            import equipoise and the work. Left out too, ``RAY_ADDRESS`` of the environment counts.
        shared: what the work gets as a second argument with every unit, such as rows of data; it is
            sent to a worker once. ``processes`` pickle it, Ray has its own pickle, and ``here`` it
            may be anything. The store does not see it: what tells one from another belongs into the
            arguments.
        follow: called as ``done`` is, after it: further units that a result calls for.

    Returns:
        Results in the order of the units, those that followed last.

    Raises:
        ArgumentError: before any unit runs, for arguments that cannot be used and for a store that
            holds something else under the key of a unit; of a unit that follows, when it comes.
        WorkError: names the unit whose work raised, with the traceback, or whose workers died
            ``tries`` times. All other results that there were have been stored.

    >>> run_units(len, {"none": {}, "two": {"a": 1, "b": 2}})
    {'none': 0, 'two': 2}
    """
    name = _name(work)
    _checks.one_of("on", on, PLACES)
    _checks.at_least("jobs", jobs, 0, "Pass 0 for one on each core.")
    _checks.at_least("tries", tries, 1)
    texts = {_key(key): _arguments(key, given) for key, given in units.items()}
    folder = Store(Path(store), name, version) if store is not None else None
    results: dict[str, Any] = {}

    def tell(key: str, kept: Stored, stored: bool) -> None:
        # In turn, not one inside the other: a store may hold a long chain of units that followed.
        told = deque([(key, kept, stored)])
        while told:
            key, kept, stored = told.popleft()
            results[key] = loads(kept.result)
            unit = Finished(key, results[key], kept.seconds, stored)
            if done is not None:
                done(unit)
            if follow is not None:
                told += [(new, there, True) for new, there in add(follow(unit)).items()]

    def add(more: Mapping[str, Mapping[str, Any]]) -> dict[str, Stored]:
        """Line up units that follow; returns what the store has of them."""
        for key in more:
            if key in texts:
                raise ArgumentError(
                    f"keys of units that follow must be new, got {key!r} again. Number them."
                )
        new = {_key(key): _arguments(key, given) for key, given in more.items()}
        texts.update(new)
        there = stored_of(new)
        queue.follow({key: text for key, text in new.items() if key not in there})
        return there

    def keep(key: str, given: Attempt) -> None:
        kept = Stored(given.result, given.seconds)
        if folder is not None:
            folder.write(key, texts[key], kept)
        tell(key, kept, False)

    def stored_of(wanted: Mapping[str, str]) -> dict[str, Stored]:
        if folder is None:
            return {}
        # All of them before the first call of done: a refusal is to come before anything else.
        return {key: it for key in wanted if (it := folder.read(key, wanted[key])) is not None}

    if folder is not None:
        folder.make_folder()
    found = stored_of(texts)
    waiting = {key: text for key, text in texts.items() if key not in found}
    queue = Queue(work, waiting, tries, keep, shared)
    for key, kept in found.items():
        tell(key, kept, True)
    match choose_place()[0] if on == "auto" else on:
        case "here":
            run_here(queue)
        case "processes":
            run_in_processes(queue, jobs or cores())
        case _:
            run_on_ray(queue, jobs, address)
    queue.end(
        f" and run again: what is finished is in {folder.folder}"
        if folder is not None
        else " and run again, with a store to keep what is finished"
    )
    return {key: results[key] for key in texts}


def choose_place() -> tuple[Place, str]:
    """Where ``on="auto"`` runs units, and why: on Ray if it is installed, else in processes."""
    if has_ray():
        return "ray", "Ray is installed"
    return "processes", "Ray is not installed"


def in_parts(
    units: Mapping[str, Mapping[str, Any]], name: str, values: Sequence[Any], at_most: int
) -> dict[str, dict[str, Any]]:
    """Every unit in parts that each take some of the values, as a batched trainer takes seeds.

    Args:
        units: arguments by key.
        name: of the argument that gets the values of a part, as a list.
        values: of all parts, in order.
        at_most: values in a part.

    Returns:
        Units, whose keys say which places of ``values`` they take.

    Raises:
        ArgumentError: for parts of no values.

    >>> for key, arguments in in_parts({"tanh": {"depth": 9}}, "seeds", range(3), 2).items():
    ...     print(key, arguments)
    tanh, seeds 0-1 {'depth': 9, 'seeds': [0, 1]}
    tanh, seeds 2-2 {'depth': 9, 'seeds': [2]}
    """
    _checks.at_least("at_most", at_most, 1)
    parts = [(i, list(values[i : i + at_most])) for i in range(0, len(values), at_most)]
    return {
        f"{key}, {name} {first}-{first + len(part) - 1}": {**arguments, name: part}
        for key, arguments in units.items()
        for first, part in parts
    }


def name_in_module(value: object) -> str:
    """``module:name`` under which other processes and a store find a value; '' where they do not.

    >>> name_in_module(run_units), name_in_module(lambda: 1)
    ('equipoise.lab.work:run_units', '')
    """
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    place = sys.modules.get(module or "")
    if not isinstance(name, str) or getattr(place, name, None) is not value:
        return ""
    if module == "__main__":
        # The same script may be run by path, by name, or imported.
        spec, file = getattr(place, "__spec__", None), getattr(place, "__file__", None)
        module = spec.name if spec else Path(file or "__main__").stem
    return f"{module}:{name}"


def _name(work: Work) -> str:
    name = name_in_module(work)
    if not name:
        raise ArgumentError(
            f"work must be a function of a module, got {work!r}. Move it out of the function or "
            "class that it is in, and pass what it needs as arguments of the units."
        )
    return name


def _key(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise ArgumentError(f"keys of units must be text, got {key!r}. Name each unit.")
    return key


def _arguments(key: str, given: object) -> str:
    if not isinstance(given, Mapping):
        raise ArgumentError(
            f"units[{key!r}] must be a mapping of arguments, got {given!r}. Name each argument."
        )
    return exact_json(f"units[{key!r}]", dict(given), sort=True)


def cores() -> int:
    """Cores that this process may use."""
    # A container or a scheduler may have been given fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
