"""What excluded classes, empty rows and infinite logits give: the table, row by row."""

import math

import pytest
import torch

import equipoise.torch as eq
from equipoise.errors import ArgumentError

INF, NAN = math.inf, math.nan
WAYS = ("plain", "transformed")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def in_a(way, function, x):
    """By reading numbers, or where none may be read."""
    return function(x) if way == "plain" else torch.func.vmap(function)(x[None])[0]


def gradient_of(loss, x):
    return torch.autograd.grad(loss.sum(), x)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_excluded_classes_and_empty_rows(way, dtype):
    x = torch.tensor([[0.0, -INF, 0.0], [-INF] * 3], dtype=dtype, requires_grad=True)
    shares = in_a(way, eq.losses.softmax, x)
    logs = in_a(way, eq.losses.log_softmax, x)
    assert shares.tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    assert logs.tolist()[1] == [-INF] * 3
    assert logs[0, 1].item() == -INF
    assert logs[0, 0].item() == pytest.approx(-math.log(2), rel=4e-3)
    factors = torch.tensor([[1.0, 2.0, 3.0]], dtype=dtype)
    found = gradient_of(shares * factors, x)
    # p_i (f_i - sum_j p_j f_j) with a mean of 2.
    assert found.tolist() == [[-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    assert gradient_of(logs, x)[1].tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_filled_rows_have_the_derivatives_of_the_careful_form(name, dim, dtype):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, generator=g, dtype=torch.float64)
    x[1, :3] = -INF
    x.select(1 - dim, 2).fill_(-INF)
    x = x.to(dtype).requires_grad_()
    function = getattr(eq.losses, name)
    rows, other = function(x, dim), in_a("transformed", lambda x: function(x, dim), x)
    torch.testing.assert_close(rows, other)
    every = torch.eye(16, dtype=dtype).view(16, 4, 4)
    (found,) = torch.autograd.grad(rows, x, every, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(every):
        (alone,) = torch.autograd.grad(rows, x, one, retain_graph=True)
        (wanted,) = torch.autograd.grad(other, x, one, retain_graph=True)
        torch.testing.assert_close(alone, wanted)
        torch.testing.assert_close(found[i], wanted)
    tangent = torch.randn(4, 4, generator=g, dtype=torch.float64).to(dtype)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), tangent)
        _, moved = torch.autograd.forward_ad.unpack_dual(function(dual, dim))
    pushed = (found.double().flatten(1) * tangent.double().flatten()).sum(1).view(4, 4)
    # A sum of rounded products, some of which cancel.
    close = {"rtol": 0.05, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-7, "atol": 0}
    torch.testing.assert_close(moved.double(), pushed, **close)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_and_overflow_stay_visible(way, bad):
    rows = [[0.0, bad, -INF], [bad, -INF, -INF], [bad, bad, 0.0]]
    for row in rows:
        x = torch.tensor([row, [0.0, 0.0, 0.0]])
        for function in (eq.losses.softmax, eq.losses.log_softmax):
            y = in_a(way, function, x)
            assert y[0].isnan().all()
            assert y[1].isfinite().all()
        for target in range(3):
            for smoothing in (0.0, 0.1, 1.0):
                y = torch.tensor([target, 0])
                soft = torch.nn.functional.one_hot(y, 3).float()
                for t in (y, soft):
                    for options in ({"reduction": "none"}, {}):
                        loss = in_a(
                            way,
                            lambda x, t=t, options=options, s=smoothing: eq.losses.cross_entropy(
                                x, t, label_smoothing=s, **options
                            ),
                            x,
                        )
                        assert loss.flatten()[0].isnan()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of_probabilities", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_excluded_classes(way, of_probabilities, dtype):
    x = torch.tensor(
        [[0.0, -INF, 0.0], [-INF, -INF, -INF], [-INF, 1.0, 2.0]], dtype=dtype, requires_grad=True
    )
    y = torch.tensor([0, 1, 0])
    t = torch.nn.functional.one_hot(y, 3).to(dtype) if of_probabilities else y

    def rows(x):
        return eq.losses.cross_entropy(x, t, reduction="none")

    loss = in_a(way, rows, x)
    assert loss[0].item() == pytest.approx(math.log(2), rel=4e-3)
    assert loss[1:].tolist() == [0.0, INF]
    found = gradient_of(loss, x)
    assert found.tolist() == [[-0.5, 0.0, 0.5], [0.0] * 3, [0.0] * 3]
    # The mean: the empty row does not count, the contradiction shows.
    mean = in_a(way, lambda x: eq.losses.cross_entropy(x[:2], t[:2]), x)
    torch.testing.assert_close(mean, loss[0])
    assert gradient_of(mean, x).tolist() == [[-0.5, 0.0, 0.5], [0.0] * 3, [0.0] * 3]
    whole = in_a(way, lambda x: eq.losses.cross_entropy(x, t), x)
    assert whole.item() == INF
    assert gradient_of(whole, x).isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_a_weight_of_zero_takes_a_contradiction_out(way):
    x = torch.tensor([[-INF, 1.0, 2.0], [0.0, 0.0, 0.0]], requires_grad=True)
    y, w = torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 1.0])
    for t in (y, torch.nn.functional.one_hot(y, 3).float()):
        loss = in_a(way, lambda x, t=t: eq.losses.cross_entropy(x, t, w, reduction="none"), x)
        assert loss.tolist() == [0.0, pytest.approx(math.log(3))]
        assert gradient_of(loss, x)[0].tolist() == [0.0] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of_probabilities", [False, True])
