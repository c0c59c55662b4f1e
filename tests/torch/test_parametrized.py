"""Weights that are computed from other parameters: read, planned, written and put back."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize

from equipoise.errors import PlanError
from equipoise.torch import diagnose, initialize, plan
from equipoise.torch.apply import apply, draw_all, write
from equipoise.torch.inputs import read_inputs
from equipoise.torch.parameters import parameters_of
from equipoise.torch.parametrized import effective, originals, slots
from equipoise.torch.trace import trace

FREE = {"weight_norm": parametrizations.weight_norm, "old_weight_norm": utils.weight_norm}
FIXED = {
    "spectral_norm": parametrizations.spectral_norm,
    "old_spectral_norm": utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _mlp(form=lambda layer: layer, activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        form(nn.Linear(16, 64)), activation(), form(nn.Linear(64, 32)), activation(),
        form(nn.Linear(32, 4)),
    )  # fmt: skip


def _state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def _is_same(model, state):
    now = model.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[k], state[k]) for k in state)


INPUTS = torch.randn(128, 16, generator=_seeded(5))


@pytest.mark.parametrize("form", FREE.values(), ids=FREE)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_a_free_form_starts_as_the_plain_model(form, activation):
    plain, held = _mlp(activation=activation), _mlp(form, activation)
    first = initialize(plain, INPUTS, generator=_seeded())
    second = initialize(held, INPUTS, generator=_seeded())
    assert torch.allclose(plain(INPUTS), held(INPUTS), atol=1e-5)
    laws = [{a.parameter: a.law for a in r.plan.assignments} for r in (first, second)]
    assert laws[0] == laws[1]
    assert second.plan.predictions == first.plan.predictions
    name = "weight_norm"
    assert f"written through {name}" in second.plan.assignments[0].reason
    held(INPUTS).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in held.parameters())


@pytest.mark.parametrize("form", FREE.values(), ids=FREE)
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(6, 12, 3, padding=1),
        lambda: nn.Conv2d(6, 12, 3, padding=1, groups=2),
        lambda: nn.ConvTranspose2d(6, 12, 2, stride=2),
    ],
    ids=["conv", "grouped", "transposed"],
)
def test_free_forms_of_convolutions_take_what_is_drawn(form, layer):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8, 8)
    plain = nn.Sequential(layer(), nn.ReLU(), nn.Conv2d(12, 2, 1))
    held = nn.Sequential(form(layer()), nn.ReLU(), nn.Conv2d(12, 2, 1))
    initialize(plain, x, generator=_seeded())
    initialize(held, x, generator=_seeded())
    assert torch.allclose(plain(x), held(x), atol=1e-5)


@pytest.mark.parametrize("form", FIXED.values(), ids=FIXED)
def test_a_form_that_fixes_the_gain_is_planned_at_that_gain(form):
    model = _mlp(form)
    report = initialize(model, INPUTS, generator=_seeded())
    assert "leaves no other gain" in report.plan.choice[0]
    for layer in (model[0], model[2], model[4]):
        singular = torch.linalg.svdvals(layer.weight.detach())
        assert torch.allclose(singular, torch.ones_like(singular), atol=1e-5)
    for expected, found in zip(report.plan.predictions, report.measurements.layers, strict=True):
        assert math.isfinite(expected.signal)
        spread = 4 * math.hypot(expected.log_std, 0.05)
        assert abs(math.log(found.signal / expected.signal)) < spread
    x = INPUTS.clone().requires_grad_()
    model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert float(x.grad.norm()) > 0


@pytest.mark.parametrize("form", [FIXED["spectral_norm"], FIXED["old_spectral_norm"]])
def test_singular_vectors_fit_what_was_written(form):
    model = _mlp(form)
    initialize(model, INPUTS, generator=_seeded())
    trained = model(INPUTS)
    assert torch.allclose(model.eval()(INPUTS), trained, atol=1e-6)
    # More iterations find nothing new.
    model.train()
    for _ in range(5):
        model(INPUTS)
    assert torch.allclose(model(INPUTS), trained, atol=1e-5)


@pytest.mark.parametrize("form", [*FREE.values(), *FIXED.values()], ids=[*FREE, *FIXED])
def test_undo_and_dry_runs_leave_every_bit(form):
    model = _mlp(form)
    before, kinds = _state(model), [type(m) for m in model.modules()]
    names = [name for name, _ in model.named_parameters()]
    initialize(model, INPUTS, generator=_seeded(), dry_run=True)
    plan(model, INPUTS)
    diagnose(model, INPUTS)
    assert _is_same(model, before)
    report = initialize(model, INPUTS, generator=_seeded())
    assert not _is_same(model, before)
    assert [type(m) for m in model.modules()] == kinds
    assert [name for name, _ in model.named_parameters()] == names
    report.undo()
    assert _is_same(model, before)


@pytest.mark.parametrize("form", [*FREE.values(), *FIXED.values()], ids=[*FREE, *FIXED])
def test_an_interrupted_write_restores_parameters_and_buffers(form, monkeypatch):
    model = _mlp(form)
    made = plan(model, INPUTS)
    values = originals(model, draw_all(model, made, 3))
    before = _state(model)
    copies, count = torch.Tensor.copy_, [0]

    def failing(self, *args, **kwargs):
        count[0] += 1
        if count[0] == len(values):
            raise RuntimeError("no more memory")
        return copies(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "copy_", failing)
    with pytest.raises(PlanError, match="Every parameter holds what it held before"):
        write(model, values)
    assert _is_same(model, before)


def test_the_same_seed_gives_the_same_bits_through_any_form():
    for form in (*FREE.values(), *FIXED.values()):
        models = [_mlp(form) for _ in range(2)]
        with torch.no_grad():
            models[1](INPUTS)
        made = plan(models[0], INPUTS)
        for model in models:
            apply(model, made, _seeded(7))
        # Householder reflections keep signs in the original; nothing depends on what stood before.
        assert _is_same(models[1], _state(models[0]))


def test_an_old_hook_shows_its_new_weight_at_once():
    model = _mlp(utils.weight_norm)
    report = initialize(model, INPUTS, generator=_seeded())
    layer = model[0]
    shown = layer.weight.clone()
    layer(INPUTS)
    assert torch.equal(shown, layer.weight)
    report.undo()
    shown = layer.weight.clone()
    layer(INPUTS)
    assert torch.equal(shown, layer.weight)


def test_rows_of_zeros_have_some_direction():
    layer = parametrizations.weight_norm(utils.weight_norm(nn.Linear(8, 4), "weight"), "bias")
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), layer)
    report = initialize(model, torch.randn(32, 8, generator=_seeded()), generator=_seeded())
    assert report.ok
    assert torch.equal(layer.bias.detach(), torch.zeros(4))
    model(torch.randn(3, 8)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, value):
        return value / 2


class Halved(Symmetric):
    def right_inverse(self, value):
        return value.triu()


class Broken(Doubled):
    def right_inverse(self, value):
        if float(value.detach().norm()) > 0:
            raise ValueError("not today")
        return value


def _with(kind):
    model = _mlp()
    model[2] = nn.Linear(64, 64)
    model[4] = nn.Linear(64, 4)
    if kind is Broken:
        nn.init.zeros_(model[2].weight)
    parametrize.register_parametrization(model[2], "weight", kind())
    return model


def test_a_form_of_the_users_own_is_written_by_its_inverse():
    model = _with(Doubled)
    report = initialize(model, INPUTS, generator=_seeded())
    assert report.plan.untouched == ()
    plain = _with(Doubled)
    parametrize.remove_parametrizations(plain[2], "weight")
    initialize(plain, INPUTS, generator=_seeded())
    assert torch.allclose(model(INPUTS), plain(INPUTS), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Symmetric, "does not implement right_inverse"),
        (Halved, "cannot hold any value given to it"),
        (Broken, "not today"),
    ],
)
def test_a_form_that_cannot_be_solved_keeps_its_values(kind, why):
    model = _with(kind)
    before = model[2].parametrizations.weight.original.detach().clone()
    report = initialize(model, INPUTS, generator=_seeded())
    (untouched,) = [u for u in report.plan.untouched if u.parameter == "2.weight"]
    assert why in untouched.reason
    assert torch.equal(model[2].parametrizations.weight.original, before)
    by_layer = {p.layer: p.signal for p in report.plan.predictions}
    assert math.isnan(by_layer["2"])
    assert math.isnan(by_layer["4"])


def test_maps_without_an_inverse_keep_their_values():
    layer = parametrizations.orthogonal(nn.Linear(8, 8), use_trivialization=False)
    made = plan(nn.Sequential(layer), torch.randn(4, 8))
    assert "use_trivialization" in made.untouched[0].reason
    # Kernels of a convolution are a batch of small matrices to it.
    conv = nn.Sequential(parametrizations.orthogonal(nn.Conv2d(3, 4, 3)))
    made = plan(conv, torch.randn(2, 3, 8, 8))
    assert made.untouched[0].parameter == "0.weight"


def test_a_part_that_is_frozen_keeps_the_whole():
    model = _mlp(parametrizations.weight_norm)
    model[0].parametrizations.weight.original0.requires_grad_(False)
    for p in model[2].parametrizations.parameters():
        p.requires_grad_(False)
    reasons = {u.parameter: u.reason for u in plan(model, INPUTS).untouched}
    assert "is frozen" in reasons["0.weight"]
    assert reasons["2.weight"] == "frozen: requires_grad is False"


def test_parts_that_serve_two_tensors_are_read_as_they_are():
    model = _mlp(parametrizations.weight_norm)
    model.register_module("extra", nn.Module())
    model.extra.weight = model[0].parametrizations.weight.original1
    names = [p.name for p in parameters_of(model)]
    assert "0.parametrizations.weight.original1" in names
    assert "0.weight" not in names
    assert "2.weight" in names


def test_a_spectral_norm_that_is_no_linear_weight_keeps_its_values():
    table = parametrizations.spectral_norm(nn.Embedding(10, 16))
    model = nn.Sequential(table, nn.Linear(16, 4))
    made = plan(model, torch.randint(0, 10, (8, 3)))
    (kept,) = made.untouched
    assert kept.parameter == "0.weight"
    assert "fixes its scale" in kept.reason


@pytest.mark.parametrize("layer", [
    lambda: nn.Conv2d(4, 8, 3, groups=2), lambda: nn.ConvTranspose2d(4, 8, 2, stride=2),
])  # fmt: skip
def test_where_spectral_norm_sees_another_matrix_nothing_is_foretold(layer):
    model = nn.Sequential(parametrizations.spectral_norm(layer()), nn.ReLU(), nn.Conv2d(8, 2, 1))
    report = initialize(model, torch.randn(4, 4, 8, 8), generator=_seeded())
    assert math.isnan(report.plan.predictions[0].signal)
    assert any("not predicted" in note for note in report.plan.notes)
    assert torch.isfinite(model(torch.randn(4, 4, 8, 8))).all()


def test_spectral_convolutions_are_foretold():
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(8, 32, 3, padding=1)), nn.Tanh(),
        parametrizations.spectral_norm(nn.Conv2d(32, 32, 4, stride=2, padding=1)), nn.Tanh(),
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(32 * 16, 10)),
    )  # fmt: skip
    report = initialize(model, torch.randn(64, 8, 8, 8), generator=_seeded())
    for expected, found in zip(report.plan.predictions, report.measurements.layers, strict=True):
        spread = 4 * math.hypot(expected.log_std, 0.1)
        assert abs(math.log(found.signal / expected.signal)) < spread


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (lambda layer: parametrizations.orthogonal(layer), "turns into another"),
        (lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
         "one that cannot: its Symmetric"),
    ],
)  # fmt: skip
def test_a_plan_for_a_plain_weight_is_refused(held, why):
    made = plan(nn.Sequential(nn.Linear(16, 16)), INPUTS, "he")
    model = nn.Sequential(held(nn.Linear(16, 16)))
    before = _state(model)
    with pytest.raises(PlanError, match=why):
        apply(model, made, _seeded())
    assert _is_same(model, before)


def test_plans_on_the_meta_device():
    with torch.device("meta"):
        model = _mlp(parametrizations.weight_norm)
    made = plan(model, INPUTS)
    real = _mlp(parametrizations.weight_norm)
    assert made.assignments == plan(real, INPUTS).assignments
    with torch.device("meta"):
        unknown = _with(Doubled)
    reasons = {u.parameter: u.reason for u in plan(unknown, INPUTS).untouched}
    assert "not known on the meta device" in reasons["2.weight"]


def test_buffers_recurrent_layers_and_tensors_of_no_real_numbers():
    layer = nn.Linear(16, 16)
    layer.register_buffer("mask", torch.ones(16))
    parametrize.register_parametrization(layer, "mask", Doubled())
    cell = utils.weight_norm(nn.LSTM(16, 8, batch_first=True), "weight_hh_l0")
    with effective(nn.Sequential(layer)):
        assert dict(layer.named_buffers()).keys() == {"mask"}
    with effective(cell):
        assert "weight_hh_l0_g" in dict(cell.named_parameters())
    assert "mask" not in slots(layer)


def test_a_form_that_raises_is_left_to_forward():
    class Raises(nn.Module):
        broken = False

        def forward(self, x):
            if self.broken:
                raise ValueError("no")
            return x

    model = nn.Sequential(parametrize.register_parametrization(nn.Linear(4, 4), "weight", Raises()))
    model[0].parametrizations.weight[0].broken = True
    with effective(model):
        assert parametrize.is_parametrized(model[0])


def test_the_trace_sees_the_weight_itself():
    model = _mlp(parametrizations.weight_norm)
    traced = trace(model, read_inputs(model, INPUTS))
    assert [n.weight for n in traced.nodes if hasattr(n, "weight")] == [
        "0.weight", "2.weight", "4.weight",
    ]  # fmt: skip
    report = diagnose(model, INPUTS)
    assert report.measurements.layers[0].weight == "0.weight"
