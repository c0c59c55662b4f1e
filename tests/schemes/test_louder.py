"""A scaled law draws the same numbers times the factor."""

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import (
    BestOf,
    Constant,
    DiagonalNoise,
    Directions,
    Frame,
    Framed,
    Identity,
    Normal,
    OffsetBias,
    Orthogonal,
    Paired,
    Sparse,
    Taps,
    TruncatedNormal,
    Uniform,
    Zero,
)
from equipoise.schemes.louder import louder

FRAMES = {"a": Frame("a", 6, 3), "b": Frame("b", 4, 3)}
LAWS = [
    Zero(), Constant(2.0), Normal(0.5, 0.1), Uniform(0.3, -0.2), Identity(1.5), Orthogonal(0.7),
    TruncatedNormal(0.5, -0.4, 1.0, 0.1), Sparse(0.3, 1.0), DiagonalNoise(1.0, 0.1),
    Framed("a", "b", 3, 0.9), Paired(Orthogonal(0.4)), Directions(2.0),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_numbers_are_larger_by_the_factor(law):
    shape = (6, 4)
    one = draw(law, "w", shape, Streams(3, FRAMES))
    three = draw(louder(law, 3.0), "w", shape, Streams(3, FRAMES))
    np.testing.assert_allclose(three, 3.0 * one, rtol=1e-12, atol=1e-15)


def test_kernels_are_scaled_at_their_taps():
    law = Taps(Orthogonal(1.0), (1, 1))
    one, two = (draw(x, "w", (4, 4, 3, 3), Streams(0)) for x in (law, louder(law, 2.0)))
    np.testing.assert_allclose(two, 2.0 * one, rtol=1e-12)


@pytest.mark.parametrize("law", [BestOf(Normal(1.0), 4), OffsetBias("w", 0.5)], ids=str)
def test_laws_whose_scale_is_not_their_own_are_refused(law):
    with pytest.raises(ArgumentError, match=r"law must be one that can be scaled, got .*\. Scale"):
        louder(law, 2.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf])
def test_factors_must_be_positive(factor):
    with pytest.raises(ArgumentError, match="factor must be positive"):
        louder(Normal(1.0), factor)
