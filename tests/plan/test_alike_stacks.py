"""Stacks that differ in names only share what is expected of them."""

from dataclasses import replace

import numpy as np
import pytest

from equipoise.plan import predict as module
from equipoise.plan.alike_stacks import signature
from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine, Pool
from equipoise.plan.predict import predict
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.laws import Frame, Framed, Normal, OffsetBias, Zero
from equipoise.theory import activations

EMPTY = np.zeros((0, 0))


def stack(name, start, width=8, activation=activations.tanh):
    first = Affine(
        f"{name}.a", f"{name}.a.weight", "", start, start + 1, start, start + 1, 8, width
    )
    second = Affine(
        f"{name}.b", f"{name}.b.weight", "", start + 2, start + 3, start + 1, start + 2, width, 8
    )
    hidden = Hidden(start + 1, width, activation())
    return Stack((first, second), (hidden,), activations.identity(), start + 3, (False, False))


def laws(name, scale=0.4):
    return [Normal(scale), Framed(f"{name}.out", f"{name}.in", 4, 1.0), Zero(),
            OffsetBias(f"{name}.b.weight", 0.5)]  # fmt: skip


def frames(name):
    return [Frame(f"{name}.out", 8, 4), Frame(f"{name}.in", 8, 4)]


def found(name="x", start=0, level=1.0, share=0.0, scale=0.4, **options):
    return signature(
        stack(name, start, **options), laws(name, scale), frames(name),
        Inputs(level, EMPTY, share=share), {},
    )  # fmt: skip


def test_names_and_numbers_of_values_do_not_count():
    assert found("x", 0) == found("another.block", 17)
    hash(found())


@pytest.mark.parametrize(
    "change",
    [
        {"level": 1.1},
        {"share": 0.2},
        {"scale": 0.5},
        {"width": 9},
        {"activation": activations.relu},
    ],
)
def test_whatever_moves_a_number_counts(change):
    assert found(**change) != found()


def test_pools_count_by_their_windows():
    pool = Pool("p", "average", (2,), (2,), 1, 2, 1, (8,), (4,))
    one = stack("x", 0)
    pooled = replace(one, hidden=(replace(one.hidden[0], pools=(pool,)),))
    moved = replace(pool, layer="q", input=8, output=9, space=4)
    other = replace(one, hidden=(replace(one.hidden[0], pools=(moved,)),))
    wider = replace(pool, window=(4,))
    third = replace(one, hidden=(replace(one.hidden[0], pools=(wider,)),))
    inputs = Inputs(1.0, EMPTY)
    keys = [signature(s, laws("x"), frames("x"), inputs, {}) for s in (pooled, other, third)]
    assert keys[0] == keys[1] != keys[2]


def test_values_that_enter_have_no_signature():
    rows = Inputs(1.0, np.ones((4, 8)))
    assert signature(stack("x", 0), laws("x"), frames("x"), rows, {}) is None
    assert signature(stack("x", 0), [], [], Inputs(1.0, EMPTY), {"axes": np.eye(2)}) is None


def test_the_second_of_two_alike_is_not_drawn_again(monkeypatch):
    weights = [Normal(0.4), Normal(0.3)]
    first = predict(stack("one", 0), weights, Inputs(1.25, EMPTY))
    monkeypatch.setattr(module, "draw_chain", None)
    again = predict(stack("two", 40), weights, Inputs(1.25, EMPTY))
    assert again == first or str(again) == str(first)
    with pytest.raises(TypeError):
        predict(stack("two", 40), weights, Inputs(1.5, EMPTY))
