"""Losses equal torch's wherever torch's are finite."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import equipoise.torch as eq
from equipoise.training.reading import can_read

NARROW = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
REDUCTIONS = ("mean", "sum", "none")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def twice_differentiated(loss_of, x):
    """Loss, gradient, and the gradient of a sum over the squared gradient."""
    x = x.detach().clone().requires_grad_()
    loss = loss_of(x)
    factors = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    (first,) = torch.autograd.grad((loss * factors).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * first).sum(), x)
    return loss.detach(), first.detach(), second


def assert_alike(ours, theirs, x, **tolerance):
    for mine, torchs in zip(
        twice_differentiated(ours, x), twice_differentiated(theirs, x), strict=True
    ):
        torch.testing.assert_close(mine, torchs, **tolerance)


def careful(loss_of):
    """The same loss where no number may be read: in a transform of torch."""
    return lambda x: torch.func.vmap(loss_of)(x[None])[0]


shapes = st.sampled_from([(5,), (1, 1), (7, 3), (4, 6), (3, 5, 2), (2, 4, 3, 2)])


@settings(max_examples=60, deadline=None)
@given(
    shapes, st.sampled_from(REDUCTIONS), st.sampled_from([0.0, 0.1, 1.0]), st.booleans(),
    st.booleans(), st.booleans(), st.integers(0, 2**20), st.floats(0.1, 100.0),
)  # fmt: skip
def test_cross_entropy_is_that_of_torch(
    shape, reduction, smoothing, weighted, of_probabilities, ignoring, seed, scale
):
    g = seeded(seed)
    x = scale * torch.randn(shape, generator=g, dtype=torch.float64)
    dim = 0 if len(shape) == 1 else 1
    rows = shape[:dim] + shape[dim + 1 :]
    if of_probabilities:
        y = torch.rand(shape, generator=g, dtype=torch.float64).softmax(dim)
    else:
        y = torch.randint(shape[dim], rows, generator=g)
        if ignoring and len(rows):
            y[0] = -100 if y[0].numel() < y.numel() or len(rows) > 1 else y[0]
    w = torch.rand(shape[dim], generator=g, dtype=torch.float64) + 0.1 if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}

    def ours(x):
        return eq.losses.cross_entropy(x, y, w, **options)

    def theirs(x):
        return F.cross_entropy(x, y, w, **options)

    if not theirs(x).isfinite().all():
        return
    assert_alike(ours, theirs, x)
    assert_alike(careful(ours), theirs, x, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    shapes, st.sampled_from(REDUCTIONS), st.booleans(), st.booleans(), st.integers(0, 2**20),
    st.floats(0.1, 100.0),
)  # fmt: skip
def test_binary_cross_entropy_is_that_of_torch(shape, reduction, weighted, biased, seed, scale):
    g = seeded(seed)
    x = scale * torch.randn(shape, generator=g, dtype=torch.float64)
    y = torch.rand(shape, generator=g, dtype=torch.float64)
    w = torch.rand(shape[-1:], generator=g, dtype=torch.float64) if weighted else None
    p = torch.rand(shape, generator=g, dtype=torch.float64) * 3 if biased else None

    def ours(x):
        return eq.losses.binary_cross_entropy_with_logits(
            x, y, w, reduction=reduction, pos_weight=p
        )

    def theirs(x):
        return F.binary_cross_entropy_with_logits(x, y, w, reduction=reduction, pos_weight=p)

    assert_alike(ours, theirs, x)
    assert_alike(careful(ours), theirs, x, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(-1, 1), st.integers(0, 2**20), st.booleans())
def test_softmax_is_that_of_torch(shape, dim, seed, logarithm):
    dim = dim if dim < len(shape) else -1
    x = 3 * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    ours, theirs = (
        (eq.losses.log_softmax, F.log_softmax) if logarithm else (eq.losses.softmax, F.softmax)
    )
    assert_alike(lambda x: ours(x, dim), lambda x: theirs(x, dim), x)
    assert_alike(careful(lambda x: ours(x, dim)), lambda x: theirs(x, dim), x)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_narrow_inputs_are_summed_in_float32(dtype, reduction):
    g = seeded(0)
    x = (4 * torch.randn(300, 50, generator=g)).to(dtype)
    y = torch.randint(50, (300,), generator=g)
    t = torch.rand(300, 50, generator=g).to(dtype)
    for ours, theirs, target in (
        (eq.losses.cross_entropy, F.cross_entropy, y),
        (eq.losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, t),
    ):
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        loss = ours(a, target, reduction=reduction)
        exact = theirs(b, target.double() if target is t else target, reduction=reduction)
        # Nothing but the last rounding.
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)
        loss.sum().backward()
        exact.sum().backward()
        assert a.grad.dtype == dtype
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=NARROW[dtype], atol=1e-6)
    for ours, theirs in ((eq.losses.softmax, F.softmax), (eq.losses.log_softmax, F.log_softmax)):
        torch.testing.assert_close(
            ours(x).double(), theirs(x.double(), -1), rtol=NARROW[dtype], atol=1e-6
        )
        assert ours(x, dtype=torch.float32).dtype == torch.float32


def test_a_long_sum_in_bfloat16_keeps_its_precision():
    x = torch.zeros(4000, 2, dtype=torch.bfloat16)
    loss = eq.losses.cross_entropy(x, torch.zeros(4000, dtype=torch.int64), reduction="sum")
    assert loss.item() == pytest.approx(4000 * math.log(2), rel=2**-8)


@pytest.mark.parametrize("of_probabilities", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_z_loss_is_the_square_of_the_log_partition(reduction, of_probabilities):
    g = seeded(1)
    x = 5 * torch.randn(6, 4, 3, generator=g, dtype=torch.float64)
    y = torch.randint(4, (6, 3), generator=g)
    counts = torch.ones(6, 3, dtype=torch.bool)
    if of_probabilities:
        y = torch.rand(6, 4, 3, generator=g, dtype=torch.float64).softmax(1)
    else:
        y[0, 0] = -100
        counts[0, 0] = False
    w = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64)

    def theirs(x):
        square = x.exp().sum(1).log() ** 2 * counts
        extra = {"none": square, "sum": square.sum(), "mean": square.sum() / counts.sum()}
        return F.cross_entropy(x, y, w, reduction=reduction) + 1e-2 * extra[reduction]

    def ours(x):
        return eq.losses.cross_entropy(x, y, w, reduction=reduction, z_loss=1e-2)

    assert_alike(ours, theirs, x)
    assert_alike(careful(ours), theirs, x)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mask_is_as_if_the_classes_were_not_there(smoothing):
    g = seeded(2)
    x = torch.randn(5, 6, generator=g, dtype=torch.float64)
    kept = torch.tensor([True, False, True, True, False, True])
    y = torch.tensor([0, 2, 3, 5, 0])
    renumbered = kept.cumsum(0)[y] - 1

    def ours(x):
        return eq.losses.cross_entropy(x, y, mask=kept, label_smoothing=smoothing, z_loss=0.1)

    def theirs(x):
        left = x[:, kept]
        square = left.logsumexp(1) ** 2
        return F.cross_entropy(left, renumbered, label_smoothing=smoothing) + 0.1 * square.mean()

    assert_alike(ours, theirs, x)
    assert_alike(careful(ours), theirs, x)
    torch.testing.assert_close(eq.losses.softmax(x, mask=kept)[:, kept], x[:, kept].softmax(1))


def test_binary_smoothing_and_mask_are_those_of_entries_alone():
    g = seeded(3)
    x = torch.randn(8, generator=g, dtype=torch.float64)
    t = torch.randint(2, (8,), generator=g).double()
    kept = torch.tensor([True, False] * 4)

    def ours(x):
        return eq.losses.binary_cross_entropy_with_logits(x, t, label_smoothing=0.2, mask=kept)

    def theirs(x):
        return F.binary_cross_entropy_with_logits(x[kept], 0.8 * t[kept] + 0.1)

    assert_alike(ours, theirs, x)
    assert_alike(careful(ours), theirs, x)


def test_integer_targets_of_any_width_are_taken():
    x = torch.randn(4, 3, generator=seeded(4))
    y = torch.tensor([0, 1, 2, 1])
    wanted = F.cross_entropy(x, y)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        torch.testing.assert_close(eq.losses.cross_entropy(x, y.to(dtype)), wanted)


def test_under_func_and_vmap_rows_are_as_alone():
    x = torch.randn(5, 4, generator=seeded(5))
    x[2] = -math.inf
    y = torch.tensor([0, 1, 2, 3, 0])
    alone = torch.stack([eq.losses.cross_entropy(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(torch.func.vmap(eq.losses.cross_entropy)(x, y), alone)
    gradient = torch.func.vmap(torch.func.grad(eq.losses.cross_entropy))(x, y)
    p = x.requires_grad_()
    eq.losses.cross_entropy(p, y, reduction="sum").backward()
    torch.testing.assert_close(gradient, p.grad)
    # Forward mode gives the same derivative as backward mode.
    _, push = torch.func.jvp(
        lambda x: eq.losses.cross_entropy(x, y), (x.detach(),), (torch.ones(5, 4),)
    )
    torch.testing.assert_close(push, torch.zeros(()), atol=1e-6, rtol=0)


def losses_of(x):
    y = torch.tensor([0, 2, -100, 1], device=x.device)
    t = torch.tensor([[1.0, 0.0, 0.5]] * 4, device=x.device)
    return (
        eq.losses.cross_entropy(x, y, z_loss=1e-3),
        eq.losses.cross_entropy(x, y, label_smoothing=0.1),
        eq.losses.binary_cross_entropy_with_logits(x, t),
        eq.losses.softmax(x).square().sum(),
        eq.losses.log_softmax(x)[:2].sum(),
    )


def test_a_compiler_sees_no_break_and_gives_the_same():
    compiled = torch.compile(losses_of, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, generator=seeded(6))
    x[3] = -math.inf
    for i in range(5):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        loss, wanted = compiled(a)[i], losses_of(b)[i]
        torch.testing.assert_close(loss, wanted)
        loss.backward()
        wanted.backward()
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_gives_float32():
    x = torch.randn(4, 3, generator=seeded(7)).bfloat16()
    x[3] = -math.inf
    with torch.autocast("cpu", torch.bfloat16):
        cared = losses_of(x)[:3]
        plain = eq.losses.cross_entropy(x[:3], torch.tensor([0, 2, 1]))
    assert all(loss.dtype == torch.float32 for loss in (*cared, plain))
    torch.testing.assert_close(plain, F.cross_entropy(x[:3].float(), torch.tensor([0, 2, 1])))


def test_meta_tensors_have_shapes():
    x = torch.empty(4, 3, device="meta", requires_grad=True)
    for loss in losses_of(x):
        assert loss.shape == ()
        assert loss.device.type == "meta"
        loss.backward()
    assert x.grad.shape == (4, 3)


def test_nothing_is_read_where_reading_would_wait_or_break():
    x = torch.zeros(3)
    assert can_read(x)
    assert can_read(torch.nn.Parameter(x))
    assert not can_read(x.to("meta"))
    seen = []
    torch.func.vmap(lambda row: seen.append(can_read(row)) or row)(x)
    torch.jit.trace(lambda row: seen.append(can_read(row)) or row + 1, x, check_trace=False)
    with torch._subclasses.FakeTensorMode():
        seen.append(can_read(torch.zeros(3)))
    assert not any(seen)
