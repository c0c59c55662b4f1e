"""Guarded trainings of a model in shards, on two processes, against the same model in one piece."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "shards.py"
WAYS = ("fully", "tensor_parallel", "sequence_parallel", "both")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes report."""
    meeting = tmp_path_factory.mktemp("shards") / "meeting"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(meeting)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    reports = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=600)
            assert process.returncode == 0, error
            reports.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return reports


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", ["norm", "value", "layer", "unit", "percentile", "zscore"])
def test_clipping_in_shards_is_that_of_the_whole(found, way, rule):
    for report in found:
        one = report[way][rule]
        # Sums over ranks are in another order: a few units in the last place of float32.
        assert one["difference"] < 1e-6 < 1e-3 < one["moved"]
        assert one["norms"] < 1e-6
        assert one["updates"] < 1e-5
        assert one["clipped"][0] == one["clipped"][1] > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_one_process_alone_sees_sends_all_back(found, way):
    for report in found:
        one = report[way]["rollback"]
        assert one["difference"] < 1e-6
        assert (one["skipped"], one["rollbacks"], one["factor"]) == (1, 1, 0.5)
        assert one["code"] == "non-finite-loss"


def test_torch_clips_shards_alike(found):
    for report in found:
        assert report["torch"]["norm"] < 1e-6
        assert report["torch"]["difference"] < 1e-7


def test_every_placement_has_the_norm_of_the_whole(found):
    for report in found:
        assert len(report["placements"]) == 11
        assert max(report["placements"].values()) < 1e-6
