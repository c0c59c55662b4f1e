"""Which start trains a model best: the same numbers by every route, and a winner that is known."""

import json
import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from equipoise.errors import ArgumentError, TraceError
from equipoise.lab import compare, compare_run, compare_training, compare_units
from equipoise.lab.compare_loss import constant_loss, read_loss
from equipoise.lab.compare_program import Program, trained_parameters
from equipoise.lab.compare_rows import Rows, read_rows
from equipoise.lab.compare_scores import Scale, counted, have_trained, worst_of
from equipoise.lab.compare_starts import draw
from equipoise.lab.compare_training import Course, train, train_in_parts
from equipoise.lab.compare_vectorised import why_looped
from equipoise.lab.compare_verdict import winner
from equipoise.lab.optimizers import SGD, Adam


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def convolutional():
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 1)
    )


def normed():
    # With a bias, whose gradient is nothing but rounding, Adam would move by that.
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


class Tied(nn.Module):
    """One weight in two places, another frozen, a third that nothing uses."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.frozen, self.idle = nn.Linear(6, 1), nn.Linear(2, 2)
        self.frozen.weight.requires_grad_(False)

    def forward(self, x):
        return self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Counting(nn.Module):
    """A buffer that is replaced, not written to."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return self.layer(x - self.mean)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, x):
        return self.layer(x if x.mean() > 0 else -x)


class Scaled(Branching):
    def forward(self, x):
        return self.layer(x) * (1 + abs(x.mean().item()))


class Numpy(Branching):
    def forward(self, x):
        return self.layer(x) * (1 + np.random.rand())


def dropping():
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))


X = normal(120, 6)
ROWS = Rows(X, X[:, :1] * X[:, 1:2])
MSE = read_loss("mse")


def rows_for(make):
    return Rows(X[:, None], ROWS.y) if make is convolutional else ROWS


def both_ways(make, optimizer=None, rates=(1e-2, 3e-2, 1e-3), steps=12):
    rows, seeds = rows_for(make), [3, 4, 5]
    starts = draw(make, "default", rows.x, seeds)
    parts = rows.at(torch.arange(90)), rows.at(torch.arange(90, 120))
    course = Course(steps, 16, optimizer or Adam())
    return [
        train(Program(make(), MSE, way), starts, parts, rates, seeds, course)
        for way in (True, False)
    ]


@pytest.mark.parametrize("make", [dense, convolutional, normed, Tied, Counting])
def test_replicas_trained_at_once_equal_those_trained_alone(make):
    rows = rows_for(make)
    assert why_looped(make(), MSE, draw(make, "default", rows.x, [0, 1]), rows) == ""
    (together, at_end), (alone, alone_at_end) = both_ways(make)
    torch.testing.assert_close(together.curve, alone.curve, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.at_end, alone.at_end, rtol=1e-3, atol=1e-6)
    for name, value in at_end.fixed.items():
        torch.testing.assert_close(value, alone_at_end.fixed[name], rtol=1e-3, atol=1e-6)


