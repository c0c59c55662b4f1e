"""Forwards that break libraries: followed, or refused by name, and the model undisturbed."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.utils import parametrizations, prune

import equipoise.torch as eq
from equipoise.errors import TraceError

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


class Written(nn.Module):
    """Two linear layers, anything else, and any function of module and input for a forward."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(16, 16), nn.Linear(16, 4), function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def plain(m, x):
    return m.b(torch.tanh(m.a(x)))


def state(model):
    """Values, buffers, flags and random state, down to the bits."""
    return (
        [(n, id(t), t.detach().numpy().tobytes(), t.requires_grad, t.grad is None)
         for n, t in [*model.named_parameters(), *model.named_buffers()]],
        [(n, id(m), m.training, sorted(vars(m))) for n, m in model.named_modules()],
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
    )  # fmt: skip


@dataclasses.dataclass
class Fields:
    x: torch.Tensor


def raises(m, x):
    raise ValueError("no luck today")


def endless(m, x):
    return m(x)


def keeps_records(m, x):
    # As a model may that asks what is being done to it.
    if get_proxy_mode() is not None or float(x.sum()) > 1e9:
        raise ValueError("it is recorded.\nA second line")
    return plain(m, x)


def wraps(m, x):
    box = Fields(plain(m, x))
    box.extra = object()
    return box


FORWARDS = {
    "raises": (raises, TraceError, "ValueError: no luck today"),
    "endless": (endless, TraceError, "RecursionError"),
    "records": (keeps_records, TraceError, "Nor could a real forward be recorded: it is recorded"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_that_cannot_be_followed_are_named_and_the_model_stays(name, capfd):
    forward, error, message = FORWARDS[name]
    model = Written(forward)
    before = state(model)
    for call in (eq.initialize, eq.plan):
        with pytest.raises(error) as stop:
            call(model, X)
        assert message in str(stop.value)
        assert state(model) == before
    # What torch prints of a graph that it gave up on is not for the user.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: (m.a(x), None)[1],
        lambda m, x: (m.a(x), "x")[1],
        lambda m, x: plain(m, x) > 0,
        wraps,
    ],
    ids=["none", "string", "booleans", "object"],
)
def test_a_forward_without_a_differentiable_output_is_a_finding(forward):
    report = eq.initialize(Written(forward), X)
    assert not report.ok
    assert "not-measured" in {f.code for f in report.findings}


def test_outputs_in_a_dict_with_other_things_are_measured():
    report = eq.initialize(Written(lambda m, x: {"logits": plain(m, x), "count": 3}), X)
    assert report.ok
    assert report.measurements.output_rms == pytest.approx(1, rel=0.5)


def test_a_forward_that_changes_its_module_leaves_it_as_it_was():
    def forward(m, x):
        m.calls += 1
        m.last = m.a(x)
        m.history.append(m.calls)
        m.seen["x"] = x
        m.table.add_(1)
        m.register_buffer("late", torch.ones(1))
        m.noise = random.random() + float(np.random.rand())
        return m.b(m.last) * m.table

    model = Written(forward, calls=0, last=None, history=[], seen={}, table=torch.ones(1))
    history, table = model.history, model.table
    for call in (eq.diagnose, eq.plan):
        before = state(model)
        call(model, X)
        assert state(model) == before
    eq.initialize(model, X, generator=seeded())
    assert state(model)[1:] == before[1:]
    assert (model.calls, model.last, model.history, model.seen) == (0, None, [], {})
    assert model.history is history
    assert model.table is table
    assert float(table) == 1.0


def test_hooks_stay_and_take_part():
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda m, i, o: o[:, :8])
    model[2] = nn.Linear(8, 4)
    model[2].register_full_backward_hook(lambda m, i, o: seen.append(len(o)))
    model.register_forward_pre_hook(lambda m, i: (i[0] * 100,))
    report = eq.initialize(model, X)
    assert report.plan.assignments
    assert report.measurements.layers[0].width == 16
    assert [len(m._forward_hooks) for m in (model[0], model[2])] == [1, 0]
    assert len(model._forward_pre_hooks) == len(model[2]._backward_hooks) == 1


def test_batch_norm_and_dropout_in_training_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 4))
    model[2].eval()
    before = state(model)
    eq.diagnose(model, X)
    assert state(model) == before
    eq.initialize(model, X, generator=seeded())
    assert state(model)[1:] == before[1:]
    assert int(model[1].num_batches_tracked) == 0


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrized_layers_are_written_through_their_form(name):
    layer = PARAMETRIZED[name](nn.Linear(16, 16))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(16, 4))
    names = [n for n, _ in model.named_parameters()]
    attributes = sorted(vars(layer))
    report = eq.initialize(model, X, generator=seeded())
    assert [n for n, _ in model.named_parameters()] == names
    assert sorted(vars(layer)) == attributes
    if name == "pruned":
        # What a mask leaves of a weight is no weight of ours.
        assert all(u.reason for u in report.plan.untouched)
    else:
        drawn = {a.parameter for a in report.plan.assignments}
        assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= drawn
    assert 0.3 < float(model(X).detach().square().mean().sqrt()) < 3.0
    model(X).sum().backward()


def test_a_forward_by_functional_call_is_no_obstacle():
    def forward(m, x):
        tied = {"weight": m.b.weight.T @ m.b.weight, "bias": m.a.bias}
        return torch.func.functional_call(m.a, tied, (x,))

    plan = eq.plan(Written(forward), X)
    assert {u.parameter for u in plan.untouched} == {"a.weight", "a.bias", "b.bias"}
    # Of a product of two parameters only the shapes are known.
    assert ["not read" in a.reason for a in plan.assignments] == [True]


NO_SCALE = {
    "squared relu": lambda h: F.relu(h) ** 2,
    "cube": lambda h: h**3,
    "sign": torch.sign,
}


@pytest.mark.parametrize("name", NO_SCALE)
def test_activations_that_no_scheme_can_keep_are_said_to_be_so(name):
    f = NO_SCALE[name]

    class Deep(Written):
        def __init__(self):
            super().__init__(lambda m, x: m.b(f(m.d(f(m.c(f(m.a(x))))))))
            self.c, self.d = nn.Linear(16, 16), nn.Linear(16, 16)

    report = eq.initialize(Deep(), X, generator=seeded())
    assert "no scale is stable in depth" in " ".join(report.plan.warnings)
    assert any("no scale is stable in depth" in f.what for f in report.findings)


def test_a_step_is_reported_as_what_no_gradient_passes():
    report = eq.initialize(Written(lambda m, x: m.b((m.a(x) > 0).float())), X)
    assert not report.ok
    assert {"not-measured", "vanished-gradient"} & {f.code for f in report.findings}


def test_a_backward_that_raises_is_named_and_the_model_stays():
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError("in training mode only")

    model = Written(lambda m, x: m.b(Stubborn.apply(m.a(x))))
    before = state(model)
    with pytest.raises(TraceError, match="it raised: in training mode only"):
        eq.initialize(model, X)
    assert state(model) == before
