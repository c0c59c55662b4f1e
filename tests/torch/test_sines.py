"""Networks of sines on coordinates, and Fourier features."""

import math

import pytest
import torch
from torch import nn

from equipoise.errors import PlanError
from equipoise.schemes.laws import Uniform, Zero
from equipoise.torch import initialize, plan

GRID = torch.cartesian_prod(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24))


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Sine(nn.Module):
    def __init__(self, frequency):
        super().__init__()
        self.frequency = frequency

    def forward(self, x):
        return torch.sin(self.frequency * x)


def _siren(first=30.0, others=30.0, ins=2, outs=3, width=64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(ins, width), Sine(first), nn.Linear(width, width), Sine(others),
        nn.Linear(width, width), Sine(others), nn.Linear(width, outs),
    )  # fmt: skip


def _laws(made):
    return {a.parameter: a.law for a in made.assignments}


@pytest.mark.parametrize("others", [30.0, 1.0])
def test_auto_keeps_the_frequencies_that_a_network_of_sines_was_given(others):
    made = plan(_siren(others=others), GRID)
    laws = _laws(made)
    assert laws["0.weight"] == Uniform(0.5)
    assert laws["0.bias"] == Uniform(1 / math.sqrt(2))
    assert laws["2.weight"].gain == pytest.approx(math.sqrt(2) / others)
    assert laws["2.bias"] == Zero()
    # E sin(z)^2 = (1 - exp(-2)) / 2 before the last layer, whose outputs start at RMS 0.3.
    gain = math.sqrt(2 / (1 - math.exp(-2)))
    assert laws["6.weight"].gain == pytest.approx(0.3 * gain)
    told = _laws(plan(_siren(others=others), GRID, output_rms=2.0))
    assert told["6.weight"].gain == pytest.approx(2.0 * gain)
    assert laws["6.bias"] == Zero()
    assert "which frequencies the task has" in made.choice[0]
    (reason,) = {a.reason for a in made.assignments if a.parameter == "0.bias"}
    assert reason == "spreads the phases of its units"


def test_sines_are_foretold_and_measured():
    report = initialize(_siren(), GRID, generator=_seeded(), purpose="regression")
    for expected, found in zip(report.plan.predictions, report.measurements.layers, strict=True):
        # Frequencies of 64 units, and 3 outputs: the spread of a draw is in log_std.
        spread = 4 * math.hypot(expected.log_std, 0.08)
        assert abs(math.log(found.signal / expected.signal)) < spread
    model = _siren()
    initialize(model, GRID, generator=_seeded())
    with torch.no_grad():
        made, mirrored = model(GRID), model(-GRID)
    assert 0.1 < float(made.square().mean().sqrt()) < 0.6
    model(GRID).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.norm() > 0 for p in model.parameters())
    # Phases make it more than an odd function.
    assert float((made + mirrored).norm()) > 0.1 * float(made.norm())


@pytest.mark.parametrize(
    "model", [_siren(ins=16), _siren(first=1.0)], ids=["features", "slow first sine"]
)
def test_other_networks_of_sines_are_balanced(model):
    made = plan(model, torch.randn(64, model[0].in_features))
    assert not isinstance(_laws(made)["0.weight"], Uniform)


def test_the_published_scheme_by_name():
    laws = _laws(plan(_siren(others=10.0), GRID, "siren"))
    assert laws["4.weight"] == laws["6.weight"] == Uniform(math.sqrt(6 / 64) / 10.0)
    assert laws["6.bias"] == Uniform(1 / 8)
    laws = _laws(plan(_siren(), GRID, "siren(c=1.5, first=2.0)"))
    assert laws["0.weight"] == Uniform(1.0)
    assert laws["2.weight"] == Uniform(math.sqrt(1.5 / 64) / 30.0)
    model = _siren()
    report = initialize(model, GRID, "siren", _seeded(), output_rms=2.0)
    assert report.plan.scheme == "siren"


def test_layers_without_biases_stay_so():
    model = nn.Sequential(nn.Linear(2, 32, bias=False), Sine(30.0), nn.Linear(32, 1))
    assert set(_laws(plan(model, GRID))) == {"0.weight", "2.weight", "2.bias"}


def test_what_bends_otherwise_is_refused():
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    with pytest.raises(PlanError, match="layer '0': scheme 'siren' must serve sines"):
        plan(model, GRID, "siren")


class Features(nn.Module):
    def __init__(self, kind="parameter"):
        super().__init__()
        torch.manual_seed(0)
        matrix = 5.0 * torch.randn(2, 64)
        self.kind = kind
        match kind:
            case "parameter":
                self.matrix = nn.Parameter(matrix)
            case "buffer":
                self.register_buffer("matrix", matrix)
            case _:
                self.layer = nn.Linear(2, 64)
                self.layer.requires_grad_(kind == "layer")
        self.net = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x):
        p = self.layer(x) if hasattr(self, "layer") else x @ self.matrix
        p = 2 * math.pi * p
        return self.net(torch.cat([torch.sin(p), torch.cos(p)], -1))


@pytest.mark.parametrize("kind", ["parameter", "buffer", "layer", "frozen"])
def test_fourier_features_keep_their_bandwidth_at_second_moment_one_half(kind):
    model = Features(kind)
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("net")}
    report = initialize(model, GRID, generator=_seeded())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    reasons = {u.parameter: u.reason for u in report.plan.untouched}
    if kind == "parameter":
        assert "bandwidth of Fourier features" in reasons["matrix"]
    elif kind != "buffer":
        assert "bandwidth" in reasons["layer.bias"] or kind == "frozen"
        assert "layer.weight" in reasons
    expected = {p.layer: p for p in report.plan.predictions}["net.0"]
    found = {x.layer: x for x in report.measurements.layers}["net.0"]
    spread = 4 * math.hypot(0.03, expected.log_std)
    assert found.signal == pytest.approx(expected.signal, rel=spread)
    # E (W h)^2 = 128 std^2 / 2
    assert expected.signal == pytest.approx(1.0, rel=0.02)


def test_sine_and_cosine_of_two_frequencies_are_no_fourier_features():
    class Two(Features):
        def forward(self, x):
            p = x @ self.matrix
            return self.net(torch.cat([torch.sin(p), torch.cos(2 * p)], -1))

    assert "matrix" in _laws(plan(Two(), GRID))
