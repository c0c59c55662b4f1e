"""Forwards that torch.export refuses: one real forward is recorded, and said to be."""

import copy

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import TraceError
from equipoise.torch.export import export
from equipoise.torch.inputs import ModelInputs
from equipoise.torch.trace import trace

X = torch.randn(256, 12, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Two hidden layers around whatever stops an export."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        self.norm = nn.BatchNorm1d(24)

    def stop(self, x):
        return x

    def forward(self, x):
        x = self.stop(torch.tanh(self.first(x)))
        return self.last(torch.tanh(self.second(x)))


class Branch(Net):
    def stop(self, x):
        return x if float(x.detach().mean()) < 10 else -x


class Item(Net):
    def stop(self, x):
        scale = x.detach().abs().max().item()
        return x * 2.0 if scale > 100 else x


class Rows(Net):
    def forward(self, x):
        return super().forward(x[x[:, 0] > 0])


class Derivative(Net):
    def forward(self, x):
        x = x.requires_grad_(True)
        value = super().forward(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, slope


class Backward(Net):
    def forward(self, x):
        x = x.clone().requires_grad_(True)
        super().forward(x).sum().backward(retain_graph=True, inputs=[x])
        return super().forward(x) + x.grad.sum()


class Loop(Net):
    """As many turns through one layer as a value says."""

    def stop(self, x):
        for _ in range(1 + int(x.detach().abs().mean() > 0)):
            x = torch.tanh(self.second(x))
        return x


class InPlace(Net):
    """Statistics and arguments are written to, behind a branch."""

    def forward(self, x):
        assert float(x.sum()) < 1e6
        x.mul_(1.0)
        x = self.norm(self.first(x))
        return self.last(x.relu_())


MODELS = (Branch, Item, Rows, Derivative, Backward, Loop, InPlace)


@pytest.mark.parametrize("kind", MODELS)
def test_what_export_refuses_is_recorded_and_planned_like_any_other(kind):
    model = kind()
    report = eq.initialize(model, X.clone(), generator=seeded())
    assert {a.parameter for a in report.plan.assignments} >= {"first.weight", "last.weight"}
    assert any("one real forward was recorded" in note for note in report.plan.notes)
    out = model(X.clone())
    outputs = out if isinstance(out, tuple) else (out,)
    assert all(t.isfinite().all() for t in outputs)


@pytest.mark.parametrize("kind", [Branch, Item, Rows])
def test_a_recorded_forward_is_planned_as_the_plain_one(kind):
    plain, odd = eq.plan(Net(), X), eq.plan(kind(), X)
    assert [a.parameter for a in plain.assignments] == [a.parameter for a in odd.assignments]
    wanted = {p.weight: p for p in plain.predictions}
    for p in odd.predictions:
        assert p.signal == pytest.approx(wanted[p.weight].signal, rel=0.1)
        assert p.layer == wanted[p.weight].layer


@pytest.mark.parametrize("kind", MODELS)
def test_recording_leaves_model_inputs_and_generators_as_they_were(kind):
    model, x = kind(), X.clone()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad for p in model.parameters()]
    random = torch.get_rng_state()
    eq.plan(model, x)
    assert torch.equal(x, X)
    assert not x.requires_grad
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert [p.grad for p in model.parameters()] == grads
    assert torch.equal(torch.get_rng_state(), random)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
    assert torch.autograd.grad.__name__ == "grad"


def test_weights_that_a_derivative_reads_are_planned_as_if_it_did_not():
    model = Derivative()
    traced = trace(model, ModelInputs((X,)))
    reasons = {n.reason for n in traced.nodes if type(n).__name__ == "Opaque"}
    assert "a derivative is taken inside forward" in reasons
    assert sum(type(n).__name__ == "Affine" for n in traced.nodes) == 3
    drawn = {a.parameter for a in eq.plan(model, X).assignments}
    assert {"first.weight", "second.weight", "last.weight"} <= drawn


def test_values_of_buffers_and_layers_are_known_in_a_record():
    class Scaled(Branch):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((24,), 3.0))

        def stop(self, x):
            return super().stop(x) * self.scale

    plan = eq.plan(Scaled(), X)
    assert [p.layer for p in plan.predictions] == ["first", "second", "last"]
    program = export(Scaled(), ModelInputs((X,)))
    assert program.why_recorded == "a branch in it depends on values of tensors"
    assert any(torch.equal(v, torch.full((24,), 3.0)) for v in program.known.values())


def test_without_storage_there_is_nothing_to_record():
    with torch.device("meta"):
        model = Branch()
    before = [id(p) for p in model.parameters()]
    with pytest.raises(TraceError, match=r"Build the model with storage"):
        eq.plan(model, torch.empty(4, 12, device="meta"))
    assert [id(p) for p in model.parameters()] == before
