"""The law of networks of sines (arXiv 2006.09661)."""

import math

import numpy as np
import pytest
from scipy import stats

from equipoise.errors import ArgumentError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.fans import Fans
from equipoise.schemes.siren import (
    cosine_frequency,
    frequency_of,
    sine_frequency,
    siren,
    siren_phase,
)
from equipoise.theory import activations
from equipoise.theory.probe import probe


@pytest.mark.parametrize("w", [0.3, 1.0, 2 * math.pi, 30.0, 300.0])
def test_frequencies_of_probed_functions_are_found(w):
    sine = probe(lambda x: np.sin(w * x), "s", lambda x: w * np.cos(w * x))
    cosine = probe(lambda x: np.cos(w * x), "c", lambda x: -w * np.sin(w * x))
    assert sine_frequency(sine) == pytest.approx(w, rel=1e-6)
    assert cosine_frequency(cosine) == pytest.approx(w, rel=1e-6)
    assert sine_frequency(cosine) == cosine_frequency(sine) == 0.0


@pytest.mark.parametrize("name", ["tanh", "erf", "relu", "gelu", "identity", "sigmoid", "softsign"])
def test_other_functions_are_no_sines(name):
    f = getattr(activations, name)()
    assert sine_frequency(f) == cosine_frequency(f) == 0.0


def test_even_functions_that_start_at_1_are_no_cosines():
    one = probe(lambda x: np.ones_like(x), "one", np.zeros_like)
    bell = probe(lambda x: np.exp(-x * x), "bell", lambda x: -2 * x * np.exp(-x * x))
    assert cosine_frequency(one) == cosine_frequency(bell) == 0.0


def test_sines_of_spread_phases_are_passed_on_at_variance_one():
    w, n = 30.0, 512
    law = siren(Fans(n, n), w)
    weight = draw(law, "w", (n, n), Streams(0))
    h = np.sin(np.random.default_rng(0).uniform(0, 2 * math.pi, (n, 400)))
    z = w * (weight @ h)
    # Entries of a column share inputs and entries of a row share weights: the smaller count rules.
    assert float(np.mean(z**2)) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 400))


def test_entries_are_uniform():
    w = draw(siren(Fans(2, 400), 30.0, is_first=True), "w", (400, 2), Streams(1)).ravel()
    assert stats.kstest(w, stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3
    assert siren(Fans(3, 9), 30.0, is_first=True, first=6.0).bound == 2.0
    assert siren(Fans(24, 9), 5.0, c=24.0).bound == pytest.approx(0.2)
    assert siren_phase(Fans(16, 9)).bound == 0.25


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"frequency": 0.0}, "frequency"),
        ({"c": -1.0}, "c must be"),
        ({"first": math.nan}, "first"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(ArgumentError, match=words):
        siren(Fans(4, 4), **given)


def test_what_the_law_divides_by():
    assert frequency_of(activations.sin(7.0)) == 7.0
    assert frequency_of(activations.tanh()) == 1.0
    for f in (activations.relu(), activations.sigmoid()):
        with pytest.raises(ArgumentError, match="must serve sines"):
            frequency_of(f)
