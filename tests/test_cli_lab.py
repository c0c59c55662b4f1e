"""The command line: lab."""

import json

import pytest
from typer.testing import CliRunner

from equipoise import cli
from equipoise.errors import ArgumentError
from equipoise.lab import grid_run
from equipoise.lab.comparison import Comparison
from equipoise.lab.grid_result import Grid, GridCell, Row


def run(*args):
    return CliRunner().invoke(cli.app, ["lab", "grid", *args], catch_exceptions=False)


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for; every cell is level."""
    seen = []

    def made(settings, starts, effort, *rest, **named):
        seen.append((settings, starts, effort))
        rows = tuple(Row(m, 0.5, 0.01, 4, 1e-3, 1.0, 1.0, 10.0, (0.5,) * 4) for m in starts)
        level = Comparison(starts[1], 0.0, 0.01, 2)
        cells = tuple(GridCell(s, rows, (level,), 0.1, ()) for s in settings)
        return Grid(cells, tuple(starts), 1.0)

    monkeypatch.setattr(grid_run, "run_grid", made)
    return seen


def test_words_page_and_numbers(asked, tmp_path):
    page, numbers = tmp_path / "grid.html", tmp_path / "grid.json"
    done = run(
        "--starts", "auto", "he", "--cells", "digits", "--draws", "6", "--out", str(page),
        "--json", str(numbers),
    )  # fmt: skip
    ((settings, starts, effort),) = asked
    assert list(starts) == ["auto", "he"]
    assert (effort.draws, effort.most_draws) == (6, 32)
    assert all("digits" in setting.name for setting in settings)
    assert done.exit_code == 0
    assert "auto wins 0, ties" in done.stdout
    assert done.stdout.endswith(f"page: {page}\nnumbers: {numbers}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(numbers.read_text())["tie"] == len(settings)


def test_an_interrupt_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(grid_run, "run_grid", stopped)
    done = run("--store", str(tmp_path))
    assert done.exit_code == 130
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--out", "grid.pdf"), "--out must end in .html"),
        (("--json", "no-such-folder/grid.json"), "--json must lie in a folder that exists"),
        (("--cells", "nothing"), "--cells must be part of a name"),
        (("--sample", "all"), "--sample must be one of"),
        (("--on", "moon"), "--on must be one of"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(asked, args, message):
    with pytest.raises(ArgumentError, match=message):
        run(*args)
    assert asked == []
