"""The command line: lab run and lab replays."""

import json

import pytest
from typer.testing import CliRunner

from equipoise import cli
from equipoise.errors import ArgumentError
from equipoise.lab import replay_run
from equipoise.lab.replay_data import Findings
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.replay_result import Replayed


def run(*args):
    return CliRunner().invoke(cli.app, ["lab", *args], catch_exceptions=False)


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for."""
    seen = []

    def made(name, *rest, **named):
        seen.append((name, *rest))
        return Replayed(
            name, "S, arXiv 1", "t", "A setting.", "f", "c", rest[0], rest[1], 2, rest[3], 1.0, 1.0,
            Findings("it holds", (), (), ()),
        )  # fmt: skip

    monkeypatch.setattr(replay_run, "replay", made)
    return seen


def test_words_page_and_numbers(asked, tmp_path):
    page, numbers = tmp_path / "a.html", tmp_path / "a.json"
    done = run(
        "run", "tanh-depth", "--budget", "paper", "--mode", "corrected", "--draws", "4",
        "--seed", "7", "--on", "here", "--out", str(page), "--json", str(numbers),
    )  # fmt: skip
    ((name, budget, modes, draws, seed, folder, place, jobs),) = asked
    assert (name, budget, modes, draws, seed) == ("tanh-depth", "paper", ("corrected",), 4, 7)
    assert (folder.as_posix(), place, jobs) == ("results/tanh-depth-paper", "here", 0)
    assert done.exit_code == 0
    assert done.stdout.startswith("tanh-depth: it holds.")
    assert done.stdout.endswith(f"page: {page}\nnumbers: {numbers}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(numbers.read_text())["seed"] == 7


def test_left_out_is_quick_and_both(asked, tmp_path):
    run("run", "tanh-depth", "--store", str(tmp_path))
    assert asked[0][1:3] == ("quick", ("faithful", "corrected"))
    assert asked[0][5] == tmp_path


def test_an_interrupt_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_run, "replay", stopped)
    done = run("run", "tanh-depth", "--store", str(tmp_path))
    assert done.exit_code == 130
    assert str(tmp_path) in done.stderr


def test_all_replays_are_listed():
    done = run("replays")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in REPLAYS)
    assert "2410.02242" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tanh-dept",), "NAME must be one of .*Did you mean 'tanh-depth'"),
        (("tanh-depth", "--budget", "full"), "--budget must be one of paper, quick"),
        (("tanh-depth", "--mode", "fair"), "--mode must be one of"),
        (("tanh-depth", "--out", "a.pdf"), "--out must end in .html"),
        (("tanh-depth", "--json", "nowhere/a.json"), "--json must lie in a folder that exists"),
        (("tanh-depth", "--on", "moon"), "--on must be one of"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(asked, args, message):
    with pytest.raises(ArgumentError, match=message):
        run("run", *args)
    assert asked == []
