"""Classification: the judge, images, balanced subsets and noise in the labels."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas
from equipoise.lab.classification import Classification
from equipoise.lab.data import digits, two_spirals
from equipoise.lab.models import mlp
from equipoise.lab.task import MOST_ROWS, Task


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return [mlp((64, 8, 10), nn.Tanh) for _ in range(3)]


def test_it_is_a_task():
    task: Task = digits()
    assert (task.rows, task.features, task.outputs) == (1400, 64, 10)
    assert task.score_name == "accuracy"
    assert task.validation(100).rows == 1300


def test_losses_and_scores_equal_those_of_each_model_alone(models):
    task, replicas = digits(train_rows=1000), Replicas.of(models)
    assert len(task.x_test) > MOST_ROWS
    batch = torch.randint(1000, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = task.losses(replicas.forward, batch)
        scores = task.scores(replicas.forward)
        for i, model in enumerate(models):
            rows = batch[i]
            alone = nn.functional.cross_entropy(model(task.x_train[rows]), task.y_train[rows])
            assert float(losses[i]) == pytest.approx(float(alone), rel=1e-5)
            share = (model(task.x_test).argmax(1) == task.y_test).double().mean()
            assert float(scores[i]) == pytest.approx(float(share), abs=1e-6)


def test_gradients_of_the_losses_reach_the_weights(models):
    replicas = Replicas.of(models)
    weights = replicas.parameters.clone().requires_grad_()
    live = Replicas(replicas.layers, weights)
    batch = torch.arange(6).view(3, 2)
    (gradient,) = torch.autograd.grad(digits().losses(live.forward, batch)[1], weights)
    assert gradient[1].abs().max() > 0
    assert gradient[[0, 2]].abs().max() == 0


def test_rows_whose_outputs_are_not_finite_are_wrong():
    task = two_spirals(rows=2000)
    assert len(task.x_test) > MOST_ROWS

    def perfect_but(value):
        def call(x):
            first = (task.x_test[:, None] == x[None]).all(-1).double().argmax(0)
            outputs = nn.functional.one_hot(task.y_test[first], 2).float()
            outputs[:3, 0] = value
            return outputs[None]

        return call

    # Three rows in each of the two chunks.
    assert float(task.scores(perfect_but(math.nan))) == pytest.approx(1 - 6 / 1000)
    assert float(task.scores(perfect_but(math.inf))) == pytest.approx(1 - 6 / 1000)


def test_images_of_three_channels_keep_the_order_of_the_numbers():
    rows = torch.arange(2 * 12.0).view(2, 12)
    task = Classification(rows, torch.zeros(2).long(), rows, torch.zeros(2).long(), 2).images()
    assert task.x_test[1].tolist() == [
        [[12, 13], [14, 15]], [[16, 17], [18, 19]], [[20, 21], [22, 23]],
    ]  # fmt: skip
    assert task.features == 12
    assert torch.equal(task.images().x_train, task.x_train)


def test_balanced_subsets_hold_each_class_as_often_and_only_rows_of_the_task():
    task = digits()
    part = task.balanced(500)
    assert torch.bincount(part.y_train).tolist() == [50] * 10
    whole = {(tuple(x), y) for x, y in zip(task.x_train.tolist(), task.y_train.tolist(),
                                           strict=True)}  # fmt: skip
    kept = {(tuple(x), y) for x, y in zip(part.x_train.tolist(), part.y_train.tolist(),
                                          strict=True)}  # fmt: skip
    assert len(kept) == 500
    assert kept <= whole
    assert torch.equal(part.x_test, task.x_test)
    assert torch.equal(task.balanced(500).x_train, part.x_train)
    assert not torch.equal(task.balanced(500, seed=1).x_train, part.x_train)
    # In random order: every class is among the first rows.
    assert len(part.y_train[:100].unique()) == 10
    assert task.images().balanced(10).x_train.shape == (10, 1, 8, 8)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_label_noise_changes_that_share_and_nothing_else(share):
    task = digits()
    noisy = task.with_label_noise(share)
    changed = noisy.y_train != task.y_train
    assert int(changed.sum()) == round(share * 1400)
    assert set(noisy.y_train.tolist()) <= set(range(10))
    assert torch.equal(noisy.x_train, task.x_train)
    assert torch.equal(noisy.y_test, task.y_test)
    assert torch.equal(noisy.y_train, task.with_label_noise(share).y_train)


def test_wrong_labels_are_uniform_over_the_other_classes():
    rows, classes = 30_000, 4
    labels = torch.full((rows,), 2)
    x = torch.zeros(rows, 1)
    task = Classification(x, labels, x, labels, classes)
    noisy = task.with_label_noise(1.0, seed=3)
    counts = torch.bincount(noisy.y_train, minlength=classes).tolist()
    assert counts[2] == 0
    error = math.sqrt(rows * (1 / 3) * (2 / 3))
    for other in (0, 1, 3):
        assert abs(counts[other] - rows / 3) < 4 * error
    half = task.with_label_noise(0.5, seed=3).y_train != 2
    # Spread over the rows, not taken from one end.
    assert abs(int(half[: rows // 2].sum()) - rows / 4) < 4 * math.sqrt(rows / 2) / 2


ONE_CLASS = replace(digits(train_rows=10), classes=1)
BAD = [
    (lambda: digits().balanced(5), "rows must be an integer of at least 10"),
    (lambda: digits().balanced(505), r"rows must be a multiple of the 10 classes .* 500 or 510"),
    (lambda: digits(train_rows=100).balanced(100), r"rows must be at most \d+ to balance .* class"),
    (lambda: digits().balanced(50, seed=-1), "seed must be"),
    (lambda: digits().with_label_noise(1.5), "share must be a number from 0 to 1, got 1.5"),
    (lambda: digits().with_label_noise(math.nan), "share must be finite"),
    (lambda: digits().with_label_noise(0.1, seed=-1), "seed must be"),
    (lambda: ONE_CLASS.with_label_noise(0.1), "classes must be at least 2"),
    (lambda: digits(seed=-1), "seed must be"),
    (lambda: digits(train_rows=1701), "train_rows must be 10 to 1700"),
    (lambda: two_spirals().images(), "features must be a square number, or three times one"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
