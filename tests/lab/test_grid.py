"""The trainability grid: balanced cells, fair stages, the same numbers wherever it runs."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.lab.comparison import Comparison, compare
from equipoise.lab.grid_cells import cells, first_rate
from equipoise.lab.grid_result import Grid, GridCell, Row
from equipoise.lab.grid_run import Effort, place_of, rate_of, run_grid
from equipoise.lab.grid_state import FINAL_SEEDS, CellState, Result
from equipoise.lab.setting import Setting, Trial, train_trials
from equipoise.lab.task_names import task_named

SMALL = Setting("digits(rows=300)", (8,) * 3, "tanh", 3, validation=60)
DEAD = Setting("digits(rows=300)", (8,) * 40, "relu", 2, validation=60)
EFFORT = Effort(decades=1, survey=1, again=1, draws=4, most_draws=8)
STARTS = ("auto", "he", "default", "odd_sigmoid")


@pytest.fixture(scope="module")
def found():
    return run_grid((SMALL, DEAD), STARTS, EFFORT, on="here", is_quiet=True)


# Cells


def test_samples_are_fixed_and_balanced():
    board, held_out = cells("scoreboard"), cells("held-out")
    assert (len(set(board)), len(set(held_out))) == (80, 40)
    assert board == cells("scoreboard")
    for sample in (board, held_out):
        counts = Counter(s.activation for s in sample)
        assert len(counts) == 16
        assert max(counts.values()) - min(counts.values()) <= 2
    assert set(cells("quick")) <= set(board)
    assert max(len(s.hidden) for s in board) == 1000


def test_held_out_tasks_are_others_than_those_of_the_scoreboard():
    assert not {s.task for s in cells("scoreboard")} & {s.task for s in cells("held-out")}


def test_every_cell_takes_about_500_steps():
    for setting in {s.task: s for s in cells("scoreboard")}.values():
        task = task_named(setting.task)
        rows = task.validation(setting.validation).rows
        steps = math.ceil(rows / setting.batch_size) * setting.epochs
        assert 480 <= steps <= 520, setting.task
        assert setting.network(task)[-1].out_features == task.outputs


def test_an_unknown_sample_is_named():
    with pytest.raises(ArgumentError, match="sample must be one of"):
        cells("all")


def test_rates_and_their_places():
    for place in range(-5, 6):
        rate = rate_of(SMALL, place)
        assert rate == pytest.approx(first_rate(SMALL) * 10 ** (place / 2), rel=5e-3)
        assert place_of(SMALL, rate) == place


# The run


def test_the_finals_are_trainings_of_their_own(found):
    cell = found.cells[0]
    row = cell.row("auto")
    trials = [Trial("auto", row.rate, FINAL_SEEDS + i) for i in range(row.draws)]
    assert row.draws in (4, 8)
    alone = train_trials(SMALL, trials)
    np.testing.assert_allclose(row.scores, alone.scores, atol=1e-6)
    assert row.score == pytest.approx(np.mean(alone.scores))
    assert row.standard_error == pytest.approx(np.std(alone.scores, ddof=1) / math.sqrt(row.draws))
    epochs = [next((i + 1 for i, x in enumerate(run) if x < math.log(10) / 2), math.inf)
              for run in alone.losses]  # fmt: skip
    assert row.steps_to_loss == sorted(epochs)[row.draws // 2] * math.ceil(240 / 64)


def test_the_verdict_is_that_of_paired_draws_of_the_finalists(found):
    cell = found.cells[0]
    rows = {row.method: row for row in cell.rows}
    assert cell.refused == ()
    assert set(rows) == set(STARTS)
    others = {m: row.scores for m, row in rows.items() if m != "auto"}
    assert cell.comparison == (compare(rows["auto"].scores, others),)
    assert cell.constant_score == pytest.approx(0.1, abs=0.05)


def test_a_method_that_cannot_start_a_network_is_told_with_its_reason(found):
    cell = found.cells[1]
    assert [name for name, _ in cell.refused] == ["odd_sigmoid"]
    assert "odd" in cell.refused[0][1]
    assert "odd_sigmoid" not in {row.method for row in cell.rows}


def test_a_store_and_processes_change_nothing(tmp_path):
    more = {"effort": replace(EFFORT, most_draws=4), "is_quiet": True}
    starts = ("auto", "default")
    once = run_grid((SMALL,), starts, on="here", **more)
    again = run_grid((SMALL,), starts, on="processes", jobs=2, store=tmp_path, **more)
    for a, b in zip(once.cells[0].rows, again.cells[0].rows, strict=True):
        assert (a.method, a.rate) == (b.method, b.rate)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    kept = sorted(tmp_path.iterdir())
    assert run_grid((SMALL,), starts, on="here", store=tmp_path, **more) == again
    assert sorted(tmp_path.iterdir()) == kept
    # Another effort asks for other units, and finds those that are the same.
    run_grid((SMALL,), starts, replace(EFFORT, draws=6), tmp_path, "here", is_quiet=True)
    assert set(kept) < set(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "starts", "message"),
    [
        ((SMALL,), ("he", "default"), "starts must be 'auto' and"),
        ((SMALL,), ("auto",), "starts must be 'auto' and"),
        ((SMALL,), ("auto", "hee"), "starts must be one of"),
        ((replace(SMALL, validation=0),), ("auto", "he"), "validation of"),
        ((replace(SMALL, task="digit"),), ("auto", "he"), "task must be one of"),
    ],
)
def test_what_cannot_be_run_is_named(settings, starts, message):
    with pytest.raises(ArgumentError, match=message):
        run_grid(settings, starts, EFFORT, on="here", is_quiet=True)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"decades": -1}, "decades"), ({"survey": 0}, "survey"), ({"again": -1}, "again"),
     ({"draws": 3}, "draws"), ({"most_draws": 2}, "most_draws")],
)  # fmt: skip
def test_efforts_that_cannot_be_are_named(change, name):
    with pytest.raises(ArgumentError, match=f"{name} must be"):
        replace(EFFORT, **change)


# What follows from results


def state_of(held):
    """A cell whose methods have these scores by rate."""
    state = CellState(SMALL, task_named(SMALL.task))
    for method, by_rate in held.items():
        for rate, scores in by_rate.items():
            for seed, score in enumerate(scores):
                state.found[Trial(method, rate, seed)] = Result(score, score, (1.0,))
    return state


def test_the_rate_is_the_best_of_those_with_the_most_draws():
    state = state_of({"he": {1e-3: [0.5, 0.5], 1e-2: [0.9], 1e-4: [0.4, 0.5]}})
    assert state.best_rate("he") == 1e-3
    assert state.means("he")[1e-4] == pytest.approx(0.45)


def test_finalists_are_ours_and_the_three_best():
    scores = {"auto": 0.1, "he": 0.5, "lsuv": 0.7, "default": 0.6, "xavier": 0.2}
    state = state_of({m: {1e-3: [s]} for m, s in scores.items()})
    state.choose_finalists(tuple(scores))
    assert state.finalists == ("auto", "lsuv", "default", "he")
    state = state_of({"he": {1e-3: [0.5]}})
    state.refused["auto"] = "no"
    state.choose_finalists(("auto", "he"))
    assert state.finalists == ()
    cell = state.cell(("auto", "he"))
    assert cell.verdict == "loss"
    assert cell.texts()[1] == "refused"


def test_windows_are_the_longest_run_of_rates_that_work():
    rates = [1e-4, 1e-3, 10**-2.5, 1e-2, 1e-1]
    held = dict(zip(rates, ([s] for s in (0.1, 0.9, 0.8, 0.9, 0.1)), strict=True))
    cell = state_of({"auto": held, "he": {1e-3: [0.1], 1e-2: [0.1]}}).cell(("auto", "he"))
    # Half of a decade to 1e-4, two gaps of half a decade, half of a decade to 1e-1.
    assert cell.row("auto").window_decades == pytest.approx(2.0)
    assert cell.row("he").window_decades == 0.0
    assert cell.row("auto").trained_share == 1.0
    nobody = state_of({"auto": {1e-3: [0.1]}, "he": {1e-3: [0.11]}}).cell(("auto", "he"))
    assert nobody.row("he").trained_share == 0.0


# The whole


def row(method, score):
    return Row(method, score, 0.01, 8, 1e-3, 1.0, 1.5, math.inf, (score,) * 8)


def grid_of(differences):
    made = [
        GridCell(SMALL, (row("auto", 0.5 + d), row("he", 0.5)), (Comparison("he", d, 0.001, 4),),
                 0.1, (("siren", "no"),))
        for d in differences
    ]  # fmt: skip
    return Grid(tuple(made), ("auto", "he", "siren"), 1.0)


def test_counts_and_the_worst_loss():
    grid = grid_of([0.2, 0.0, -0.05, -0.1])
    assert [grid.count(v) for v in ("win", "tie", "loss")] == [1, 1, 2]
    assert grid.share == 0.5
    assert grid.worst == pytest.approx(0.1)
    assert grid_of([0.2]).worst == 0
    # Where a start is refused, the network answers as a constant does.
    assert grid.means() == pytest.approx({"auto": 0.5125, "he": 0.5, "siren": 0.1})
    assert grid.groups()["activation"] == {"tanh": (1, 1, 2)}
    refused = Grid((replace(grid.cells[0], comparison=()),), ("auto", "he"), 1.0)
    assert refused.worst == math.inf


def test_text_json_and_page(found, tmp_path):
    text = str(found)
    assert "of 2 cells against the best of 3 other starts" in text
    data = json.loads(found.to_json(tmp_path / "grid.json").read_text())
    assert data["cells"][0]["name"] == SMALL.name
    assert data["cells"][1]["refused"][0][0] == "odd_sigmoid"
    page = found.to_html(tmp_path / "grid.html").read_text()
    for words in (
        "By activation",
        "By depth",
        "By task",
        "Every start, over all cells",
        SMALL.name,
    ):
        assert words in page
