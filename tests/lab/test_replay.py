"""The frame of the replays: units, results kept, tables, pages, refusals."""

import json
import math
import statistics

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.lab import replay
from equipoise.lab.replay_data import (
    MODES,
    Curve,
    Estimate,
    Findings,
    HeatMap,
    Picture,
    Replay,
    ResultTable,
    Row,
)
from equipoise.lab.replay_html import drawn
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.replay_result import heading, text_of

CALLS = []
STOP = []


def toy_units(budget, modes, seeds):
    rows = {"quick": 2, "paper": 4}[budget]
    return {f"{m}, draw {s}": {"mode": m, "seed": s, "rows": rows} for m in modes for s in seeds}


def toy_work(arguments):
    if arguments["seed"] in STOP:
        raise KeyboardInterrupt
    CALLS.append(arguments["seed"])
    return {"value": arguments["seed"] ** 2}


def toy_findings(done, modes):
    tables = []
    for mode in modes:
        values = [float(r["value"]) for a, r in done if a["mode"] == mode]
        row = Row(("<b>",), (Estimate.of(values, 4.0), Estimate(math.nan, math.nan, 1)))
        tables.append(ResultTable("Squares", mode, ("what",), ("value", "none"), "known", (row,)))
    picture = Picture(
        "Squares", "They grow.", "seed", "square",
        (Curve("ours", (1.0, 2.0), (1.0, 4.0), (0.1, 0.2)), Curve("known", (1.0,), (1.0,))),
    )  # fmt: skip
    return Findings("squares <b> grow", ("A sentence.",), tuple(tables), (picture,))


TOY = Replay(
    "toy", "Nobody 1900, arXiv 0000.00000", "squares", "A setting.", "as it was", "as it should be",
    {"quick": 3, "paper": 2}, toy_units, toy_work, toy_findings,
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(REPLAYS, "toy", TOY)
    CALLS.clear()
    STOP.clear()


def toy_run(**more):
    return replay("toy", is_quiet=True, **more)


def test_draws_become_means_with_their_error(toy):
    found = toy_run(seed=1)
    assert CALLS == [1, 2, 3, 1, 2, 3]
    value = found.findings.tables[0].rows[0].values[0]
    squares = [1.0, 4.0, 9.0]
    assert value.mean == pytest.approx(statistics.mean(squares))
    assert value.standard_error == pytest.approx(np.std(squares, ddof=1) / math.sqrt(3))
    assert value.errors_off == pytest.approx((value.mean - 4.0) / value.standard_error)
    assert (found.draws, found.budget, found.modes) == (3, "quick", MODES)


def test_budget_mode_and_draws_are_obeyed(toy):
    found = toy_run(budget="paper", modes="corrected")
    assert CALLS == [0, 1]
    assert found.modes == ("corrected",)
    assert [t.mode for t in found.findings.tables] == ["corrected"]
    CALLS.clear()
    assert toy_run(modes=("corrected", "faithful"), draws=1).modes == MODES
    assert CALLS == [0, 0]


def test_what_is_kept_is_not_done_again(toy, tmp_path):
    first = toy_run(store=tmp_path, draws=2)
    CALLS.clear()
    more = toy_run(store=tmp_path, draws=3)
    assert CALLS == [2, 2]
    assert more.findings.tables[0].rows[0].values[0].mean == pytest.approx(5 / 3)
    again = toy_run(store=tmp_path, draws=2)
    assert CALLS == [2, 2]
    assert str(again) == str(first)
    assert again.seconds == first.seconds


def test_an_interrupt_loses_nothing_that_was_finished(toy, tmp_path):
    STOP.append(1)
    with pytest.raises(KeyboardInterrupt):
        toy_run(store=tmp_path, modes="faithful")
    assert CALLS == [0]
    STOP.clear()
    toy_run(store=tmp_path, modes="faithful")
    assert CALLS == [0, 1, 2]


def test_text_json_and_page_say_the_same(toy, tmp_path):
    found = toy_run()
    text = str(found)
    assert text.startswith("toy: squares <b> grow.")
    assert "Squares (as the source does it); in brackets: known" in text
    assert "1.67 ± 1.2 (4)" in text
    assert "as it should be" in text
    data = json.loads(found.to_json(tmp_path / "a.json").read_text())
    assert data["headline"] == found.headline()
    value = data["findings"]["tables"][0]["rows"][0]["values"]
    assert value[0]["reference"] == 4.0
    assert value[1]["mean"] is None
    page = found.to_html(tmp_path / "a.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "squares &lt;b&gt; grow" in page
    assert "1.67 ± 1.2 (4)" in page
    assert "<b> grow" not in page
    # Of plotly's own text nothing is loaded.
    assert 'src="http' not in page


def test_a_table_without_references_names_none():
    row = Row(("1",), (Estimate(1.0, 0.0, 1),))
    table = ResultTable("A", "corrected", ("x",), ("y",), "known", (row,))
    assert heading(table) == "A (corrected)"
    assert text_of(Estimate(2.0, math.nan, 1)) == "2"
    assert math.isnan(Estimate.of([1.0]).errors_off)


def test_pictures_leave_out_what_an_axis_has_no_place_for():
    curves = (
        Curve("a", (1.0, 10.0, 100.0), (1.0, 0.0, 5.0), (0.5, 0.1, 9.0)),
        Curve("a", (1.0,), (2.0,)),
        Curve("b", (1.0, 2.0), (math.nan, 2.0), (0.1, 0.2), "points"),
        Curve("c", (1.0, 2.0), (3.0, 4.0), (), "dashed"),
    )
    heat = HeatMap((0.0, 1.0), (0.0, 1.0), ((0.0, math.nan), (1.0, 2.0)), "z", 1.0)
    made = drawn(Picture("t", "s.", "x", "y", curves, True, True, (heat,)))
    colours, band, line, second, points, dashed = made.data
    assert colours.zmid == 1.0
    assert colours.z[0][1] is None
    assert list(line.x) == [1.0, 100.0]
    # A band that reached 0 would have no end on an axis of powers.
    assert min(band.y) == pytest.approx(0.5)
    assert second.showlegend is False
    assert second.line.color == line.line.color
    assert list(points.y) == [2.0]
    assert list(points.error_y.array) == [0.2]
    assert dashed.line.dash == "dash"
    assert made.layout.xaxis.type == made.layout.yaxis.type == "log"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "tanh"}, r"name must be one of .*tanh-depth.* got 'tanh'"),
        ({"budget": "quik"}, r"budget must be one of paper, quick, got 'quik'. Did you mean"),
        ({"modes": ()}, "modes must hold faithful or corrected, got none"),
        ({"modes": "both"}, "modes must be one of corrected, faithful, got 'both'"),
        ({"draws": -1}, "draws must be an integer of at least 0, got -1. Pass 0 for as many"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"on": "moon"}, "on must be one of"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(toy, given, message):
    with pytest.raises(ArgumentError, match=message):
        replay(**{"name": "toy", "is_quiet": True} | given)
    assert CALLS == []


def test_a_store_that_is_no_folder_is_refused(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="store must be a folder"):
        toy_run(store=tmp_path / "file")
    assert CALLS == []


@pytest.mark.parametrize("name", list(REPLAYS))
def test_each_replay_says_what_it_is(name):
    one = REPLAYS[name]
    assert one.name == name
    assert "arXiv " in one.source
    assert all((one.title, one.setting, one.faithful, one.corrected))
    assert one.draws["quick"] >= 10
    assert one.draws["paper"] >= 3
    for budget in ("quick", "paper"):
        for mode in MODES:
            assert one.units(budget, (mode,), range(2))
