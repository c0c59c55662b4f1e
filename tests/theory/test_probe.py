"""Functions that are known only by their values."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.activations import known_activations
from equipoise.theory.hermite import statistics
from equipoise.theory.oddpart import ActivationClass, classify
from equipoise.theory.probe import probe


@pytest.mark.parametrize("known", known_activations(), ids=str)
def test_known_activations_are_recognized(known):
    assert probe(lambda x: known.f(x)) is known


def test_single_precision_is_enough_to_recognize():
    found = probe(lambda x: (x / (1 + np.abs(x))).astype(np.float32))
    assert found is activations.softsign()


def test_torch_functions_can_be_probed():
    found = probe(lambda x: torch.nn.functional.silu(torch.from_numpy(x)).numpy())
    assert found is activations.silu()


def test_unknown_functions_keep_their_name_and_values():
    def f(x):
        return x / (1 + np.abs(x)) + 0.1 * x

    found = probe(f, "mine")
    x = np.linspace(-5, 5, 30)
    assert found.name == "mine"
    np.testing.assert_array_equal(found.f(x), f(x))


def test_derivative_by_differences():
    found = probe(lambda x: np.tanh(1.3 * x))
    x = np.linspace(-6, 6, 101)
    exact = 1.3 / np.cosh(1.3 * x) ** 2
    np.testing.assert_allclose(found.df(x), exact, atol=2e-9)
    wide = probe(lambda x: x + 0.01 * x * x)
    far = np.array([-1e4, 20.0, 1e4])
    np.testing.assert_allclose(wide.df(far), 1 + 0.02 * far, rtol=1e-8)


def test_a_given_derivative_is_used():
    found = probe(lambda x: np.tanh(1.3 * x), df=lambda x: 7.0 + 0 * x)
    assert found.df(np.zeros(2)).tolist() == [7.0, 7.0]


def test_statistics_of_a_probed_function():
    """erf(x / 2): the closed forms of erf, at a quarter of the level."""
    found = probe(lambda x: special.erf(x / 2))
    q = 1.7
    s = statistics(found, q)
    r = q / 4
    assert s.second_moment == pytest.approx(2 / math.pi * math.asin(2 * r / (1 + 2 * r)), rel=1e-8)
    assert s.slope_energy == pytest.approx(1 / math.pi / math.sqrt(1 + 4 * r), rel=1e-8)
    assert classify(found).kind is ActivationClass.CENTRE


@pytest.mark.parametrize(
    ("f", "kinks"),
    [
        (lambda x: np.maximum(x, 0.3 * x), (0.0,)),
        (lambda x: np.maximum(x, 0.98 * x), (0.0,)),
        (lambda x: np.clip(x, -2.5, 2.5), (-2.5, 2.5)),
        (lambda x: np.clip(x, -1.2345, 0.7), (-1.2345, 0.7)),
        (lambda x: np.abs(x - 1.001) + np.tanh(x), (1.001,)),
        (lambda x: np.maximum(np.tanh(x), -0.5), (-math.atanh(0.5),)),
        (lambda x: np.where(x > 0, x, 0.4 * np.expm1(x)), (0.0,)),
        (lambda x: np.tanh(0.7 * x), ()),
        (lambda x: np.sin(3 * x), ()),
    ],
)
def test_kinks(f, kinks):
    found = probe(f)
    assert found.jumps == ()
    np.testing.assert_allclose(found.kinks, kinks, atol=2e-5)


@pytest.mark.parametrize(
    ("f", "jumps"),
    [
        (lambda x: np.where(np.abs(x) > 1.3, x, 0.0), (-1.3, 1.3)),
        (lambda x: np.tanh(x) + (x > 0.7), (0.7,)),
        (np.sign, (0.0,)),
        (lambda x: x + np.where(x > 2.0, 0.01, 0.0), (2.0,)),
    ],
)
def test_jumps(f, jumps):
    found = probe(f)
    assert found.kinks == ()
    np.testing.assert_allclose(found.jumps, jumps, atol=2e-5)
    assert classify(found).kind is ActivationClass.NEITHER


def test_steps_that_single_precision_makes_are_none():
    """As torch's softplus: above 20 it is its argument, 2.1e-9 away."""
    found = probe(lambda x: np.where(x > 20.0, x, np.logaddexp(0.0, x)))
    assert found.jumps == ()
    assert statistics(found, 1.0).slope_energy == pytest.approx(
        statistics(activations.softplus(), 1.0).slope_energy, rel=1e-6
    )
    assert probe(lambda x: np.logaddexp(0.0, x / 2) + 1e-5 * (x > 20.0)).jumps == (20.0,)


@pytest.mark.parametrize("bound", [7.5, 12.0, 25.0])
def test_kinks_on_the_whole_stated_range(bound):
    """Everything on [-30, 30] is said to be seen."""
    np.testing.assert_allclose(probe(lambda x: np.clip(x, -bound, bound)).kinks, [-bound, bound])


@pytest.mark.parametrize(
    ("f", "parity"),
    [
        (lambda x: np.tanh(2 * x), "odd"),
        (lambda x: x**3, "odd"),
        (np.abs, "even"),
        (np.cos, "even"),
        (lambda x: np.tanh(x) + 1e-3 * x * x, "none"),
        (lambda x: 1 + np.tanh(x), "none"),
        (np.zeros_like, "none"),
    ],
)
def test_parity(f, parity):
    assert probe(f).parity == parity


@pytest.mark.parametrize(
    ("f", "left", "right"),
    [
        (lambda x: np.maximum(x, 0.3 * x), 0.3, 1.0),
        (lambda x: np.tanh(1.7 * x), 1.7, 1.7),
        (lambda x: 5 + 0.25 * np.where(x > 0, 2 * x, -x), -0.25, 0.5),
        (lambda x: 1 / (1 + np.exp(-2 * x)), 0.5, 0.5),
        (lambda x: x**3, 0.0, 0.0),
    ],
)
def test_slopes(f, left, right):
    found = probe(f)
    assert found.slope_left == pytest.approx(left, abs=1e-6)
    assert found.slope_right == pytest.approx(right, abs=1e-6)


def test_a_probed_gate_is_mirrored():
    """x Phi(2 x) is no known member, but a gate all the same."""
    found = probe(lambda x: x * special.ndtr(2 * x))
    assert found.name == "probed"
    assert classify(found).kind is ActivationClass.MIRROR


def test_shape_must_be_kept():
    with pytest.raises(ArgumentError, match="must keep the shape"):
        probe(lambda x: x[:, None], "wide")
    with pytest.raises(ArgumentError, match="must keep the shape"):
        probe(np.sum, "total")


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(
    "f",
    [np.cumsum, _softmax, lambda x: (x - x.mean()) / x.std(), lambda x: x / np.linalg.norm(x)],
    ids=["cumsum", "softmax", "standardize", "normalize"],
)
def test_entries_must_not_mix(f):
    with pytest.raises(ArgumentError, match="must be pointwise"):
        probe(f, "mixer")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "f",
    [np.log, np.sqrt, lambda x: np.exp(x**3), lambda x: 1 / x, lambda x: x * np.log(np.abs(x))],
    ids=["log", "sqrt", "overflow", "pole at 0", "hole at 0"],
)
def test_values_must_be_finite(f):
    with pytest.raises(ArgumentError, match=r"must be finite on \[-30, 30\]"):
        probe(f, "wild")
