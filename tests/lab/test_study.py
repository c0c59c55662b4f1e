"""Many trainings as units of work: each equals a training of its own, wherever it runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError, WorkError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.models import activation_module, mlp
from equipoise.lab.rivals import starter
from equipoise.lab.setting import Setting, Trial, train_trials
from equipoise.lab.study import Runs, run_study
from equipoise.lab.task_names import task_named

SMALL = Setting("digits(rows=300)", (12, 8), "tanh", epochs=2)
DIGITS = Runs(SMALL, "auto", (1e-3, 1e-2), 3, first=5)


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
        "narrow": replace(
            DIGITS,
            setting=Setting("polynomial(rows=200)", (2,) * 5, "leaky_relu(0.1)", 1,
                            optimizer="momentum"),
            method="he",
        ),
    }  # fmt: skip
    whole = quietly(runs)
    monkeypatch.setattr("equipoise.lab.setting._WIDE", 4)
    monkeypatch.setattr("equipoise.lab.setting._NARROW", 1)
    parts = run_study(runs, tmp_path, "processes", 2, is_quiet=True)
    for name in runs:
        # Sums over replicas side by side are those of each alone, up to their order.
        np.testing.assert_allclose(parts[name].scores, whole[name].scores, atol=1e-4)
        np.testing.assert_allclose(parts[name].losses, whole[name].losses, rtol=1e-4)
    assert len(list(tmp_path.iterdir())) == 2 + 6
    again = run_study(runs, tmp_path, "here", is_quiet=True)
    assert np.array_equal(again["a"].scores, parts["a"].scores)


def test_residual_networks_validation_clipping_and_diverged_runs():
    residual = replace(SMALL, hidden=(8, 8), is_residual=True, validation=50, clip_norm=1.0)
    # Gradient descent at such a rate leaves the range of floats; lines cannot die on the way.
    wild = replace(SMALL, activation="identity", optimizer="sgd", epochs=6)
    found = quietly(
        {
            "residual": replace(DIGITS, setting=residual),
            "wild": Runs(wild, "he", (1e9,), 3, first=5),
        }
    )
    assert len(residual.network(task_named(SMALL.task))) == 4
    assert np.isfinite(found["residual"].losses).all()
    # Shares of 50 rows held back.
    shares = found["residual"].held * 50
    assert shares.shape == (2, 3)
    assert shares == pytest.approx(np.round(shares), abs=1e-4)
    assert found["wild"].held.shape == (1, 0)
    assert (found["wild"].diverged_at > 0).all()


def test_held_rows_are_not_trained_on_and_the_test_part_is_scored_too():
    found = quietly({"a": replace(DIGITS, setting=replace(SMALL, validation=50))})["a"]
    whole = task_named(SMALL.task)
    part = whole.validation(50)
    model = SMALL.network(part)
    starter(SMALL.network(part), "auto", part.x_train)(model, 5)
    alone = train(Replicas.of([model]), part, [DIGITS.rates[1]], [5], 2)
    assert found.held[1, 0] == pytest.approx(float(alone.score[0]), abs=1e-6)
    with torch.no_grad():
        alone.replicas.write(0, model)
        right = float((model(whole.x_test).argmax(1) == whole.y_test).float().mean())
    assert found.scores[1, 0] == pytest.approx(right, abs=1e-6)


def test_a_start_that_does_not_fit_ends_the_study_with_its_reason():
    with pytest.raises(WorkError, match="PlanError"):
        quietly(
            {"a": replace(DIGITS, method="odd_sigmoid", setting=replace(SMALL, activation="relu"))}
        )


BAD = [
    ({"draws": 0}, "draws must be"),
    ({"first": -1}, "first must be"),
    ({"rates": ()}, "rates must hold"),
    ({"rates": (0.0,)}, "rates must be"),
]
BAD_SETTINGS = [
    ({"epochs": 0}, "epochs must be"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"validation": -1}, "validation must be"),
    ({"optimizer": "adan"}, "optimizer must be one of"),
    ({"is_residual": True}, "hidden must be widths of one size"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_numbers_and_names_that_cannot_be_are_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        replace(DIGITS, **change)


@pytest.mark.parametrize(("change", "message"), BAD_SETTINGS)
def test_what_cannot_be_trained_is_named(change, message):
    with pytest.raises(ArgumentError, match=message):
        replace(SMALL, **change)


def test_methods_that_are_refused_and_those_that_are_not_known():
    trials = [Trial("odd_sigmoid", 1e-3, 0), Trial("he", 1e-3, 0), Trial("he", 1e-2, 0)]
    done = train_trials(replace(SMALL, activation="relu"), trials)
    assert list(done.refused) == ["odd_sigmoid"]
    assert math.isnan(done.scores[0])
    assert done.scores[1] > 0 < done.scores[2]
    only = train_trials(replace(SMALL, activation="relu"), trials[:1])
    assert math.isnan(only.scores[0])
    assert only.diverged_at == (-1,)
    with pytest.raises(ArgumentError, match="method must be one of"):
        train_trials(SMALL, [Trial("hee", 1e-3, 0)])


def test_methods_that_draw_the_same_network_train_it_once_and_all_get_its_result(monkeypatch):
    trained = []

    def counted(replicas, *rest, **more):
        trained.append(len(replicas.parameters))
        return train(replicas, *rest, **more)

    monkeypatch.setattr("equipoise.lab.setting.train", counted)
    trials = [
        Trial(method, rate, seed)
        for method in ("auto", "he", "centred")
        for rate in (1e-3, 1e-2)
        for seed in (0, 1)
    ]
    done = train_trials(SMALL, trials)
    # auto centres tanh.
    assert trained == [8]
    assert done.scores[8:] == done.scores[:4]
    assert done.losses[8:] == done.losses[:4]
    alone = train_trials(SMALL, trials[8:])
    assert alone.losses[3] == pytest.approx(done.losses[3], rel=1e-5)
    assert len({losses for losses in done.losses[:8]}) == 8


def test_denormals_are_flushed_while_trials_train_and_as_before_after():
    def flushes():
        return not bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0)

    for before in (True, False):
        torch.set_flush_denormal(before)
        train_trials(SMALL, [Trial("he", 1e-3, 0)])
        assert flushes() == before


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (SMALL, "tanh 12, 8, digits(rows=300)"),
        (replace(SMALL, hidden=(8,) * 5), "tanh 8 x 5, digits(rows=300)"),
        (replace(SMALL, hidden=(8, 4) * 5), "tanh 8, 4 x 5, digits(rows=300)"),
        (replace(SMALL, hidden=(8, 8, 4, 4)), "tanh 8 x 2, 4 x 2, digits(rows=300)"),
        (replace(SMALL, hidden=(8,) * 5, is_residual=True),
         "tanh residual 8 x 5, digits(rows=300)"),
    ],
)  # fmt: skip
def test_names_tell_shapes(setting, name):
    assert setting.name == name


def test_a_task_that_is_not_known_is_refused_before_any_training():
    with pytest.raises(ArgumentError, match="task must be one of"):
        quietly({"a": DIGITS, "b": replace(DIGITS, setting=replace(SMALL, task="digit"))})


@pytest.mark.parametrize(
    "text", ["tanhh", "relu(1)", "leaky_relu(x)", "leaky_relu(0.1", "elu(nan)", "tanh(inf)"]
)
def test_activations_are_known_by_name(text):
    with pytest.raises(ArgumentError, match="activation must be"):
        activation_module(text)


def test_activations_with_a_number():
    assert activation_module(" elu (0.5)").alpha == 0.5
    z = torch.tensor([-1.0])
    assert float(activation_module("leaky_relu(0.25)")(z)) == -0.25
    for f, right in (("tanh", math.tanh), ("arctan", math.atan), ("erf", math.erf)):
        assert float(activation_module(f"{f}(2.5)")(z)) == pytest.approx(right(-2.5), rel=1e-6)
    assert float(activation_module("softsign(3)")(z)) == pytest.approx(-0.75)
    assert math.isclose(float(activation_module("softplus(2)")(z)), math.log1p(math.exp(-2)) / 2,
                        rel_tol=1e-6)  # fmt: skip
