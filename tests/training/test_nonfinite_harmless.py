"""Infinities that are meant raise no alarm, and what an explanation does around a block."""

import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import equipoise.torch as eq
from equipoise.errors import ArgumentError, NonFiniteError

INF = float("inf")


def causal(x):
    scores = x @ x.T
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -INF).softmax(1) @ x


def added(x):
    mask = torch.full((len(x), len(x)), -INF).triu(1)
    return (x @ x.T + mask).softmax(1) @ x


def attention(x):
    q = x[None, None]
    mask = torch.zeros(len(x), len(x)).masked_fill(torch.ones(len(x), len(x)).triu(1) > 0, -INF)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)[0, 0]


def log_of_nothing(x):
    safe = torch.where(x > 0, x, 1.0)
    return torch.where(x > 0, safe.log(), 0.0) + torch.where(x > 0, x.detach().log(), x)


def full_rows(x):
    shares = x.masked_fill(x > 5, -INF).softmax(1)
    masked = (x.detach() * 0).masked_fill(x == x, -INF).softmax(1)
    return shares + masked.nan_to_num(0.0)


HARMLESS = {
    "causal": causal,
    "added": added,
    "attention": attention,
    "logarithm": log_of_nothing,
    "rows": full_rows,
    "pooling": lambda x: F.max_pool1d(F.pad(x[None], (1, 1), value=-INF), 3, 1)[0],
    "clamp": lambda x: x.clamp(min=-INF, max=INF),
    "maximum": lambda x: torch.maximum(x, torch.full_like(x, -INF)),
    "smallest": lambda x: torch.where(x > 0, x, torch.tensor(INF)).amin(1, keepdim=True).clamp(
        max=9) + x,
    "logsumexp": lambda x: torch.logsumexp(x.masked_fill(x > 0.5, -INF), 1, keepdim=True)
    .clamp_min(-9) + x,
    "top": lambda x: x.masked_fill(x < x.topk(3, 1).values[:, -1:], -INF).softmax(1),
    "empty": lambda x: x + torch.empty(0).sum(),
    "half": lambda x: ((x.half() + 40).repeat(1, 400).float().mean(1, keepdim=True)) + x,
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(4, 8), nn.Linear(8, 2), between
        self.register_buffer("mask", torch.full((3, 3), -INF).triu(1))

    def forward(self, x):
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize("read_every", [1, 7, 1000])
@pytest.mark.parametrize("name", HARMLESS)
def test_no_alarm(name, read_every):
    torch.manual_seed(0)
    model, x = Net(HARMLESS[name]), torch.randn(6, 4)
    adam = torch.optim.Adam(model.parameters())
    with eq.explain_nonfinite(model, read_every=read_every) as found:
        for _ in range(3):
            adam.zero_grad()
            model(x).square().mean().backward()
            adam.step()
    assert not found
    assert found.result is None
    assert found.findings == ()
    assert "All that counts was finite" in str(found)
    # The buffer is named, and no one is blamed for it.
    assert "buffer 'mask'" in str(found)
    assert all(p.isfinite().all() for p in model.parameters())


def test_training_is_the_same_to_the_last_bit():
    def train(is_watched):
        torch.manual_seed(0)
        model, x = Net(causal), torch.randn(6, 4)
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(3):
            with eq.explain_nonfinite(model) if is_watched else torch.enable_grad():
                adam.zero_grad()
                F.dropout(model(x), 0.3).square().mean().backward()
                adam.step()
        return model.state_dict()

    plain, watched = train(False), train(True)
    assert all(torch.equal(plain[k], watched[k]) for k in plain)


@pytest.mark.parametrize("read_every", [1, 7, 1000])
def test_raising_comes_before_the_optimizer_moves_a_weight(read_every):
    torch.manual_seed(0)
    model = Net(lambda x: x + (x - x.detach()).square().sum().sqrt())
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    block = eq.explain_nonfinite(model, read_every=read_every)
    with pytest.raises(NonFiniteError, match="SqrtBackward0") as caught, block:  # noqa: PT012
        model(torch.randn(6, 4)).mean().backward()
        sgd.step()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert caught.value.result is block.result
    # Ranges hold nan, which equals nothing.
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy.result) == str(copy) == str(block)
    # Nothing of the watch stays behind.
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    with eq.explain_nonfinite(Net(torch.tanh)):
        pass


