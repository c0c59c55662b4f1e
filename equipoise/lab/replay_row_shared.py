"""Replay: 101 tanh layers of 16 and 4 units that share their weights among the rows of an image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from equipoise.errors import EquipoiseError, PlanError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.optimizers import constant, warmup_cosine
from equipoise.lab.replay_data import (
    Arguments,
    Budget,
    Curve,
    Done,
    Estimate,
    Findings,
    Mode,
    Picture,
    Replay,
    ResultTable,
    Row,
)
from equipoise.lab.rivals import starters
from equipoise.lab.row_images import (
    DIGITS_STAND_IN,
    images_at_hand,
    row_shared_network,
    row_task,
)
from equipoise.lab.setting import flushed_denormals

WIDTHS = (16, *(16, 4) * 50)
# Starts by the name in tables.
PUBLISHED: Mapping[str, str] = {
    "Xavier": "xavier(distribution='uniform')",
    "diagonal + noise": "diagonal_noise",
}
METHODS: Mapping[str, str] = {
    **PUBLISHED, "He, exact moments": "he", "orthogonal": "orthogonal", "auto": "auto",
}  # fmt: skip
_ACCURACY = {"Xavier": 0.6388, "diagonal + noise": 0.8909}
_BATCH = 64
# Images to train on and to test on (0: all), and epochs by mode.
_IMAGES: Mapping[Budget, tuple[int, int]] = {"quick": (2000, 1000), "paper": (0, 0)}
_EPOCHS: Mapping[Budget, Mapping[Mode, int]] = {
    "quick": {"faithful": 10, "corrected": 10}, "paper": {"faithful": 100, "corrected": 10},
}  # fmt: skip
# The published one would not leave the start in the few steps of the budget quick.
_THEIR_RATE: Mapping[Budget, float] = {"quick": 1e-3, "paper": 1e-5}
_RATES: Mapping[Budget, tuple[float, ...]] = {
    "quick": (1e-3, 2e-3), "paper": (5e-4, 1e-3, 2e-3),
}  # fmt: skip
# Of all steps, in which rates rise.
_WARMUP = 0.05
# Planning reads the distribution of the inputs, for which these are plenty.
_PLANNED_ON = 256
_WANTED = 0.95


def units(budget: Budget, modes: Sequence[Mode], seeds: Sequence[int]) -> dict[str, Arguments]:
    """One training for each mode, start, learning rate and draw."""
    images = images_at_hand("mnist")
    rows, test_rows = _IMAGES[budget] if images == "mnist" else (0, 0)
    made = {}
    for mode in modes:
        is_theirs = mode == "faithful"
        for method in PUBLISHED if is_theirs else METHODS:
            for rate in (_THEIR_RATE[budget],) if is_theirs else _RATES[budget]:
                for seed in seeds:
                    made[f"{mode}, {images}, {method}, rate {rate:g}, draw {seed}"] = {
                        "mode": mode, "images": images, "rows": rows, "test_rows": test_rows,
                        "epochs": _EPOCHS[budget][mode], "method": method, "rate": rate,
                        "seed": seed,
                    }  # fmt: skip
    return made


def trained(arguments: Arguments) -> dict[str, Any]:
    """Train one network.

    Args:
        arguments: ``mode``, ``images``, ``rows``, ``test_rows``, ``epochs``, ``method``, ``rate``
            and ``seed``.

    Returns:
        ``accuracy`` on the test part and mean training ``loss``, each by epoch.

    Raises:
        PlanError: if the start cannot serve the network.
    """
    is_corrected = arguments["mode"] == "corrected"
    seed, epochs, method = arguments["seed"], arguments["epochs"], METHODS[arguments["method"]]
    # Which images are taken is no part of a draw: the source has all of them.
    task = row_task(arguments["images"], arguments["rows"], arguments["test_rows"], is_corrected)
    network = row_shared_network(task.x_train.shape[1], WIDTHS)
    start = starters(network, (method,), task.x_train[:_PLANNED_ON])[method]
    if isinstance(start, EquipoiseError):
        raise PlanError(str(start))
    start(network, seed)
    steps = epochs * math.ceil(task.rows / _BATCH)
    schedule = warmup_cosine(steps, round(_WARMUP * steps)) if is_corrected else constant
    with flushed_denormals():
        done = train(
            Replicas.of([network]), task, [arguments["rate"]], [seed], epochs, _BATCH,
            with_curve=True, schedule=schedule,
        )  # fmt: skip
    loss = torch.nan_to_num(done.loss[:, 0], nan=math.inf)
    return {"accuracy": done.curve[:, 0].tolist(), "loss": loss.tolist()}


Cases = Mapping[tuple[Mode, str], Mapping[float, Sequence[dict[str, list[float]]]]]


def findings(done: Sequence[Done], modes: Sequence[Mode]) -> Findings:
    """Accuracy of each start at its learning rate, and over the epochs."""
    cases: dict[tuple[Mode, str], dict[float, list[dict[str, list[float]]]]] = {}
    for a, result in done:
        cases.setdefault((a["mode"], a["method"]), {}).setdefault(a["rate"], []).append(result)
    first = done[0][0]
    said = [_said(cases, mode) for mode in modes]
    return Findings(
        "; ".join(said), _sentences(first, modes),
        tuple(_table(cases, mode, first["images"]) for mode in modes),
        tuple(_picture(cases, mode) for mode in modes),
    )  # fmt: skip


def chosen_rate(by_rate: Mapping[float, Sequence[dict[str, list[float]]]]) -> float:
    """The rate of the lowest mean training loss in the last epoch: no test image has a say.

    >>> chosen_rate({1e-3: [{"loss": [2.0, 1.0]}], 1e-2: [{"loss": [1.0, 1.5]}]})
    0.001
    """
    return min(by_rate, key=lambda rate: sum(r["loss"][-1] for r in by_rate[rate]))


def _methods(cases: Cases, mode: Mode) -> list[str]:
    return [method for method in METHODS if (mode, method) in cases]


def _table(cases: Cases, mode: Mode, images: str) -> ResultTable:
    rows = []
    for method in _methods(cases, mode):
        by_rate = cases[mode, method]
        rate = chosen_rate(by_rate)
        published = _ACCURACY.get(method, math.nan) if images == "mnist" else math.nan
        rows.append(
            Row(
                (method, f"{rate:g}"),
                (
                    Estimate.of([r["accuracy"][-1] for r in by_rate[rate]], published),
                    Estimate.of([min(r["accuracy"][-1] for r in by_rate[rate])]),
                    Estimate.of([r["loss"][-1] for r in by_rate[rate]]),
                ),
            )
        )  # fmt: skip
    return ResultTable(
        "Accuracy behind 101 layers", mode, ("start", "learning rate"),
        ("test accuracy", "of the worst draw", "training loss"), "published, 100 epochs",
        tuple(rows),
    )  # fmt: skip


def _picture(cases: Cases, mode: Mode) -> Picture:
    curves = []
    for method in _methods(cases, mode):
        results = cases[mode, method][chosen_rate(cases[mode, method])]
        epochs = len(results[0]["accuracy"])
        values = [Estimate.of([r["accuracy"][i] for r in results]) for i in range(epochs)]
        errors = tuple(v.standard_error for v in values) if len(results) > 1 else ()
        epoch = tuple(float(i + 1) for i in range(epochs))
        curves.append(Curve(method, epoch, tuple(v.mean for v in values), errors))
    ends = ", ".join(f"{curve.name} {curve.y[-1]:.3f}" for curve in curves)
    what = "at the published rate" if mode == "faithful" else "each at its best rate"
    return Picture(
        f"Test accuracy over epochs, {what}", f"In the end: {ends}.", "epoch", "test accuracy",
        tuple(curves),
    )  # fmt: skip


def _said(cases: Cases, mode: Mode) -> str:
    parts = []
    for method in _methods(cases, mode):
        by_rate = cases[mode, method]
        results = by_rate[chosen_rate(by_rate)]
        parts.append(f"{Estimate.of([r['accuracy'][-1] for r in results]).mean:.4f} by {method}")
    words = "as the source trains" if mode == "faithful" else "at the best rate of each"
    return f"test accuracy {words}: {', '.join(parts)}"


def _sentences(first: Arguments, modes: Sequence[Mode]) -> tuple[str, ...]:
    said = ["The published numbers are those of one run of 100 epochs."]
    if first["images"] != "mnist":
        said.append(
            f"MNIST {DIGITS_STAND_IN}, 1,400 to train on, and no published number stands beside "
            "them."
        )
    elif first["rows"]:
        said.append(
            f"{first['rows']:,} images to train on, {first['test_rows']:,} to test on and 10 "
            "epochs; the published rate of 1e-5 would not leave the start in so few steps, and is "
            "1e-3 here."
        )
    if "corrected" in modes:
        said.append(
            "A row of 28 pixels passes 50 layers of 4 units, so that an image is 112 numbers in "
            "the end, 4 of each row, and the last layer alone sees rows together. auto lets "
            "those 4 follow the principal axes of the rows and keeps them to the end; orthogonal "
            "weights that are drawn one by one meet at random and lose them."
        )
    return tuple(said)


REPLAY = Replay(
    name="row-shared",
    source="Lee, Choi and Kim 2024, arXiv 2410.02242",
    title="101 tanh layers of 16 and 4 units on the rows of MNIST",
    setting="Dense 16, then 50 times dense 16 and dense 4, tanh behind each, with the same weights "
    "for each of the 28 rows of an image; then all rows together into softmax. Adam 1e-5, batches "
    "of 64, 100 epochs, one run.",
    faithful="Xavier's weights, uniform, and diagonal + noise with alpha .085 at the published "
    "rate; pixels are 0 to 1, biases start at 0.",
    corrected="a rate that suits one start need not suit another: every start has several, and the "
    "one of the lowest training loss counts; rates rise for a twentieth of the steps and fall "
    "along half a cosine; 10 epochs in place of 100; pixels are standardized; further starts stand "
    "beside the two.",
    draws={"quick": 10, "paper": 3},
    units=units,
    work=trained,
    findings=findings,
)
