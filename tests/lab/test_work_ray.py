"""Units of work on a cluster of two nodes, one of which is killed."""

import importlib
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from equipoise.errors import ArgumentError, WorkError
from equipoise.lab import compare
from equipoise.lab.grid_run import Effort, run_grid
from equipoise.lab.setting import Setting
from equipoise.lab.work import choose_place, run_units

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'equipoise[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray.*")]
HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE), *filter(None, sys.path)])
# A node and its first worker import torch before they begin; on a busy machine that takes minutes.
LONG = 300


@pytest.fixture
def some(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("some_work")


def patient(get_node):
    """Ray looks for a node it has started, and gives up after half a minute."""

    def found(*given):
        end = time.monotonic() + LONG
        while True:
            try:
                return get_node(*given)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    return found


def add_node(cluster):
    # This wait of Ray's, too, is half a minute.
    node = cluster.add_node(num_cpus=1, wait=False)
    cluster.wait_for_nodes(timeout=LONG)
    return node


@pytest.fixture(scope="module")
def cluster():
    """A head and nodes of one core each, whose workers can import the work of the tests."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATH)
        patch.setattr(ray._private.services, "get_node", patient(ray._private.services.get_node))
        made = Cluster()
        try:
            add_node(made)
            yield made
        finally:
            made.shutdown()


def counted(folder, *names, **more):
    return {n: {"folder": str(folder), "name": n, **more} for n in names}


@pytest.fixture
def connected(cluster):
    """The cluster, where a call has no argument for its address."""
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_killed_node_costs_nothing_and_numbers_stay(some, cluster, tmp_path):
    node = add_node(cluster)
    units = {
        key: {"folder": str(tmp_path), "name": key, "seed": seed} for seed, key in enumerate("abcd")
    }

    def kill():
        try:
            some.wait_for(tmp_path, f"*.on.{node.node_id}", seconds=LONG)
            (begun,) = tmp_path.glob(f"*.on.{node.node_id}")
            cluster.remove_node(node, allow_graceful=False)
            # A worker outlives its node by a moment, in which it would still answer: the unit would
            # not be lost, and nothing shown.
            some.until(lambda: not some.is_alive(int(begun.read_text())), LONG)
        finally:
            (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    finished = []
    given = run_units(
        some.held,
        units,
        tmp_path / "store",
        on="ray",
        address=cluster.address,
        done=lambda f: finished.append(f.key),
    )
    killer.join()
    assert given == {key: some.trained(unit) for key, unit in units.items()}
    assert sorted(finished) == list("abcd")
    begun = [p.name for p in tmp_path.glob("*.on.*")]
    (lost,) = [b.partition(".")[0] for b in begun if b.endswith(node.node_id)]
    assert len([b for b in begun if b.startswith(lost)]) == 2
    assert not ray.is_initialized()


def test_a_grid_has_the_same_numbers_as_here(connected):
    small = Setting("digits(rows=300)", (8,) * 3, "tanh", 3, validation=60)
    effort = Effort(decades=0, survey=1, again=1, draws=4, most_draws=4)
    here, there = (
        run_grid((small,), ("auto", "he"), effort, on=on, is_quiet=True) for on in ("here", "ray")
    )
    assert len(here.cells[0].rows) == 2
    for a, b in zip(here.cells[0].rows, there.cells[0].rows, strict=True):
        assert (a.method, a.rate, a.draws) == (b.method, b.rate, b.draws)
        assert b.scores == pytest.approx(a.scores, abs=1e-6)


def test_a_comparison_has_the_same_numbers_as_here_and_takes_closures(connected, tmp_path):
    def make():
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    given = make, (x, x[:, :1]), lambda a, b: F.l1_loss(a, b), ["he", "default"], 4, [1e-3, 1e-2]
    here, there = (compare(*given, steps=20, on=on) for on in ("here", "ray"))
    assert there.place == "ray"
    assert [row.scheme for row in here.table] == [row.scheme for row in there.table]
    for a, b in zip(here.table, there.table, strict=True):
        assert (a.rate, a.window) == (b.rate, b.window)
        assert b.losses == pytest.approx(a.losses, rel=1e-6)
    threads = threading.Lock()
    with pytest.raises(ArgumentError, match=r"make_model must be one .* on='ray', got .*pickled"):
        compare(lambda: threads and make(), *given[1:], on="ray")


def test_killed_workers_and_failures_count_as_in_processes(some, cluster, tmp_path):
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        units = counted(tmp_path, "a", deaths=0) | counted(tmp_path, "b", deaths=1)
        assert run_units(some.dies, units, on="ray", tries=2) == {"a": 0, "b": 1}
        units = counted(tmp_path, "c", deaths=9)
        with pytest.raises(WorkError, match=r"unit 'c' must finish within 2 tries.*WorkerCrashed"):
            run_units(some.dies, units, on="ray", tries=2)
        with pytest.raises(WorkError, match=r"unit 'd' failed: SystemExit: 3"):
            run_units(some.leaves, {"d": {}}, on="ray")
        # It was not this call that connected.
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_work_that_nodes_cannot_import_is_said_so(cluster, monkeypatch, tmp_path):
    (tmp_path / "gone.py").write_text("def work(arguments):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("gone").work
    (tmp_path / "gone.py").unlink()
    with pytest.raises(WorkError, match=r"unit 'a' failed: .*ModuleNotFoundError.*gone"):
        run_units(work, {"a": {}}, on="ray", address=cluster.address)


def test_an_interrupt_stops_tasks_and_keeps_results(some, cluster, tmp_path):
    add_node(cluster)
    units = counted(tmp_path, "quick", seconds=0) | counted(tmp_path, "slow", seconds=LONG)

    def interrupt(finished):
        some.wait_for(tmp_path, "slow.0", seconds=LONG)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_units(
            some.slow,
            units,
            tmp_path / "store",
            on="ray",
            address=cluster.address,
            done=interrupt,
        )
    pid = int((tmp_path / "slow.0").read_text())
    some.until(lambda: not some.is_alive(pid), LONG - 60)
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_cluster_of_its_own_ends_with_the_run(some, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    units = {str(i): {"x": i / 7} for i in range(3)}
    there = run_units(some.numbers, units, on="ray", jobs=2, address="local")
    assert repr(there) == repr(run_units(some.numbers, units))
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "nowhere"])
def test_an_address_without_a_cluster_is_refused(some, address):
    with pytest.raises(ArgumentError, match="address must be that of a Ray cluster that runs, got"):
        run_units(some.place, {"a": {}}, on="ray", address=address)


def test_ray_is_chosen_where_it_is(some):
    assert choose_place() == ("ray", "Ray is installed")