def test_smoothing_goes_to_the_classes_that_are_left(way, of_probabilities):
    x = torch.tensor([[0.3, -INF, -0.2, 1.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2])
    t = torch.nn.functional.one_hot(y, 4).double() if of_probabilities else y
    loss = in_a(way, lambda x: eq.losses.cross_entropy(x, t, label_smoothing=0.3), x)
    left = x[:, [0, 2, 3]]
    wanted = torch.nn.functional.cross_entropy(left, torch.tensor([1]), label_smoothing=0.3)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient_of(loss, x), gradient_of(wanted, x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_where_nothing_counts_the_loss_is_0(way, reduction):
    cases = [
        (torch.full((2, 3), -INF), torch.tensor([0, 1])),
        (torch.full((2, 3), -INF), torch.tensor([-100, -100])),
        (torch.zeros(2, 3), torch.tensor([-100, -100])),
        (torch.full((2, 3), -INF), torch.full((2, 3), 1 / 3)),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
    ]
    for x, y in cases:
        p = x.clone().requires_grad_()
        loss = in_a(
            way, lambda x, y=y: eq.losses.cross_entropy(x, y, z_loss=0.1, reduction=reduction), p
        )
        assert loss.item() == 0
        assert not gradient_of(loss, p).any()


def test_an_ignored_row_may_be_empty_but_its_nan_is_seen():
    for count in (2, 400):
        x = torch.zeros(count, 3)
        y = torch.zeros(count, dtype=torch.int64)
        y[0] = -100
        x[0] = -INF
        p = x.clone().requires_grad_()
        loss = eq.losses.cross_entropy(p, y)
        assert loss.item() == pytest.approx(math.log(3))
        assert not gradient_of(loss, p)[0].any()
        assert gradient_of(eq.losses.cross_entropy(p, y), p).isfinite().all()
        x[0] = NAN
        p = x.clone().requires_grad_()
        assert gradient_of(eq.losses.cross_entropy(p, y), p)[0].isnan().all()


@pytest.mark.parametrize("way", WAYS)
def test_finite_logits_too_far_apart_are_no_contradiction(way):
    x = torch.tensor([[-3e38, 3e38]], requires_grad=True)
    loss = in_a(way, lambda x: eq.losses.cross_entropy(x, torch.tensor([0])), x)
    assert loss.item() == INF
    # The gradient still says which way to go.
    assert gradient_of(loss, x).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("under", [NAN, INF, -INF, 3.0])
def test_what_a_mask_excludes_is_not_read(way, under):
    x = torch.tensor([[0.0, under, 0.0], [under] * 3], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False] * 3])
    y = torch.tensor([0, 1])
    shares = in_a(way, lambda x: eq.losses.softmax(x, mask=mask), x)
    assert shares.tolist() == [[0.5, 0.0, 0.5], [0.0] * 3]
    loss = in_a(way, lambda x: eq.losses.cross_entropy(x, y, mask=mask), x)
    assert loss.item() == pytest.approx(math.log(2))
    assert gradient_of(loss, x).tolist() == [[-0.5, 0.0, 0.5], [0.0] * 3]
    t, m = torch.tensor([[1.0, NAN, 0.0]] * 2), mask
    entries = in_a(way, lambda x: eq.losses.binary_cross_entropy_with_logits(x, t, mask=m), x)
    assert entries.item() == pytest.approx(math.log(2))
    assert gradient_of(entries, x).tolist() == [[-0.25, 0.0, 0.25], [0.0] * 3]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_of_certain_answers(way, dtype, smoothing):
    x = torch.tensor([INF, -INF, INF, -INF, INF, NAN, INF], dtype=dtype, requires_grad=True)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 1.0, NAN], dtype=dtype)
    loss = in_a(
        way,
        lambda x: eq.losses.binary_cross_entropy_with_logits(
            x, t, reduction="none", label_smoothing=smoothing
        ),
        x,
    )
    assert loss[:5].tolist() == [0.0, 0.0, INF, INF, INF]
    assert loss[5:].isnan().all()
    assert gradient_of(loss, x)[:5].tolist() == [0.0] * 5
    nothing = torch.zeros(7, dtype=torch.bool)
    assert eq.losses.binary_cross_entropy_with_logits(x, t, mask=nothing).item() == 0


