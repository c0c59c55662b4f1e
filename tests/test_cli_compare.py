"""The command line: compare."""

import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from equipoise import cli
from equipoise.cli.options import spelled_out
from equipoise.errors import ArgumentError
from equipoise.lab import compare_run, compare_units

MODULE = """
import torch
from torch import nn
from torch.nn import functional as F

def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

def load():
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)

def parts():
    x, y = load()
    return (x[:60], F.one_hot(y[:60], 3).float()), (x[60:], F.one_hot(y[60:], 3).float())

def broken():
    raise OSError("no such file")

def loss(outputs, targets):
    return F.cross_entropy(outputs, targets)
"""
QUICK = ("--draws", "4", "--steps", "3", "--on", "here")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_task.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cli.app, ["compare", "my_task:net", *arguments])


def refusal(*arguments):
    with pytest.raises(ArgumentError) as stop:
        cli.app(["compare", "my_task:net", *arguments], standalone_mode=False)
    return str(stop.value)


def test_lists_are_written_with_spaces_and_pages_are_saved(folder):
    result = call(
        "--data", "my_task:load", "--loss", "cross-entropy", "--schemes", "auto", "he", "default",
        "--rates", "1e-3", "1e-2", *QUICK, "--out", "page.html", "--json", "numbers.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
    assert {row["scheme"] for row in data["table"]} == {"auto", "he", "default"}
    assert data["setting"]["learning_rates"] == [1e-3, 1e-2]
    assert data["setting"]["rows"] == [64, 13, 16]
    assert (folder / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "page: page.html" in result.output
    assert "numbers: numbers.json" in result.output


def test_an_option_repeated_means_the_same():
    given = ["my:net", "--schemes", "auto", "he", "--steps", "3", "--schemes", "lsuv"]
    made = spelled_out(given)
    assert made == [
        "my:net", "--schemes", "auto", "--schemes", "he", "--steps", "3", "--schemes", "lsuv",
    ]  # fmt: skip
    assert spelled_out(made) == made


@pytest.mark.parametrize(
    ("data", "loss", "means"),
    [
        ("my_task:load", (), "cross-entropy"),
        ("my_task:parts", (), "mse"),
        ("my_task:load", ("--loss", "my_task:loss"), "own"),
    ],
)
def test_targets_tell_the_loss(folder, monkeypatch, data, loss, means):
    seen, real = [], compare_run.read_loss
    monkeypatch.setattr(compare_run, "read_loss", lambda loss: seen.append(loss) or real(loss))
    result = call("--data", data, *loss, "--schemes", "he", "--rates", "1e-2", *QUICK)
    assert result.exit_code == 0, result.output
    assert seen == [means] if means != "own" else callable(seen[0])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_files_of_data_and_optimizers(folder, optimizer):
    rng = np.random.default_rng(0)
    np.savez(
        "a.npz", inputs=rng.normal(size=(60, 4)).astype("f4"), targets=rng.integers(3, size=60)
    )
    result = call(
        "--data", "a.npz", "--schemes", "he", "--rates", "1e-2", *QUICK, "--optimizer", optimizer
    )
    assert result.exit_code == 0, result.output
    assert {"adam": "Adam,", "adamw": "AdamW", "sgd": "SGD"}[optimizer] in result.output


def test_an_interrupted_run_prints_what_is_finished(folder, monkeypatch):
    real = compare_units.draw

    def draw(make_model, scheme, *rest):
        if scheme == "he":
            raise KeyboardInterrupt
        return real(make_model, scheme, *rest)

    monkeypatch.setattr(compare_units, "draw", draw)
    given = ("--data", "my_task:load", "--schemes", "default", "he", "--rates", "1e-2", *QUICK)
    result = call(*given, "--store", "kept")
    assert result.exit_code == 130
    assert "Interrupted: only default was done." in result.output
    assert len(list((folder / "kept").iterdir())) == 2
    monkeypatch.setattr(compare_units, "draw", real)
    assert call(*given, "--store", "kept").exit_code == 0
    assert len(list((folder / "kept").iterdir())) == 4


def test_processes_import_from_the_folder_one_stands_in(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(folder)])
    given = ("--data", "my_task:load", "--schemes", "he", "--rates", "1e-2", "--draws", "4")
    result = call(*given, "--steps", "3", "--on", "processes", "--jobs", "1", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "a.json").read_text(encoding="utf-8"))["place"] == "processes"
    alone = call(*given, "--steps", "3", "--on", "auto", "--jobs", "1")
    assert "Trained here: one unit at a time was asked for." in alone.output


def test_left_out_schemes_are_the_defaults(folder):
    result = call("--data", "my_task:load", "--rates", "1e-2", *QUICK)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in compare_run.STARTS)


def test_refusals(folder):
    assert "--data must name a function" in refusal("--data", "my_task:broken")
    assert "OSError: no such file" in refusal("--data", "my_task:broken")
    np.save("x.npy", np.ones((9, 4)))
    assert "'inputs' and 'targets', got no targets" in refusal("--data", "x.npy")
    torch.save({"a": torch.ones(9, 4), "b": torch.ones(9, 4), "targets": torch.ones(9)}, "x.pt")
    assert "got inputs by name" in refusal("--data", "x.pt")
    assert "must be a file that exists" in refusal("--data", "y.npz")
    given = ("--data", "my_task:load")
    assert "--optimizer must be one of" in refusal(*given, "--optimizer", "lion")
    assert "--out must end in .html" in refusal(*given, "--out", "page.pdf")
    assert "--json must end in .json" in refusal(*given, "--json", "page.txt")
    assert "loss must be one of" in refusal(*given, "--loss", "hinge")
    assert "--on must be one of" in refusal(*given, "--on", "cluster")
    assert "jobs must be" in refusal(*given, "--jobs", "-1")
    assert "draws must be" in refusal(*given, "--draws", "2")


def test_help_has_an_example():
    shown = CliRunner().invoke(cli.app, ["compare", "--help"])
    assert "Example: equipoise compare" in shown.output.replace("\n", " ")
    assert "compare" in CliRunner().invoke(cli.app, ["--help"]).output
