"""Which units are still to be done, what became of the others, and when a run must end."""

import json
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.errors import WorkError
from equipoise.lab.work_store import exact_json

# Of arguments, and of what all units share where there is such a thing.
Work = Callable[..., Any]


@dataclass(frozen=True)
class Attempt:
    """What one call of the work gave, in a form that any process can send.

    Attributes:
        result: as JSON; empty where the work raised.
        error: the exception in one line; empty where there was none.
        traceback: of that exception.
        seconds: that the call took.
    """

    result: str
    error: str
    traceback: str
    seconds: float


def attempt(work: Work, arguments: str, shared: Any = None) -> Attempt:
    """Call the work on arguments that come as JSON; what it raises becomes part of the answer."""
    begun = time.perf_counter()
    given = (json.loads(arguments),) if shared is None else (json.loads(arguments), shared)
    try:
        result = exact_json("result", work(*given))
    # The work is the caller's and may raise anything; SystemExit would pass for a dead worker.
    except (Exception, SystemExit) as error:
        line = traceback.format_exception_only(error)[-1].strip()
        return Attempt("", line, traceback.format_exc(), time.perf_counter() - begun)
    return Attempt(result, "", "", time.perf_counter() - begun)


class Queue:
    """Units on their way through workers.

    After a failure no further unit is handed out, so that those under way can finish and be kept.
    """

    def __init__(
        self,
        work: Work,
        units: Mapping[str, str],
        tries: int,
        keep: Callable[[str, Attempt], None],
        shared: Any = None,
    ):
        """Line units up.

        Args:
            work: on every unit.
            units: arguments by key, as JSON, in the order in which they are handed out.
            tries: how often a unit whose worker dies is handed out.
            keep: called with every result.
            shared: what the work gets with every unit; None for nothing.
        """
        self.work = work
        self.shared = shared
        self.units = dict(units)
        self._tries = tries
        self._keep = keep
        self._waiting = deque(units)
        self._under_way = 0
        self._deaths: Counter[str] = Counter()
        # What went wrong and what to do, and what may follow the end of that sentence.
        self._failed: dict[str, tuple[str, str]] = {}

    def take(self) -> str | None:
        """Key of the next unit; None where there is none, or where one has failed."""
        if not self._waiting or self._failed:
            return None
        self._under_way += 1
        return self._waiting.popleft()

    def follow(self, units: Mapping[str, str]) -> None:
        """Line up units that come of another's result.

        They are next while plenty of others wait, so that what belongs together is finished early.
        Near the end the others go first: more may come of them, one after another, and a chain that
        is begun last leaves all workers but one with nothing to do.
        """
        self.units |= units
        if len(self._waiting) > self._under_way:
            self._waiting.extendleft(reversed(list(units)))
        else:
            self._waiting.extend(units)

    def finish(self, key: str, given: Attempt) -> None:
        """Keep what a worker gave for a unit."""
        self._under_way -= 1
        if given.error:
            said = f"unit {key!r} failed: {given.error}. Mend the work or the unit's arguments"
            self._failed[key] = (said, f"\n\n{given.traceback}")
        else:
            self._keep(key, given)

    def give_back(self, key: str) -> None:
        """A unit was never begun: it is next again."""
        self._under_way -= 1
        self._waiting.appendleft(key)

    def lose(self, key: str, why: str) -> None:
        """A unit's worker died: the unit is next again, unless it has had all its tries."""
        self._under_way -= 1
        self._deaths[key] += 1
        if self._deaths[key] < self._tries:
            self._waiting.appendleft(key)
            return
        said = (
            f"unit {key!r} must finish within {self._tries} tries, and each time its worker died; "
            f"the last time: {why}. Give it more memory or fewer units beside it, or raise tries"
        )
        self._failed[key] = (said, "")

    def end(self, kept: str) -> None:
        """Raise what the run must end with, if anything.

        Args:
            kept: what has become of the other results, to end a sentence.

        Raises:
            WorkError: names the first unit that failed, and the keys of others.
        """
        for key, (said, more) in self._failed.items():
            others = [repr(other) for other in self._failed if other != key]
            also = f" Failed as well: {', '.join(others)}." if others else ""
            raise WorkError(key, f"{said}{kept}.{also}{more}")


def run_here(queue: Queue) -> None:
    """Do all units in this process, one after another."""
    while (key := queue.take()) is not None:
        queue.finish(key, attempt(queue.work, queue.units[key], queue.shared))
