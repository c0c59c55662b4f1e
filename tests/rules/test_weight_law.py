"""What a weight looks like: where each test draws its line, and what drawn matrices give."""

from dataclasses import replace

import numpy as np
import pytest

from equipoise.rules.weight_law import WeightFacts, law_of

# Independent entries of a 64 x 64 matrix have an evenness of (64 + 64 + 1) / 64 = 2.0156.
FACTS = WeightFacts("w", 64, 64, 1, 0.0, 0.1, 0.0, 129 / 64, 0.4, 1.0, 0.02, 0.0)


def test_the_evenness_of_independent_entries_is_that_of_drawn_matrices():
    """E n tr(G^2) / (tr G)^2 = n m (n + m + 1) n / (n m (n m + 2)), n the shorter side."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        w = rng.normal(size=(6, 10))
        gram = w @ w.T
        found.append(6 * np.square(gram).sum() / np.trace(gram) ** 2)
    exact = 6 * (6 + 10 + 1) / (6 * 10 + 2)
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / 4000**0.5)
    # The rule's (n + m + 1) / m is this for all but small weights.
    assert exact == pytest.approx(17 / 10, rel=2 / 60)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({}, "gaussian"),
        # Six standard deviations of 2 / 64, and 0.02.
        ({"evenness": 129 / 64 + 0.207}, "gaussian"),
        ({"evenness": 129 / 64 + 0.208}, ""),
        ({"evenness": 129 / 64 - 0.207}, "gaussian"),
        ({"evenness": 129 / 64 - 0.208}, ""),
        ({"evenness": 1 + 9e-5}, "haar"),
        ({"evenness": 1 + 2e-4}, ""),
        # Six standard errors of a mean over 4,096 entries of 0.1.
        ({"mean": 0.0093}, "gaussian"),
        ({"mean": -0.0095}, ""),
        ({"kurtosis": 2.9, "evenness": (129 + 2.9) / 64}, "gaussian"),
        ({"kurtosis": 3.1, "evenness": (129 + 3.1) / 64}, ""),
        ({"coupling": 1.139}, "gaussian"),
        ({"coupling": 1.141}, ""),
        ({"nearest": 0.97}, "gaussian"),
        ({"nearest": 0.99}, ""),
        ({"std": 0.0}, ""),
        ({"std": float("nan")}, ""),
        ({"rows": 0}, ""),
    ],
)
def test_each_test_has_its_line(change, law):
    found, reason = law_of(replace(FACTS, **change))
    assert found == law
    assert (reason == "") is (law != "")
    assert not reason or "'w'" in reason