def test_binary_weights_of_zero_take_wrong_answers_out():
    x, t = torch.tensor([INF, -INF]), torch.tensor([0.0, 1.0])
    lost = eq.losses.binary_cross_entropy_with_logits
    assert lost(x, t, torch.tensor([0.0, 0.0])).item() == 0
    assert lost(x, t, reduction="none", pos_weight=torch.tensor(0.0)).tolist() == [INF, 0.0]


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda x: eq.losses.softmax(x),
        lambda x: eq.losses.log_softmax(x)[:, :1][:1],
        lambda x: eq.losses.cross_entropy(x, torch.tensor([0, 1, -100])),
        lambda x: eq.losses.cross_entropy(x, torch.tensor([0, 1, 2]), z_loss=0.1, reduction="none"),
        lambda x: eq.losses.cross_entropy(x, torch.tensor([0, 1, 2]), label_smoothing=0.1),
        lambda x: eq.losses.cross_entropy(x, torch.full((3, 4), 0.25), label_smoothing=0.0,
                                          mask=torch.tensor([True, True, True, False])),
        lambda x: eq.losses.binary_cross_entropy_with_logits(x, torch.zeros(3, 4)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_are_right_beside_what_is_excluded(loss_of, way):
    """Numeric against analytic, over the finite logits of a matrix that has others."""
    template = torch.tensor(
        [[0.0, 0.0, -INF, -INF], [-INF] * 4, [0.0, -INF, 0.0, -INF]], dtype=torch.float64
    )
    where = template == 0
    free = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def of_free(free):
        x = template.masked_scatter(where, free)
        loss = in_a(way, loss_of, x)
        # inf is a constant, which has no numeric slope.
        return loss.where(loss.isfinite(), loss.new_zeros(()))

    free.requires_grad_()
    assert torch.autograd.gradcheck(of_free, (free,))
    assert torch.autograd.gradgradcheck(of_free, (free,))
    x = template.clone().requires_grad_()
    loss = in_a(way, loss_of, x)
    (first,) = torch.autograd.grad(loss.where(loss.isfinite(), 0.0).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * first).sum(), x)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert not first[1].any()


def test_a_network_trains_beside_empty_rows():
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=g)
    labels = (inputs[:, 0] > 0).long()
    allowed = torch.ones(64, 3, dtype=torch.bool)
    allowed[::7] = False
    weight = torch.zeros(3, 8, requires_grad=True)
    losses = []
    for _ in range(30):
        loss = eq.losses.cross_entropy(inputs @ weight.T, labels, mask=allowed)
        (step,) = torch.autograd.grad(loss, weight)
        weight.data -= step
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert weight.isfinite().all()


X, Y = torch.zeros(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: eq.losses.cross_entropy(X.long(), Y), "input must be floating-point"),
        (lambda: eq.losses.softmax(X.long()), "input must be floating-point"),
        (lambda: eq.losses.log_softmax(X, mask=X), "mask must be boolean"),
        (lambda: eq.losses.softmax(X, mask=torch.ones(4, dtype=torch.bool)), "mask must broadcast"),
        (lambda: eq.losses.cross_entropy(X, Y, reduction="median"), "reduction must be one of"),
        (lambda: eq.losses.cross_entropy(X, Y, label_smoothing=1.5), "label_smoothing must be"),
        (lambda: eq.losses.cross_entropy(X, Y, z_loss=-1.0), "z_loss must be"),
        (lambda: eq.losses.cross_entropy(torch.tensor(0.0), Y), "input must have an axis"),
        (lambda: eq.losses.cross_entropy(X, Y[:1]), r"target must have shape \(2,\) for classes"),
        (lambda: eq.losses.cross_entropy(X, X[:1]), "for probabilities"),
        (lambda: eq.losses.cross_entropy(X, Y.bool()), "target must hold whole numbers"),
        (lambda: eq.losses.cross_entropy(X, Y + 3), "target must hold classes from 0 to 2"),
        (lambda: eq.losses.cross_entropy(X, Y, torch.ones(2)), r"weight must have shape \(3,\)"),
        (lambda: eq.losses.binary_cross_entropy_with_logits(X, X[:1]), "target must have"),
        (lambda: eq.losses.binary_cross_entropy_with_logits(X, X, torch.ones(2)),
         "weight must broadcast"),
        (lambda: eq.losses.binary_cross_entropy_with_logits(X, X, pos_weight=torch.ones(2)),
         "pos_weight must broadcast"),
        (lambda: eq.losses.binary_cross_entropy_with_logits(X, X, reduction="all"), "reduction"),
        (lambda: eq.losses.binary_cross_entropy_with_logits(X, X, label_smoothing=-0.1),
         "label_smoothing"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
