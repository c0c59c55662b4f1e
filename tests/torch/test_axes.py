"""Axes under reshapes and permutations, against coordinates written out one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equipoise.torch.axes import axis_order, joined_axis, kept_axes
from equipoise.torch.graph import op_name


def coordinates(shape):
    """For each axis, the coordinate of every entry in order."""
    return [grid.ravel() for grid in np.indices(shape)]


@st.composite
def reshapes(draw):
    """Two shapes of one tensor: the prime factors of its size, grouped in two ways, and ones."""
    factors = draw(st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=5))

    def grouped():
        shape = [1]
        for factor in factors:
            if draw(st.booleans()):
                shape.append(1)
            shape[-1] *= factor
        ones = draw(st.lists(st.integers(0, len(shape)), max_size=2))
        for place in ones:
            shape.insert(place, 1)
        return tuple(shape)

    return grouped(), grouped()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(reshapes())
def test_an_axis_is_kept_where_its_coordinates_are(shapes):
    before, after = shapes
    first, second = coordinates(before), coordinates(after)
    real = {
        j: i
        for j, size in enumerate(after)
        for i, other in enumerate(before)
        if size == other > 1 and np.array_equal(first[i], second[j])
    }
    found = kept_axes(before, after)
    assert {j: i for j, i in found.items() if after[j] > 1} == real
    assert all(before[i] == after[j] for j, i in found.items())
    assert len(set(found.values())) == len(found)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(reshapes(), st.integers(0, 20))
def test_a_joined_axis_counts_its_units_before_what_they_are_joined_with(shapes, pick):
    before, after = shapes
    axis = pick % len(before)
    first, second = coordinates(before), coordinates(after)
    found = joined_axis(before, after, axis)
    # What may be joined with an axis is the run of axes right behind it.
    runs = [math.prod(before[axis + 1 : end]) for end in range(axis + 1, len(before) + 1)]
    real = {
        (j, size // before[axis])
        for j, size in enumerate(after)
        if size // before[axis] in runs
        and size % before[axis] == 0
        and np.array_equal(second[j] // (size // before[axis]), first[axis])
        and math.prod(after[:j]) == math.prod(before[:axis])
    }
    assert (found is None) == (not real)
    assert found is None or found in real


def test_sizes_that_do_not_fit_keep_nothing():
    assert kept_axes((0, 3), (0, 3)) == {}
    assert kept_axes((2, 3), (7,)) == {}
    assert kept_axes((), (1,)) == {}
    assert kept_axes((1,), ()) == {}


PERMUTATIONS = [
    (lambda x: x.permute(0, 2, 3, 1), (0, 2, 3, 1)),
    (lambda x: x.permute(0, -1, 1, -2), (0, 3, 1, 2)),
    (lambda x: x.transpose(1, -1), (0, 3, 2, 1)),
    (lambda x: x.swapaxes(2, 3), (0, 1, 3, 2)),
    (lambda x: x.movedim((1, 2), (-1, 1)), (0, 2, 3, 1)),
    (lambda x: x.mT, (0, 1, 3, 2)),
    (lambda x: x.moveaxis(0, 2), (1, 2, 0, 3)),
]


@pytest.mark.parametrize(("function", "order"), PERMUTATIONS)
def test_the_order_of_axes_is_read_from_the_operation_itself(function, order):
    class Model(nn.Module):
        def forward(self, x):
            return function(x)

    program = torch.export.export(Model(), (torch.randn(2, 2, 2, 2),), strict=False)
    (node,) = [n for n in program.graph.nodes if n.op == "call_function"]
    assert axis_order(node) == order


def test_an_operation_that_is_no_permutation_has_no_order():
    program = torch.export.export(nn.ReLU(), (torch.randn(2, 3),), strict=False)
    (node,) = [n for n in program.graph.nodes if n.op == "call_function"]
    assert op_name(node) == "relu"
    assert axis_order(node) is None
