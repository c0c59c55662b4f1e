"""The benchmark of any model: its tasks build and learn, its starts, and the report it makes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    "residual MLP x 24, no norm, digits", "plain CNN x 20, digits",
    "post-norm transformer x 12, sorting", "pre-norm transformer x 24, sorting",
    "LSTM x 2, adding over 200 steps", "SIREN x 4, image of 64 x 64",
)  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import any_model

    before = torch.get_num_threads()
    yield any_model
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_each_task_builds_and_takes_a_step(bench, name):
    task = replace(bench.TASKS_BY_NAME[name], steps=1)
    model = task.build()
    before = [p.detach().clone() for p in model.parameters()]
    score, losses = bench.trained(task, model, task.rate, 0, False)
    assert 0 <= score <= 1
    assert len(losses) == 1
    assert math.isfinite(losses[0])
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_published_starts_depend_on_the_seed_alone(bench, name):
    task = bench.TASKS_BY_NAME[name]
    for method in task.published:
        starts = bench.Starts(task, method)
        one, same, other = (starts.model(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[k], same[k]) for k in one)
        assert any(not torch.equal(one[k], other[k]) for k in one)


def test_published_starts_are_what_the_papers_say(bench):
    import any_model_tasks as tasks

    mlp = tasks.ResidualMLP(16).requires_grad_(False)
    tasks.fixup(mlp)
    assert all(not block[2].weight.any() for block in mlp.blocks)
    assert not mlp.head.weight.any()
    std = torch.cat([block[0].weight.flatten() for block in mlp.blocks]).std()
    assert float(std) == pytest.approx(math.sqrt(2 / 32 / 16), rel=0.03)

    gpt = tasks.Transformer(8, True, 16, 8).requires_grad_(False)
    tasks.gpt2(gpt)
    ends = torch.cat([block.down.weight.flatten() for block in gpt.blocks])
    # 16,384 entries: the standard error of a standard deviation is .55%.
    assert float(ends.std()) == pytest.approx(0.02 / 4, rel=0.022)

    adder = tasks.Adder(8).requires_grad_(False)
    tasks.open_forget(adder)
    both = adder.cells.bias_ih_l1 + adder.cells.bias_hh_l1
    assert both.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    gate = adder.cells.weight_hh_l0[:8]
    assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)

    net = tasks.Siren().requires_grad_(False)
    tasks.siren(net)
    assert float(net.hidden[0].weight.abs().max()) <= 0.5
    assert float(net.hidden[1].weight.abs().max()) <= math.sqrt(6 / 64) / 30


def test_generated_data(bench):
    import any_model_tasks as tasks

    generator = torch.Generator().manual_seed(0)
    x, y = tasks.sorting(16, 8, generator, 32)
    assert bool((y.diff(dim=1) >= 0).all())
    assert torch.equal(x.sort(1).values, y)
    x, y = tasks.adding(20, generator, 32)
    assert x.shape == (32, 20, 2)
    assert bool((x[:, :10, 1].sum(1) == 1).all())
    assert bool((x[:, 10:, 1].sum(1) == 1).all())
    assert torch.allclose((x[..., 0] * x[..., 1]).sum(1, keepdim=True), y)
    image = tasks.mosaic(True)
    # The first tile is the first digit, rows of it one below the other.
    tile = image.test[1].view(64, 64)[:8, :8]
    digit = torch.from_numpy(tasks.load_digits().images[0]).float()
    assert torch.allclose(tile, digit / 8 - 1)
    held, final = (tasks.generated(tasks._SORTED.args[0], f).test[0] for f in (False, True))
    assert not torch.equal(held, final)


def test_scores(bench):
    import any_model_tasks as tasks

    y = torch.tensor([[1.0], [-1.0]])
    assert tasks.explained(y, y) == 1
    assert tasks.explained(0 * y, y) == 0
    assert tasks.explained(y * math.nan, y) == 0
    assert tasks.bels(0.9 * y, y) == pytest.approx(2.0)
    assert tasks.bels(3 * y, y) == 0
    logits = torch.tensor([[2.0, 0.0], [math.nan, 1.0]])
    assert tasks.accuracy(logits, torch.tensor([0, 1])) == 0.5


@pytest.fixture
def small(bench, monkeypatch):
    """The residual MLP with two blocks and three steps, alone."""
    import any_model_tasks as tasks

    task = replace(
        bench.TASKS_BY_NAME[NAMES[0]], build=lambda: tasks.ResidualMLP(2, 8), steps=3, batch=8
    )
    monkeypatch.setattr(bench, "TASKS_BY_NAME", {task.name: task})
    monkeypatch.setattr(bench, "TRIAL_DRAWS", 1)
    return task


def test_the_command_runs_goes_on_and_reports(bench, small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x.json"
    base = ["--out", str(out), "--seeds", "4", "--methods", "auto", "zero last"]
    assert bench.main(base) == 0
    results = json.loads(out.read_text())["results"]
    assert len(results) == 2
    ours = results[f"train | {small.name} | auto"]
    assert len(ours["scores"]) == 4
    assert len(ours["loss"]) == 3
    assert len(ours["validation"]) >= 3

    # The same command trains nothing again; more seeds add draws at the rate that is known.
    calls = []
    real = bench.compared
    monkeypatch.setattr(bench, "compared", lambda *args: calls.append(args[2:]) or real(*args))
    bench.main(base)
    assert not calls
    bench.main([*base[:2], "--seeds", "6", *base[4:]])
    assert [missing for missing, _, _ in calls] == [range(4, 6)] * 2
    assert calls[0][2] == ours["rate"]
    results = json.loads(out.read_text())["results"]
    assert len(bench.rows_of(results, small.name)["auto"]) == 6

    capsys.readouterr()
    bench.main(["--out", str(out), "--report"])
    text = capsys.readouterr().out
    assert small.name in text
    assert "zero last" in text
    with pytest.raises(SystemExit):
        bench.main(["--out", str(out), "--steps", "7"])
    with pytest.raises(SystemExit):
        bench.main(["--seeds", "2"])


def test_a_crash_is_a_result(bench, small):
    def crash(model: nn.Module) -> None:
        raise RuntimeError("no such layer\nand more")

    task = replace(small, published={"theirs": crash})
    result = bench.compared(task, "theirs", range(4), 1, math.nan)
    assert result == {"refused": "RuntimeError: no such layer"}
    results = {f"train | {task.name} | theirs": result}
    assert not bench.further(results, task, "theirs", 4)[1]
    console = Console(record=True, width=150)
    assert bench.show(console, results, [task]) == []
    assert "theirs: RuntimeError: no such layer" in console.export_text()


def test_the_rate_search_goes_on_at_an_end(bench, small, monkeypatch):
    tried = []

    def score(task, model, rate, seed, is_final):
        tried.append(rate)
        return rate, []

    monkeypatch.setattr(bench, "trained", score)
    found = bench.choose_rate(small, bench.Starts(small, "default"), 1)
    assert len(found) == len(tried) == 5
    assert max(found) == pytest.approx(small.rate * 10**1.5)


def test_a_training_that_diverges_scores_nothing(bench, small):
    task = replace(small, steps=20)
    score, losses = bench.trained(task, task.build(), 1e30, 0, True)
    assert score == 0
    assert math.isnan(losses[-1])


def test_kept_results_are_shown(bench, capsys):
    kept = json.loads(bench.KEPT.read_text())
    bench.main(["--report"])
    text = capsys.readouterr().out
    assert kept["comparisons"]
    for name in kept["comparisons"]:
        assert name in text
