"""Regression: standardization, the judge against scikit-learn's, and noise in the targets."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas
from equipoise.lab.models import mlp
from equipoise.lab.regression import Regression, standardized
from equipoise.lab.task import MOST_ROWS, Task


def made(rows=1800, train_rows=1000, outputs=3):
    rng = np.random.default_rng(0)
    # Columns of very different units.
    x = rng.standard_normal((rows, 4)) * [1.0, 1e3, 1e-3, 5.0] + [0.0, 500.0, 1.0, -2.0]
    y = np.stack([x[:, i] ** 2 + x[:, 3] for i in range(outputs)], axis=1)
    return x, y, standardized(x, y, train_rows)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return [mlp((4, 8, 3), nn.Tanh) for _ in range(3)]


def test_it_is_a_task():
    task: Task = made()[2]
    assert (task.rows, task.features, task.outputs) == (1000, 4, 3)
    assert task.score_name == "variance explained"
    assert task.x_train.dtype == task.y_test.dtype == torch.float32


def test_columns_are_standardized_as_scikit_learn_would():
    x, y, task = made()
    for raw, train, test in ((x, task.x_train, task.x_test), (y, task.y_train, task.y_test)):
        scaler = StandardScaler().fit(raw[:1000])
        assert np.allclose(train, scaler.transform(raw[:1000]), atol=1e-5)
        assert np.allclose(test, scaler.transform(raw[1000:]), rtol=1e-5, atol=1e-5)
    # Always answering the mean has an error of 1.
    nothing = task.losses(lambda x: torch.zeros(2, 1000, 3), torch.arange(1000).expand(2, -1))
    assert nothing.tolist() == pytest.approx([1.0, 1.0], rel=1e-5)


def test_a_constant_input_is_only_centred():
    # 0.1 has no exact double: its standard deviation over many rows comes out above 0.
    x = np.stack([np.full(60, 0.1), np.arange(60.0)], axis=1)
    task = standardized(x, np.arange(60.0), 50)
    assert float(task.x_train[:, 0].abs().max()) < 1e-12
    assert task.y_train.shape == (50, 1)


def test_losses_and_scores_equal_those_of_each_model_alone(models):
    _, _, task = made()
    assert len(task.x_test) > MOST_ROWS
    replicas = Replicas.of(models)
    batch = torch.randint(1000, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = task.losses(replicas.forward, batch)
        scores = task.scores(replicas.forward)
        for i, model in enumerate(models):
            rows = batch[i]
            alone = mean_squared_error(task.y_train[rows], model(task.x_train[rows]))
            assert float(losses[i]) == pytest.approx(alone, rel=1e-5)
            share = r2_score(task.y_test, model(task.x_test), multioutput="variance_weighted")
            assert float(scores[i]) == pytest.approx(share, abs=1e-5)


def test_scores_of_the_mean_of_the_truth_and_of_what_is_not_finite():
    _, _, task = made(outputs=1)
    mean = float(task.y_test.mean())

    def call(x):
        first = (task.x_test[:, None] == x[None]).all(-1).double().argmax(0)
        truth = task.y_test[first]
        late = truth.clone()
        late[-1] = math.nan
        constant = torch.full_like(truth, mean)
        return torch.stack([truth, constant, late, truth * math.inf, truth + 1e30])

    scores = task.scores(call).tolist()
    assert scores[0] == 1.0
    assert scores[1] == pytest.approx(0.0, abs=1e-5)
    assert scores[2:] == [-math.inf] * 3


def test_validation_takes_the_last_training_rows():
    _, _, task = made()
    part = task.validation(200)
    assert torch.equal(torch.cat([part.x_train, part.x_test]), task.x_train)
    assert torch.equal(torch.cat([part.y_train, part.y_test]), task.y_train)


def test_target_noise_has_its_scale_and_leaves_the_test_part():
    _, _, task = made()
    noisy = task.with_target_noise(0.5)
    noise = (noisy.y_train - task.y_train).double()
    # 4 standard errors of mean and variance of 3,000 normal numbers.
    assert abs(float(noise.mean())) < 4 * 0.5 / math.sqrt(3000)
    assert abs(float(noise.square().mean()) - 0.25) < 4 * 0.25 * math.sqrt(2 / 3000)
    assert torch.equal(noisy.y_test, task.y_test)
    assert torch.equal(noisy.x_train, task.x_train)
    assert torch.equal(noisy.y_train, task.with_target_noise(0.5).y_train)
    assert not torch.equal(noisy.y_train, task.with_target_noise(0.5, seed=1).y_train)
    assert torch.equal(task.with_target_noise(0.0).y_train, task.y_train)


X, Y = torch.zeros(4, 2), torch.arange(4.0)[:, None]
LINE = np.arange(6.0)
BAD = [
    (lambda: Regression(X, Y[:, 0], X, Y), r"y_train must have shape \(rows, outputs\)"),
    (lambda: Regression(X, Y, X, Y[:3]), r"y_test must have .* 4 of x_test"),
    (lambda: Regression(X, Y, X[:0], Y[:0]), "y_test must have .* at least one"),
    (lambda: Regression(X, Y, X, torch.cat([Y, Y], 1)), "y_test must have the 1 columns"),
    (lambda: Regression(X, Y, X, torch.full_like(Y, 0.1)), "y_test must vary"),
    (lambda: Regression(X, Y, X, Y).validation(1), "y_test must vary"),
    (lambda: Regression(X, Y, X, Y).validation(4), "rows must be below the 4 training rows"),
    (lambda: Regression(X, Y, X, Y).with_target_noise(-1.0), "scale must be"),
    (lambda: Regression(X, Y, X, Y).with_target_noise(1.0, seed=-1), "seed must be"),
    (lambda: standardized(LINE[:, None], LINE, 1), "train_rows must be"),
    (lambda: standardized(LINE[:, None], LINE, 5), "train_rows must leave 2 of the 6 rows"),
    (lambda: standardized(LINE[:, None] / LINE[:1], LINE, 4), "x must be finite, got .* in row 0"),
    (lambda: standardized(LINE[:, None], LINE * [1, 1, np.inf, 1, 1, 1], 4), "y must be finite"),
    (lambda: standardized(LINE[:, None], LINE > 4, 4), "y must vary over the training rows"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with np.errstate(all="ignore"), pytest.raises(ArgumentError, match=message):
        call()
