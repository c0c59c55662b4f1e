"""Large inputs go a few rows at a time; here small ones do too, three rows at most at once."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training import chunked_cross_entropy, cross_entropy

INF, NAN = math.inf, math.nan
CLASSES = 5


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (cross_entropy, chunked_cross_entropy):
        monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(chunked_cross_entropy, "LEAST_CLASSES", CLASSES)
    monkeypatch.setattr(chunked_cross_entropy, "AT_ONCE", 3 * CLASSES + 1)


@pytest.fixture
def calls(monkeypatch):
    """How often the chunks were asked."""
    seen = []
    inner = cross_entropy.chunked_cross_entropy
    monkeypatch.setattr(
        cross_entropy, "chunked_cross_entropy", lambda *given: seen.append(1) or inner(*given)
    )
    return seen


def numbers(seed, rows=7, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(rows, CLASSES, generator=g, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (rows,), generator=g)


def odd_rows(dtype):
    """One row for each line of the table, with its target; the ignored class is 4."""
    rows = [
        [0.0, 1.0, -1.0, 0.5, 2.0], [-INF] * 5, [-INF, 1.0, 0.0, 2.0, 0.0],
        [1.0, -INF, -INF, 0.0, 0.0], [-INF] * 5, [0.0, 0.0, 1.0, 0.0, 0.0],
        [1.0, -INF, 0.0, -INF, -INF],
    ]  # fmt: skip
    return torch.tensor(rows, dtype=dtype), torch.tensor([1, 0, 0, 0, 4, 4, 2])


def careful(x, *given, **options):
    """The same where no number may be read, which takes another way."""
    return torch.func.vmap(lambda x: eq.losses.cross_entropy(x, *given, **options))(x[None])[0]


def derivatives(loss_of, x):
    """Loss, gradient, and the gradient of the sum of the squared gradient."""
    x = x.detach().clone().requires_grad_()
    loss = loss_of(x)
    finite = loss.where(loss.isfinite(), 0.0)
    factors = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    (first,) = torch.autograd.grad((finite * factors).sum(), x, create_graph=True)
    (plain,) = torch.autograd.grad((loss * factors).sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad((first * first).sum(), x)
    return loss.detach(), first.detach(), plain, second


CASES = list(itertools.product(["mean", "sum", "none"], [False, True], [-100, 4], [0.0, 0.1]))


@pytest.mark.parametrize(("reduction", "weighted", "ignored", "z_loss"), CASES)
def test_it_is_torchs(calls, reduction, weighted, ignored, z_loss):
    x, y = numbers(0)
    w = torch.linspace(0.5, 2.0, CLASSES, dtype=x.dtype) if weighted else None
    counts = y != ignored

    def theirs(x):
        square = x.logsumexp(1) ** 2 * counts
        extra = {"none": square, "sum": square.sum(), "mean": square.sum() / counts.sum()}
        loss = F.cross_entropy(x, y, w, reduction=reduction, ignore_index=ignored)
        return loss + z_loss * extra[reduction]

    def ours(x):
        return eq.losses.cross_entropy(
            x, y, w, reduction=reduction, ignore_index=ignored, z_loss=z_loss
        )

    for mine, torchs in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        torch.testing.assert_close(mine, torchs)
    assert len(calls) == 1


@pytest.mark.parametrize(("reduction", "weighted", "ignored", "z_loss"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_odd_rows_are_as_the_careful_form_has_them(dtype, reduction, weighted, ignored, z_loss):
    x, y = odd_rows(dtype)
    y[y == 4] = ignored
    w = torch.tensor([0.0, 1.0, 0.5, 2.0, 3.0], dtype=dtype) if weighted else None
    options = {"reduction": reduction, "ignore_index": ignored, "z_loss": z_loss}
    for some in ([*range(7)], [0, 1, 3, 4, 5, 6], [1, 4], [1, 2]):
        mine = derivatives(
            lambda x, s=some: eq.losses.cross_entropy(x, y[s], w, **options), x[some]
        )
        other = derivatives(lambda x, s=some: careful(x, y[s], w, **options), x[some])
        # Second derivatives of narrow logits are of first ones that were rounded.
        close = {"rtol": 0.03, "atol": 1e-3} if dtype == torch.bfloat16 else {}
        for a, b in zip(mine[:3], other[:3], strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(mine[3], other[3], **close)
        assert all(part.isfinite().all() for part in mine[1:])


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("target", range(3))
def test_nan_stays_visible(bad, target):
    x = torch.tensor([[0.0, bad, -INF, 0.0, 0.0], [0.0] * 5], requires_grad=True)
    for ignored in (-100, target):
        y = torch.tensor([target, 4])
        loss = eq.losses.cross_entropy(x, y, reduction="none", ignore_index=ignored, z_loss=0.1)
        assert loss[0].isnan() or (ignored == target and loss[0] == 0)
        assert loss[1].isfinite()
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient[0].isnan().any()
        assert gradient[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_right_to_half_a_unit(dtype):
    x, y = numbers(1, 40, dtype)
    # Confident rows: what is left to learn from them is far below one.
    x[:20] = x[:20].scatter(1, y[:20, None], 14.0)
    x.requires_grad_()
    loss = eq.losses.cross_entropy(x, y, reduction="none")
    loss.sum().backward()
    exact = x.detach().double().requires_grad_()
    wanted = F.cross_entropy(exact, y, reduction="none")
    wanted.sum().backward()
    # Half a unit in the last place is half an epsilon; a little is float32's, near 1.
    half = 0.51 * torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), wanted, rtol=half, atol=2e-7 + smallest)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=half, atol=2e-7 + smallest)


def test_many_losses_are_differentiated_at_once():
    x, y = numbers(2)
    x.requires_grad_()
    rows = eq.losses.cross_entropy(x, y, reduction="none", z_loss=0.1)
    (found,) = torch.autograd.grad(rows, x, torch.eye(7, dtype=x.dtype), is_grads_batched=True)
    other = careful(x, y, reduction="none", z_loss=0.1)
    for i in range(7):
        (wanted,) = torch.autograd.grad(other[i], x, retain_graph=True)
        torch.testing.assert_close(found[i], wanted)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_forward_mode(z_loss):
    x, y = odd_rows(torch.float64)
    x, y = x[[0, 1, 3, 5]], y[[0, 1, 3, 5]]
    tangent, _ = numbers(3, 4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        loss = eq.losses.cross_entropy(dual, y, z_loss=z_loss)
        _, found = torch.autograd.forward_ad.unpack_dual(loss)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(careful(x, y, z_loss=z_loss), x)
    torch.testing.assert_close(found, (gradient * tangent).sum())


def test_logits_may_lie_in_memory_as_they_like(calls):
    x, y = numbers(8)
    for laid in (x.T.contiguous().T, torch.cat([x, x], 1)[:, :CLASSES], x[:1].expand(7, -1)):
        p = laid.detach().requires_grad_()
        loss = eq.losses.cross_entropy(p, y, z_loss=0.1)
        (found,) = torch.autograd.grad(loss, p)
        exact = laid.detach().clone().contiguous().requires_grad_()
        wanted = F.cross_entropy(exact, y) + 0.1 * (exact.logsumexp(1) ** 2).mean()
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(found, torch.autograd.grad(wanted, exact)[0])
    assert len(calls) == 3


def test_without_a_gradient_and_under_autocast():
    x, y = numbers(4, dtype=torch.bfloat16)
    wanted = F.cross_entropy(x.float(), y)
    with torch.no_grad():
        assert torch.equal(eq.losses.cross_entropy(x, y), wanted.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = eq.losses.cross_entropy(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)


def test_what_chunks_do_not_take_goes_the_other_way(calls):
    x, y = numbers(5)
    for target, options in (
        (x.softmax(1), {}),
        (y, {"label_smoothing": 0.1}),
    ):
        found = eq.losses.cross_entropy(x, target, **options)
        torch.testing.assert_close(found, F.cross_entropy(x, target, **options))
    blocks = torch.stack([x, 2 * x], 2)
    pairs = torch.stack([y, y], 1)
    torch.testing.assert_close(
        eq.losses.cross_entropy(blocks, pairs), F.cross_entropy(blocks, pairs)
    )
    assert not calls


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_class_out_of_range_is_named(wrong):
    x, y = numbers(6)
    y[3] = wrong
    with pytest.raises(ArgumentError, match="target must hold classes from 0 to 4"):
        eq.losses.cross_entropy(x, y)


def test_a_large_input_takes_this_way(monkeypatch, calls):
    monkeypatch.undo()
    seen = []
    inner = cross_entropy.chunked_cross_entropy
    monkeypatch.setattr(
        cross_entropy, "chunked_cross_entropy", lambda *given: seen.append(1) or inner(*given)
    )
    g = torch.Generator().manual_seed(7)
    x, y = torch.randn(600, 1000, generator=g), torch.randint(1000, (600,), generator=g)
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    loss, wanted = eq.losses.cross_entropy(a, y), F.cross_entropy(b, y)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss.double(), wanted)
    torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-9)
    assert seen == [1]