def test_a_replica_moves_as_under_torch():
    """A loop as a person writes it, with torch's own optimizer and batch norm."""
    seeds, size = [3, 4, 5], 16
    for way, _ in both_ways(normed):
        for i, rate in enumerate((1e-2, 3e-2, 1e-3)):
            torch.manual_seed(seeds[i])
            model = normed()
            stepper = torch.optim.Adam(model.parameters(), rate)
            generator, losses = torch.Generator().manual_seed(seeds[i]), []
            while len(losses) < 12:
                order = torch.randperm(90, generator=generator)
                for batch in torch.split(order, size)[: 90 // size]:
                    stepper.zero_grad()
                    loss = F.mse_loss(model(ROWS.x[batch]), ROWS.y[batch])
                    loss.backward()
                    stepper.step()
                    losses.append(float(loss.detach()))
            assert way.curve[:, i].tolist() == pytest.approx(losses[:12], rel=1e-4)


def test_parts_are_joined_in_order(monkeypatch):
    monkeypatch.setattr(compare_training, "_REPLICAS", 2)
    starts, course = draw(dense, "default", X, [0, 1, 2]), Course(5, 16, Adam())
    given = [2, 0, 1, 2, 0], (ROWS, ROWS), [1e-2, 1e-3, 1e-3, 1e-3, 1e-2], [2, 0, 1, 2, 0]
    joined = train_in_parts(Program(dense(), MSE, True), starts, *given, course)
    whole, _ = train(
        Program(dense(), MSE, True), starts.at(torch.tensor(given[0])), *given[1:], course
    )
    torch.testing.assert_close(joined.curve, whole.curve)
    torch.testing.assert_close(joined.at_end, whole.at_end)


def test_what_forward_draws_follows_the_seed():
    starts, course = draw(dropping, "default", X, [0, 0]), Course(5, 16, Adam())
    one = train_in_parts(
        Program(dropping(), MSE, False), starts, [0, 1], (ROWS, ROWS), [1e-2] * 2, [4, 4], course
    )
    assert torch.equal(one.curve[:, 0], one.curve[:, 1])


def test_running_statistics_are_the_replicas_own():
    (_, at_end), _ = both_ways(normed)
    means = at_end.fixed["1.running_mean"]
    assert at_end.fixed["1.num_batches_tracked"].tolist() == [12, 12, 12]
    assert float((means[0] - means[1]).norm()) > 0.01


@pytest.mark.parametrize("way", [0, 1], ids=["together", "alone"])
def test_a_diverged_replica_is_frozen_and_harms_no_other(way):
    steady, _ = both_ways(dense, SGD(momentum=0.9), (1e-2, 1e-2, 1e-2))[way]
    wild, at_end = both_ways(dense, SGD(momentum=0.9), (1e-2, 1e30, 1e-2))[way]
    assert wild.has_diverged.tolist() == [False, True, False]
    assert bool(torch.isfinite(at_end.weights).all())
    assert bool(torch.isnan(wild.curve[-1, 1]))
    for i in (0, 2):
        torch.testing.assert_close(wild.curve[:, i], steady.curve[:, i], rtol=1e-5, atol=1e-7)


def test_training_ends_where_all_have_diverged():
    done = []
    starts = draw(dense, "default", X, [0])
    course = Course(20, 16, SGD())
    made, _ = train(
        Program(dense(), MSE, True), starts, (ROWS, ROWS), [1e30], [0], course, done.append
    )
    assert bool(made.has_diverged.all())
    assert sum(done) == 20


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (dropping, "random numbers"),
        (Branching, "branches on values"),
        (Scaled, r"\.item"),
        (Numpy, "losses computed together differ"),
    ],
)
def test_models_that_must_be_looped_are_and_it_is_said(make, reason):
    found = compare(make, (X, ROWS.y), "mse", ["default"], 4, [1e-2], steps=3)
    assert not found.is_vectorised
    assert re.search(reason, found.why_looped)
    assert found.why_looped in str(found).replace("\n", " ")


def test_what_vmap_does_not_know_is_a_reason_to_loop():
    class Odd(Branching):
        def forward(self, x):
            if x.dim() != 2 or torch._C._functorch.is_batchedtensor(x):
                raise NotImplementedError("not for me")
            return self.layer(x)

    starts = draw(Odd, "default", X, [0, 1])
    assert why_looped(Odd(), MSE, starts, ROWS) == "NotImplementedError: not for me"


def test_a_loss_that_is_not_finite_at_birth_is_no_difference():
    starts = draw(dense, "default", X, [0, 1])
    starts.weights[:] = 1e30
    assert why_looped(dense(), MSE, starts, ROWS) == ""


def deep():
    return nn.Sequential(
        *[m for _ in range(30) for m in (nn.Linear(6, 6), nn.Tanh())], nn.Linear(6, 1)
    )


@pytest.fixture(scope="module")
def known():
    """Torch's default shrinks the variance by 3 in each of 30 layers: nothing comes through."""
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    found = compare(
        deep, (X, X[:, :1]), "mse", ["default", "auto"], 6, [1e-3, 3e-3], steps=60, batch_size=32
    )
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    is_kept = torch.equal(state[0], now[0]) and state[1] == now[1] and (state[2] == now[2]).all()
    return found, is_kept


def test_the_start_that_theory_prefers_wins(known):
    found, _ = known
    assert found.winner == "auto"
    assert found.headline() == "auto trains this model best"
    first, last = found.table
    assert (first.trained_share, last.trained_share) == (1.0, 0.0)
    assert first.mean_loss + 4 * first.standard_error < last.mean_loss
    assert math.isnan(last.window_decades)
    assert first.window_decades >= 0
    (best,) = found.winners
    assert best.comparison.draws == 3
    assert 0.95 < best.confidence <= 1
    # Who learns nothing ends at the best constant output.
    assert last.mean_loss == pytest.approx(found.setting.constant_loss, rel=0.05)


def test_the_global_random_state_stays(known):
    assert known[1]


