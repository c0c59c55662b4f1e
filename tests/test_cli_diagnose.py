"""The command line: diagnose, with checkpoints, data and losses."""

import builtins
import json
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from equipoise import cli
from equipoise.errors import ArgumentError

MODEL = """
import torch
from torch import nn
from equipoise.torch import initialize

def net():
    layers = [m for _ in range(6) for m in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 4))

def fading():
    layers = [m for _ in range(6) for m in (nn.Linear(16, 16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(16, 4))

def started():
    model = net()
    initialize(model, torch.randn(64, 16), generator=torch.Generator().manual_seed(0))
    return model

def dead():
    return nn.Sequential(*[m for _ in range(60) for m in (nn.Linear(16, 16), nn.Tanh())])

def loss(outputs, targets):
    return (outputs - targets).abs().mean()

def energy(outputs):
    return outputs.square().mean()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cli.app, ["diagnose", *(str(a) for a in arguments)])


def refusal(*arguments):
    with pytest.raises(ArgumentError) as stop:
        cli.app(["diagnose", *(str(a) for a in arguments)], standalone_mode=False)
    return str(stop.value)


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_exit_status_tells_a_healthy_network_from_a_dead_one(folder):
    healthy = call("my_nets:started", "--input", 16)
    assert healthy.exit_code == 0, healthy.output
    dead = call("my_nets:dead", "--input", 16)
    assert dead.exit_code == 1
    assert "vanish" in dead.output


def test_strict_makes_a_warning_count(folder):
    """Six layers from torch's default: the gradient fades, which is a warning and no error."""
    lax, strict = (call("my_nets:fading", "--input", 16, *more) for more in ((), ("--strict",)))
    assert "warning" in lax.output
    assert "error " not in lax.output
    assert (lax.exit_code, strict.exit_code) == (0, 1)


def test_json_and_reports(folder):
    result = call("my_nets:dead", "--input", 16, "--json", "--report", "d.html")
    assert len(json.loads(result.stdout)["measurements"]["layers"]) == 60
    assert result.exit_code == 1
    assert "report: d.html" in result.stderr
    assert (folder / "d.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for name in ("d.txt", "d.json"):
        assert call("my_nets:net", "--input", 16, "--report", name).exit_code == 0
        assert (folder / name).stat().st_size > 100


@pytest.fixture
def checkpoints(folder):
    """The same healthy weights in every form that is read; alone, inside a run, with prefixes."""
    import my_nets

    state = my_nets.started().state_dict()
    safetensors.torch.save_file(state, "a.safetensors")
    torch.save(state, "a.pt")
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, "a.ckpt")
    torch.save({f"module.{k}": v for k, v in state.items()}, "a.bin")
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in state.items()}}, "a.pth")
    return state


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt", "bin", "pth"])
def test_a_checkpoint_is_what_is_measured(checkpoints, ending):
    bare = json.loads(call("my_nets:net", "--input", 16, "--json").stdout)
    given = ("--input", 16, "--json", "--checkpoint", f"a.{ending}")
    loaded = json.loads(call("my_nets:net", *given).stdout)
    again = json.loads(call("my_nets:started", *given).stdout)
    assert loaded["measurements"] == again["measurements"] != bare["measurements"]


def test_a_checkpoint_that_does_not_fit_is_named(checkpoints, folder):
    line = ("my_nets:net", "--input", "16", "--checkpoint")
    state = dict(checkpoints)
    state["head.weight"] = state.pop("12.weight")
    torch.save(state, "b.pt")
    message = refusal(*line, "b.pt")
    assert "missing 12.weight; unexpected head.weight" in message
    torch.save(checkpoints | {"0.weight": torch.zeros(3, 3)}, "c.pt")
    assert "0.weight (3, 3) for (16, 16)" in refusal(*line, "c.pt")
    torch.save({"epoch": 3, "lr": 0.1}, "d.pt")
    assert "must hold a state dict, alone or under state_dict" in refusal(*line, "d.pt")
    torch.save([1, 2], "e.pt")
    assert "got list in 'e.pt'" in refusal(*line, "e.pt")


class Anything:
    """A class that a checkpoint must not be able to bring along."""


