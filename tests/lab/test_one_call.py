"""The benchmark of the one call: what it plans to do, its arithmetic, and that it goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import one_call

    yield one_call
    torch.set_flush_denormal(False)


def test_the_quick_form_has_every_kind_of_cell_and_fits_its_time(bench):
    jobs = bench.jobs("quick", [], [], False)
    assert sum(job.seconds for job in jobs) / 2 < 14 * 60
    cells = {bench.BY_NAME[job.cell] for job in jobs}
    assert {c.convolutions for c in cells} == {0, 50, 200}
    assert {max(c.hidden) for c in cells if c.hidden} == {8, 16, 32, 256}
    assert len({c.task for c in cells}) == 6
    for cell in cells:
        assert "auto" in cell.quick
    trained = {job.method for job in jobs if job.kind == "train"}
    assert {"lsuv", "anyinit", "orthogonal", "default", "diagonal_noise"} <= trained


def test_the_full_form_has_every_method_and_files_only_where_they_are(bench):
    jobs = bench.jobs("full", [], [], True)
    names = {job.cell for job in jobs}
    assert names == set(bench.BY_NAME)
    usual = {j.method for j in jobs if j.cell == "gelu 16 x 100"}
    assert usual == set(bench.methods())
    assert not any(bench.BY_NAME[job.cell].needs_files for job in bench.jobs("full", [], [], False))
    assert [j.key for j in bench.jobs("full", ["sin 16"], ["he"], False)] == [
        "train | sin 16 x 100 | he", "birth | sin 16 x 100 | he",
    ]  # fmt: skip


@pytest.fixture
def small(bench, monkeypatch):
    """The cell 'tanh 8 x 50' with 3 layers, one epoch and little of everything."""
    cell = replace(bench.BY_NAME["tanh 8 x 50"], hidden=(8,) * 3)
    monkeypatch.setitem(bench.BY_NAME, "tanh 8 x 50", cell)
    monkeypatch.setattr(bench, "EPOCHS", 1)
    return lambda kind, method, **more: bench.run(
        bench.Job(kind, "tanh 8 x 50", method, bench.Effort(1, 4, 1, True, 3), **more)
    )[0]


def test_pieces_of_work(bench, small):
    trained = small("train", "he")
    assert len(trained["scores"]) == 4
    assert len(trained["validation"]) >= 5
    assert trained["rate"] in [pytest.approx(float(r), rel=1e-2) for r in trained["validation"]]
    more = small("more", "he", first=2, rate=trained["rate"])
    # Draws 2 and 3 are the same, however many are trained with them.
    assert more["scores"][:2] == pytest.approx(trained["scores"][2:], abs=0.01)
    seen = small("birth", "auto")
    assert seen["layers"] == seen["predicted_layers"] == 4
    assert abs(seen["forward_drift"]) < 0.3
    assert seen["signal_gap"] < math.log(2)
    assert "must be an odd sigmoid" in replaced_refusal(bench, small)


def replaced_refusal(bench, small):
    bench.BY_NAME["tanh 8 x 50"] = replace(bench.BY_NAME["tanh 8 x 50"], activation="relu")
    return small("birth", "odd_sigmoid")["refused"]


def made_up(scores):
    return {
        f"train | tanh 8 x 50 | {method}": {"rate": 1e-3, "scores": values}
        for method, values in scores.items()
    }


def test_more_draws_are_made_while_the_verdict_is_open(bench):
    results = made_up({"auto": [0.8, 0.9] * 4, "he": [0.8, 0.95, 0.8, 0.8] * 2, "x": [0.1] * 8})
    jobs = bench.further(results, "tanh 8 x 50", "quick")
    assert [(j.method, j.first, j.rate) for j in jobs] == [("auto", 8, 1e-3), ("he", 8, 1e-3)]
    for job in jobs:
        results[job.key] = {"scores": results[f"train | {job.cell} | {job.method}"]["scores"]}
    assert len(bench.rows_of(results, "tanh 8 x 50")["he"]) == 16
    assert [j.first for j in bench.further(results, "tanh 8 x 50", "quick")] == [16, 16]
    clear = made_up({"auto": [0.9] * 16, "he": [0.1, 0.3] * 8})
    assert bench.further(clear, "tanh 8 x 50", "quick") == []
    assert bench.further(made_up({"auto": [0.9] * 8}), "tanh 8 x 50", "quick") == []


def test_results_are_kept_forgotten_and_shown(bench, tmp_path):
    out, settings = tmp_path / "x.json", {"mode": "quick"}
    assert bench.load(out, settings, []) == ({}, 0.0)
    results = made_up({"auto": [0.95, 0.94] * 4, "he": [0.1] * 8})
    results |= {
        "more | tanh 8 x 50 | he from 8": {"scores": [0.1] * 8},
        "train | tanh 8 x 50 | centred": {"refused": "no"},
        "birth | tanh 8 x 50 | auto": {
            "forward_drift": -math.inf, "gradient_drift": 0.0, "seconds": 1.0, "draws": 3,
            "signal_gap": 0.1, "gradient_gap": math.nan, "predicted_layers": 4, "layers": 4,
        },
    }  # fmt: skip
    bench.save(out, settings, results, 12.0)
    kept, seconds = bench.load(out, settings, [])
    assert seconds == 12.0
    assert bench.rows_of(kept, "tanh 8 x 50") == bench.rows_of(results, "tanh 8 x 50")
    assert json.loads(out.read_text())["comparisons"]["tanh 8 x 50"]["verdict"] == "win"
    console = Console(record=True, width=150)
    bench.show(console, kept, {"tanh 8 x 50": 0.92})
    text = console.export_text()
    for words in ("0.920 reached", "-inf", "refused tanh 8 x 50 | centred: no", "1 win, 0 tie",
                  "targets reached: 1 of 1", "4 of 4"):  # fmt: skip
        assert words in text
    kept, _ = bench.load(out, settings, ["auto"])
    assert sorted(kept) == ["train | tanh 8 x 50 | centred", "train | tanh 8 x 50 | he"]
    with pytest.raises(SystemExit, match="another --out"):
        bench.load(out, {"mode": "full"}, [])
