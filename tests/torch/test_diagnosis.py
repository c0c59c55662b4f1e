"""A diagnosis: its loss, its data, what it leaves alone and how it is saved."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, TraceError, UnhealthyError
from equipoise.lab.models import mlp

X = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(1))


def healthy(depth=6, activation=nn.Tanh, width=16, classes=4):
    model = mlp([16, *[width] * depth, classes], activation)
    eq.initialize(model, X, generator=torch.Generator().manual_seed(0))
    return model


class Branching(nn.Module):
    """Its forward branches on a value, which export cannot follow."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > -1e9 else x


def test_faults_of_the_data_are_found():
    model = healthy()
    found = {f.code: f for f in eq.diagnose(model, X * 100).findings}
    assert found["input-scale"].severity == "info"
    found = {f.code: f for f in eq.diagnose(model, X, targets=Y * 3).findings}
    assert found["targets-out-of-range"].severity == "error"
    assert "from 0 to 9" in found["targets-out-of-range"].what
    target = torch.randn(200, 4) + 1000
    assert {f.code for f in eq.diagnose(model, X, targets=target).findings} == {"target-scale"}
    target[3, 2] = math.nan
    found = {f.code: f for f in eq.diagnose(model, X, targets=target).findings}
    assert "1 of 800" in found["targets-out-of-range"].what


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Softplus])
def test_a_balanced_network_has_no_finding(activation):
    assert eq.diagnose(healthy(20, activation), X, targets=Y).findings == ()


def test_the_loss_is_held_against_a_guess():
    model = healthy()
    seen = eq.diagnose(model, X, targets=Y)
    m = seen.measurements
    assert m.loss == pytest.approx(float(F.cross_entropy(model(X), Y).detach()), rel=1e-5)
    assert m.classes == 4
    assert "integer targets" in m.loss_name
    assert "a guess has ln 4 = 1.386" in str(seen)
    with torch.no_grad():
        model[-1].weight.mul_(20)
    (finding,) = eq.diagnose(model, X, targets=Y).findings
    assert finding.code == "loss-above-chance"
    # The remedy does what it says.
    factor = float(finding.remedy.split(" by ")[1].split(":")[0])
    with torch.no_grad():
        model[-1].weight.mul_(factor)
        model[-1].bias.mul_(factor)
    assert not eq.diagnose(model, X, targets=Y).findings