FILES = [
    ("--checkpoint", "none.pt", None, "must be a file that exists"),
    ("--checkpoint", "w.h5", b"", "must end in .safetensors, .pt, .pth, .bin, .ckpt"),
    ("--checkpoint", "w.pt", b"no zip file", "--checkpoint must "),
    ("--checkpoint", "w.safetensors", b"short", "must be a readable .safetensors file"),
    ("--checkpoint", "w.pt", Anything(), "must hold tensors and plain containers alone"),
    ("--data", "x.csv", b"", "must end in .npy, .npz, .pt, .pth, .safetensors"),
    ("--data", "x.npy", b"1,2,3", "must be a readable .npy file"),
    ("--data", "x.npy", np.array([{}], dtype=object), "must be a readable .npy file"),
    ("--data", "x.npy", np.array(["a"]), "must be a readable .npy file"),
    ("--data", "x.pt", [rows(4, 16)], "a pair (inputs, targets), got list"),
    ("--data", "x.pt", {"inputs": 3}, "must hold a tensor, a dict of tensors"),
    ("--data", "x.pt", {"inputs": rows(4, 16), "mask": rows(4)}, "got inputs, mask"),
    ("--data", "x.pt", {"targets": rows(4)}, "must hold inputs, got only targets"),
    ("--data", "x.pt", {}, "must hold inputs, got only nothing"),
    ("--data", "x.pt", torch.tensor(1.0), "must have rows, got shape ()"),
    ("--data", "x.pt", rows(0, 16), "must have rows, got shape (0, 16)"),
    ("--data", "x.pt", (rows(4, 16), rows(3)), "a row for each of 4 inputs"),
]


@pytest.mark.parametrize(("option", "name", "content", "message"), FILES)
def test_files_that_cannot_be_used_are_named(folder, option, name, content, message):
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(name, content)
    elif content is not None:
        torch.save(content, name)
    shape = () if option == "--data" else ("--input", "16")
    assert message in refusal("my_nets:net", *shape, option, name)


def test_a_missing_package_is_named(folder, monkeypatch):
    (folder / "w.safetensors").write_bytes(b"")
    found = builtins.__import__

    def without(name, *rest):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    message = refusal("my_nets:net", "--input", "16", "--checkpoint", "w.safetensors")
    assert "pip install safetensors" in message


def test_inputs_and_data_exclude_each_other(folder):
    torch.save(rows(4, 16), "x.pt")
    assert "--input must be left out" in refusal("my_nets:net", "--input", "16", "--data", "x.pt")


def test_losses_and_targets(folder):
    numbers = torch.arange(40) % 4
    torch.save((rows(40, 16), numbers), "classes.pt")
    torch.save({"inputs": rows(40, 16), "targets": rows(40, 4)}, "floats.pt")
    found = {}
    for key, line in {
        "targets": ("--data", "classes.pt"),
        "named": ("--data", "classes.pt", "--loss", "cross_entropy", "--classes", 4),
        "made": ("--input", 16, "--classes", 4),
        "mse": ("--data", "floats.pt", "--loss", "mse"),
        "own": ("--data", "floats.pt", "--loss", "my_nets:loss"),
        "alone": ("--input", 16, "--loss", "my_nets:energy"),
        "none": ("--input", 16),
    }.items():
        result = call("my_nets:started", *line, "--json")
        assert result.exit_code == 0, result.output
        found[key] = json.loads(result.stdout)["measurements"]["loss"]
    assert found["none"] is None
    assert found["targets"] == pytest.approx(found["named"])
    # The outputs start at RMS 1: near the loss of a guess, ln 4.
    for key in ("targets", "made"):
        assert found[key] == pytest.approx(np.log(4), abs=0.8)
    import my_nets

    # As the command does before it calls the factory.
    torch.manual_seed(0)
    with torch.no_grad():
        missed = my_nets.started()(rows(40, 16)) - torch.load("floats.pt")["targets"]
    assert found["mse"] == pytest.approx(float(missed.square().mean()), rel=1e-4)
    assert found["own"] == pytest.approx(float(missed.abs().mean()), rel=1e-4)


LOSSES = [
    (("--loss", "mse"), "--loss mse must have targets"),
    (("--loss", "cross_entropy"), "Pass --classes, or --data"),
    (("--loss", "hinge"), "must be cross_entropy, mse or package.module:function"),
    (("--loss", "my_nets:gone"), "--loss must name a function"),
    (("--classes", 1), "--classes must be an integer of at least 2"),
]


@pytest.mark.parametrize(("options", "message"), LOSSES)
def test_losses_that_cannot_be_used_are_named(folder, options, message):
    assert message in refusal("my_nets:net", "--input", "16", *options)


def test_targets_must_be_numbers_of_classes(folder):
    torch.save((rows(40, 16), torch.arange(40)), "x.pt")
    assert "integers from 0 to 3" in refusal("my_nets:net", "--data", "x.pt", "--classes", "4")
    torch.save((rows(40, 16), rows(40)), "y.pt")
    assert "got torch.float32" in refusal("my_nets:net", "--data", "y.pt", "--classes", "4")
