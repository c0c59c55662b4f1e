"""Optimizers of many replicas against those of torch, replica by replica."""

import math

import pytest
import torch

from equipoise.errors import ArgumentError
from equipoise.lab.optimizers import (
    SGD,
    Adam,
    AdamW,
    Clipping,
    constant,
    warmup_cosine,
)

RATES = [1e-2, 3e-3, 1e-1]
PAIRS = {
    "descent": (SGD(), lambda p, r: torch.optim.SGD(p, r)),
    "momentum": (SGD(0.9), lambda p, r: torch.optim.SGD(p, r, 0.9)),
    "nesterov": (
        SGD(0.8, is_nesterov=True, weight_decay=0.1),
        lambda p, r: torch.optim.SGD(p, r, 0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (Adam(), lambda p, r: torch.optim.Adam(p, r)),
    "adam, decay": (Adam(weight_decay=0.1), lambda p, r: torch.optim.Adam(p, r, weight_decay=0.1)),
    "adamw": (AdamW(), lambda p, r: torch.optim.AdamW(p, r)),
    "adam, other means": (
        Adam(0.5, 0.9, 1e-3), lambda p, r: torch.optim.Adam(p, r, betas=(0.5, 0.9), eps=1e-3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_each_row_moves_as_in_torch(name):
    law, make = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    rows = [w.clone().requires_grad_() for w in weights]
    others = [make([row], rate) for row, rate in zip(rows, RATES, strict=True)]
    stepper, rates = law.start(weights), torch.tensor(RATES, dtype=torch.float64)[:, None]
    for _ in range(50):
        gradient = torch.randn(3, 20, generator=generator, dtype=torch.float64)
        stepper.step(gradient, rates)
        for row, other, g in zip(rows, others, gradient, strict=True):
            row.grad = g.clone()
            other.step()
    for mine, theirs in zip(weights, rows, strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("law", [SGD(0.9, weight_decay=0.1), AdamW()])
def test_a_rate_of_0_leaves_a_row_as_it_is(law):
    weights = torch.ones(2, 3)
    law.start(weights).step(torch.ones(2, 3), torch.tensor([[0.0], [0.1]]))
    assert torch.equal(weights[0], torch.ones(3))
    assert not torch.equal(weights[1], torch.ones(3))


@pytest.mark.parametrize("clipping", [Clipping(norm=1.0), Clipping(value=0.3), Clipping(2.0, 1.0)])
def test_gradients_are_cut_as_in_torch(clipping):
    gradient = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    gradient[0] *= 1e-3
    found = clipping.cut(gradient)
    for mine, row in zip(found, gradient, strict=True):
        p = torch.zeros(30, requires_grad=True)
        p.grad = row.clone()
        if clipping.value < math.inf:
            torch.nn.utils.clip_grad_value_([p], clipping.value)
        if clipping.norm < math.inf:
            torch.nn.utils.clip_grad_norm_([p], clipping.norm)
        torch.testing.assert_close(mine, p.grad)


def test_schedules():
    assert constant(10) == 1.0
    rate = warmup_cosine(100, warmup=10, floor=0.1)
    assert [rate(i) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate(100) == rate(1000) == pytest.approx(0.1)
    assert all(rate(i) > rate(i + 1) for i in range(10, 99))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SGD(momentum=1.5), "momentum"),
        (lambda: SGD(weight_decay=-1.0), "weight_decay"),
        (lambda: Adam(beta1=-0.1), "beta1"),
        (lambda: Adam(beta2=2.0), "beta2"),
        (lambda: Adam(epsilon=0.0), "epsilon"),
        (lambda: Clipping(norm=0.0), "norm"),
        (lambda: Clipping(value=-1.0), "value"),
        (lambda: warmup_cosine(0), "steps"),
        (lambda: warmup_cosine(10, -1), "warmup"),
        (lambda: warmup_cosine(10, 0, 2.0), "floor"),
    ],
)
def test_numbers_out_of_range_are_named(make, name):
    with pytest.raises(ArgumentError, match=f"{name} must be"):
        make()
