"""A replica of a convolutional network equals a run of its own."""

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.data import digits
from equipoise.lab.models import mlp, plain_cnn

TASK = digits(300).images().validation(100)


def small():
    """Four convolutions of 8 channels on maps of 4 x 4."""
    return plain_cnn(4, nn.GELU, channels=8, stride=2)


def pooled():
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, 6, (3, 1), padding="same", dilation=(1, 1)), nn.Tanh(),
        nn.Conv2d(6, 4, 2, 1, (1, 0)), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 7), nn.SiLU(), nn.Linear(7, 10),
    )  # fmt: skip


def several(make, count):
    torch.manual_seed(0)
    return [make() for _ in range(count)]


def alone(model, rate, seed, epochs, batch_size):
    """The plain loop, with torch's own Adam."""
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(TASK.x_train), generator=generator)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            loss = nn.functional.cross_entropy(model(TASK.x_train[rows]), TASK.y_train[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return float((model(TASK.x_test).argmax(-1) == TASK.y_test).float().mean())


@pytest.mark.parametrize("make", [small, pooled])
def test_each_replica_equals_a_separate_run_over_50_steps(make):
    models = several(make, 3)
    rates, seeds = [1e-3, 3e-3, 3e-4], [4, 5, 6]
    # 200 rows in batches of 16 are 13 steps an epoch, the last batch of 8 rows: 52 steps.
    together = train(Replicas.of(models), TASK, rates, seeds, epochs=4, batch_size=16)
    for i, model in enumerate(models):
        accuracy = alone(model, rates[i], seeds[i], 4, 16)
        mine = torch.cat([p.detach().flatten() for p in model.parameters()])
        gap = (together.replicas.parameters[i] - mine).norm() / mine.norm()
        assert float(gap) < 1e-5
        assert float(together.score[i]) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("make", [small, pooled])
def test_forward_is_that_of_the_models_and_weights_go_back(make):
    models = several(make, 3)
    replicas = Replicas.of(models)
    out = replicas.forward(TASK.x_test)
    each = replicas.forward(torch.stack([TASK.x_test[i : i + 5] for i in range(3)]))
    for i, model in enumerate(models):
        torch.testing.assert_close(out[i], model(TASK.x_test).detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each[i], out[i, i : i + 5], rtol=1e-5, atol=1e-5)
    other = make()
    replicas.write(1, other)
    for mine, theirs in zip(other.parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_diverged_replica_is_frozen_and_does_not_touch_the_others():
    class Cube(nn.Module):
        def forward(self, x):
            return x**3

    models = several(lambda: plain_cnn(3, Cube, channels=4, stride=2), 3)
    with torch.no_grad():
        models[1][0].weight.mul_(1e13)
    three = train(Replicas.of(models), TASK, [1e-3] * 3, [0, 1, 2], epochs=2)
    two = train(Replicas.of(models[::2]), TASK, [1e-3] * 2, [0, 2], epochs=2)
    assert three.diverged_at.tolist() == [-1, 1, -1]
    assert float(three.score[1]) == 0.0
    kept = torch.cat([p.detach().flatten() for p in models[1].parameters()])
    assert torch.equal(three.replicas.parameters[1], kept)
    for mine, theirs in ((0, 0), (2, 1)):
        torch.testing.assert_close(
            three.replicas.parameters[mine], two.replicas.parameters[theirs], rtol=1e-5, atol=1e-6
        )


def test_a_small_network_learns():
    torch.manual_seed(0)
    task = digits().images()
    model = plain_cnn(2, nn.ReLU, stride=2)
    done = train(Replicas.of([model]), task, [3e-3], [0], epochs=5)
    assert float(done.score.min()) > 0.9


def test_the_plain_cnn_keeps_its_maps():
    model = plain_cnn(5, nn.Tanh, channels=3, side=7, stride=2, classes=4)
    assert model[:-2](torch.zeros(2, 1, 7, 7)).shape == (2, 3, 4, 4)
    assert model(torch.zeros(2, 1, 7, 7)).shape == (2, 4)
    assert sum(isinstance(x, nn.Conv2d) for x in model) == 5


class Shuffle(nn.Module):
    def forward(self, x):
        return x.flip(1)


BAD = [
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Flatten())]), "Conv2d"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())]), "Conv2d"),
    (lambda: Replicas.of([nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.Flatten())]), "circular"),
    (lambda: Replicas.of([nn.Sequential(nn.Flatten(), nn.Conv2d(1, 4, 3))]), "at place 0"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Flatten())]),
     "at place 2"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())]),
     "BatchNorm2d"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(), nn.Flatten())]),
     "Dropout"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1), nn.Flatten())]),
     "Softmax"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(1, 4, 3), Shuffle(), nn.Flatten())]), "Shuffle"),
    (lambda: train(Replicas.of([small()]), digits(), [1e-3], [0]), r"pass task.images\(\)"),
    (lambda: train(Replicas.of([mlp([64, 10], nn.Tanh)]), TASK, [1e-3], [0]), "must read inputs"),
    (lambda: plain_cnn(0, nn.ReLU), "depth must be"),
    (lambda: plain_cnn(1, nn.ReLU, stride=0), "stride must be"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
