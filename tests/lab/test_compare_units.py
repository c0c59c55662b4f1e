"""Comparisons in processes and with a store: the numbers of here, and nothing lost."""

import importlib
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError, WorkError
from equipoise.lab import compare, compare_place, compare_units
from equipoise.lab.compare_place import chosen_place
from equipoise.lab.compare_rows import Rows
from equipoise.lab.compare_starts import draw
from equipoise.lab.compare_units import network_of, rows_in_words
from equipoise.lab.work_queue import Queue, attempt

HERE = Path(__file__).parent
CPU = torch.device("cpu")


@pytest.fixture
def some(monkeypatch):
    """Module of models that other processes can import too."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("some_models")


def dense():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def given(some, make=None, loss="mse", schemes=("he", "lsuv", "default")):
    return (make or some.dense, some.rows(), loss, schemes, 4, [1e-3, 1e-2])


def test_processes_have_the_numbers_of_here(some, tmp_path):
    """Replicas at once; then one by one, with numbers that forward draws, in several units."""
    for make in (some.dense, some.dropping):
        there = compare(
            *given(some, make), steps=15, on="processes", jobs=2, store=tmp_path / make.__name__
        )
        here = compare(*given(some, make), steps=15)
        assert (here.place, there.place) == ("here", "processes")
        for a, b in zip(here.table, there.table, strict=True):
            assert (a.scheme, a.rate, a.window) == (b.scheme, b.rate, b.window)
            assert b.losses == pytest.approx(a.losses, rel=1e-6)
            assert b.births == pytest.approx(a.births, rel=1e-6)
        for a, b in zip(here.curves, there.curves, strict=True):
            assert b.mean == pytest.approx(a.mean, rel=1e-6)
        assert here.is_vectorised == (make is some.dense)
        # What is stored is read, and no bit is lost on the way.
        begun = sorted((tmp_path / make.__name__).iterdir())
        again = compare(*given(some, make), steps=15, store=tmp_path / make.__name__)
        assert again == there
        assert sorted((tmp_path / make.__name__).iterdir()) == begun


def test_numbers_do_not_depend_on_the_order_of_units_nor_on_global_state(some):
    one = compare(*given(some, some.dropping, schemes=("he", "default")), steps=5)
    torch.manual_seed(77)
    np.random.seed(77)
    other = compare(*given(some, some.dropping, schemes=("default", "he")), steps=5)
    assert {row.scheme: row.losses for row in one.table} == {
        row.scheme: row.losses for row in other.table
    }


def test_draws_are_the_same_in_parts(some):
    x, _ = some.rows()
    together = draw(some.dense, "auto", x, [3, 4, 5])
    assert torch.equal(draw(some.dense, "auto", x, [4, 5], 3).weights, together.weights[1:])


def test_a_killed_worker_loses_nothing(some, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIPOISE_TEST_FOLDER", str(tmp_path))
    (tmp_path / "parent").write_text(str(os.getpid()))
    there = compare(
        *given(some, loss=some.loss_that_kills, schemes=("he",)), steps=5, on="processes", jobs=1
    )
    assert (tmp_path / "killed").exists()
    here = compare(*given(some, loss=some.loss, schemes=("he",)), steps=5)
    assert there.table[0].losses == pytest.approx(here.table[0].losses, rel=1e-6)


def test_what_is_finished_before_an_interrupt_is_not_done_again(some, tmp_path, monkeypatch):
    real, calls = compare_units.draw, []

    def interrupted(make_model, scheme, *rest):
        calls.append(scheme)
        if scheme == "lsuv" and len(calls) < 4:
            raise KeyboardInterrupt
        return real(make_model, scheme, *rest)

    monkeypatch.setattr(compare_units, "draw", interrupted)
    first = compare(*given(some), steps=5, store=tmp_path)
    assert not first.is_complete
    assert [row.scheme for row in first.table] == ["he"]
    second = compare(*given(some), steps=5, store=tmp_path)
    assert second.is_complete
    assert calls == ["he", "he", "lsuv", "lsuv", "lsuv", "default", "default"]
    # Other rows, rates or models are other units.
    before = len(list(tmp_path.iterdir()))
    compare(*given(some, some.dropping, schemes=("he",)), steps=5, store=tmp_path)
    # Of 8 trainings one by one, 4 in a unit, and then of 4.
    assert len(list(tmp_path.iterdir())) == before + 3


def test_a_worker_that_makes_another_model_says_so(some):
    torch.set_default_dtype(torch.float64)
    try:
        x, y = some.rows()
        with pytest.raises(WorkError, match=r"make_model must make the same model in every"):
            compare(
                some.dense, (x.double(), y.double()), "mse", ["he"], 4, [1e-2],
                steps=2, on="processes", jobs=1,
            )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_cannot_be_sent_is_refused_by_name(some, monkeypatch, tmp_path):
    def inner():
        return dense()

    rows = some.rows()
    with pytest.raises(ArgumentError, match=r"make_model must be one .*'processes'.*inner.*'here'"):
        compare(inner, rows, "mse", on="processes")
    with pytest.raises(ArgumentError, match=r"loss must be one that other processes can get"):
        compare(some.dense, rows, lambda a, b: (a - b).square().mean(), on="processes")
    with pytest.raises(ArgumentError, match=r"make_model must be a function .* where store is"):
        compare(inner, rows, "mse", store=tmp_path)
    with pytest.raises(ArgumentError, match=r"loss must be a function .* got HuberLoss"):
        compare(some.dense, rows, nn.HuberLoss(), store=tmp_path)
    with pytest.raises(ArgumentError, match="on must be one of"):
        compare(inner, rows, "mse", on="cluster")
    with pytest.raises(ArgumentError, match="jobs must be"):
        compare(inner, rows, "mse", jobs=-1)
    # A notebook: its functions pickle, but no file has them.
    main = SimpleNamespace(dense=dense)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(dense, "__module__", "__main__")
    with pytest.raises(ArgumentError, match="interactive session, which has no file"):
        compare(dense, rows, "mse", on="processes")
    main.__file__ = "script.py"
    compare_place.check_place("processes", {"make_model": dense}, False)


def test_closures_stay_here_where_it_is_left_open(some, monkeypatch):
    found = compare(lambda: dense(), *given(some)[1:3], ["he"], 4, [1e-2], steps=2, on="auto")
    assert found.place == "here"
    assert "Trained here: make_model is <function" in str(found).replace("\n", " ")
    sent = {"make_model": some.dense, "loss": nn.HuberLoss(), "other": some.wider}
    assert chosen_place("auto", sent, torch.device("meta"), 2)[0] == "here"
    assert "meta" in chosen_place("auto", sent, torch.device("meta"), 2)[1]
    assert chosen_place("auto", sent, CPU, 1) == ("here", "one unit at a time was asked for")
    monkeypatch.setattr(compare_place, "cores", lambda: 1)
    assert chosen_place("auto", sent, CPU, 0) == ("here", "there is one core")
    monkeypatch.setattr(compare_place, "choose_place", lambda: ("processes", "said so"))
    assert chosen_place("auto", sent, CPU, 2) == ("processes", "said so")
    assert chosen_place("ray", sent, CPU, 1) == ("ray", "")


def test_models_and_rows_are_known_again():
    rows = Rows(torch.arange(6.0).reshape(3, 2), torch.arange(3))
    same = Rows(torch.arange(6.0).reshape(2, 3).reshape(3, 2), torch.arange(3))
    assert rows_in_words(rows) == rows_in_words(same)
    for x, y in ((rows.x.double(), rows.y), (rows.x.flip(0), rows.y), (rows.x, -rows.y)):
        assert rows_in_words(Rows(x, y)) != rows_in_words(rows)
    assert network_of(dense()) == network_of(dense())
    assert network_of(dense()) != network_of(dense().double())
    assert pickle.loads(pickle.dumps(compare_units.unseen)) is compare_units.unseen


def test_units_that_follow_come_first_while_plenty_wait():
    kept = []
    queue = Queue(len, dict.fromkeys("abcd", "{}"), 1, lambda key, given: kept.append(key))
    taken = [queue.take(), queue.take()]
    queue.finish(taken[0], attempt(len, "{}"))
    # One is under way and two wait.
    queue.follow({"a1": "{}", "a2": "{}"})
    assert [queue.take() for _ in range(3)] == ["a1", "a2", "c"]
    # Four are under way and one waits: a chain that begins last would end alone.
    queue.follow({"b1": "{}"})
    assert [queue.take() for _ in range(3)] == ["d", "b1", None]
