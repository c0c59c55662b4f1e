"""Tasks of their own, pieces of a line, shares at the best rate, and the narrow replays."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.lab import narrow_cases, replay_polynomial, replay_score_learning
from equipoise.lab.batched import Replicas, train
from equipoise.lab.best_rate import best_rate
from equipoise.lab.line_pieces import line_pieces
from equipoise.lab.mixtures import Mixture, score_task, three_gaussians
from equipoise.lab.models import mlp
from equipoise.lab.narrow_study import NarrowDraw, fate, train_draws
from equipoise.lab.own_tasks import OwnTasks
from equipoise.lab.regression_tasks import polynomial
from equipoise.lab.replay_data import MODES


def networks(count, depth=4, width=3):
    torch.manual_seed(5)
    make = [mlp([1, *(width,) * depth, 1], lambda: nn.LeakyReLU(0.2)) for _ in range(count)]
    return Replicas.of(make)


def test_replicas_on_tasks_of_their_own_are_trainings_of_their_own():
    tasks = tuple(polynomial(3, rows=96, seed=seed) for seed in (0, 1, 2))
    born = networks(3)
    done = train(born, OwnTasks(tasks), [1e-2, 2e-2, 3e-2], [7, 8, 9], 3, 32)
    for i, task in enumerate(tasks):
        one = Replicas(born.layers, born.parameters[i : i + 1])
        alone = train(one, task, [(1 + i) * 1e-2], [7 + i], 3, 32)
        torch.testing.assert_close(
            done.replicas.parameters[i], alone.replicas.parameters[0], rtol=1e-4, atol=1e-5
        )
        assert float(done.score[i]) == pytest.approx(float(alone.score[0]), abs=1e-4)


def test_tasks_of_their_own_hold_back_rows_and_say_what_they_are():
    own = OwnTasks((polynomial(3, rows=96), polynomial(3, rows=96, seed=1)))
    assert (own.rows, own.features, own.outputs, own.needs_derivatives) == (96, 1, 1, False)
    assert own.score_name == "variance explained"
    assert len(own.validation(16).x_train) == 80
    assert len(own.x_test) == 48
    assert float(own.scores(lambda x: torch.full((2, x.shape[1], 1), math.inf))[0]) == -math.inf


def test_tasks_of_several_shapes_are_refused():
    with pytest.raises(ArgumentError, match="tasks must be one or more of one shape, got 2 of 2"):
        OwnTasks((polynomial(3, rows=96), polynomial(3, rows=64)))
    with pytest.raises(ArgumentError, match="tasks must be one or more of one shape, got 0"):
        OwnTasks(())


def test_pieces_are_counted_by_their_slopes():
    replicas = networks(6).parameters.double(), networks(6).layers
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)[:, None]
    nets = Replicas(replicas[1], replicas[0])
    with torch.no_grad():
        y = nets.forward(x)[..., 0].numpy()
    slopes = np.diff(y, axis=1) / np.diff(x[:, 0].numpy())
    pieces, known = line_pieces(nets, x)
    for i in range(6):
        # A kink between two inputs makes a slope between those of its two sides.
        changes = np.abs(np.diff(slopes[i])) > 1e-9 * np.abs(slopes[i]).max()
        starts = changes & ~np.concatenate([[False], changes[:-1]])
        assert int(pieces[i]) == 1 + int(starts.sum())
    assert bool(((known >= 0) & (known <= 1 + 1e-9)).all())


def test_what_the_last_layer_knows_is_a_regression():
    net = mlp([1, 2, 1], nn.ReLU)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1e-12], [0.0]]))
        net[0].bias.zero_()
    x = torch.linspace(-1, 1, 401)[:, None]
    _, known = line_pieces(Replicas.of([net]), x)
    told = stats.pearsonr(x[:, 0].numpy(), x[:, 0].clamp(min=0).numpy()).statistic ** 2
    assert float(known[0]) == pytest.approx(told, abs=1e-6)
    with torch.no_grad():
        net[0].bias.fill_(-1.0)
    assert float(line_pieces(Replicas.of([net]), x)[1][0]) == 0.0


@pytest.mark.parametrize("net", [mlp([1, 2, 1], nn.Tanh), mlp([2, 2, 1], nn.ReLU)])
def test_pieces_of_others_are_not_counted(net):
    with pytest.raises(ArgumentError, match="replicas must be networks of one input"):
        line_pieces(Replicas.of([net]), torch.zeros(5, 1))


def test_the_rate_of_a_draw_is_chosen_by_the_others():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(15, 4)).tolist()
    rates = (1e-3, 2e-3, 3e-3, 4e-3)
    solved = np.array(scores) > 0.6
    together = best_rate(scores, rates, 0.6, 0.5)
    assert together.share.mean == pytest.approx(solved.mean(0).max())
    assert together.rate == rates[int(solved.mean(0).argmax())]
    n = together.share.draws
    spread = math.sqrt(together.share.mean * (1 - together.share.mean) / n)
    assert together.share.standard_error == pytest.approx(spread)
    assert together.share.reference == 0.5
    picked = [solved[i, np.delete(solved, i, 0).mean(0).argmax()] for i in range(15)]
    assert best_rate(scores, rates, 0.6, is_apart=True).share.mean == pytest.approx(np.mean(picked))
    with pytest.raises(ArgumentError, match="scores must have a row of 4 numbers for each draw"):
        best_rate([[1.0]], rates, 0.5)


def test_the_score_of_a_mixture_is_the_slope_of_its_log_density():
    mixture = three_gaussians(4)
    x, h = np.linspace(-3, 3, 31), 1e-5

    def log_density(x):
        parts = zip(mixture.weights, mixture.means, mixture.stds, strict=True)
        return np.log(sum(w * stats.norm(m, s).pdf(x) for w, m, s in parts))

    slope = (log_density(x + h) - log_density(x - h)) / (2 * h)
    np.testing.assert_allclose(mixture.score(x), slope, atol=1e-7)
    drawn = mixture.samples(np.random.default_rng(0), 200_000)
    mean = sum(w * m for w, m in zip(mixture.weights, mixture.means, strict=True))
    assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / math.sqrt(200_000))


def test_the_floor_of_score_matching_is_what_the_exact_score_leaves():
    mixture, noise, rows = three_gaussians(), 0.3, 40_000
    made = score_task(mixture, noise, rows, 1)
    task = made.task
    assert float(task.x_train.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(task.x_train.std()) == pytest.approx(1.0, abs=1e-4)
    # E e^2 = 1 is what the score explains, whose mean square is 1 here, and the floor.
    size = float(task.y_train.square().mean())
    assert size == pytest.approx(1.0 + made.floor, rel=0.03)
    assert float(task.y_test.square().mean()) == pytest.approx(1.0, abs=0.05)
    # Neighbours see the same score: noise averages out.
    order = task.x_train[:, 0].argsort()
    bins = task.y_train[order, 0].view(200, -1).mean(1)
    test_order = task.x_test[:, 0].argsort()
    exact = np.interp(
        task.x_train[order, 0].view(200, -1).mean(1), task.x_test[test_order, 0],
        task.y_test[test_order, 0],
    )  # fmt: skip
    assert np.corrcoef(bins.numpy(), exact)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mixture((1.0,), (0.0, 1.0), (1.0,)), "weights, means and stds must be of one"),
        (lambda: Mixture((0.5,), (0.0,), (1.0,)), "weights must have the sum 1, got 0.5"),
        (lambda: Mixture((1.0,), (0.0,), (0.0,)), "stds must be positive"),
        (lambda: three_gaussians(-2), "seed must be"),
        (lambda: score_task(three_gaussians(), 0.0, 100, 0), "noise must be positive"),
        (lambda: score_task(three_gaussians(), 0.3, 5, 0), "rows must be"),
    ],
)
def test_mixtures_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_fates():
    draw = NarrowDraw("he", 0, 1, 1.0, (0.95, 0.3, 0.3, -math.inf), (1.0, 1.0, 0.8, math.nan),
                      (5, 4, 1, 1))  # fmt: skip
    assert [fate(draw, i, 0.9) for i in range(4)] == ["solved", "bent", "straight", "silent"]


def test_a_method_that_cannot_start_the_network_is_named():
    with pytest.raises(PlanError, match="odd"):
        train_draws(2, 3, "relu", ("odd_sigmoid",), (1e-3,), (0,), [polynomial(2, rows=64)], 1)


def small(replay, monkeypatch):
    for module in (replay, narrow_cases):
        monkeypatch.setattr(module, "ROWS", 128)
    monkeypatch.setattr(replay, "DEPTH", 12)
    monkeypatch.setattr(narrow_cases, "_STEPS", {"quick": 4, "paper": 4})
    monkeypatch.setattr(narrow_cases, "SLOPES", (0.5,))
    units = narrow_cases.units("quick", MODES, range(3))
    return [(a, replay.trained(a)) for a in units.values()]


@pytest.mark.parametrize("replay", [replay_polynomial, replay_score_learning])
def test_findings_say_what_was_trained(replay, monkeypatch):
    done = small(replay, monkeypatch)
    assert {d["method"] for _, r in done for d in r} == set(narrow_cases.METHODS.values())
    found = replay.findings(done, MODES)
    assert "share" in found.headline
    for table in found.tables:
        names = {row.names[-1] if table.names[0] == "slope" else row.names[0] for row in table.rows}
        assert names == set(narrow_cases.METHODS)
        assert all(len(row.values) == len(table.quantities) for row in table.rows)
    alone = replay.findings([d for d in done if d[0]["mode"] == "faithful"], ("faithful",))
    assert len(alone.tables) == 1


def test_shares_and_fates_of_the_polynomial():
    def drawn(method, seed, *scores):
        return {
            "method": method, "seed": seed, "born_pieces": 1, "born_known": 1.0,
            "scores": list(scores), "spread": [1.0] * 2, "pieces": [1, 7],
        }  # fmt: skip

    given = {"slope": 0.5, "rates": [1e-3, 3e-3], "steps": 1}
    results = [
        draw
        for method in ("lyapunov", "shifted", "auto")
        for draw in (
            drawn(method, 0, 0.99, 0.0), drawn(method, 1, 0.95, 0.0), drawn(method, 2, 0.2, 0.99),
        )
    ]  # fmt: skip
    done = [({**given, "mode": mode}, results) for mode in MODES]
    shares, apart, fates, birth = replay_polynomial.findings(done, MODES).tables
    assert shares.rows[0].names == ("Lyapunov, Gaussian", "0.001")
    assert shares.rows[0].values[0].mean == pytest.approx(2 / 3)
    assert shares.rows[0].values[0].reference == 0.91
    assert math.isnan(apart.rows[0].values[0].reference)
    # Without the first draw both rates solve one: the lower one is taken, which it solves too.
    assert apart.rows[0].values[0].mean == pytest.approx(2 / 3)
    assert [value.mean for value in fates.rows[0].values] == pytest.approx([2 / 3, 0, 1 / 3, 0])
    assert birth.rows[0].values[0].mean == 1.0
