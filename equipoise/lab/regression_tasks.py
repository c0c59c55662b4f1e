"""Regression tasks that need no download: diabetes, Friedman's functions, polynomials, a sine."""

import math
from itertools import combinations_with_replacement

import numpy as np
from sklearn.datasets import load_diabetes

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.regression import Regression, standardized

_ROWS = 2000
# A row of the design matrix for each input: 3,000 inputs times these are 240 MB.
MOST_TERMS = 10_000
MOST_DEGREE = 20


def diabetes(train_rows: int = 342, seed: int = 0) -> Regression:
    """Progress of diabetes within a year, bundled with scikit-learn: 442 patients, 10 inputs.

    Inputs are as measured (age, sex, body mass index, blood pressure, six blood sera) before they
    are standardized by the training part: scikit-learn's scaled copy has seen the test part.

    Args:
        train_rows: rows to train on, 20 to 422; the others are the test part.
        seed: of the shuffle before the split.

    Returns:
        The task.

    Source: Efron et al. 2004, Least angle regression.

    >>> task = diabetes()
    >>> task.x_train.shape, len(task.x_test)
    (torch.Size([342, 10]), 100)
    """
    _checks.at_least("seed", seed, 0)
    if _checks.at_least("train_rows", train_rows, 20) > 422:
        raise ArgumentError(f"train_rows must be 20 to 422, got {train_rows}. Take fewer.")
    raw = load_diabetes(scaled=False)
    order = np.random.default_rng(seed).permutation(len(raw.target))
    return standardized(raw.data[order], raw.target[order], train_rows)


def friedman(function: int = 1, rows: int = _ROWS, seed: int = 0) -> Regression:
    """One of Friedman's three functions, without noise.

    1: 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5, ten inputs uniform on (0, 1), of which
    five say nothing.
    2: sqrt(x1^2 + z^2), 3: arctan(z / x1), with z = x2 x3 - 1 / (x2 x4); four inputs uniform on
    (0, 100), (40 pi, 560 pi), (0, 1) and (1, 11): impedance and phase of a circuit.

    Args:
        function: 1, 2 or 3.
        rows: of the training part; the test part has half as many.
        seed: of the inputs.

    Returns:
        The task. ``with_target_noise(1 / 3)`` has the published ratio of signal to noise for
        functions 2 and 3, ``with_target_noise(0.2)`` nearly that of function 1.

    Source: Friedman 1991, Multivariate adaptive regression splines.

    >>> friedman(2).x_train.shape
    torch.Size([2000, 4])
    """
    if function not in (1, 2, 3):
        raise ArgumentError(f"function must be 1, 2 or 3, got {function!r}. Pass one of them.")
    rng, count = _start(rows, seed)
    if function == 1:
        x = rng.uniform(0.0, 1.0, (count, 10))
        y = (
            10 * np.sin(math.pi * x[:, 0] * x[:, 1])
            + 20 * (x[:, 2] - 0.5) ** 2
            + 10 * x[:, 3]
            + 5 * x[:, 4]
        )
        return standardized(x, y, rows)
    x = rng.uniform([0, 40 * math.pi, 0, 1], [100, 560 * math.pi, 1, 11], (count, 4))
    z = x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])
    y = np.hypot(x[:, 0], z) if function == 2 else np.arctan2(z, x[:, 0])
    return standardized(x, y, rows)


def polynomial(degree: int = 5, inputs: int = 1, rows: int = _ROWS, seed: int = 0) -> Regression:
    """A random polynomial: every monomial up to the degree has a standard normal coefficient.

    Inputs are independent and uniform with mean 0 and variance 1, so on (-sqrt 3, sqrt 3): normal
    ones would put most of the variance into a few rows far out. Networks of width 2 and depth 40
    are studied on polynomials of degree 5; how coefficients and inputs are drawn is a choice made
    here. Such a task counts as solved at a test error below 0.1, a score above 0.9 or so.

    Args:
        degree: 1 to 20.
        inputs: number of variables, at least 1; there may be 10,000 monomials in all.
        rows: of the training part; the test part has half as many.
        seed: of everything random: each seed is another polynomial.

    Returns:
        The task.

    Raises:
        ArgumentError: if a number is out of range, or there are too many monomials.

    Source: Kogler, Schwarz and Kittle 2026, arXiv 2602.10949.

    >>> polynomial(degree=3, inputs=2).x_train.shape
    torch.Size([2000, 2])
    """
    if _checks.at_least("degree", degree, 1) > MOST_DEGREE:
        raise ArgumentError(
            f"degree must be at most {MOST_DEGREE}, got {degree}. Pass a lower one: beyond, all "
            "the variance lies at the ends."
        )
    _checks.at_least("inputs", inputs, 1)
    terms = math.comb(inputs + degree, degree)
    if terms > MOST_TERMS:
        raise ArgumentError(
            f"inputs must leave at most {MOST_TERMS} monomials, got {inputs}, which have {terms} "
            f"up to degree {degree}. Pass fewer, or a lower degree."
        )
    rng, count = _start(rows, seed)
    x = rng.uniform(-math.sqrt(3), math.sqrt(3), (count, inputs))
    y = np.zeros(count)
    for order in range(degree + 1):
        for variables in combinations_with_replacement(range(inputs), order):
            y += rng.standard_normal() * x[:, list(variables)].prod(axis=1)
    return standardized(x, y, rows)


def sine(frequency: float = 4.0, rows: int = _ROWS, seed: int = 0) -> Regression:
    """A fast sine of one input: y = sin(2 pi frequency u), u uniform on (-1/2, 1/2).

    Networks learn low frequencies first, so that a high one tells starts apart that all learn a
    slow one.

    Args:
        frequency: periods over the range of the input, positive, at most a quarter of ``rows``:
            4 rows for each period, on average.
        rows: of the training part; the test part has half as many.
        seed: of the inputs.

    Returns:
        The task.

    Raises:
        ArgumentError: if a number is out of range.

    Source: Rahaman et al. 2019, arXiv 1806.08734.

    >>> sine(frequency=8).y_test.shape
    torch.Size([1000, 1])
    """
    _checks.positive("frequency", frequency)
    rng, count = _start(rows, seed)
    if frequency > rows / 4:
        raise ArgumentError(
            f"frequency must be at most a quarter of the {rows} rows, so that they can show it, "
            f"got {frequency}. Pass a lower one, or more rows."
        )
    u = rng.uniform(-0.5, 0.5, (count, 1))
    return standardized(u, np.sin(math.tau * frequency * u), rows)


def _start(rows: int, seed: int) -> tuple[np.random.Generator, int]:
    """The generator, and the number of rows in all: half as many again to test on."""
    _checks.at_least("rows", rows, 10)
    _checks.at_least("seed", seed, 0)
    return np.random.default_rng(seed), rows + rows // 2
