"""Explaining a nan: producer and carrier, both passes and the update, and no false alarm."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import equipoise.torch as eq

READS = pytest.mark.parametrize("read_every", [1, 5, 1000])


def line(function, text):
    """Number of the line of a function that holds a text."""
    source, start = inspect.getsourcelines(function)
    return next(start + i for i, x in enumerate(source) if text in x)


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(4, 8), nn.Linear(8, 2), between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def explain(function, x=None, read_every=1, optimizer=None, loss_of=torch.mean):
    """One step of training with a function between two layers."""
    torch.manual_seed(0)
    model = Net(Between(function))
    x = torch.randn(6, 4) if x is None else x
    with eq.explain_nonfinite(model, on_found="report", read_every=read_every) as found:
        made = (optimizer or (lambda p: torch.optim.Adam(p, 1e-3)))(model.parameters())
        for _ in range(2):
            if not found:
                made.zero_grad()
                loss_of(model(x)).backward()
                made.step()
    return found


# Name: function, torch's name of the operation, a word of its cause.
FORWARD = {
    "exp": (lambda x: (x + 100).exp(), "exp", "overflows"),
    "log of 0": (lambda x: (x.relu() * 0).log(), "log", "-inf"),
    "log of less": (lambda x: (x - 9).log(), "log", "negative"),
    "log1p": (lambda x: (x * 0 - 1).log1p(), "log1p", "-1"),
    "logit": (lambda x: torch.logit(x * 0), "logit", "logit"),
    "0 / 0": (lambda x: x * 0 / (x * 0), "div", "0 / 0"),
    "1 / 0": (lambda x: 1 / (x * 0), "reciprocal", "by 0"),
    "small divisor": (lambda x: (x + 9) * 1e30 / (x * 0 + 1e-30), "div", "goes down to 1e-30"),
    "root": (lambda x: (x - 9).sqrt(), "sqrt", "negative"),
    "inverse root": (lambda x: (x - 9).rsqrt(), "rsqrt", "negative"),
    "power": (lambda x: (x - 9) ** 0.3, "pow", "broken"),
    "power of 0": (lambda x: (x * 0) ** -2, "pow", "negative power"),
    "large power": (lambda x: (x + 9) ** 99, "pow", "overflows"),
    "std of one": (lambda x: x / x[:, :1].var(1, keepdim=True), "var", "n - 1"),
    "mean of nothing": (lambda x: x + x[:0].mean(), "mean", "mean of nothing"),
    "arc sine": (lambda x: torch.asin(x + 9), "asin", "outside"),
    "product": (lambda x: (x * 1e30) @ (x.T * 1e30) @ x, "mm", "overflow"),
    "factor": (lambda x: x * 1e30 * 1e30, "mul", "overflows"),
    "inf - inf": (
        lambda x: x.masked_fill(x > 0, float("inf")) + x.masked_fill(x > 0, float("-inf")),
        "add", "inf - inf",
    ),
    "inf / inf": (
        lambda x: torch.full_like(x, torch.inf) / torch.full_like(x, torch.inf), "div", "inf / inf",
    ),
    "0 * inf": (lambda x: x * (0 * torch.full_like(x, torch.inf)), "mul", "0 * inf"),
    "softmax": (lambda x: x.masked_fill(x == x, -torch.inf).softmax(1), "_softmax", "-inf"),
    "norm without eps": (
        lambda x: F.layer_norm(x * 0, (8,), eps=0.0), "native_layer_norm", "spread of 0",
    ),
    "norm of large numbers": (
        lambda x: F.layer_norm(x * 1e30, (8,)), "native_layer_norm", "squares in the norm",
    ),
    "cast": (lambda x: (x + 1e6).half().float(), "_to_copy", "float16"),
    "in place": (lambda x: (x + 100).exp_(), "exp_", "overflows"),
    "by a number": (lambda x: (x + 9) / 0.0, "div", "division by 0"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@READS
@pytest.mark.parametrize("name", FORWARD)
def test_forward(name, read_every):
    function, aten, word = FORWARD[name]
    result = explain(function, read_every=read_every).result
    assert result.code == "non-finite-forward"
    assert result.operation.aten == aten
    assert result.where == result.finding.where == "between"
    assert word in result.cause.what
    assert result.reached == "the loss"
    assert result.operation.lines[0].file == __file__
    assert result.finding.severity == "error"
    assert result.finding.remedy


def rooted(x):
    gap = (x - x.detach()).square().sum()
    return x + gap.sqrt()


def chosen(x):
    kept = x * (x > 0)
    return torch.where(kept > 0, kept.log(), kept)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / (x - x)


def cubed(x):
    return Cube.apply(x)


BACKWARD = {
    "root": (rooted, "gap.sqrt()", "div", "SqrtBackward0", "square root at 0"),
    "where": (chosen, "kept.log()", "div", "LogBackward0", "logarithm at 0"),
}


@READS
@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name, read_every):
    function, text, aten, node, word = BACKWARD[name]
    result = explain(function, read_every=read_every).result
    assert result.code == "non-finite-backward"
    assert (result.operation.aten, result.operation.node) == (aten, node)
    assert result.operation.lines[0].number == line(function, text)
    assert result.where == "between"
    assert word in result.cause.what
    assert result.reached.startswith("the gradient of parameter 'first.")


@READS
def test_backward_of_the_users_own(read_every):
    operation = explain(cubed, read_every=read_every).result.operation
    assert operation.aten == "div"
    assert operation.lines[0].number == line(Cube.backward, "gradient / (x - x)")
    assert operation.made_at[0].number == line(Cube.forward, "x**3")
    assert operation.made_at[1].number == line(cubed, "Cube.apply")


def test_a_second_derivative():
    def bent(x):
        return (x * (x > 0)).pow(1.5)

    torch.manual_seed(0)
    model, x = Net(Between(bent)), torch.randn(6, 4, requires_grad=True)
    with eq.explain_nonfinite(model, on_found="report") as found:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        assert slope.isfinite().all()
        slope.square().sum().backward()
    result = found.result
    assert result.code == "non-finite-backward"
    assert result.operation.aten == "pow"
    assert result.operation.lines[0].number == line(bent, "pow(1.5)")


@READS
def test_an_adam_without_eps_divides_0_by_0(read_every):
    found = explain(
        lambda x: x * 0, read_every=read_every, optimizer=lambda p: torch.optim.Adam(p, eps=0.0)
    )
    result = found.result
    assert result.code == "non-finite-update"
    assert result.operation.aten == "addcdiv_"
    assert result.where == result.reached == "parameter 'first.weight'"
    assert "eps is 0" in result.cause.what
    assert "optimizer's step" in str(result)


@pytest.mark.parametrize(
    ("make", "aten"),
    [
        (lambda p: torch.optim.SGD(p, float("inf")), "add_"),
        (lambda p: torch.optim.SGD(p, float("inf"), foreach=True), "_foreach_add_"),
        (lambda p: torch.optim.SGD(p, float("inf"), fused=True), "_fused_sgd_"),
    ],
)
def test_a_wild_learning_rate(make, aten):
    result = explain(torch.tanh, optimizer=make).result
    assert result.code == "non-finite-update"
    assert result.operation.aten == aten
    assert "is inf" in result.cause.what or "is -inf" in result.cause.what
    # Lists are told apart: this one alone went in.
    sizes = {x.span.shape for x in result.operation.inputs}
    assert len(sizes) == 1


def test_an_optimizers_state_overflows():
    found = explain(lambda x: x * 1e25)
    result = found.result
    assert result.operation.aten == "addcmul_"
    assert result.reached.startswith("the optimizer's state 'exp_avg_sq' of parameter 'first.")
    assert "square of a gradient" in result.cause.what


def test_a_step_that_overflows_by_size():
    result = explain(lambda x: x * 1e10, optimizer=lambda p: torch.optim.SGD(p, 1e38)).result
    assert result.code == "non-finite-update"
    assert "overflows float32" in result.cause.what


def test_an_update_by_hand():
    torch.manual_seed(0)
    model = Net(torch.tanh)

    def update():
        for p in model.parameters():
            p -= 1e39 * p.grad

    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).mean().backward()
        with torch.no_grad():
            update()
    assert found.result.code == "non-finite-update"
    assert found.result.reached == "parameter 'first.weight'"
    assert found.result.operation.lines[0].number == line(update, "1e39")


def test_a_step_inside_of_the_backward_pass():
    torch.manual_seed(0)
    model = Net(torch.tanh)
    for p in model.parameters():
        sgd = torch.optim.SGD([p], float("inf"))
        p.register_post_accumulate_grad_hook(lambda _, sgd=sgd: sgd.step())
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).mean().backward()
    assert found.result.code == "non-finite-update"
    assert found.result.reached == "parameter 'second.bias'"


def test_no_target_is_left():
    torch.manual_seed(0)
    model = Net(torch.tanh)
    with eq.explain_nonfinite(model, on_found="report") as found:
        F.cross_entropy(model(torch.randn(6, 4)), torch.full((6,), -100)).backward()
    assert "no target" in found.result.cause.what
    assert found.result.where == "outside the model"


def test_half_precision_tells_the_room_that_was_left():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1)).half()
    with torch.no_grad():
        model[0].weight.fill_(300.0)
    x = torch.full((2, 64), 16.0).half()
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(x).float().sum().backward()
    result = found.result
    assert (result.where, result.operation.aten) == ("0", "addmm")
    spans = {x.source or x.name: x.span for x in result.operation.inputs}
    weight = next(s for s in spans.values() if s.absmax == 300.0)
    # 65504 / 300 by hand.
    assert 2**weight.headroom == pytest.approx(65504 / 300)
    assert weight.minimum == weight.maximum == 300.0
    assert weight.non_finite == 0.0
    assert result.operation.outputs[0].span.positive == 1.0
    assert "float16" in result.cause.what
    assert "bfloat16" in result.cause.remedy


def test_adam_in_float16_loses_its_eps():
    torch.manual_seed(0)
    model = nn.Linear(4, 2).half()
    adam = torch.optim.Adam(model.parameters())
    x = torch.zeros(3, 4).half()
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(x).float().mean().backward()
        adam.step()
    assert "eps underflows" in found.result.cause.what


def test_autocast_overflows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    with eq.explain_nonfinite(model, on_found="report") as found:
        with torch.autocast("cpu", torch.float16):
            out = model(torch.full((2, 64), 7e4))
        out.float().sum().backward()
    assert found.result.operation.aten == "_to_copy"
    assert found.result.where == "0"
    assert "does not fit into float16" in found.result.cause.what


def test_a_gradient_scaler_deals_with_it():
    torch.manual_seed(0)
    model = nn.Linear(64, 1)
    sgd = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = model.weight.detach().clone()
    with eq.explain_nonfinite(model) as found:
        for _ in range(2):
            with torch.autocast("cpu", torch.float16):
                out = model(torch.full((8, 64), 50.0))
            scaler.scale(out.float().sum()).backward()
            scaler.step(sgd)
            scaler.update()
            sgd.zero_grad()
    assert not found
    assert torch.equal(model.weight, before)
    assert found.skipped_steps == len(found.handled) == 2
    finding = found.findings[0]
    assert (finding.code, finding.severity) == ("non-finite-backward", "info")
    assert "scaler" in finding.remedy
    assert "left out 2 steps" in str(found)


def test_a_batch_that_was_bad():
    x = torch.randn(6, 4)
    x[3, 1] = torch.nan
    result = explain(torch.tanh, x).result
    assert result.code == result.finding.code == "non-finite-given"
    assert result.operation is None
    assert result.where == "argument 'x' of the model"
    assert result.given.span.rows == (3,)
    assert result.given.span.nan == pytest.approx(1 / 24)
    assert "rows 3" in result.cause.what
    assert "came in" in str(result)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["first.weight", "second.bias"])
def test_a_weight_that_was_bad(name, value):
    torch.manual_seed(0)
    model = Net(nn.Tanh())
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = value
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).square().mean().backward()
        # A tanh makes a number of an infinite preactivation.
        torch.optim.SGD(model.parameters(), 0.1).step()
    result = found.result
    assert [x.name for x in result.before] == [f"parameter '{name}'"]
    assert result.where == f"parameter '{name}'"
    assert "earlier checkpoint" in result.cause.remedy
    assert f"parameter '{name}'" in str(result)


def test_a_statistic_and_a_gradient_that_were_bad():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model[1].running_mean[2] = torch.nan
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).mean().backward()
    assert found.result.where == "buffer '1.running_mean'"
    model = nn.Linear(4, 1)
    model.weight.grad = torch.full((1, 4), torch.nan)
    with eq.explain_nonfinite(model, on_found="report") as found:
        model(torch.randn(6, 4)).mean().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert found.result.where == "gradient of parameter 'weight'"
    assert "zero_grad" in found.result.cause.remedy


def test_free_parameters_and_functional_calls_go_by_name():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((4,), 1e30))

        def forward(self, x):
            return F.linear(x, torch.ones(4, 4)) * self.scale * 1e30

    with eq.explain_nonfinite(Free(), on_found="report") as found:
        found_model = found._model
        found_model(torch.ones(2, 4)).sum().backward()
    assert found.result.where == "the model's own forward"
    assert found.result.operation.aten == "mul"


def test_the_first_of_two_is_named_and_carriers_are_not():
    result = explain(lambda x: ((x + 100).exp() - (x + 200).exp()).tanh()).result
    assert result.operation.aten == "exp"
    assert result.operation.inputs[0].span.maximum < 150
    assert result.turned.aten == "sub"
    assert "became nan in difference" in str(result)
    # What ran before it, with its place, and not the operation itself.
    assert result.recent[-1].startswith("sum of two in between, ")
    assert "linear layer" in result.recent[0]


def test_checkpointing_names_the_line_that_is_recomputed():
    def fails_again(x):
        if count:
            x = x + 100
        count.append(1)
        return x.exp()

    count = []
    found = explain(lambda x: checkpoint(fails_again, x, use_reentrant=False))
    operation = found.result.operation
    assert operation.is_recomputed
    assert operation.lines[0].number == line(fails_again, "x.exp()")
    assert "recomputed" in str(found)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_operation_behind_checkpointing(reentrant):
    found = explain(lambda x: checkpoint(rooted, x, use_reentrant=reentrant))
    assert found.result.operation.node == "SqrtBackward0"
    assert found.result.operation.lines[0].number == line(rooted, "gap.sqrt()")
    assert found.result.where == "between"


def test_a_view_written_in_place():
    def written(x):
        y = torch.zeros_like(x)
        y[:, 2] = x[:, 2] / 0
        return y

    result = explain(written).result
    assert result.operation.aten == "div"
    assert result.operation.lines[0].number == line(written, "/ 0")


def test_what_was_overwritten_keeps_its_range():
    def overwritten(x):
        y = x * 0 + 100
        y.exp_()
        return y

    (before,) = explain(overwritten).result.operation.inputs
    assert before.span.minimum == before.span.maximum == 100.0
