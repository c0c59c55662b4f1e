"""A replica equals a run of its own."""

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.batched import Replicas, train
from equipoise.lab.data import digits
from equipoise.lab.models import mlp, residual_mlp
from equipoise.lab.optimizers import SGD, AdamW, Clipping, warmup_cosine

TASK = digits(300).validation(100)


def models(count, widths=(64, 12, 7, 10), activation=nn.Tanh):
    torch.manual_seed(0)
    return [mlp(widths, activation) for _ in range(count)]


def alone(model, task, rate, seed, epochs, batch_size):
    """The plain loop, with torch's own Adam."""
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(task.x_train), generator=generator)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            loss = nn.functional.cross_entropy(model(task.x_train[rows]), task.y_train[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
    right = (model(task.x_test).argmax(-1) == task.y_test).float().mean()
    return losses, float(right)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, lambda: nn.LeakyReLU(0.1)])
def test_each_replica_equals_a_separate_run_over_50_steps(activation):
    started = models(3, activation=activation)
    rates, seeds = [1e-3, 3e-3, 3e-4], [4, 5, 6]
    # 200 rows in batches of 16 are 13 steps an epoch, the last batch of 8 rows: 52 steps.
    together = train(Replicas.of(started), TASK, rates, seeds, epochs=4, batch_size=16)
    for i, model in enumerate(started):
        _, accuracy = alone(model, TASK, rates[i], seeds[i], 4, 16)
        mine = torch.cat([p.detach().flatten() for p in model.parameters()])
        gap = (together.replicas.parameters[i] - mine).norm() / mine.norm()
        assert float(gap) < 1e-5
        assert float(together.score[i]) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("widths", [(64, 12, 7, 10), (64, 4, 3, 10)])
@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        (SGD(0.9), lambda p, rate: torch.optim.SGD(p, rate, 0.9)),
        (AdamW(0.1), lambda p, rate: torch.optim.AdamW(p, rate, weight_decay=0.1)),
    ],
)
def test_optimizers_schedules_and_clipping_are_those_of_separate_runs(optimizer, make, widths):
    started = [*models(1, widths), residual_mlp(64, 6, 2, 10, nn.SiLU)]
    rate, steps, factor = 1e-2, 4 * 13, warmup_cosine(52, 5)
    for model in started:
        together = train(
            Replicas.of([model]), TASK, [rate], [4], 4, 16,
            optimizer=optimizer, schedule=factor, clipping=Clipping(norm=0.5),
        )  # fmt: skip
        optimizer_alone = make(model.parameters(), rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer_alone, factor)
        generator = torch.Generator().manual_seed(4)
        taken = 0
        for _ in range(4):
            for rows in torch.randperm(200, generator=generator).split(16):
                loss = nn.functional.cross_entropy(model(TASK.x_train[rows]), TASK.y_train[rows])
                optimizer_alone.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer_alone.step()
                schedule.step()
                taken += 1
        assert taken == steps
        mine = torch.cat([p.detach().flatten() for p in model.parameters()])
        gap = (together.replicas.parameters[0] - mine).norm() / mine.norm()
        assert float(gap) < 1e-5