def test_raising_names_a_loss_before_it_is_differentiated():
    model = Net(lambda x: x.exp() * INF)
    with pytest.raises(NonFiniteError, match="reached: the loss"), eq.explain_nonfinite(model):
        model(torch.randn(6, 4)).mean().backward()
    assert all(p.grad is None for p in model.parameters())


def test_a_forward_pass_alone_is_judged_by_what_it_returns():
    model = Net(lambda x: x.log())
    with eq.explain_nonfinite(model, on_found="report") as found, torch.no_grad():
        model(torch.randn(6, 4) - 9)
    assert found.result.operation.aten == "log"
    assert found.result.reached == "the output of the model"


def test_a_loss_that_nobody_differentiates_is_judged_too():
    model = Net(torch.tanh)
    with eq.explain_nonfinite(model, on_found="report") as found, torch.no_grad():
        loss = (model(torch.randn(6, 4)) - 99).log().mean()
    assert loss.isnan()
    assert found.result.where == "outside the model"
    assert found.result.reached == "a scalar, such as a loss or metric"


def test_a_metric_beside_a_loss_is_no_alarm():
    model = Net(torch.tanh)
    with eq.explain_nonfinite(model) as found:
        loss = model(torch.randn(6, 4)).square().mean()
        perplexity = (loss.detach() + 1000).exp()
        loss.backward()
    assert perplexity == INF
    assert not found


def test_a_written_infinity_that_gets_through_is_named():
    model = Net(torch.tanh)
    with eq.explain_nonfinite(model, on_found="report") as found:
        out = model(torch.randn(6, 4))
        masked = out.masked_fill(torch.tensor([True, False]), -INF)
        F.cross_entropy(masked, torch.zeros(6, dtype=torch.long)).backward()
    assert found.result.is_written
    assert found.result.operation.aten == "masked_fill"
    assert "target" in found.result.cause.remedy
    assert "was written as" in str(found)


def test_an_error_of_the_block_gets_a_note():
    model = Net(lambda x: (x - 99).log().softmax(1))
    block = eq.explain_nonfinite(model)
    with pytest.raises(RuntimeError) as caught, block:
        torch.multinomial(model.between(torch.randn(6, 4)), 1)
    assert "aten.log" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="other") as other, eq.explain_nonfinite(Net(torch.tanh)):
        raise ValueError("other")
    assert not hasattr(other.value, "__notes__")


def test_compiled_functions_run_eagerly_and_are_seen():
    torch.manual_seed(0)
    net = Net(lambda x: (x + 100).exp())
    model = torch.compile(net, backend="eager")
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).mean().backward()
    assert found.result.operation.aten == "exp"
    assert found.result.where == "the model's own forward"
    assert found.has_compiled
    assert "ran eagerly" in str(found)


def test_several_steps_in_one_block_and_blocks_one_after_the_other():
    torch.manual_seed(0)
    model, x = Net(torch.tanh), torch.randn(6, 4)
    sgd = torch.optim.SGD(model.parameters(), 1e-2)
    block = eq.explain_nonfinite(model, on_found="report")
    for bad in (False, True):
        with block as found:
            for i in range(4):
                sgd.zero_grad()
                y = model(x)
                ((y - 99).sqrt() if bad and i == 2 else y).mean().backward()
                sgd.step()
        assert bool(found) is bad
    assert found.result.operation.aten == "sqrt"


def test_gradients_in_other_threads_and_sparse_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with eq.explain_nonfinite(model) as found:
        worker = threading.Thread(target=lambda: model(torch.arange(5)).sum())
        worker.start()
        worker.join()
        model(torch.arange(5)).sum().backward()
        sgd.step()
    assert not found


def test_complex_numbers():
    model = nn.Linear(4, 4)
    with eq.explain_nonfinite(model, on_found="report") as found:
        spectrum = torch.fft.fft(model(torch.ones(2, 4)))
        (spectrum / (spectrum * 0)).abs().sum().backward()
    assert found.result.operation.aten == "div"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: eq.explain_nonfinite("model"), "model must be a torch.nn.Module"),
        (lambda: eq.explain_nonfinite(nn.Linear(1, 1), on_found="stop"), "on_found"),
        (lambda: eq.explain_nonfinite(nn.Linear(1, 1), read_every=0), "read_every"),
    ],
)
def test_arguments_that_cannot_be_used(call, word):
    with pytest.raises(ArgumentError, match=word):
        call()


def test_a_block_is_entered_once_at_a_time():
    block = eq.explain_nonfinite(nn.Linear(1, 1))
    with block, pytest.raises(ArgumentError, match="once at a time"):
        block.__enter__()
