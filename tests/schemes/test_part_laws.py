"""Several matrices in one parameter: gates above each other, experts behind each other."""

import json

import numpy as np
import pytest

from equipoise.errors import ArgumentError, PlanError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import Constant, Normal, Orthogonal, Turned, Zero
from equipoise.schemes.louder import louder
from equipoise.schemes.part_laws import Blocks, Chrono, Each, Rows

GATES = Blocks((Chrono(50, -1.0), Chrono(50), Zero(), Constant(2.0)))
LAWS = [
    GATES, Blocks((Orthogonal(0.5),) * 3), Each(Orthogonal(2.0)), Each(Turned(Normal(0.1))),
    Rows(Orthogonal(1.0), 0.5, ((0, 1), (3, 4))),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=describe)
def test_laws_survive_json(law):
    assert law_from_dict(json.loads(json.dumps(law_to_dict(law)))) == law


def test_words():
    assert describe(LAWS[1]) == "3 x orthogonal, gain 0.5"
    assert describe(LAWS[0]) == "-log of uniform on [1, 49] | log of uniform on [1, 49] | 0 | 2"
    assert describe(LAWS[2]) == "each: orthogonal, gain 2"


def test_gates_are_drawn_apart():
    w = draw(LAWS[1], "w", (12, 4), Streams(1))
    parts = w.reshape(3, 4, 4)
    for part in parts:
        np.testing.assert_allclose(part.T @ part, 0.25 * np.eye(4), atol=1e-12)
    assert not np.allclose(parts[0], parts[1])


def test_experts_are_drawn_apart_and_whole():
    w = draw(Each(Orthogonal(2.0)), "w", (2, 3, 4, 5), Streams(1))
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(w[i, j] @ w[i, j].T, 4 * np.eye(4), atol=1e-12)
    assert not np.allclose(w[0, 0], w[0, 1])
    turned = draw(Each(Turned(Orthogonal(2.0))), "w", (3, 5, 4), Streams(1))
    assert turned.shape == (3, 5, 4)
    assert draw(Each(Orthogonal(1.0)), "w", (0, 4, 5), Streams(1)).shape == (0, 4, 5)


def test_opposite_gates_are_opposite_numbers():
    b = draw(GATES, "b", (4000,), Streams(3)).reshape(4, 1000)
    np.testing.assert_array_equal(b[0], -b[1])
    np.testing.assert_array_equal(b[2:], [[0.0] * 1000, [2.0] * 1000])
    # log U on [1, 49]: the mean is (49 log 49) / 48 - 1, and exp of it is uniform.
    mean = 49 * np.log(49) / 48 - 1
    assert abs(b[1].mean() - mean) < 4 * b[1].std() / np.sqrt(1000)
    kept = np.exp(b[1])
    assert abs(kept.mean() - 25) < 4 * 48 / np.sqrt(12 * 1000)
    assert 1 <= kept.min()
    assert kept.max() <= 49
    alone = draw(Chrono(50), "c", (5,), Streams(3))
    assert alone.shape == (5,)


@pytest.mark.parametrize("law", LAWS[1:], ids=describe)
def test_louder_is_every_part_louder(law):
    shape = (6, 4) if isinstance(law, Blocks | Rows) else (2, 4, 4)
    one, three = (draw(x, "w", shape, Streams(2)) for x in (law, louder(law, 3.0)))
    np.testing.assert_allclose(three, 3.0 * one, rtol=1e-12)


def test_what_cannot_be_scaled_or_split_is_refused():
    with pytest.raises(ArgumentError, match="can be scaled, got Chrono"):
        louder(GATES, 2.0)
    with pytest.raises(PlanError, match=r"'b' has shape \(6,\): its first axis must hold 4 equal"):
        draw(GATES, "b", (6,), Streams(0))
    with pytest.raises(PlanError, match=r"'w' has shape \(6, 4\): it must have 3 axes or more"):
        draw(Each(Orthogonal(1.0)), "w", (6, 4), Streams(0))


def test_some_rows_are_quieter():
    whole = draw(Orthogonal(1.0), "w", (6, 4), Streams(1))
    some = draw(LAWS[4], "w", (6, 4), Streams(1))
    np.testing.assert_array_equal(some[[1, 2, 4, 5]], whole[[1, 2, 4, 5]])
    np.testing.assert_array_equal(some[[0, 3]], 0.5 * whole[[0, 3]])
    turned = draw(Turned(LAWS[4]), "w", (4, 6), Streams(1))
    np.testing.assert_array_equal(turned, some.T)
