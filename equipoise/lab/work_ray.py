"""Units of work on a Ray cluster: one that runs, or one of this machine's cores."""

import importlib.util
import logging
import os
import socket
from typing import Any

from equipoise.errors import ArgumentError
from equipoise.lab.work_queue import Attempt, Queue, attempt


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def run_on_ray(queue: Queue, jobs: int, address: str) -> None:
    """Do all units as tasks of one core each.

    Args:
        queue: of the units; its work must be importable where the tasks run.
        jobs: tasks at a time; 0 for as many as the cluster has cores, counted again as nodes come
            and go.
        address: ``host:port`` of a cluster, ``auto`` for the one that this machine is part of,
            ``local`` for a new one of this machine's cores; empty for the one that this process or
            machine is part of, and a new one where there is none.

    Raises:
        ArgumentError: where Ray is not installed, or no cluster is at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ArgumentError(
            "on='ray' needs Ray, which is not installed. Install 'equipoise[ray]', or pass "
            "on='processes'."
        ) from error
    ours = not ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS", "")
    if ours:
        try:
            _knock(address)
            ray.init(
                address=address or None, include_dashboard=False, logging_level=logging.WARNING
            )
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ArgumentError(
                f"address must be that of a Ray cluster that runs, got {address!r} ({error}). "
                "Start one with 'ray start --head', or leave address out."
            ) from error
    try:
        _run(queue, jobs, ray)
    finally:
        if ours:
            ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody answers: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _run(queue: Queue, jobs: int, ray: Any) -> None:
    # Ray's own retries do not count in the same way for a task that runs out of memory, and do
    # not cover a result that is lost with its node.
    task = ray.remote(num_cpus=1, max_retries=0)(attempt)
    # Once for all units: each node fetches it from there.
    shared = None if queue.shared is None else ray.put(queue.shared)
    running: dict[Any, str] = {}
    try:
        while True:
            at_once = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < at_once and (key := queue.take()) is not None:
                running[task.remote(queue.work, queue.units[key], shared)] = key
            if not running:
                return
            # Not for ever: a node that joins is to be given units.
            ready, _ = ray.wait(list(running), timeout=1.0)
            for reference in ready:
                _settle(queue, running.pop(reference), reference, ray)
    finally:
        # After an interrupt: what is finished is kept all the same, and a cluster of somebody
        # else's must not go on with the rest.
        if running:
            ready, rest = ray.wait(list(running), num_returns=len(running), timeout=0)
            for reference in rest:
                ray.cancel(reference, force=True)
            for reference in ready:
                _settle(queue, running[reference], reference, ray)


def _settle(queue: Queue, key: str, reference: Any, ray: Any) -> None:
    try:
        given = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # The work's own exceptions come as data: this is work that a node cannot import.
        line = str(error).strip().rpartition("\n")[2]
        queue.finish(key, Attempt("", line, str(error), 0.0))
    except ray.exceptions.RayError as error:
        line = str(error).strip().partition("\n")[0]
        queue.lose(key, f"{type(error).__name__}: {line}")
    else:
        queue.finish(key, given)
