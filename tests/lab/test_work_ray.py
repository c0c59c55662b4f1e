"""Units of work on a cluster of two nodes, one of which is killed."""

import importlib
import os
import sys
import threading
from pathlib import Path

import pytest

from equipoise.errors import ArgumentError, WorkError
from equipoise.lab.work import choose_place, run_units

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'equipoise[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray.*")]
HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE), *filter(None, sys.path)])


@pytest.fixture
def some(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("some_work")


@pytest.fixture(scope="module")
def cluster():
    """A head and nodes of one core each, whose workers can import the work of the tests."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATH)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            yield made
        finally:
            made.shutdown()


def counted(folder, *names, **more):
    return {n: {"folder": str(folder), "name": n, **more} for n in names}


def test_a_killed_node_costs_nothing_and_numbers_stay(some, cluster, tmp_path):
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    name = node.node_id
    units = {
        key: {"folder": str(tmp_path), "name": key, "seed": seed} for seed, key in enumerate("abcd")
    }

    def kill():
        some.wait_for(tmp_path, f"*.on.{name}")
        cluster.remove_node(node, allow_graceful=False)
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
    lost = next(b.partition(".")[0] for b in begun if b.endswith(name))
    assert len([b for b in begun if b.startswith(lost)]) == 2
    assert not ray.is_initialized()


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
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    units = counted(tmp_path, "quick", seconds=0) | counted(tmp_path, "slow", seconds=60)

    def interrupt(finished):
        some.wait_for(tmp_path, "slow.0")
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
    some.until(lambda: not some.is_alive(pid))
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
