"""The command line: init, and what all commands share."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import equipoise.torch as eq
from equipoise import cli
from equipoise.errors import ArgumentError, PlanError

MODEL = """
import torch
from torch import nn

print("noise from the caller's module")

def deep():
    return nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(16, 16), nn.Tanh())])

def shrinking():
    return nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(16, 16), nn.Tanhshrink())])

def short():
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))

def nothing():
    return 3

def needs(width):
    return nn.Linear(width, width)

def ends():
    raise SystemExit(3)

def tied():
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    return model

def hidden():
    model = deep()
    model.spare = [nn.Linear(2, 2)]
    return model

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(3, 8)

    def forward(self, left, right):
        return self.a(left) + self.b(right)

class Extra(nn.Linear):
    def __init__(self):
        super().__init__(16, 4)

    def get_extra_state(self):
        return {"count": 1}

constant = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "my_broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("my_models", "my_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_init_prints_a_report_and_saves_it_with_the_weights(folder):
    result = call("init", "my_models:deep", "--input", 16, "--report", "r.json", "--save", "w.pt")
    assert result.exit_code == 0, result.output
    assert "scheme auto" in result.output
    assert json.loads((folder / "r.json").read_text(encoding="utf-8"))["ok"]
    assert len(torch.load(folder / "w.pt")) == 12


def refusal(*arguments):
    with pytest.raises((ArgumentError, PlanError)) as stop:
        cli.app([str(a) for a in arguments], standalone_mode=False)
    return str(stop.value)


def test_init_repeats_for_a_seed_and_exits_1_for_an_unhealthy_network(folder):
    first = call("init", "my_models:deep", "--input", 16, "--seed", 3)
    assert first.stdout == call("init", "my_models:deep", "--input", 16, "--seed", 3).stdout
    assert call("init", "my_models:shrinking", "--input", 16).exit_code == 1


def test_init_prints_json_and_nothing_else(folder):
    result = call(
        "init", "my_models:hidden", "--input", 16, "--json", "--save", "w.pt", "--report", "r.txt"
    )
    report = json.loads(result.stdout)
    assert report["plan"]["scheme"] == "auto"
    assert len(report["plan"]["assignments"]) == 12
    # What the caller's code prints, where files are and what we warn of is for people.
    for words in ("noise from", "weights: w.pt", "report: r.txt", "warning: 'spare' holds"):
        assert words in result.stderr


def test_init_draws_as_the_library_does_and_the_plan_can_be_saved(folder):
    call("init", "my_models:deep", "--input", 16, "--seed", 5, "--plan", "p.json", "--save", "w.pt")
    sys.path.insert(0, str(folder))
    from my_models import deep

    sys.path.pop(0)
    model = deep()
    eq.apply(model, eq.Plan.load(folder / "p.json"), torch.Generator().manual_seed(5))
    saved = torch.load(folder / "w.pt")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_a_dry_run_saves_the_weights_that_the_factory_made(folder):
    for name, option in (("a.pt", ["--dry-run"]), ("b.pt", [])):
        result = call("init", "my_models:deep", "--input", 16, "--save", name, *option)
        assert result.exit_code == 0, result.output
    dry, wet = torch.load(folder / "a.pt"), torch.load(folder / "b.pt")
    bound = 1 / 4
    # torch's default law is uniform within 1 / sqrt(fan_in).
    assert float(dry["0.weight"].abs().max()) <= bound < float(wet["0.weight"].abs().max())
    assert "planned, not drawn" in call("init", "my_models:deep", "--input", 16, "--dry-run").output


def test_schemes_purpose_and_derivatives_are_passed_on(folder):
    text = "he(distribution='uniform')"
    given = ("--scheme", text, "--purpose", "regression", "--for-derivatives", "--json")
    result = call("init", "my_models:deep", "--input", 16, *given)
    assert json.loads(result.stdout)["plan"]["scheme"] == text
    line = ("init", "my_models:deep", "--input", 16)
    assert "mode of scheme 'he' must be one of" in refusal(*line, "--scheme", "he(mode='in')")
    assert "purpose must be one of" in refusal(*line, "--purpose", "ranking")


def test_the_output_scale_is_passed_on(folder):
    line = ("init", "my_models:deep", "--input", 16)
    found = json.loads(call(*line, "--output-rms", 0.25, "--json").stdout)
    assert found["measurements"]["layers"][-1]["signal"] == pytest.approx(0.25, rel=0.1)
    assert found["ends"][0]["expected"]["signal"] == pytest.approx(0.25, rel=0.1)
    assert "output_rms must be positive" in refusal(*line, "--output-rms", 0)


def test_strict_makes_a_warning_count(folder):
    line = ("init", "my_models:short", "--input", 16, "--scheme", "he", "--for-derivatives")
    assert call(*line).exit_code == 0
    assert call(*line, "--strict").exit_code == 1


def test_saved_weights_load_again_also_tied_ones(folder):
    for name in ("w.safetensors", "w.pth"):
        result = call("init", "my_models:tied", "--input", 16, "--save", name)
        assert result.exit_code == 0, result.output
    wanted, found = (
        torch.load(folder / "w.pth"),
        safetensors.torch.load_file(folder / "w.safetensors"),
    )
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[k], found[k]) for k in wanted)


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_all_files_are_readable_by_whom_the_umask_lets(folder):
    before = os.umask(0o027)
    try:
        call("init", "my_models:deep", "--input", 16, "--plan", "p.json", "--report", "r.txt",
             "--save", "w.safetensors")  # fmt: skip
    finally:
        os.umask(before)
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in
             ("p.json", "r.txt", "w.safetensors")}  # fmt: skip
    assert modes == dict.fromkeys(modes, 0o640)


