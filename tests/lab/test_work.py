"""Units of work: the same results wherever they run, and none lost."""

import importlib
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from equipoise.errors import ArgumentError, WorkError
from equipoise.lab import work_processes, work_ray
from equipoise.lab.work import Finished, choose_place, in_parts, run_units
from equipoise.lab.work_queue import Queue, attempt
from equipoise.lab.work_store import Store

HERE = Path(__file__).parent
linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")


@pytest.fixture
def some(monkeypatch):
    """Module of work that other processes can import too."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("some_work")


@pytest.fixture
def counted_units(tmp_path):
    """Units that leave a file each time they are begun."""
    (tmp_path / "begun").mkdir()

    def make(*names, **more):
        return {n: {"folder": str(tmp_path / "begun"), "name": n, **more} for n in names}

    make.begun = lambda: sorted(p.name for p in (tmp_path / "begun").iterdir())
    return make


def test_results_are_the_same_in_all_places_and_when_read_again(some, tmp_path):
    units = {f"unit/{i}": {"x": i / 7} for i in range(3)}
    here = run_units(some.numbers, units)
    assert list(here) == list(units)
    ends = here["unit/1"]["ends"]
    assert ends == [math.inf, -math.inf, 0.0, 5e-324, 0.1 + 0.2]
    assert math.copysign(1, ends[2]) == -1
    assert math.isnan(here["unit/1"]["nan"])
    there = run_units(some.numbers, units, tmp_path, on="processes", jobs=2)
    # As text, for nan is not equal to itself.
    assert repr(there) == repr(here)
    finished = []
    again = run_units(some.numbers, units, tmp_path, done=finished.append)
    assert repr(again) == repr(here)
    assert [(f.key, f.stored) for f in finished] == [(key, True) for key in units]


def test_training_gives_the_same_bits_in_processes(some):
    units = {str(i): {"seed": i} for i in range(2)}
    assert run_units(some.trained, units) == run_units(some.trained, units, on="processes", jobs=2)


def test_arguments_are_the_same_as_those_in_the_file(some, tmp_path):
    nan = {"x": math.nan, "more": (1, [2])}
    run_units(some.place, {"a": nan}, tmp_path)
    # nan is the same argument as nan, a tuple as a list, and order says nothing.
    same = {"a": {"more": [1, (2,)], "x": math.nan}}
    finished = []
    run_units(some.place, same, tmp_path, done=finished.append)
    assert finished[0].stored


def test_workers_live_on_with_one_thread_each(some, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    units = {str(i): {"seconds": 0.05} for i in range(6)}
    finished = []
    given = run_units(some.place, units, on="processes", jobs=2, done=finished.append)
    assert len({g["process"] for g in given.values()}) <= 2
    assert os.getpid() not in {g["process"] for g in given.values()}
    assert {g["threads"] for g in given.values()} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert {f.key for f in finished} == set(units)
    assert all(isinstance(f, Finished) and 0.05 <= f.seconds < 5 for f in finished)


def test_a_killed_worker_costs_nothing(some, counted_units):
    units = counted_units("a", "b", "c", deaths=0) | counted_units("d", deaths=1)
    given = run_units(some.dies, units, on="processes", jobs=2)
    assert given == {"a": 0, "b": 0, "c": 0, "d": 1}


def test_a_unit_that_kills_its_workers_ends_the_run_by_name(some, counted_units, tmp_path):
    units = counted_units("bad", deaths=9, after="good.0") | counted_units("good", deaths=0)
    with pytest.raises(WorkError, match=r"unit 'bad' must finish within 2 tries.*-9.*is in") as e:
        run_units(some.dies, units, tmp_path / "store", on="processes", jobs=2, tries=2)
    assert e.value.key == "bad"
    assert counted_units.begun() == ["bad.0", "bad.1", "good.0"]
    units["bad"]["deaths"] = 2
    assert run_units(some.dies, units, tmp_path / "store") == {"bad": 2, "good": 0}
    assert counted_units.begun() == ["bad.0", "bad.1", "bad.2", "good.0"]


@linux
def test_a_worker_that_dies_at_rest_costs_no_try(some, counted_units, tmp_path):
    def kill(finished):
        if finished.key == "first":
            os.kill(int((tmp_path / "begun" / "first.0").read_text()), signal.SIGKILL)

    units = counted_units("first", "second")
    given = run_units(some.dies_after_another, units, on="processes", jobs=2, done=kill, tries=2)
    assert given == {"first": 0, "second": 1}


@linux
def test_a_dead_worker_is_seen_though_a_child_holds_its_pipe(some, counted_units, tmp_path):
    try:
        given = run_units(
            some.dies_with_a_child, counted_units("a"), on="processes", jobs=1, tries=2
        )
    finally:
        os.kill(int((tmp_path / "begun" / "child").read_text()), signal.SIGKILL)
    assert given == {"a": 1}


def test_what_no_pipe_holds_goes_both_ways(some):
    shared = "s" * 3_000_000
    units = {str(i): {"text": str(i) * 3_000_000} for i in range(3)}
    given = run_units(some.echoes, units, on="processes", jobs=2, shared=shared)
    assert all(given[key] == [units[key]["text"], shared] for key in units)


@linux
def test_half_an_answer_is_not_waited_for(some, counted_units, tmp_path):
    folder = tmp_path / "begun"

    def hold(finished):
        if finished.key == "quick":
            some.wait_for(folder, "child")
            (folder / "told").touch()
            # Meanwhile nobody listens to the other worker, which answers with more than pipes hold.
            some.until(lambda: not some.is_alive(int((folder / "large.0").read_text())))

    units = counted_units("quick", "large")
    begun = time.monotonic()
    try:
        given = run_units(some.dies_after_its_answer, units, on="processes", jobs=2, done=hold)
    finally:
        os.kill(int((folder / "child").read_text()), signal.SIGKILL)
    assert time.monotonic() - begun < 50
    # On a busy machine it may have died before it had answered at all.
    assert given["large"][0] in (0, 1)
    assert given["large"][1] == given["quick"][1]


def test_an_exception_ends_the_run_after_what_is_under_way(some, counted_units, tmp_path):
    units = counted_units("bad", "good", "later")
    with pytest.raises(WorkError, match="unit 'bad' failed: ArithmeticError: no number") as e:
        run_units(some.fails, units, tmp_path / "store", on="processes", jobs=2)
    assert e.value.key == "bad"
    assert "in fails" in str(e.value)
    assert counted_units.begun() == ["bad.0", "good.0", "raised"]
    finished = []
    del units["bad"]
    given = run_units(some.fails, units, tmp_path / "store", done=finished.append)
    assert given == {"good": "good", "later": "good"}
    assert [f.stored for f in finished] == [True, False]


def test_all_units_that_failed_are_named(some):
    queue = Queue(some.place, {"a": "{}", "b": "{}"}, 1, print)
    queue.finish("a", attempt(some.leaves, "{}"))
    queue.lose("b", "exit status -9")
    with pytest.raises(
        WorkError, match=r"(?s)'a' failed: .*arguments, then. Failed .*: 'b'.*Trace"
    ):
        queue.end(", then")


def test_leaving_and_results_that_are_no_data_are_failures(some):
    with pytest.raises(WorkError, match="unit 'a' failed: SystemExit: 3"):
        run_units(some.leaves, {"a": {}}, on="processes", jobs=1)
    with pytest.raises(
        WorkError, match=r"result\['found'\] must be plain data .*, got set\. "
    ) as e:
        run_units(some.gives_a_set, {"a": {}})
    assert "with a store to keep" in str(e.value)
    assert repr(pickle.loads(pickle.dumps(e.value))) == repr(e.value)


def test_work_that_workers_cannot_import_is_said_so(some, monkeypatch, tmp_path):
    (tmp_path / "gone.py").write_text("def work(arguments):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("gone").work
    (tmp_path / "gone.py").unlink()
    with pytest.raises(WorkError, match=r"unit 'a' failed: ModuleNotFoundError.*gone"):
        run_units(work, {"a": {}}, on="processes", jobs=1)


def test_an_error_of_the_caller_stops_the_workers_and_keeps_results(some, counted_units, tmp_path):
    units = counted_units("quick", seconds=0) | counted_units("slow", seconds=60)

    def refuse(finished):
        some.until(lambda: "slow.0" in counted_units.begun())
        raise LookupError("enough")

    begun = time.monotonic()
    # The traceback is held on to: what it holds must not be what ends the workers.
    with pytest.raises(LookupError, match="enough") as held:
        run_units(some.slow, units, tmp_path / "store", on="processes", jobs=2, done=refuse)
    assert time.monotonic() - begun < 40
    pids = [int(p.read_text()) for p in (tmp_path / "begun").iterdir()]
    assert len(pids) == 2
    assert not any(some.is_alive(pid) for pid in pids)
    assert held.tb is not None
    assert len(list((tmp_path / "store").iterdir())) == 1


@linux
def test_an_interrupt_while_an_answer_is_heard_keeps_it(some, counted_units, tmp_path, monkeypatch):
    hear = Connection.recv_bytes

    def interrupted(pipe):
        hear(pipe)
        raise KeyboardInterrupt

    units = counted_units("quick", seconds=0) | counted_units("slow", seconds=60)
    monkeypatch.setattr(Connection, "recv_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_units(some.slow, units, tmp_path / "store", on="processes", jobs=2)
    assert len(list((tmp_path / "store").iterdir())) == 1


@linux
def test_a_second_interrupt_leaves_no_worker_behind(some, counted_units, tmp_path, monkeypatch):
    def refuse(finished):
        some.until(lambda: "slow.0" in counted_units.begun())
        raise KeyboardInterrupt

    def interrupted(process, timeout=None):
        raise KeyboardInterrupt

    units = counted_units("quick", seconds=0) | counted_units("slow", seconds=60)
    monkeypatch.setattr(BaseProcess, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_units(some.slow, units, on="processes", jobs=2, done=refuse)
    pids = [int(p.read_text()) for p in (tmp_path / "begun").iterdir()]
    assert len(pids) == 2
    some.until(lambda: not any(some.is_alive(pid) for pid in pids), seconds=20)


def started(some, tmp_path):
    """A script with two workers, two results and two units that take a minute."""
    script = subprocess.Popen(
        [sys.executable, str(HERE / "some_work.py"), str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        # A terminal's Ctrl-C reaches the workers too: the group stands for the terminal.
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    some.until(lambda: {"c.0", "d.0"} <= {p.name for p in tmp_path.iterdir()})
    pids = {int(p.read_text()) for p in tmp_path.glob("?.0")}
    assert len(pids) == 2
    assert all(some.is_alive(pid) for pid in pids)
    return script, pids


@linux
def test_an_interrupted_run_goes_on_where_it_was(some, tmp_path):
    script, pids = started(some, tmp_path)
    os.killpg(script.pid, signal.SIGINT)
    said = script.communicate(timeout=60)[1]
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not any(some.is_alive(pid) for pid in pids)
    assert len(list((tmp_path / "store").iterdir())) == 2
    # Keys and arguments as the script had them, and the name that its work has elsewhere.
    units = {n: {"folder": str(tmp_path), "name": n, "seconds": 0} for n in "ab"}
    finished = []
    run_units(some.slow, units, tmp_path / "store", done=finished.append)
    assert all(f.stored and f.result in pids for f in finished)


@linux
def test_workers_end_with_a_parent_that_is_killed(some, tmp_path, monkeypatch):
    # Not in the folder of the units, which the script lists.
    (tmp_path / "temporary").mkdir()
    (tmp_path / "units").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    script, pids = started(some, tmp_path / "units")
    assert list((tmp_path / "temporary").glob("equipoise-*"))
    script.kill()
    script.communicate(timeout=60)
    some.until(lambda: not any(some.is_alive(pid) for pid in pids))
    assert not list((tmp_path / "temporary").glob("equipoise-*"))


def test_a_result_is_written_whole_or_not_at_all(some, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run_units(some.place, {"a": {}}, tmp_path)
    assert list(tmp_path.iterdir()) == []

    left, sync = [1], os.fsync

    def interrupted(descriptor):
        if left:
            left.pop()
            raise KeyboardInterrupt
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_units(some.place, {"a": {}}, tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".json"]
    assert run_units(some.place, {"a": {}}, tmp_path)["a"]["process"] == os.getpid()


def test_a_store_of_something_else_is_refused_before_any_work(some, counted_units, tmp_path):
    units, store = counted_units("a"), tmp_path / "store"
    run_units(some.counted, units, store)
    (path,) = store.iterdir()
    more = counted_units("b") | {"a": {**units["a"], "width": 3}}
    calls = []
    with pytest.raises(
        ArgumentError, match=f"{path.name}, where argument 'width' is absent, not 3"
    ):
        run_units(some.counted, more, store, done=calls.append)
    with pytest.raises(
        ArgumentError, match=r"work is some_work:counted, not some_work:slow\. Pass"
    ):
        run_units(some.slow, units, store)
    with pytest.raises(ArgumentError, match=r"version is '', not '2'\."):
        run_units(some.counted, units, store, version="2")
    kept = json.loads(path.read_text())
    assert kept["arguments"] == units["a"]
    path.write_text(json.dumps(kept | {"key": "other"}))
    with pytest.raises(ArgumentError, match="key is 'other', not 'a'"):
        run_units(some.counted, units, store)
    for damaged in (
        "",
        "{}",
        "[]",
        '{"result": 1, "seconds": 1, "key": "a", "work": "", "version": "", "arguments": 1}',
        '{"result": 1, "seconds": "x"}',
    ):
        path.write_text(damaged)
        with pytest.raises(ArgumentError, match=f"as run_units writes them, got .*{path.name}"):
            run_units(some.counted, units, store)
    assert counted_units.begun() == ["a.0"]
    assert calls == []
    with pytest.raises(ArgumentError, match=r"store must be a folder, got .*json .*Pass one"):
        run_units(some.counted, units, path)


def test_every_key_has_a_file_of_its_own(tmp_path):
    store = Store(tmp_path, "m:f", "")
    keys = ["a b", "a_b", "a/b", "A b", "../x", "é", "x" * 300, "x" * 301, ".", "CON"]
    names = [store.path(key).name for key in keys]
    assert len({name.lower() for name in names}) == len(keys)
    assert all(len(name) < 110 and store.path("q").parent == tmp_path for name in names)
    assert all(not name.startswith(".") for name in names)


def test_work_must_be_found_again(some):
    def inner(arguments):
        return 1

    for work in (inner, lambda arguments: 1, partial(some.place), some.place.__call__):
        with pytest.raises(ArgumentError, match="work must be a function of a module, got"):
            run_units(work, {"a": {}})


def test_arguments_that_cannot_be_used(some):
    for given, message in [
        ({1: {}}, r"keys of units must be text, got 1\."),
        ({"": {}}, r"keys of units must be text, got ''\."),
        ({"a": [1]}, r"units\['a'\] must be a mapping of arguments, got \[1\]"),
        ({"a": {"x": [1, {2}]}}, r"units\['a'\]\['x'\]\[1\] must be plain data .*got set\."),
        ({"a": {"x": {1: 2}}}, r"keys of units\['a'\]\['x'\] must be text, got 1\."),
    ]:
        with pytest.raises(ArgumentError, match=message):
            run_units(some.place, given)
    for wrong, message in [
        ({"on": "process"}, "on must be one of .*Did you mean 'processes'"),
        ({"jobs": -1}, "jobs must be an integer of at least 0, got -1"),
        ({"tries": 0}, "tries must be an integer of at least 1, got 0"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            run_units(some.place, {"a": {}}, **wrong)
    with pytest.raises(ArgumentError, match="at_most must be"):
        in_parts({}, "seeds", [1], 0)
    assert run_units(some.place, {}) == run_units(some.place, {}, on="processes") == {}


def test_what_units_share_must_be_what_pickle_holds_for_processes(some):
    lock = threading.Lock()
    with pytest.raises(
        ArgumentError, match=r"shared must be what pickle holds .*, got lock \(Type"
    ):
        run_units(some.echoes, {"a": {"text": ""}}, on="processes", shared=lock)


def test_a_long_chain_that_a_store_holds_is_followed(tmp_path):
    def after(unit):
        there = int(unit.key)
        return {str(there + 1): {}} if there < sys.getrecursionlimit() // 2 else {}

    chain = run_units(len, {"0": {}}, tmp_path, follow=after)
    finished = []
    assert run_units(len, {"0": {}}, tmp_path, done=finished.append, follow=after) == chain
    assert [unit.key for unit in finished] == list(chain)
    assert all(unit.stored for unit in finished)


def test_without_ray(some, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"on='ray' needs Ray.*Install 'equipoise\[ray\]', or"):
        run_units(some.place, {"a": {}}, on="ray")
    assert not work_ray.has_ray()
    assert choose_place() == ("processes", "Ray is not installed")
    assert run_units(some.place, {"a": {}}, on="auto", jobs=1)["a"]["process"] != os.getpid()


def test_parts_cover_all_values_once():
    parts = in_parts({"a": {"x": 1}, "b": {}}, "seeds", range(10, 17), 3)
    for key in "ab":
        seeds = [s for name, part in parts.items() if name[0] == key for s in part["seeds"]]
        assert seeds == list(range(10, 17))
    assert len(parts) == 6
    assert all(len(part["seeds"]) <= 3 for part in parts.values())


class Dead:
    """A process that died at rest, which was taken for alive when a unit was handed to it."""

    pid, exitcode = None, -9

    def is_alive(self):
        return False


@pytest.mark.parametrize("has_served", [True, False])
def test_a_unit_that_a_dying_worker_never_began_costs_no_try(tmp_path, has_served):
    mine, its = multiprocessing.Pipe()
    its.close()
    worker = work_processes._Worker(Dead(), mine, has_served=has_served)
    queue = Queue(dict, {"a": "{}"}, tries=1, keep=lambda key, given: None)
    work_processes._give(worker, queue.take(), "{}", tmp_path / "0.unit")
    work_processes._receive(worker, queue)
    if has_served:
        assert queue.take() == "a"
        queue.end("")
    else:
        # It may be the start that kills it, again and again.
        assert queue.take() is None
        with pytest.raises(WorkError, match="within 1 tries"):
            queue.end("")
