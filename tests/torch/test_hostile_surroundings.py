"""Surroundings and moments that break libraries: nothing of the model is disturbed."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import EquipoiseWarning, PlanError
from equipoise.schemes.laws import Normal
from equipoise.torch.apply import write

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


def test_layers_in_a_plain_list_are_warned_of():
    def forward(m, x):
        return m.b(m.hidden[0](m.a(x)))

    model = Written(forward, hidden=[nn.Linear(16, 16)])
    with pytest.warns(EquipoiseWarning, match="'hidden' holds trainable parameters") as caught:
        eq.initialize(model, X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    model.hidden[0].requires_grad_(False)
    eq.initialize(model, X)
    with pytest.warns(EquipoiseWarning, match="'scales' holds"):
        eq.initialize(Written(plain, scales={"x": nn.Parameter(torch.ones(1))}), X)


def test_gradients_are_warned_of_once_and_a_filter_may_make_it_an_error():
    model = mlp()
    model(X).sum().backward()
    with pytest.warns(EquipoiseWarning, match="4 parameters hold gradients") as caught:
        report = eq.initialize(model, X)
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(EquipoiseWarning, match="training seems to be in progress") as caught:
        eq.apply(model, report.plan)
    assert [w.filename for w in caught] == [__file__]
    eq.initialize(model, X, dry_run=True)
    before = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EquipoiseWarning):
            eq.initialize(model, X)
    assert state(model) == before


@pytest.mark.parametrize("place", ["model", "part", "in place"])
def test_compiled_models_are_served_uncompiled_under_their_own_names(place):
    inner = mlp()
    model = torch.compile(inner) if place == "model" else inner
    if place == "part":
        inner[0] = torch.compile(inner[0])
    elif place == "in place":
        inner.compile()
    report = eq.initialize(model, X, generator=seeded())
    reference = mlp()
    eq.initialize(reference, X, generator=seeded())
    assert report.ok
    assert len(report.measurements.layers) == 2
    if place != "part":
        assert [a.parameter for a in report.plan.assignments] == [
            "0.weight", "0.bias", "2.weight", "2.bias",
        ]  # fmt: skip
        assert torch.equal(inner[0].weight, reference[0].weight)
        report.undo()
        eq.apply(model, report.plan, seeded())
        assert torch.equal(inner[2].weight, reference[2].weight)
    eq.diagnose(model, X)


def inside_inference_mode():
    return torch.inference_mode()


def inside_no_grad():
    return torch.no_grad()


def inside_autocast():
    return torch.autocast("cpu", torch.bfloat16)


def inside_meta_device():
    return torch.device("meta")


@pytest.mark.parametrize(
    "inside", [inside_inference_mode, inside_no_grad, inside_autocast, inside_meta_device]
)
def test_the_same_weights_come_out_wherever_the_call_stands(inside):
    model, reference = mlp(), mlp()
    eq.initialize(reference, X, generator=seeded())
    generator = seeded()
    with inside():
        report = eq.initialize(model, X, generator=generator)
        eq.diagnose(model, X)
        eq.plan(model, X)
        eq.initialize(nn.Sequential(*[m for m in model]), generator=seeded())
    assert report.ok
    eq.apply(model, report.plan, seeded())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True)
    )
    model(X).sum().backward()


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic", "float64_by_default")
def test_global_settings_are_respected():
    assert eq.initialize(mlp(), X.double()).ok
    single = mlp().float()
    assert eq.initialize(single, X).ok
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert eq.initialize(mlp()).ok


class Stubborn(nn.Parameter):
    """A parameter that takes no values once it is told to."""

    error = None

    def copy_(self, *args, **kwargs):
        if self.error is not None:
            raise self.error
        return super().copy_(*args, **kwargs)


@pytest.mark.parametrize(
    ("error", "seen"),
    [(RuntimeError("no room"), PlanError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_writing_that_fails_in_the_middle_is_rolled_back(error, seen):
    model = mlp()
    model[2].weight = Stubborn(model[2].weight.detach())
    plan = eq.plan(model, X)
    model[2].weight.error = error
    before = state(model)
    with pytest.raises(seen) as stop:
        eq.apply(model, plan)
    assert state(model) == before
    if seen is PlanError:
        assert "'2.weight' must take the values drawn for it" in str(stop.value)
    model[2].weight.error = None
    eq.apply(model, plan)
    assert state(model) != before


def test_writing_advances_versions_so_that_stale_graphs_are_refused():
    model = mlp()
    loss = model(X).square().sum()
    version = model[2].weight._version
    write(model, {"2.weight": torch.zeros(4, 16)})
    assert model[2].weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_undo_after_training_gives_back_what_stood_before_and_refuses_what_cannot_be():
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    report = eq.initialize(model, X)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(X).sum().backward()
    optimizer.step()
    model.half()
    with pytest.raises(
        PlanError, match=r"torch\.float32 to be put back bit for bit, got .*float16"
    ):
        report.undo()
    model.float()
    head = model[2]
    model[2] = nn.Identity()
    with pytest.raises(PlanError, match=r"'2.weight' must still have shape \(4, 16\).*got none"):
        report.undo()
    model[2] = head
    report.undo()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_numbers_too_small_for_a_dtype_are_refused_before_anything_is_written():
    law = Normal(2.5e-7)
    narrow = torch.zeros(16, 16, dtype=torch.float16)
    with pytest.raises(PlanError, match=r"must fit torch\.float16, got an RMS of 2"):
        eq.draw_(narrow, law)
    assert not narrow.any()
    # The exponent of bfloat16 reaches as far as that of float32.
    eq.draw_(narrow.bfloat16(), law)
