"""Maps of stacks: what enters, what is read, what is between."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from equipoise.plan.entry import Inputs
from equipoise.plan.levels import Levels
from equipoise.plan.stack_maps import (
    block_of,
    cannot_be_framed,
    first_patches,
    has_maps,
    kernel_point,
    passages,
)
from equipoise.plan.stacks import find_stacks
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace


def _stacks(model, x):
    arguments = read_inputs(model, x)
    traced = trace(model, arguments)
    levels = Levels(traced, dict(zip(traced.inputs, arguments.rows(), strict=True)))
    return find_stacks(traced), levels


class Last(nn.Module):
    """Channels last, and a layer at each site."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(torch.relu(F.avg_pool2d(x, 2)).permute(0, 2, 3, 1))


X = torch.randn(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))


def test_what_enters_behind_operations_without_weights():
    """A pool, an activation, a permutation or a flatten is done with the inputs themselves."""
    (stack,), levels = _stacks(Last(), X)
    expected = F.avg_pool2d(X, 2).relu().permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    found = levels.at(stack)
    np.testing.assert_allclose(found.rows, expected, atol=1e-6)
    assert found.mean_square == pytest.approx(float(np.mean(expected**2)), rel=1e-5)

    (stack,), levels = _stacks(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), X)
    np.testing.assert_allclose(levels.at(stack).rows, X.flatten(1).double().numpy())

    (stack,), levels = _stacks(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)), X)
    pooled = F.max_pool2d(X, 2).flatten(2).double().numpy()
    np.testing.assert_allclose(levels.at(stack).maps, pooled)
    assert levels.at(stack).rows.shape == (60, 3)


def test_patches_are_those_of_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 2, 1))
    (stack,), levels = _stacks(model, X)
    block = block_of(stack.affines[0], 40, is_first=True)
    assert block == (3, 3)
    assert block_of(stack.affines[0], 3, is_first=True) == (1, 1)
    assert block_of(stack.affines[0], 40, is_first=False) == (1, 1)
    patches = first_patches(stack, levels.at(stack), block, 48)
    assert patches.is_known
    np.testing.assert_allclose(patches.values, F.unfold(X, 3, padding=1).double().numpy())
    assert patches.rows.shape == (240, 27)
    np.testing.assert_allclose(patches.rows[1], patches.values[0, :, 1])


def test_a_point_of_a_patch_lies_where_the_block_does():
    model = nn.Sequential(nn.Conv2d(3, 40, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(40, 2, 1))
    (stack,), _ = _stacks(model, X)
    point = kernel_point(stack.affines[0], (2, 2), np.arange(12.0))
    assert point.shape == (3, 5, 5)
    np.testing.assert_array_equal(point[:, 2:4, 2:4].ravel(), np.arange(12.0))
    assert np.count_nonzero(point) == 11


def test_unknown_inputs_are_half_alike():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1))
    (stack,), _ = _stacks(model, X)
    made = first_patches(stack, Inputs(4.0, np.zeros((0, 3))), (1, 1), 48)
    assert not made.is_known
    assert np.square(made.values).mean() == pytest.approx(4.0, rel=0.1)
    # 64 rows of 3 channels: a correlation of one half to 4 standard errors of 192 products.
    product = (made.values[:, :, 0] * made.values[:, :, 40]).mean()
    assert abs(product - 2.0) < 4 * 4.0 * math.sqrt(1.25 / 192)


def test_passages_name_pools_strides_and_flattens():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, 2, 1),
        nn.Tanh(), nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 2),
    )  # fmt: skip
    (stack,), _ = _stacks(model, X)
    assert has_maps(stack)
    way = passages(stack, [(3, 3), (2, 2), (), ()])
    assert [(p.count, p.reads.count, p.reads.width) for p in way] == [
        (48, 12, 4), (4, 4, 4), (1, 1, 1),
    ]  # fmt: skip
    assert [pool.kind for pool in way[0].late] == ["average"]
    assert way[2].is_pointwise
    assert not way[0].is_pointwise
    assert cannot_be_framed(stack) == ""


def test_dense_stacks_have_no_maps():
    (stack,), _ = _stacks(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), X[:, :, 0, 0])
    assert not has_maps(stack)


def test_large_images_are_sampled():
    x = torch.randn(40, 3, 64, 64)
    model = nn.Sequential(nn.Conv2d(3, 64, 7, padding=3), nn.Tanh(), nn.Conv2d(64, 2, 1))
    (stack,), levels = _stacks(model, x)
    patches = first_patches(stack, levels.at(stack), (7, 7), 4096)
    assert 2 <= len(patches.values) < 40
    assert patches.is_known
