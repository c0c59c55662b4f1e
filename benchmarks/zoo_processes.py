"""Runs a function on many names, each in a process of its own with a time limit."""

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Work = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class _Running:
    name: str
    process: BaseProcess
    begun: float


def each(
    names: Iterable[str],
    work: Work,
    jobs: int,
    seconds: float,
    done: Callable[[str, dict[str, Any]], None],
    preload: list[str],
) -> None:
    """Call ``work`` on every name; a hang or crash becomes a result with ``died``.

    Args:
        names: in order.
        work: a function of a module, which runs in a child forked from a process that has
            imported ``preload``.
        jobs: children at a time.
        seconds: after which a child is stopped.
        done: called here with each name and result.
        preload: modules that are imported once for all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    queue = list(names)[::-1]
    running: dict[Connection, _Running] = {}
    try:
        while queue or running:
            while queue and len(running) < jobs:
                name = queue.pop()
                mine, its = context.Pipe(duplex=False)
                process = context.Process(
                    target=_child, args=(its, work, name, seconds), daemon=True
                )
                process.start()
                its.close()
                running[mine] = _Running(name, process, time.monotonic())
            ready = set(wait(list(running), timeout=0.5))
            for pipe, one in list(running.items()):
                late = time.monotonic() - one.begun > seconds
                if pipe not in ready and not late:
                    continue
                result = _result(pipe, one) if pipe in ready else {"died": f"over {seconds:.0f} s"}
                one.process.kill()
                one.process.join()
                pipe.close()
                del running[pipe]
                done(one.name, result)
    finally:
        for one in running.values():
            one.process.kill()


def _child(pipe: Connection, work: Work, name: str, seconds: float) -> None:
    # Should the parent be killed, nobody else would stop it.
    signal.alarm(math.ceil(seconds) + 10)
    pipe.send(work(name))
    pipe.close()


def _result(pipe: Connection, one: _Running) -> dict[str, Any]:
    try:
        return dict(pipe.recv())
    except EOFError:
        one.process.join(5)
        return {"died": f"exit status {one.process.exitcode}"}
