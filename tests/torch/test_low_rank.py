"""Low-rank adapters beside weights that keep their values (arXiv 2106.09685)."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.schemes.laws import Normal, Zero
from equipoise.torch import apply, initialize, plan

INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def _frozen(module):
    for p in module.parameters():
        p.requires_grad_(False)
    return module


class Products(nn.Module):
    def __init__(self, ins, outs, rank=4):
        super().__init__()
        self.base = _frozen(nn.Linear(ins, outs))
        self.down = nn.Parameter(torch.randn(rank, ins))
        self.up = nn.Parameter(torch.randn(outs, rank))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.down.T @ self.up.T)


class Layers(nn.Module):
    def __init__(self, ins, outs, rank=4, is_frozen=True):
        super().__init__()
        self.base = nn.Linear(ins, outs)
        if is_frozen:
            _frozen(self.base)
        self.dropout = nn.Dropout(0.1)
        self.down, self.up = nn.Linear(ins, rank, bias=False), nn.Linear(rank, outs)

    def forward(self, x):
        return 2.0 * self.up(self.down(self.dropout(x))) + self.base(x)


class Merged(nn.Module):
    def __init__(self, ins, outs, rank=4):
        super().__init__()
        self.base = nn.Parameter(torch.randn(outs, ins) / math.sqrt(ins), requires_grad=False)
        self.down = nn.Parameter(torch.randn(rank, ins))
        self.up = nn.Parameter(torch.randn(outs, rank))

    def forward(self, x):
        return F.linear(x, self.base + 2.0 * (self.up @ self.down))


class Kernels(nn.Module):
    def __init__(self, ins, outs, rank=2):
        super().__init__()
        self.base = _frozen(nn.Conv2d(ins, outs, 3, padding=1))
        self.down = nn.Conv2d(ins, rank, 3, padding=1, bias=False)
        self.up = nn.Conv2d(rank, outs, 1, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def _laws(made):
    return {a.parameter: a for a in made.assignments}


@pytest.mark.parametrize("kind", [Products, Layers, Merged])
def test_an_adapted_model_starts_as_its_base(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(16, 32), nn.ReLU(), kind(32, 32)).eval()
    bare = copy.deepcopy(model)
    for layer in (bare[0], bare[2]):
        up = layer.up.weight if isinstance(layer.up, nn.Linear) else layer.up
        nn.init.zeros_(up)
    report = initialize(model, INPUTS, generator=torch.Generator().manual_seed(0))
    assert not [f for f in report.findings if f.code in ("zero-weights", "vanished-signal")]
    if kind is Layers:
        assert torch.equal(model[0].up.bias.detach(), torch.zeros(32))
        bare[0].up.bias.data.zero_()
        bare[2].up.bias.data.zero_()
    assert torch.allclose(model(INPUTS), bare(INPUTS), atol=1e-6)
    suffix = ".weight" if kind is Layers else ""
    laws = _laws(report.plan)
    hidden = model[1](model[0](INPUTS)).detach()
    for layer, entering in (("0", INPUTS), ("2", hidden)):
        # What enters an adapter is brought to RMS 1; one inside a weight does not see it.
        level = 1.0 if kind is Merged else float(entering.square().mean())
        law = laws[f"{layer}.down{suffix}"].law
        assert isinstance(law, Normal)
        assert law.std == pytest.approx(1 / math.sqrt(entering.shape[1] * level), rel=1e-3)
        assert laws[f"{layer}.up{suffix}"].law == Zero()
        assert "low-rank adapter" in laws[f"{layer}.up{suffix}"].reason
    model(INPUTS).square().sum().backward()
    up = model[0].up.weight if kind is Layers else model[0].up
    assert float(up.grad.norm()) > 0


def test_adapters_of_convolutions():
    model = Kernels(8, 16)
    x = torch.randn(4, 8, 6, 6)
    report = initialize(model, x, generator=torch.Generator().manual_seed(0))
    std = 1 / math.sqrt(72 * float(x.square().mean()))
    assert _laws(report.plan)["down.weight"].law.std == pytest.approx(std, rel=1e-4)
    assert torch.equal(model(x), model.base(x))


def test_several_adapters_beside_one_weight():
    class Two(Layers):
        def __init__(self):
            super().__init__(16, 32)
            self.more = nn.ModuleList([nn.Linear(16, 2, bias=False), nn.Linear(2, 32, bias=False)])

        def forward(self, x):
            return super().forward(x) + self.more[1](self.more[0](x))

    laws = _laws(plan(Two(), INPUTS))
    assert laws["up.weight"].law == laws["more.1.weight"].law == Zero()


class Bent(Layers):
    def forward(self, x):
        return self.base(x) + self.up(torch.relu(self.down(x)))


class Elsewhere(Layers):
    def forward(self, x):
        return self.base(x) + self.up(self.down(torch.tanh(x)))


@pytest.mark.parametrize(
    "model",
    [Layers(16, 32, is_frozen=False), Layers(16, 32, rank=16), Bent(16, 32), Elsewhere(16, 32)],
    ids=["drawn", "wide", "bent", "another input"],
)
def test_other_branches_are_no_adapters(model):
    assert _laws(plan(model, INPUTS))["up.weight"].law != Zero()


def test_a_frozen_half_is_no_adapter():
    model = Layers(16, 32)
    model.down.weight.requires_grad_(False)
    assert _laws(plan(model, INPUTS))["up.weight"].law != Zero()


def test_what_is_known_of_an_adapter_is_handed_on():
    model = nn.Sequential(Layers(16, 32), nn.ReLU(), nn.Linear(32, 4))
    made = plan(model, INPUTS)
    # What a frozen weight makes is measured, and the layer behind it is scaled for that.
    assert made.predictions[-1].signal == pytest.approx(1.0, rel=0.1)
    apply(model, made, torch.Generator().manual_seed(0))
    assert float(model(INPUTS).detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.3)
