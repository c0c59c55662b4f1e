"""Weights of shape (in, out): the transpose of what their law draws."""

import json

import numpy as np
import pytest

from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.law_data import describe, law_from_dict, law_to_dict
from equipoise.schemes.laws import (
    Frame,
    Framed,
    Mirrored,
    Normal,
    OffsetBias,
    Orthogonal,
    Paired,
    SpreadBias,
    Turned,
)
from equipoise.schemes.louder import louder

FRAMES = {"a": Frame("a", 6, 3), "b": Frame("b", 4, 3), "m": Frame("m", 3, 3)}
LAWS = [
    Normal(0.5),
    Orthogonal(0.7),
    Framed("a", "b", 3, 0.9),
    Framed("m", "b", 3, 0.9, Mirrored()),
    Paired(Orthogonal(0.4)),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_the_transpose_is_drawn(law):
    """Bit for bit: the same stream, whichever way round the parameter stands."""
    straight = draw(law, "w", (6, 4), Streams(3, FRAMES))
    turned = draw(Turned(law), "w", (4, 6), Streams(3, FRAMES))
    assert turned.shape == (4, 6)
    np.testing.assert_array_equal(turned.T, straight)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_a_law_survives_json(law):
    turned = Turned(law)
    assert law_from_dict(json.loads(json.dumps(law_to_dict(turned)))) == turned
    assert describe(turned) == f"{describe(law)}, transposed"


def test_a_louder_one_draws_the_same_numbers_times_the_factor():
    turned = Turned(Normal(0.5))
    one, two = (draw(law, "w", (4, 6), Streams(0)) for law in (turned, louder(turned, 2.0)))
    np.testing.assert_allclose(two, 2.0 * one, rtol=1e-12)


BIASES = [
    OffsetBias("w", 0.5),
    OffsetBias("w", 0.5, centre="c", level=0.2),
    OffsetBias("w", 0.5, std=0.3),
]


@pytest.mark.parametrize("bias", BIASES, ids=str)
def test_a_bias_that_centres_its_layer_reads_the_weight_either_way_round(bias):
    """W (x - c) less the offset is what enters the units, so W of (in, out) must be turned back."""
    arrays = {"c": np.arange(4.0)}
    straight = Streams(3, FRAMES, arrays, {"w": (Normal(0.5), (6, 4))})
    turned = Streams(3, FRAMES, arrays, {"w": (Turned(Normal(0.5)), (4, 6))})
    one, other = (draw(bias, "b", (6,), streams) for streams in (straight, turned))
    np.testing.assert_array_equal(one, other)


def test_a_bias_with_spread_reads_the_weight_either_way_round():
    bias = SpreadBias("w", "s", 0.3, in_space="t", in_std=0.2)
    straight = Streams(3, FRAMES, {}, {"w": (Normal(0.5), (6, 4))})
    turned = Streams(3, FRAMES, {}, {"w": (Turned(Normal(0.5)), (4, 6))})
    one, other = (draw(bias, "b", (6,), streams) for streams in (straight, turned))
    np.testing.assert_array_equal(one, other)
    assert one.any()