def test_the_table_is_the_geometric_mean_of_its_draws(known):
    for row in known[0].table:
        logs = np.log(row.losses)
        assert row.mean_loss == pytest.approx(math.exp(logs.mean()), rel=1e-9)
        error = row.mean_loss * logs.std(ddof=1) / math.sqrt(len(logs))
        assert row.standard_error == pytest.approx(error, rel=1e-9)
        assert row.rate == min(row.by_rate, key=lambda one: one[1])[0]


def test_curves_start_near_each_other_and_end_where_the_table_says(known):
    auto, default = known[0].curves
    assert (auto.scheme, auto.steps[-1]) == ("auto", 60)
    assert auto.mean[-1] < 0.5 * default.mean[-1]
    for curve in (auto, default):
        assert all(a <= b <= c for a, b, c in zip(curve.low, curve.mean, curve.high, strict=True))


def test_text_json_and_page(known, tmp_path):
    found, _ = known
    text = str(found)
    assert "auto trains this model best." in text
    assert "0 of 6" in text
    data = json.loads(found.to_json(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert data["winner"] == "auto"
    assert data["table"][1]["window_decades"] is None
    assert data["winners"][0]["comparison"]["verdict"] == "win"
    page = found.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count('class="plot"') == 3
    assert "best constant output" in page


def test_the_same_seed_gives_the_same_numbers():
    one, two = (
        compare(dense, (X, ROWS.y), "mse", ["he", "lsuv"], 4, [1e-2], steps=5, seed=7)
        for _ in range(2)
    )
    assert one == two


def test_linear_scores_and_a_page_for_losses_below_zero(tmp_path):
    def likelihood(outputs, targets):
        return F.gaussian_nll_loss(outputs, targets, torch.full_like(outputs, 0.01)) - 5.0

    found = compare(
        dense, (X, 0.1 * X[:, :1]), likelihood, ["auto", "he"], 4, [1e-2, 3e-2], steps=60
    )
    assert not found.setting.is_log
    assert "units of the typical loss at birth" in str(found).replace("\n", " ")
    row = found.table[0]
    assert row.mean_loss == pytest.approx(np.mean(row.losses), rel=1e-6)
    assert found.to_html(tmp_path / "a.html").stat().st_size > 1000


def test_where_nothing_trains_there_is_no_winner(tmp_path):
    found = compare(deep, (X, normal(120, 1, seed=9)), "mse", ["default", "he"], 4, [1e-9], steps=2)
    assert (found.winner, found.table[0].trained_share) == ("", 0.0)
    assert "No start trains" in found.headline()
    assert "rates tried" not in str(found)


def test_equal_starts_are_level():
    found = compare(dense, (X, ROWS.y), "mse", ["he", "he(mode='fan_in')"], 4, [1e-2], steps=40)
    assert found.winner == ""
    if any(row.trained_share for row in found.table):
        assert "No clear winner" in found.headline()
    assert found.winners[0].confidence == 0.5


def test_a_scheme_that_cannot_serve_is_left_out_with_its_reason():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return (x * self.gain).sum(1, keepdim=True)

    found = compare(Free, (X, ROWS.y), "mse", ["lsuv", "default"], 4, [1e-2], steps=2)
    assert [name for name, _ in found.left_out] == ["lsuv"]
    assert "lsuv was left out: model must have Linear" in str(found)
    assert "only start" in found.headline()
    assert found.winners == ()
    with pytest.raises(ArgumentError, match=r"schemes must hold one that can serve .* 'default'"):
        compare(Free, (X, ROWS.y), "mse", ["lsuv"], 4, [1e-2], steps=2)


def test_an_interruption_returns_what_is_finished(monkeypatch):
    real, calls = compare_units.draw, []

    def draw(make_model, scheme, *rest):
        calls.append(scheme)
        if scheme == "xavier":
            raise KeyboardInterrupt
        return real(make_model, scheme, *rest)

    monkeypatch.setattr(compare_units, "draw", draw)
    given = (X, ROWS.y), "mse"
    found = compare(dense, *given, ["he", "xavier", "auto"], 4, [1e-2], steps=2)
    assert calls == ["he", "he", "xavier"]
    assert not found.is_complete
    assert "Interrupted: only he was done." in str(found)
    with pytest.raises(KeyboardInterrupt):
        compare(dense, *given, ["xavier"], 4, [1e-2], steps=2)


def test_whoever_leads_on_even_draws_is_judged_on_odd_ones():
    lucky, steady = [5.0, 0.0] * 4, [1.0, 1.0] * 4
    found = winner({"lucky": lucky, "steady": steady})
    assert (found.scheme, found.comparison.rival) == ("steady", "lucky")
    assert found.comparison.difference == 1.0
    assert found.comparison.verdict == "win"
    assert found.confidence == 1.0
    a, b = normal(8, seed=1).tolist(), normal(8, seed=2).tolist()
    noisy = winner({"a": a, "b": b})
    gaps = np.subtract(a, b)[1::2] * (1 if noisy.scheme == "a" else -1)
    # By simulation: the share of t-distributed means that lie above 0.
    rng = np.random.default_rng(0)
    ratio = gaps.mean() / (gaps.std(ddof=1) / 2)
    drawn = rng.normal(size=(200_000, 4))
    ts = drawn.mean(1) / (drawn.std(1, ddof=1) / 2)
    assert noisy.confidence == pytest.approx((ts < ratio).mean(), abs=4 * 0.5 / 200_000**0.5)


def test_a_diverged_draw_counts_as_untrained():
    end, birth = torch.tensor([1.0, math.nan, 2.0]), torch.tensor([3.0, 4.0, math.inf])
    lost = torch.tensor([False, False, True])
    ends, births = counted(end, birth, lost, worst_of(end, birth))
    assert (ends.tolist(), births.tolist()) == ([1.0, 4.0, 4.0], [3.0, 4.0, 4.0])
    assert worst_of(torch.tensor([math.nan])) == 1.0
    assert have_trained(end, birth, lost, math.nan, 0.1).tolist() == [True, False, False]
    assert have_trained(end, birth, lost, 1.05, 0.1).tolist() == [False, False, False]


def test_scores_rise_as_losses_fall():
    for scale in (Scale.of([1.0, 2.0], [3.0]), Scale.of([-1.0, 2.0], [-4.0])):
        assert scale.score(0.5) > scale.score(0.6)
        assert scale.loss(scale.score(0.5)) == pytest.approx(0.5)
    assert Scale.of([-1.0], [0.0]).unit == 1.0


def test_the_best_constant_output():
    test = Rows(X[:20], ROWS.y[:20])
    found = constant_loss(torch.zeros(4, 1), MSE, ROWS, test)
    assert found == pytest.approx(float((test.y - ROWS.y.mean()).square().mean()), rel=1e-4)
    labels = torch.arange(120) % 3
    counts = Rows(X, torch.where(labels == 2, 0, labels))
    shares = torch.bincount(counts.y) / 120
    entropy = -float((shares * shares.log()).sum())
    loss = constant_loss(normal(4, 2), F.cross_entropy, counts, counts)
    assert loss == pytest.approx(entropy, rel=1e-4)


def test_where_there_is_no_best_constant():
    labels = Rows(X, torch.arange(120) % 2)
    assert math.isnan(constant_loss(normal(4, 2), F.nll_loss, labels, labels))
    half = Rows(X, torch.ones(120, 1))
    assert math.isnan(constant_loss(torch.full((4, 1), 0.9), F.binary_cross_entropy, half, half))
    assert math.isnan(constant_loss((X, X), MSE, ROWS, ROWS))
    assert math.isnan(constant_loss(torch.zeros(4, 1, dtype=torch.int64), MSE, ROWS, ROWS))
    assert math.isnan(constant_loss(torch.full((4, 1), math.inf), MSE, ROWS, ROWS))


def test_parts_share_no_row_and_follow_the_seed():
    numbers = torch.arange(50)
    training, test = read_rows((numbers, numbers), 0.2, 3)
    assert sorted([*training.x.tolist(), *test.x.tolist()]) == list(range(50))
    assert (len(training), len(test)) == (40, 10)
    assert read_rows((numbers, numbers), 0.2, 3)[1].x.tolist() == test.x.tolist()
    assert read_rows((numbers, numbers), 0.2, 4)[1].x.tolist() != test.x.tolist()
    given = read_rows(((numbers[:9], numbers[:9]), (numbers[9:], numbers[9:])), 0.2, 0)
    assert [len(part) for part in given] == [9, 41]


def test_operations_that_torch_vectorises_badly_bring_no_warning():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(6, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.cell(x, x[:, :4]))

    assert compare(Recurrent, (X, ROWS.y), "mse", ["default"], 4, [1e-2], steps=2).is_vectorised


def test_what_torch_cannot_vectorise_is_looped():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.cell(x[:, None])[0][:, -1])

    found = compare(Recurrent, (X, ROWS.y), "mse", ["default"], 4, [1e-2], steps=2)
    assert "lstm" in found.why_looped


def test_a_model_given_in_double_precision_trains_in_it():
    found = compare(
        lambda: dense().double(), (X.double(), ROWS.y.double()), "mse", ["he"], 4, [1e-2], steps=2
    )
    assert found.is_vectorised


def test_data_stay_where_forward_writes_into_its_input():
    def make():
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 1))

    both = (X[:90].clone(), ROWS.y[:90]), (X[90:].clone(), ROWS.y[90:])
    found = compare(make, both, "mse", ["default", "lsuv", "he"], 4, [1e-2], steps=2)
    assert found.is_vectorised
    assert torch.equal(torch.cat([both[0][0], both[1][0]]), X)


