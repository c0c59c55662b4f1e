"""Regression tasks against scikit-learn's functions, interpolation and linear models."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from equipoise.errors import ArgumentError
from equipoise.lab.regression import Regression, standardized
from equipoise.lab.regression_tasks import diabetes, friedman, polynomial, sine

DRAWN = {
    "friedman 1": lambda **k: friedman(1, **k),
    "friedman 2": lambda **k: friedman(2, **k),
    "friedman 3": lambda **k: friedman(3, **k),
    "polynomial": lambda **k: polynomial(**k),
    "polynomial of 3": lambda **k: polynomial(inputs=3, **k),
    "sine": lambda **k: sine(**k),
}


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_tasks_are_standardized_and_repeat(name):
    task, again, other = DRAWN[name](), DRAWN[name](), DRAWN[name](seed=1)
    assert isinstance(task, Regression)
    assert (task.rows, len(task.x_test), task.outputs) == (2000, 1000, 1)
    for part in (task.x_train, task.y_train):
        assert torch.allclose(part.mean(0), torch.zeros(part.shape[1]), atol=1e-5)
        assert torch.allclose(part.square().mean(0), torch.ones(part.shape[1]), atol=1e-4)
    assert torch.equal(task.x_train, again.x_train)
    assert torch.equal(task.y_test, again.y_test)
    assert not torch.equal(task.x_train, other.x_train)
    assert len(DRAWN[name](rows=100).x_test) == 50


def score(task, model):
    model.fit(task.x_train.numpy(), task.y_train.numpy())
    return model.score(task.x_test.numpy(), task.y_test.numpy())


@pytest.mark.parametrize("name", DRAWN)
def test_no_linear_model_solves_them(name):
    assert score(DRAWN[name](), LinearRegression()) < 0.9


class Given(np.random.RandomState):
    """Hands scikit-learn the points that it would draw."""

    points: np.ndarray

    def uniform(self, size):
        assert size == self.points.shape
        return self.points.copy()


@pytest.mark.parametrize(
    ("function", "peer", "features"),
    [(1, make_friedman1, 10), (2, make_friedman2, 4), (3, make_friedman3, 4)],
)
def test_friedman_functions_are_those_of_scikit_learn(function, peer, features):
    given = Given()
    given.points = np.random.default_rng(7).uniform(size=(300, features))
    theirs = standardized(*peer(n_samples=300, random_state=given), 200)
    ours = friedman(function, rows=200, seed=7)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.allclose(getattr(ours, part), getattr(theirs, part), rtol=1e-5, atol=1e-5)


def test_five_inputs_of_the_first_friedman_function_say_nothing():
    task = friedman(1)
    slopes = LinearRegression().fit(task.x_train.numpy(), task.y_train.numpy()).coef_.ravel()
    assert np.abs(slopes[5:]).max() < 4 / math.sqrt(2000)
    assert slopes[3] > 0.4


@pytest.mark.parametrize(("degree", "inputs"), [(1, 1), (5, 1), (3, 2), (2, 4)])
def test_polynomials_have_their_degree(degree, inputs):
    """A least-squares fit of the degree is exact, and one of a lower degree is not."""
    task = polynomial(degree, inputs, rows=400, seed=3)
    assert score(task, make_pipeline(PolynomialFeatures(degree), LinearRegression())) > 1 - 1e-6
    if degree > 1:
        lower = make_pipeline(PolynomialFeatures(degree - 1), LinearRegression())
        assert score(task, lower) < 0.999


def test_polynomial_coefficients_are_standard_normal():
    """In a x + b x^2, a line misses 0.8 b^2 / (a^2 + 0.8 b^2): Var(x^2) = 9 / 5 - 1."""
    missed = []
    for seed in range(200):
        task = polynomial(2, 1, 200, seed)
        linear = LinearRegression().fit(task.x_train.numpy(), task.y_train.numpy())
        missed.append(1 - linear.score(task.x_train.numpy(), task.y_train.numpy()))
    a, b = np.random.default_rng(1).standard_normal((2, 100_000))
    expected = 0.8 * b**2 / (a**2 + 0.8 * b**2)
    assert abs(np.mean(missed) - expected.mean()) < 4 * expected.std() / math.sqrt(200)
    # In a x, only the sign of a is left.
    tasks = [polynomial(1, 1, 10, seed) for seed in range(400)]
    rising = [float(task.x_train[0, 0] * task.y_train[0, 0]) > 0 for task in tasks]
    assert abs(np.mean(rising) - 0.5) < 4 * 0.5 / math.sqrt(400)


@pytest.mark.parametrize("frequency", [1.0, 8.0])
def test_sines_have_their_frequency(frequency):
    task = sine(frequency, rows=4000)
    x, y = task.x_train[:, 0].double().numpy(), task.y_train[:, 0].double().numpy()
    # The input is uniform on (-1/2, 1/2), with standard deviation 1 / sqrt 12; the phase is free
    # and so is the frequency within what chance does to that standard deviation.
    grid = frequency * np.linspace(0.97, 1.03, 121)
    best = 0.0
    for f in grid:
        u = math.tau * f * x / math.sqrt(12)
        waves = np.stack([np.sin(u), np.cos(u)], axis=1)
        best = max(best, LinearRegression().fit(waves, y).score(waves, y))
    assert best > 0.999
    assert score(sine(8.0), LinearRegression()) < 0.1


def test_diabetes_is_the_bundled_table_split_for_good():
    task = diabetes()
    assert (task.rows, len(task.x_test), task.features, task.outputs) == (342, 100, 10, 1)
    raw = load_diabetes(scaled=False)
    y = torch.cat([task.y_train, task.y_test])[:, 0].double().numpy()
    # The same targets up to order, shift and scale.
    assert np.allclose(
        (np.sort(y) - y.mean()) / y.std(),
        (np.sort(raw.target) - raw.target.mean()) / raw.target.std(),
        atol=1e-5,
    )
    assert torch.allclose(task.x_train.square().mean(0), torch.ones(10), atol=1e-5)
    # Published fits explain about half of the variance.
    scores = [score(diabetes(seed=seed), LinearRegression()) for seed in range(8)]
    assert 0.35 < np.mean(scores) < 0.6
    assert not torch.equal(diabetes(seed=1).y_train, task.y_train)
    assert len(diabetes(train_rows=42).x_test) == 400


BAD = [
    (lambda: diabetes(train_rows=10), "train_rows must be"),
    (lambda: diabetes(train_rows=430), "train_rows must be 20 to 422"),
    (lambda: diabetes(seed=-1), "seed must be"),
    (lambda: friedman(4), "function must be 1, 2 or 3, got 4"),
    (lambda: friedman(1, rows=3), "rows must be"),
    (lambda: friedman(1, seed=-1), "seed must be"),
    (lambda: polynomial(degree=0), "degree must be"),
    (lambda: polynomial(degree=21), "degree must be at most 20"),
    (lambda: polynomial(inputs=0), "inputs must be"),
    (lambda: polynomial(degree=5, inputs=30), "inputs must leave at most 10000 monomials"),
    (lambda: sine(0.0), "frequency must be positive"),
    (lambda: sine(600.0), "frequency must be at most a quarter of the 2000 rows"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
