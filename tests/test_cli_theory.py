"""The command line: theory and schemes."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import equipoise.torch as eq
from equipoise import cli
from equipoise.errors import ArgumentError
from equipoise.report.card import make_card
from equipoise.schemes.catalogue import CATALOGUE
from equipoise.theory import activations


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


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
        ("my_acts:Squash", "Squash"),
    ],
)
def test_theory_prints_the_card(acts, text, name):
    result = call("theory", text, "--width", 16, "--depth", 30, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.output)
    assert card["activation"] == name
    assert (card["width"], card["depth"], card["scheme"]) == (16, 30, "auto")


def test_a_function_of_plain_numbers_is_read(acts, monkeypatch):
    def card(given, width, depth, scheme, name):
        values = given(0.5) if callable(given) else given.f(np.array([0.5]))[0]
        assert values == pytest.approx(0.5 * math.tanh(0.5))
        assert (width, depth, scheme, name) == (16, 100, "auto", "slow")
        return made

    # Millions of calls of a Python function take long: what is read is what counts here.
    made = make_card(activations.tanh(), 8, 2)
    monkeypatch.setattr("equipoise.report.card.make_card", card)
    result = call("theory", "my_acts:slow", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["activation"] == "tanh"


def test_theory_prints_words_and_draws_a_picture(acts):
    result = call("theory", "my_acts:mine", "--plot", "card.svg", "--scheme", "he", "--depth", 10)
    assert result.exit_code == 0, result.output
    assert "mine, " in result.output
    assert "scheme=" in result.output
    assert "picture: card.svg" in result.output
    assert (acts / "card.svg").read_text(encoding="utf-8").startswith("<?xml")
    both = call("theory", "relu", "--plot", "relu.png", "--json", "--depth", 10)
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


def test_schemes_are_listed_and_shown_one_by_one():
    listed = call("schemes").stdout
    assert all(name in listed for name in CATALOGUE)
    assert [entry["name"] for entry in json.loads(call("schemes", "--json").stdout)] == list(
        CATALOGUE
    )
    for name, entry in CATALOGUE.items():
        shown = call("schemes", name).stdout
        assert name in shown
        assert "--scheme" in shown
        assert all(option.name in shown for option in entry.options)
        one = json.loads(call("schemes", name, "--json").stdout)
        assert is_planned(one["example"]), one["example"]
    with pytest.raises(ArgumentError, match="Did you mean 'orthogonal'"):
        cli.app(["schemes", "ortogonal"], standalone_mode=False)


def is_planned(text):
    """Whether the example of a scheme is one that a plan accepts."""
    # A shift needs an activation that is a line above 0.
    activation = torch.nn.ReLU() if text.startswith("shifted") else torch.nn.Tanh()
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), activation, torch.nn.Linear(8, 8))
    return eq.plan(model, torch.ones(4, 8), text).scheme == text
