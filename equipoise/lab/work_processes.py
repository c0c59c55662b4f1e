"""Units of work in processes of this machine that live on from unit to unit."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from equipoise.errors import ArgumentError, in_words
from equipoise.lab.work_queue import Attempt, Queue, Work, attempt

# Workers side by side would else start a thread for each core, each of them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# glibc gives freed buffers of some hundred kilobytes back to the system at once, and each new one
# costs its page faults again: keeping them makes steps of replicas a quarter faster.
_KEPT_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**30))
# What pickle raises for what it cannot hold; PicklingError is one of them, and not always raised.
REFUSALS = (pickle.PicklingError, AttributeError, TypeError)
# File of the work and of what units share.
_WORK = "work.pickle"


@dataclass(eq=False)
class _Worker:
    """A process, its pipe, and the unit that it is at; no key at rest.

    Attributes:
        process: runs until it is stopped, dies, or has lost its parent.
        pipe: rings when there is something to do or to take.
        key: of the unit.
        unit: file of its arguments, which the worker takes away when it begins.
        has_served: whether it has answered before.
    """

    process: BaseProcess
    pipe: Connection
    key: str = ""
    unit: Path = Path()
    has_served: bool = False


def run_in_processes(queue: Queue, jobs: int) -> None:
    """Do all units in up to ``jobs`` workers with one thread each; a dead one is replaced.

    Workers are started afresh, not forked: a fork of a process whose libraries run threads may
    hang, and not every system has it.

    Raises:
        ArgumentError: if pickle cannot hold what units share.
    """
    # All that can be large goes through files, and pipes only ring. A pipe is soon full, and its
    # writer would wait for a worker that has yet to start; a writer that dies, or a reader that is
    # interrupted, would leave half a message, for whose rest the other side waits for ever.
    with TemporaryDirectory(prefix="equipoise-", ignore_cleanup_errors=True) as folder:
        try:
            with (Path(folder) / _WORK).open("wb") as file:
                pickle.dump((queue.work, queue.shared), file)
        except REFUSALS as error:
            raise ArgumentError(
                f"shared must be what pickle holds for on='processes', got "
                f"{type(queue.shared).__name__} ({in_words(error)}). Make it in the work, or pass "
                "on='here'."
            ) from error
        _run(queue, jobs, Path(folder))


def _run(queue: Queue, jobs: int, folder: Path) -> None:
    workers: list[_Worker] = []
    numbers = count()
    try:
        try:
            while True:
                while len(_busy(workers)) < jobs and (key := queue.take()) is not None:
                    unit = folder / f"{next(numbers)}.unit"
                    _give(_free(workers, folder), key, queue.units[key], unit)
                busy = _busy(workers)
                if not busy:
                    return
                ready = wait([worker.pipe for worker in busy], timeout=1.0)
                for worker in busy:
                    # A process that the work started may hold the pipe of a dead worker open.
                    if worker.pipe in ready or not worker.process.is_alive():
                        _hear(worker)
                        _receive(worker, queue)
        finally:
            # After an interrupt: what is finished is kept all the same.
            for worker in _busy(workers):
                if _answer(worker.unit).exists():
                    _receive(worker, queue)
    finally:
        _stop(workers)


def _busy(workers: list[_Worker]) -> list[_Worker]:
    return [worker for worker in workers if worker.key]


def _free(workers: list[_Worker], folder: Path) -> _Worker:
    for worker in [worker for worker in workers if not worker.key]:
        # A unit is not to pay for a worker that died at rest.
        if worker.process.is_alive():
            return worker
        workers.remove(worker)
        _stop([worker])
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    # Not a daemon: those may have no processes of their own, as loaders of data do.
    process = context.Process(target=_serve, args=(its, folder), daemon=False)
    # Listed before it runs: whatever interrupts us, every process is stopped.
    workers.append(_Worker(process, mine))
    with _environment(_ONE_THREAD | _KEPT_MEMORY):
        process.start()
    its.close()
    return workers[-1]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    # Libraries read these when they are first imported, before a line of ours runs in a child.
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _answer(unit: Path) -> Path:
    return unit.with_suffix(".answer")


def _begun(unit: Path) -> Path:
    return unit.with_suffix(".begun")


def _give(worker: _Worker, key: str, arguments: str, unit: Path) -> None:
    worker.key, worker.unit = key, unit
    unit.write_text(arguments, encoding="utf-8")
    # One that has just died says so when it is listened to.
    with suppress(OSError):
        worker.pipe.send_bytes(unit.name.encode())


def _hear(worker: _Worker) -> None:
    # The end of the pipe of a dead worker is heard too.
    with suppress(EOFError, OSError):
        if worker.pipe.poll():
            worker.pipe.recv_bytes()


def _receive(worker: _Worker, queue: Queue) -> None:
    """Hand on a worker's answer, or its death."""
    answer = _answer(worker.unit)
    given: Attempt | None = pickle.loads(answer.read_bytes()) if answer.exists() else None
    # One that died at rest may be taken for alive a little longer: the unit is not to pay for it.
    # Of one that never served it may be the start that kills it, for ever.
    is_untouched = worker.unit.exists() and worker.has_served
    key, worker.key = worker.key, ""
    if given is not None:
        worker.has_served = True
        queue.finish(key, given)
    for done in (worker.unit, _begun(worker.unit), answer):
        done.unlink(missing_ok=True)
    if given is not None:
        return
    # Its pipe closes a little before it ends with a status of its own.
    if worker.process.is_alive():
        worker.process.join(timeout=5)
    _stop([worker])
    if is_untouched:
        queue.give_back(key)
    else:
        queue.lose(key, f"exit status {worker.process.exitcode}")


def _stop(workers: list[_Worker]) -> None:
    started = [worker for worker in workers if worker.process.pid is not None]
    # All of them before any is waited for: a second interrupt is to leave none behind.
    for worker in started:
        worker.process.kill()
    for worker in started:
        worker.process.join()
    for worker in workers:
        worker.pipe.close()


def _serve(pipe: Connection, folder: Path) -> None:
    # Ctrl-C reaches every process of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    read: list[tuple[Work, Any]] = []

    def call(arguments: dict[str, Any]) -> Any:
        # Read here, so that work which cannot be imported is reported as any other failure.
        if not read:
            read.append(pickle.loads((folder / _WORK).read_bytes()))
        do, shared = read[0]
        return do(arguments) if shared is None else do(arguments, shared)

    while True:
        try:
            unit = folder / pipe.recv_bytes().decode()
        except EOFError:
            return
        unit.rename(_begun(unit))
        given = attempt(call, _begun(unit).read_text(encoding="utf-8"))
        draft = unit.with_suffix(".draft")
        draft.write_bytes(pickle.dumps(given))
        # There as a whole or not at all.
        draft.rename(_answer(unit))
        pipe.send_bytes(b"done")


def _end_with_parent(folder: Path) -> None:
    # A parent that is killed stops nobody, and leaves its files.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        rmtree(folder, ignore_errors=True)
        os._exit(1)
