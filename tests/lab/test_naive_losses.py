"""The naive forms agree with the sound ones in their range, and break where it ends."""

import math

import pytest
import torch
from torch.nn import functional as F

from equipoise.errors import ArgumentError
from equipoise.lab.naive_losses import (
    naive_binary_cross_entropy,
    naive_cross_entropy,
    naive_limits,
    naive_log_softmax,
    naive_softmax,
)
from equipoise.training import losses

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def test_in_their_range_they_are_right():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=g, dtype=torch.float64)
    y, t = torch.randint(5, (6,), generator=g), torch.rand(6, 5, generator=g).double()
    torch.testing.assert_close(naive_softmax(x), F.softmax(x, 1))
    torch.testing.assert_close(naive_log_softmax(x, 0), F.log_softmax(x, 0))
    torch.testing.assert_close(naive_cross_entropy(x, y), F.cross_entropy(x, y))
    torch.testing.assert_close(
        naive_binary_cross_entropy(x, t), F.binary_cross_entropy_with_logits(x, t)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_are_where_arithmetic_puts_them(dtype):
    found, info = naive_limits(dtype), torch.finfo(dtype)

    def near(value, logit):
        # To the rounding of the logit, and that of the exponential.
        return value == pytest.approx(logit, rel=info.eps, abs=2 * info.eps)

    assert near(found.softmax, math.log(info.max))
    # Shares end at the smallest normal number, or at half the smallest of all.
    least = -math.log(info.smallest_normal)
    most = least - math.log(info.eps) + math.log(2)
    for limit in (found.cross_entropy, found.gradient):
        assert least * (1 - info.eps) <= limit <= most * (1 + info.eps)
    assert found.gradient <= found.cross_entropy
    # 1 - sigmoid(x) is 0 from where exp(-x) is below half a unit in the last place of 1, give or
    # take what the exponential was rounded by.
    assert found.binary == pytest.approx(-math.log(info.eps / 4), abs=1.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_just_past_the_limits_they_fail_and_the_sound_forms_do_not(dtype):
    found = naive_limits(dtype)

    def past(limit):
        number = torch.tensor(limit * (1 + 2 * torch.finfo(dtype).eps), dtype=dtype)
        assert number.item() > limit
        return number

    zero = torch.zeros((), dtype=dtype)
    high = torch.stack([past(found.softmax), zero])[None]
    assert naive_softmax(high).isnan().any()
    assert losses.softmax(high).tolist() == [[1.0, pytest.approx(0.0, abs=1e-4)]]
    lost = torch.stack([-past(found.cross_entropy), zero])[None]
    target = torch.tensor([0])
    assert naive_cross_entropy(lost, target).item() == math.inf
    assert losses.cross_entropy(lost, target).item() == pytest.approx(-lost[0, 0].item())
    x = torch.stack([-past(found.gradient), zero])[None].requires_grad_()
    assert not torch.autograd.grad(naive_cross_entropy(x, target), x)[0].isfinite().all()
    sound = torch.autograd.grad(losses.cross_entropy(x, target), x)[0]
    assert sound[0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    yes, no = past(found.binary)[None], torch.zeros(1, dtype=dtype)
    assert naive_binary_cross_entropy(yes, no).item() == math.inf
    loss = losses.binary_cross_entropy_with_logits(yes, no)
    assert loss.item() == pytest.approx(yes.item(), rel=1e-2)
    assert f"softmax {found.softmax:.6g}" in str(found)


def test_other_dtypes_are_refused():
    with pytest.raises(ArgumentError, match="dtype must be"):
        naive_limits(torch.int32)
