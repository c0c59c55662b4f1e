"""Many trainings as units of work: each equals a training of its own, wherever it runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.models import activation_module, mlp
from equipoise.lab.rivals import starter
from equipoise.lab.study import Runs, run_study
from equipoise.lab.task_names import task_named

DIGITS = Runs("digits(rows=300)", (12, 8), "tanh", "auto", (1e-3, 1e-2), 3, first=5, epochs=2)


def quietly(runs, **more):
    return run_study(runs, on="here", is_quiet=True, **more)


def test_each_training_is_one_of_its_own():
    found = quietly({"a": DIGITS})["a"]
    assert found.scores.shape == (2, 3)
    assert found.losses.shape == (2, 3, 2)
    assert (found.diverged_at == -1).all()
    assert found.seconds > 0
    task = task_named("digits(rows=300)")
    start = starter(mlp([64, 12, 8, 10], nn.Tanh), "auto", task.x_train)
    for i, rate in enumerate(DIGITS.rates):
        for draw in range(3):
            model = mlp([64, 12, 8, 10], nn.Tanh)
            start(model, 5 + draw)
            alone = train(Replicas.of([model]), task, [rate], [5 + draw], 2)
            assert found.scores[i, draw] == pytest.approx(float(alone.score[0]), abs=1e-6)
            assert found.losses[i, draw] == pytest.approx(alone.loss[:, 0].numpy(), rel=1e-4)


def test_parts_and_places_change_no_number(monkeypatch, tmp_path):
    runs = {
        "a": DIGITS,
        "narrow": replace(DIGITS, task="polynomial(rows=200)", hidden=(2,) * 5, epochs=1,
                          activation="leaky_relu(0.1)", method="he", optimizer="momentum"),
    }  # fmt: skip
    whole = quietly(runs)
    monkeypatch.setattr("equipoise.lab.study._WIDE", 4)
    monkeypatch.setattr("equipoise.lab.study._NARROW", 1)
    parts = run_study(runs, tmp_path, "processes", 2, is_quiet=True)
    for name in runs:
        # Sums over replicas side by side are those of each alone, up to their order.
        np.testing.assert_allclose(parts[name].scores, whole[name].scores, atol=1e-4)
        np.testing.assert_allclose(parts[name].losses, whole[name].losses, rtol=1e-4)
    assert len(list(tmp_path.iterdir())) == 2 + 6
    again = run_study(runs, tmp_path, "here", is_quiet=True)
    assert np.array_equal(again["a"].scores, parts["a"].scores)


def test_residual_networks_validation_clipping_and_diverged_runs():
    residual = replace(DIGITS, hidden=(8, 8), is_residual=True, validation=50, clip_norm=1.0)
    # Gradient descent at such a rate leaves the range of floats; lines cannot die on the way.
    wild = replace(
        DIGITS, activation="identity", method="he", rates=(1e9,), optimizer="sgd", epochs=6
    )
    found = quietly({"residual": residual, "wild": wild})
    assert len(residual.network(task_named(DIGITS.task))) == 4
    assert np.isfinite(found["residual"].losses).all()
    # Shares of 50 rows held back.
    shares = found["residual"].scores * 50
    assert shares == pytest.approx(np.round(shares), abs=1e-4)
    assert (found["wild"].diverged_at > 0).all()


BAD = [
    ({"draws": 0}, "draws must be"),
    ({"first": -1}, "first must be"),
    ({"epochs": 0}, "epochs must be"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"validation": -1}, "validation must be"),
    ({"rates": ()}, "rates must hold"),
    ({"rates": (0.0,)}, "rates must be"),
    ({"optimizer": "adan"}, "optimizer must be one of"),
    ({"is_residual": True}, "hidden must be widths of one size"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_numbers_and_names_that_cannot_be_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        replace(DIGITS, **change)


def test_a_task_that_is_not_known_is_refused_before_any_training():
    with pytest.raises(ArgumentError, match="task must be one of"):
        quietly({"a": DIGITS, "b": replace(DIGITS, task="digit")})


@pytest.mark.parametrize(
    "text", ["tanhh", "tanh(1)", "leaky_relu(x)", "leaky_relu(0.1", "elu(nan)"]
)
def test_activations_are_known_by_name(text):
    with pytest.raises(ArgumentError, match="activation must be"):
        activation_module(text)


def test_activations_with_a_number():
    assert activation_module(" elu (0.5)").alpha == 0.5
    z = torch.tensor([-1.0])
    assert float(activation_module("leaky_relu(0.25)")(z)) == -0.25
    assert math.isclose(float(activation_module("softplus(2)")(z)), math.log1p(math.exp(-2)) / 2,
                        rel_tol=1e-6)  # fmt: skip
