"""Weights in a form that no layer can use are named, and inputs are not blamed for them."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, TraceError

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def mlp(dtype=torch.float32):
    first, second, last = (nn.Linear(16, n, dtype=dtype) for n in (16, 16, 4))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def with_weight(weight, name="weight"):
    model = mlp()
    trained = weight.is_floating_point() or weight.is_complex()
    setattr(model[2], name, nn.Parameter(weight, requires_grad=trained and not weight.is_quantized))
    return model


class Raw(nn.Module):
    """A weight that no layer of torch's holds."""

    def __init__(self, weight):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.raw = nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(self.first(x), self.raw)


class Beside(Raw):
    """The same, which forward does not read."""

    def forward(self, x):
        return self.first(x)


class Cast(Raw):
    """The same, read as what the values are."""

    def forward(self, x):
        return nn.functional.linear(self.first(x), self.raw.to(x.dtype))


def packed():
    return torch.quantize_per_tensor(torch.ones(4, 16), 0.1, 0, torch.qint8)


WHOLE = torch.ones(16, 16, dtype=torch.int64)
MODELS = {
    "integers": (lambda: with_weight(WHOLE), "'2.weight' must hold real .* torch.int64"),
    "bias": (lambda: with_weight(WHOLE[0], "bias"), "'2.bias' must hold real .* torch.int64"),
    "complex": (lambda: mlp(torch.complex64), "'0.weight' must hold real .* torch.complex64"),
    "sparse": (lambda: with_weight(torch.eye(16).to_sparse()), "'2.weight' must be dense"),
    "rows": (lambda: with_weight(torch.eye(16).to_sparse_csr()), "'2.weight' must be dense"),
    "raw integers": (lambda: Raw(WHOLE[:4]), "'raw' must hold real numbers"),
    "raw sparse": (lambda: Raw(torch.ones(4, 16).to_sparse()), "'raw' must be dense"),
    "quantized": (lambda: Raw(packed()), "'raw' must be dense, got a quantized one"),
    "kernel": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3, dtype=torch.complex64)
        ),
        "'2.weight' must hold real numbers",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse")
@pytest.mark.parametrize("call", [eq.plan, eq.initialize, eq.diagnose])
@pytest.mark.parametrize("name", MODELS)
def test_the_parameter_is_named_and_not_the_inputs(name, call):
    make, words = MODELS[name]
    with pytest.raises(ArgumentError, match=words) as caught:
        call(make(), X)
    assert "onvert" in str(caught.value)
    assert "input" not in str(caught.value)


def test_complex_inputs_do_not_hide_a_complex_model():
    with pytest.raises(ArgumentError, match=r"'0.weight' must hold real numbers"):
        eq.initialize(mlp(torch.complex64), X.to(torch.complex64))


@pytest.mark.parametrize("kind", [Beside, Cast])
def test_what_no_layer_reads_as_it_stands_is_left_alone(kind):
    report = eq.initialize(kind(WHOLE[:4]), X)
    assert [u.parameter for u in report.plan.untouched] == ["raw"]


@pytest.mark.parametrize("model", [mlp(), Beside(WHOLE[:4])])
def test_inputs_that_do_not_fit_are_still_blamed(model):
    with pytest.raises(TraceError, match="must accept the inputs given"):
        eq.initialize(model, X[:, :7])
