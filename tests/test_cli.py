"""The command line."""

import json

import pytest
import torch
from typer.testing import CliRunner

from equipoise import cli
from equipoise.errors import ArgumentError

MODEL = """
from torch import nn

def deep():
    return nn.Sequential(*[m for _ in range(30) for m in (nn.Linear(16, 16), nn.Tanh())])

def shrinking():
    return nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(16, 16), nn.Tanhshrink())])

def nothing():
    return 3

constant = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_init_prints_a_report_and_saves_it_with_the_weights(folder):
    result = call("init", "my_models:deep", "--input", 16, "--report", "r.json", "--save", "w.pt")
    assert result.exit_code == 0, result.output
    assert "scheme auto" in result.output
    assert json.loads((folder / "r.json").read_text(encoding="utf-8"))["ok"]
    assert len(torch.load(folder / "w.pt")) == 60


def test_init_repeats_for_a_seed_and_exits_1_for_an_unhealthy_network(folder):
    first = call("init", "my_models:deep", "--input", 16, "--seed", 3)
    assert first.output == call("init", "my_models:deep", "--input", 16, "--seed", 3).output
    assert call("init", "my_models:shrinking", "--input", 16).exit_code == 1


BAD = [
    ("my_models", "package.module:function"),
    ("no_such_module:f", "can be imported"),
    ("my_models:missing", "It has"),
    ("my_models:constant", "name a function"),
    ("my_models:nothing", "return a torch.nn.Module"),
]


@pytest.mark.parametrize(("factory", "message"), BAD)
def test_bad_factories_are_named(folder, factory, message):
    with pytest.raises(ArgumentError, match=message):
        cli.app(["init", factory, "--input", "16"], standalone_mode=False)


@pytest.mark.parametrize("shape", ["0", "a", "", "3,,4"])
def test_bad_shapes_are_named(folder, shape):
    with pytest.raises(ArgumentError, match="without the batch"):
        cli.app(["init", "my_models:deep", "--input", shape], standalone_mode=False)


def test_errors_become_one_line_and_status_2(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["equipoise", "init", "my_models:deep", "--input", "17"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "must accept the inputs given" in capsys.readouterr().err


def test_help_has_an_example_for_each_command():
    assert call("--help").exit_code == 0
    for command in ("demo", "init"):
        assert "Example: equipoise" in call(command, "--help").output