LOSSES = [
    ({"targets": torch.randn(200, 4)}, lambda o, t: F.mse_loss(o, t)),
    ({"targets": Y, "loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, None),
    ({"targets": Y, "loss": F.multi_margin_loss}, None),
    ({"loss": lambda o: o.square().mean()}, lambda o, t: o.square().mean()),
]


@pytest.mark.parametrize(("given", "literal"), LOSSES)
def test_gradients_are_those_of_the_loss(given, literal):
    model = healthy()
    seen = eq.diagnose(model, X, **given).measurements
    value = (literal or given["loss"])(model(X), given.get("targets"))
    assert seen.loss == pytest.approx(float(value.detach()), rel=1e-5)
    first = torch.autograd.grad(value, model[0].weight)[0]
    assert seen.layers[0].weight_gradient == pytest.approx(float(first.norm()), rel=1e-5)
    share = float(first.norm() / model[0].weight.detach().norm())
    assert seen.layers[0].relative_gradient == pytest.approx(share, rel=1e-5)


def test_class_numbers_of_sequences_go_with_the_last_axis():
    model, targets = nn.Linear(16, 5), torch.randint(0, 5, (3, 7))
    x = torch.randn(3, 7, 16)
    seen = eq.diagnose(model, x, targets=targets).measurements
    expected = F.cross_entropy(model(x).reshape(-1, 5), targets.reshape(-1))
    assert seen.loss == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_of_the_loss(factor):
    seen = eq.diagnose(healthy(), X, targets=Y, loss=lambda o, t: o.sum() * factor)
    assert [(f.code, f.severity, f.where) for f in seen.findings] == [
        ("non-finite", "error", "loss")
    ]
    assert "<lambda>" in seen.findings[0].what
    # Where the outputs are no numbers already, the loss is not to blame.
    model = healthy()
    with torch.no_grad():
        model[4].weight[0] = math.nan
    found = [f for f in eq.diagnose(model, X, targets=Y).findings if f.code == "non-finite"]
    assert [f.where for f in found] == ["4"]


REFUSED = [
    ({"targets": torch.randn(200, 3)}, "floats of shape"),
    ({"targets": [1, 2]}, "must be a tensor, got list"),
    ({"targets": Y, "loss": "mse"}, "must be a function of outputs and targets, got str"),
    ({"targets": Y, "loss": F.mse_loss}, "it raised"),
    ({"targets": torch.randn(200, 4), "loss": lambda o, t: (o - t) ** 2}, "one number as a tensor"),
    ({"targets": Y, "loss": lambda o, t: 3.0}, "got float"),
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        eq.diagnose(healthy(), X, **given)


def test_targets_for_a_forward_that_returns_no_tensor_need_a_loss():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 4)

        def forward(self, x):
            return {"top": self.a(x).argmax(1)}

    with pytest.raises(ArgumentError, match="Pass loss="):
        eq.diagnose(Counts(), X, targets=Y)


def test_a_forward_that_fails_is_an_error_and_no_finding():
    with pytest.raises(TraceError, match="must accept the inputs given"):
        eq.diagnose(healthy(), X[:, :5])


def test_a_model_that_export_refuses_is_measured_all_the_same():
    seen = eq.diagnose(Branching(), X)
    assert seen.ok
    assert seen.measurements.layers[0].layer == "a"
    assert seen.words == ()


def test_thousands_of_rows_are_thinned_out_and_it_is_said():
    x, y = X.repeat(20, 1), Y.repeat(20)
    seen = eq.diagnose(healthy(), x, targets=y)
    assert (seen.measurements.rows, seen.measurements.given_rows) == (1024, 4000)
    assert "1024 of 4000 rows" in str(seen)
    assert "on these 1024 rows" in str(seen)


def test_a_forward_that_knows_its_batch_gets_all_of_it():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 4)

        def forward(self, x):
            return self.a(x.reshape(2000, 16))

    assert eq.diagnose(Fixed(), X.repeat(10, 1)).measurements.rows == 2000


def test_nothing_of_the_model_changes_and_hooks_fire():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4))
    model[0].train(False)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    F.cross_entropy(model(X), Y).backward()
    calls.clear()
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.step()
    held = {k: v.clone() for k, v in model.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    grads = [p.grad.clone() for p in model.parameters()]
    flags = [m.training for m in model.modules()]
    state, versions = torch.random.get_rng_state(), [p._version for p in model.parameters()]
    x, y = X.clone(), Y.clone()
    eq.diagnose(model, x, targets=y)
    assert calls
    assert all(torch.equal(v, held[k]) for k, v in model.state_dict().items())
    assert pointers == [p.data_ptr() for p in model.parameters()]
    assert versions == [p._version for p in model.parameters()]
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert flags == [m.training for m in model.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(model._forward_hooks) == 1
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_a_checkpoint_is_diagnosed_as_it_was_saved(tmp_path):
    torch.manual_seed(0)
    model = mlp([16, *[16] * 8, 4], nn.ReLU)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    loaded = mlp([16, *[16] * 8, 4], nn.ReLU)
    loaded.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert eq.diagnose(loaded, X).to_dict() == eq.diagnose(model, X).to_dict()


def test_verdict_status_and_files(tmp_path):
    torch.manual_seed(0)
    sick, well = eq.diagnose(mlp([16, *[16] * 40, 4], nn.GELU), X), eq.diagnose(healthy(), X)
    assert (sick.ok, sick.status, well.ok, well.status) == (False, 1, True, 0)
    well.raise_if_unhealthy()
    with pytest.raises(UnhealthyError, match="vanishing-gradient"):
        sick.raise_if_unhealthy()
    data = json.loads(sick.save(tmp_path / "d.json").read_text())
    assert data["findings"][0]["code"] == sick.findings[0].code
    assert data["drift"]["gradient"]["per_layer"] < -1
    assert data["theory"][0]["gradient"]["agrees"] is True
    assert sick.save(tmp_path / "d.txt").read_text() == str(sick)
    assert "<!doctype html>" in sick.save(tmp_path / "d.html").read_text()
    with pytest.raises(ArgumentError, match="must end in"):
        sick.save(tmp_path / "d.csv")