class Slope:
    """An equation: the outputs' derivative by the input is cos x."""

    needs_derivatives, outputs = True, 1

    def __init__(self):
        self.x_train = torch.linspace(-2, 2, 64)[:, None]

    def losses(self, call, batch):
        x = self.x_train[batch].requires_grad_()
        (slope,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
        return (slope - x.cos()).square().mean((1, 2))

    def scores(self, call):
        error = call(self.x_train)[..., 0]
        wanted = self.x_train[:, 0].sin()
        error = error - error.mean(1, keepdim=True) - wanted + wanted.mean()
        return 1 - error.square().mean(1) / wanted.var()


def test_equations_are_trained_with_derivatives_by_the_inputs():
    started = [mlp([1, 16, 16, 1], nn.Tanh) for _ in range(3)]
    done = train(Replicas.of(started), Slope(), [1e-2] * 3, [0, 1, 2], epochs=100, batch_size=32)
    assert float(done.score.min()) > 0.95
    assert float(done.loss[-1].max()) < 0.1 * float(done.loss[0].min())


def test_losses_are_means_over_an_epoch():
    started = models(1)
    together = train(Replicas.of(started), TASK, [1e-3], [1], epochs=2, batch_size=50)
    losses, _ = alone(started[0], TASK, 1e-3, 1, 2, 50)
    expected = torch.tensor(losses).view(2, 4).mean(1)
    torch.testing.assert_close(together.loss[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_forward_is_that_of_the_models_and_weights_go_back():
    started = models(2)
    replicas = Replicas.of(started)
    out = replicas.forward(TASK.x_test)
    for i, model in enumerate(started):
        torch.testing.assert_close(out[i], model(TASK.x_test).detach(), rtol=1e-5, atol=1e-6)
    other = mlp((64, 12, 7, 10), nn.Tanh)
    replicas.write(1, other)
    assert torch.equal(other[2].weight, started[1][2].weight)


def test_replicas_are_left_as_they_were_and_runs_repeat():
    replicas = Replicas.of(models(2))
    before = replicas.parameters.clone()
    runs = [train(replicas, TASK, [1e-3] * 2, [0, 1], epochs=1).replicas for _ in range(2)]
    assert torch.equal(replicas.parameters, before)
    assert torch.equal(runs[0].parameters, runs[1].parameters)


def test_a_diverged_replica_is_frozen_and_does_not_touch_the_others():
    # Quartic growth overflows within a few layers at this learning rate.
    class Cube(nn.Module):
        def forward(self, x):
            return x**3

    started = models(2, (64, 8, 8, 10), Cube)
    with torch.no_grad():
        started[0][0].weight.mul_(1e13)
    both = train(Replicas.of(started), TASK, [1e-3] * 2, [0, 1], epochs=2)
    one = train(Replicas.of(started[1:]), TASK, [1e-3], [1], epochs=2)
    assert both.diverged_at.tolist() == [1, -1]
    kept = torch.cat([p.detach().flatten() for p in started[0].parameters()])
    assert torch.equal(both.replicas.parameters[0], kept)
    torch.testing.assert_close(
        both.replicas.parameters[1], one.replicas.parameters[0], rtol=1e-5, atol=1e-7
    )
    assert float(both.score[0]) == 0.0


def test_curve_and_progress():
    seen = []
    replicas = Replicas.of(models(2)).repeat(2)
    done = train(
        replicas, TASK, [1e-3] * 4, range(4), epochs=3, with_curve=True, progress=seen.append
    )
    assert seen == [1, 2, 3]
    assert done.curve.shape == (3, 4)
    assert torch.equal(done.curve[-1], done.score)


def test_training_learns():
    task = digits()
    done = train(Replicas.of(models(2, (64, 32, 10))), task, [3e-3] * 2, [0, 1], epochs=5)
    assert float(done.score.min()) > 0.9


BAD = [
    (lambda: Replicas.of([]), "at least one model"),
    (lambda: Replicas.of([mlp([4, 4], nn.Tanh), mlp([4, 5], nn.Tanh)]), "number 1 unlike"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))]),
     r"got LayerNorm.* at place 1"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4, bias=False))]), "with bias"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4), nn.PReLU())]), "got PReLU"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))]), "got Dropout"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))]), "got Softmax"),
    (lambda: Replicas.of([nn.Sequential(nn.Linear(4, 4), nn.Flatten(0))]), "got Flatten"),
    (lambda: Replicas.of([nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten())]), "Conv2d"),
    (lambda: train(Replicas.of(models(2)), TASK, [1e-3], [0, 1]), "learning_rates must hold 2"),
    (lambda: train(Replicas.of(models(2)), TASK, [1e-3] * 2, [0]), "seeds must hold 2"),
    (lambda: train(Replicas.of(models(1)), TASK, [-1.0], [0]), "positive and finite"),
    (lambda: train(Replicas.of(models(1, (4, 10))), TASK, [1e-3], [0]), "must read inputs"),
    (lambda: train(Replicas.of(models(1)), TASK, [1e-3], [0], epochs=0), "epochs must be"),
    (lambda: train(Replicas.of(models(1)), TASK, [1e-3], [0], batch_size=0), "batch_size must"),
    (lambda: Replicas.of(models(1)).write(0, mlp([4, 4], nn.Tanh)), "must have the layers"),
    (lambda: mlp([3], nn.Tanh), "inputs and outputs"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
