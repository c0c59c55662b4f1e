"""Units of work in processes of this machine that live on from unit to unit."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from equipoise.lab.work_queue import Queue, attempt

# Workers side by side would else start a thread for each core, each of them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# glibc gives freed buffers of some hundred kilobytes back to the system at once, and each new one
# costs its page faults again: keeping them makes steps of replicas a quarter faster.
_KEPT_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**30))


@dataclass(eq=False)
class _Worker:
    """A process, its pipe, and the unit that it is at; empty at rest."""

    process: BaseProcess
    pipe: Connection
    key: str = ""


def run_in_processes(queue: Queue, jobs: int) -> None:
    """Do all units in up to ``jobs`` workers with one thread each; a dead one is replaced.

    Workers are started afresh, not forked: a fork of a process whose libraries run threads may
    hang, and not every system has it.
    """
    work = pickle.dumps(queue.work)
    workers: list[_Worker] = []
    try:
        try:
            while True:
                while len(_busy(workers)) < jobs and (key := queue.take()) is not None:
                    _give(_free(workers, work), key, queue)
                busy = _busy(workers)
                if not busy:
                    return
                ready = wait([worker.pipe for worker in busy], timeout=1.0)
                for worker in busy:
                    # A process that the work started may hold the pipe of a dead worker open.
                    if worker.pipe in ready or not worker.process.is_alive():
                        _receive(worker, queue)
        finally:
            # After an interrupt: what is finished is kept all the same.
            for worker in _busy(workers):
                if worker.pipe.poll():
                    _receive(worker, queue)
    finally:
        for worker in workers:
            _stop(worker)


def _busy(workers: list[_Worker]) -> list[_Worker]:
    return [worker for worker in workers if worker.key]


def _free(workers: list[_Worker], work: bytes) -> _Worker:
    for worker in [worker for worker in workers if not worker.key]:
        # A unit is not to pay for a worker that died at rest.
        if worker.process.is_alive():
            return worker
        workers.remove(worker)
        _stop(worker)
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    # Not a daemon: those may have no processes of their own, as loaders of data do.
    process = context.Process(target=_serve, args=(its, work), daemon=False)
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


def _give(worker: _Worker, key: str, queue: Queue) -> None:
    worker.key = key
    # One that has just died says so when it is listened to.
    with suppress(OSError):
        worker.pipe.send(queue.units[key])


def _receive(worker: _Worker, queue: Queue) -> None:
    """Hand on a worker's answer, or its death."""
    try:
        given = worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):
        given = None
    key, worker.key = worker.key, ""
    if given is not None:
        queue.finish(key, given)
        return
    # Its pipe closes a little before it ends with a status of its own.
    worker.process.join(timeout=5)
    _stop(worker)
    queue.lose(key, f"exit status {worker.process.exitcode}")


def _stop(worker: _Worker) -> None:
    if worker.process.pid is not None:
        worker.process.kill()
        worker.process.join()
    worker.pipe.close()


def _serve(pipe: Connection, work: bytes) -> None:
    # Ctrl-C reaches every process of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        # Read here, so that work which cannot be imported is reported as any other failure.
        pipe.send(attempt(lambda given: pickle.loads(work)(given), arguments))


def _end_with_parent() -> None:
    # A parent that is killed stops nobody.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
