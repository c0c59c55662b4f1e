"""Products with a parameter are measured however they are written."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq

X = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


class Product(nn.Module):
    """One product of the inputs with a weight."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.w = function, nn.Parameter(torch.empty(shape))

    def forward(self, x):
        return self.function(x, self.w)


WRITTEN = {
    "x @ w": (lambda x, w: x @ w, (8, 3), -1),
    "x @ w.T": (lambda x, w: x @ w.T, (3, 8), -1),
    "w @ x": (lambda x, w: w @ x, (3, 5), -2),
    "w.mT @ x": (lambda x, w: w.mT @ x, (5, 3), -2),
    "(w @ x.mT).mT": (lambda x, w: (w @ x.mT).mT, (3, 8), -1),
    "einsum": (lambda x, w: torch.einsum("abi,oi->abo", x, w), (3, 8), -1),
    "einsum, turned": (lambda x, w: torch.einsum("io,abi->abo", w, x), (8, 3), -1),
    "einsum, w.T": (lambda x, w: torch.einsum("io,abi->abo", w.T, x), (3, 8), -1),
    "einsum, over sites": (lambda x, w: torch.einsum("ot,...tc->...oc", w, x), (3, 5), -2),
    "einsum, units first": (lambda x, w: torch.einsum("...i,oi->o...", x, w), (3, 8), 0),
    "einsum, dots": (lambda x, w: torch.einsum("...i,io->...o", x, w), (8, 3), -1),
    "tensordot": (lambda x, w: torch.tensordot(x, w, 1), (8, 3), -1),
    "tensordot, over sites": (lambda x, w: torch.tensordot(x, w, ([1], [1])), (3, 5), -1),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_products_with_a_parameter(written):
    function, shape, axis = WRITTEN[written]
    model = Product(function, *shape)
    report = eq.initialize(model, X, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(X)
    assert not [u for u in report.plan.untouched if u.parameter == "w"]
    (seen,) = report.measurements.layers
    (expected,) = report.plan.predictions
    assert (seen.weight, expected.weight) == ("w", "w")
    assert seen.width == out.shape[axis] == 3
    assert seen.signal == pytest.approx(float(out.square().mean().sqrt()), rel=1e-5)
    assert seen.signal == pytest.approx(expected.signal, rel=0.5)
    assert seen.twins == 0.0
