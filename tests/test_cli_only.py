"""The command line: drawing a part of a model with a checkpoint's weights."""

import pytest
import torch
from typer.testing import CliRunner

import equipoise.torch as eq
from equipoise import cli
from equipoise.errors import ArgumentError

MODEL = """
from torch import nn

def net():
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32)))
    model.add_module("head", nn.Linear(32, 8))
    return model
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def call(*arguments, catch=True):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=catch)


def trained():
    from parts import net

    model = net()
    with torch.no_grad():
        model.body[2].weight.mul_(50.0)
    return model


def test_a_new_head_for_a_checkpoint(folder):
    model = trained()
    torch.save(model.state_dict(), "old.pt")
    result = call(
        "init", "parts:net", "--input", 16, "--checkpoint", "old.pt", "--only", "head",
        "--save", "new.pt", "--plan", "plan.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "as measured" in " ".join(result.stdout.split())
    assert "untouched 4 parameters (body.0.weight, body.0.bias, ..., body.2.bias)" in result.stdout
    old, new = model.state_dict(), torch.load("new.pt")
    assert all(torch.equal(old[k], new[k]) == k.startswith("body") for k in old)
    assert eq.Plan.load("plan.json").selection.only == ("head",)
    x = torch.randn(512, 16)
    model.load_state_dict(new)
    assert float(model(x).detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.2)


def test_both_options_can_be_repeated(folder):
    given = ("--only", "head", "--only", "body.2", "--skip", "*.bias", "--plan", "plan.json")
    assert call("init", "parts:net", "--input", 16, *given).exit_code == 0
    drawn = [a.parameter for a in eq.Plan.load("plan.json").assignments]
    assert drawn == ["body.2.weight", "head.weight"]


def test_patterns_and_checkpoints_that_do_not_fit_are_named(folder):
    with pytest.raises(ArgumentError, match="nearest names are 'head'"):
        call("init", "parts:net", "--input", 16, "--only", "haed", catch=False)
    with pytest.raises(ArgumentError, match="must be a file that exists"):
        call("init", "parts:net", "--input", 16, "--checkpoint", "none.pt", catch=False)
