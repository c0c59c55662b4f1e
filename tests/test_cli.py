"""The command line."""

import json
import subprocess
import sys

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


ACTS = """
import math
import numpy as np

def mine(x):
    return np.maximum(x, 0.0) + 0.1 * np.sin(x)

def slow(v):
    return v * math.tanh(v)

def mixing(x):
    return x - x.mean()

class Squash:
    def __call__(self, x):
        return np.tanh(x) ** 3
"""


@pytest.fixture
def acts(tmp_path, monkeypatch):
    (tmp_path / "my_acts.py").write_text(ACTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_acts", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gelu", "gelu"),
        ("leaky_relu(0.2)", "leaky_relu(negative_slope=0.2)"),
        ("elu(alpha=2)", "elu(alpha=2)"),
        ("gelu('tanh')", "gelu_tanh"),
        ("hardtanh(-2, 2)", "hardtanh(low=-2, high=2)"),
        ("torch.nn.functional:silu", "silu"),
        ("torch.nn:Mish", "mish"),
        ("my_acts:mine", "mine"),
        ("my_acts:slow", "slow"),
        ("my_acts:Squash", "Squash"),
    ],
)
def test_theory_prints_the_card(acts, text, name):
    result = call("theory", text, "--width", 16, "--depth", 30, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.output)
    assert card["activation"] == name
    assert (card["width"], card["depth"], card["scheme"]) == (16, 30, "auto")


def test_theory_prints_words_and_draws_a_picture(acts):
    result = call("theory", "my_acts:mine", "--plot", "card.svg", "--scheme", "he")
    assert result.exit_code == 0, result.output
    assert "mine, " in result.output
    assert "scheme=" in result.output
    assert "picture: card.svg" in result.output
    assert (acts / "card.svg").read_text(encoding="utf-8").startswith("<?xml")
    both = call("theory", "relu", "--plot", "relu.png", "--json")
    assert json.loads(both.stdout)["activation"] == "relu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gelo", "Did you mean 'gelu'"),
        ("known_activations", "activation must be one of"),
        ("Activation", "activation must be one of"),
        ("leaky_relu(", "activation must be a name"),
        ("3", "activation must be a name"),
        ("a.b", "activation must be a name"),
        ("leaky_relu(slope=2)", "arguments of leaky_relu must be numbers that it knows"),
        ("leaky_relu(x)", "Its form is leaky_relu"),
        ("elu(-1)", "alpha must be positive"),
        ("my_acts:mixing", "must be pointwise"),
        ("my_acts:absent", "must name a function"),
    ],
)
def test_bad_activations_are_named(acts, text, message):
    with pytest.raises(ArgumentError, match=message):
        cli.app(["theory", text], standalone_mode=False)


def test_theory_needs_no_torch():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from equipoise import cli\n"
        "cli.app(['theory', 'tanh', '--json'], standalone_mode=False)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(out.stdout)["activation"] == "tanh", out.stderr


def test_errors_become_one_line_and_status_2(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["equipoise", "init", "my_models:deep", "--input", "17"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "must accept the inputs given" in capsys.readouterr().err


def test_help_has_an_example_for_each_command():
    assert call("--help").exit_code == 0
    for command in ("demo", "init", "theory"):
        assert "Example: equipoise" in call(command, "--help").output