KEPT = dense()
WIDTHS = iter(range(3, 1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": X}, r"data must be \(x, y\) or .* got Tensor of 120\. Return two tensors"),
        ({"data": 3}, r"data must be \(x, y\) or .* got int\. Return"),
        ({"data": (X, [1.0])}, r"data must hold tensors, got list.*torch.as_tensor"),
        ({"data": (X, X[:5])}, r"as many targets as inputs.*\(120, 6\) and \(5, 6\)"),
        ({"data": ((X, X), (X, X[:3]))}, r"data\[1\] must hold as many"),
        ({"test_share": 1.0}, r"test_share must be above 0 .* 120 rows, got 1.0"),
        ({"choosing_share": 0.0}, r"choosing_share must be above 0"),
        ({"loss": "mae"}, r"loss must be one of cross-entropy, mse, got 'mae'"),
        ({"loss": 3}, r"loss must be a function .* got int"),
        ({"data": (X, X[:, 0])}, r"shape of the outputs for loss 'mse', got \(64,\) for \(64, 1\)"),
        ({"loss": lambda o, t: o.nothing}, r"loss must take outputs and targets .*AttributeError"),
        ({"loss": lambda o, t: o}, r"loss must return one number .* got shape \(64, 1\)"),
        ({"loss": lambda o, t: o.mean().detach()}, r"got shape \(\) without gradient"),
        ({"loss": lambda o, t: 1.0}, r"loss must return one number .* got float"),
        ({"make_model": lambda: 3}, r"make_model must return a torch.nn.Module, got int"),
        ({"make_model": lambda: KEPT}, r"new model at each call, got parameter '0.weight' twice"),
        (
            {"make_model": lambda: nn.Linear(6, next(WIDTHS))},
            r"same shapes at each call, got \('weight', \(3, 6\)\) and \('weight', \(4, 6\)\)",
        ),
        ({"make_model": nn.Tanh}, r"model must have parameters that are trained, got none in Tanh"),
        (
            {"make_model": lambda: nn.Linear(6, 1, dtype=torch.complex64)},
            r"parameters must be real .* complex 'weight'",
        ),
        ({"schemes": "auto"}, r"schemes must be a list .* got 'auto'"),
        ({"schemes": []}, r"schemes must be a list of at least one name"),
        ({"schemes": ["autoo"]}, r"schemes must be one of .* got 'autoo'. Did you mean 'auto'"),
        ({"schemes": ["he(mode='up')"]}, r"mode"),
        ({"learning_rates": [1e-2, 1e-3]}, r"learning_rates must rise"),
        ({"learning_rates": [-1.0]}, r"learning_rates must be positive"),
        ({"optimizer": torch.optim.Adam}, r"optimizer must be one of equipoise.lab.optimizers"),
        ({"draws": 3}, r"draws must be an integer of at least 4, got 3"),
        ({"steps": 0}, r"steps must be"),
        ({"batch_size": 0}, r"batch_size must be"),
        ({"seed": -1}, r"seed must be"),
        ({"margin": 2.0}, r"margin must be"),
    ],
)
def test_refusals(changes, message):
    given = {"make_model": dense, "data": (X, ROWS.y), "loss": "mse", "steps": 2}
    with pytest.raises(ArgumentError, match=message):
        compare(**(given | {"schemes": ["default"]} | changes))


def test_a_forward_that_fails_is_named():
    with pytest.raises(TraceError, match=r"forward must take .* shape \(64, 5\).*RuntimeError"):
        compare(dense, (X[:, :5], ROWS.y), "mse", ["default"], 4, [1e-2], steps=2)


def test_sgd_has_rates_of_its_own_and_the_name_is_told():
    found = compare(dense, (X, ROWS.y), "mse", ["default"], 4, steps=2, optimizer=SGD(momentum=0.9))
    assert found.setting.learning_rates == compare_run.SGD_RATES
    assert "SGD with momentum 0.9" in str(found)
    assert trained_parameters(Tied()).keys() >= {"first.weight", "frozen.bias", "idle.weight"}