def test_several_inputs_and_inputs_from_files(folder):
    both = call("init", "my_models:Two", "--input", 16, "--input", 3)
    assert both.exit_code == 0, both.output
    # Float64 rows of high variance in another byte order: read as the model's dtype, and seen.
    rows = np.random.default_rng(0).normal(size=(40, 16)) * 50
    np.save("x.npy", rows.astype(">f8"))
    np.savez("two.npz", left=rows, right=rows[:, :3])
    torch.save({"inputs": torch.from_numpy(rows), "targets": torch.zeros(40)}, "x.pt")
    safetensors.torch.save_file({"inputs": torch.from_numpy(rows)}, "x.safetensors")
    for factory, data in (
        ("my_models:deep", "x.npy"), ("my_models:deep", "x.pt"),
        ("my_models:deep", "x.safetensors"), ("my_models:Two", "two.npz"),
    ):  # fmt: skip
        result = call("init", factory, "--data", data, "--json")
        assert json.loads(result.stdout)["measurements"]["input_rms"] == pytest.approx(50, rel=0.1)
    few = call("init", "my_models:deep", "--data", "x.npy", "--rows", 7, "--json")
    assert json.loads(few.stdout)["measurements"]["rows"] == 7


def test_without_inputs_the_first_layer_tells_the_shape(folder):
    assert call("init", "my_models:deep").exit_code == 0
    assert "inputs must be given" in refusal("init", "my_models:Two")


BAD = [
    ("my_models", "package.module:function"),
    ("no_such_module:f", "can be imported"),
    ("my_broken:f", "raised ZeroDivisionError: division by zero"),
    ("my_models:missing", "It has"),
    ("my_models:constant", "name a function"),
    ("my_models:nothing", "return a torch.nn.Module"),
    ("my_models:needs", "without arguments"),
    ("my_models:ends", "raised SystemExit: 3"),
]


@pytest.mark.parametrize(("factory", "message"), BAD)
@pytest.mark.parametrize("command", ["init", "diagnose"])
def test_bad_factories_are_named(folder, command, factory, message):
    assert message in refusal(command, factory, "--input", "16")


@pytest.mark.parametrize("shape", ["0", "a", "", "3,,4"])
def test_bad_shapes_are_named(folder, shape):
    assert "without the batch" in refusal("init", "my_models:deep", "--input", shape)


OPTIONS = [
    (("--input", "100000,100000"), "at most 2147483648 entries"),
    (("--rows", 0), "--rows must be an integer of at least 1, got 0. Leave it out for 256."),
    (("--report", "r.pdf"), "--report must end in .html, .json, .txt"),
    (("--plan", "p.txt"), "--plan must end in .json"),
    (("--save", "w.bin"), "--save must end in .safetensors, .pt, .pth"),
    (("--save", "no/w.pt"), "--save must lie in a folder that exists"),
    (("--save", "folder.pt"), "--save must be a file, got the folder"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_bad_options_are_named_before_any_work(folder, options, message):
    (folder / "folder.pt").mkdir()
    assert message in refusal("init", "my_models:deep", "--input", "16", *options)


def test_a_file_that_cannot_be_written_is_named(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = refusal("init", "my_models:deep", "--input", "16", "--save", "w.pt")
    assert "--save must be a file that can be written, got 'w.pt' (No space left" in message
    monkeypatch.setattr("pathlib.Path.write_text", full)
    message = refusal("init", "my_models:deep", "--input", "16", "--plan", "p.json")
    assert "--plan must be a file that can be written, got 'p.json' (No space left" in message


def test_state_that_is_no_tensor_needs_torchs_own_format(folder):
    message = refusal("init", "my_models:Extra", "--input", "16", "--save", "w.safetensors")
    assert "'_extra_state' of its state is no tensor" in message


def test_errors_become_one_line_and_status_2(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["equipoise", "init", "my_models:deep", "--input", "17"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "must accept the inputs given" in said.err.splitlines()[-1]


def test_python_m_equipoise_in_a_process_of_its_own(folder):
    line = [sys.executable, "-m", "equipoise", "init", "my_models:deep", "--input", "16", "--json"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    # Refused before torch is loaded.
    bad = subprocess.run([*line, "--report", "r.pdf"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines()[-1].startswith("error: --report must end in .html, .json, .txt")


def test_help_has_an_example_for_each_command():
    assert call("--help").exit_code == 0
    for command in ("compare", "demo", "init", "diagnose", "schemes", "theory"):
        assert "Example: equipoise" in call(command, "--help").output


def test_the_demo_prints_its_numbers(tmp_path, monkeypatch):
    def run(console, out, seed):
        console.print("for people")
        (out / "demo.json").write_text(json.dumps({"seed": seed}), encoding="utf-8")
        return out / "index.html"

    monkeypatch.setattr("equipoise.lab.demo.run", run)
    result = call("demo", "--out", tmp_path, "--seed", 4, "--json")
    assert json.loads(result.stdout) == {"seed": 4}
    assert "for people" in result.stderr
