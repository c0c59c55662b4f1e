"""The call itself: what it leaves behind, what it refuses, and that it can be taken back."""

import itertools

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import (
    ArgumentError,
    EquipoiseWarning,
    PlanError,
    TraceError,
    UnhealthyError,
)
from equipoise.lab.models import mlp
from equipoise.plan.plan import Plan


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def identical(before, model):
    after = model.state_dict()
    return all(torch.equal(before[name], after[name]) for name in before)


def test_narrow_layer_follows_the_inputs_principal_axes():
    """8 of 64 directions fit: those that carry most of the inputs' variance."""
    x = data(500, 64) * torch.linspace(3, 0.1, 64)
    model = mlp([64, *[8] * 5, 4], nn.Tanh).double()
    eq.initialize(model, x.double(), generator=seeded())
    weight = model[0].weight.detach()
    _, _, axes = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    inside = (weight @ axes[:8].T).norm() / weight.norm()
    assert float(inside) == pytest.approx(1.0, abs=1e-9)


def test_an_off_centre_input_is_centred_by_the_first_bias():
    x = data(500, 20) + 5.0
    model = mlp([20, *[20] * 6, 4], nn.Tanh)
    report = eq.initialize(model, x, generator=seeded())
    assert report.ok
    with torch.no_grad():
        assert model[0](x).mean(0).abs().max() < 1e-5


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    models = [mlp([8, 16, 16, 3], nn.ReLU) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        eq.initialize(model, data(64, 8), generator=seeded(seed))
    assert identical(state(models[0]), models[1])
    assert not torch.equal(models[0][0].weight, models[2][0].weight)


def test_without_a_generator_torch_global_state_decides_and_advances():
    models = [mlp([8, 16, 3], nn.Tanh) for _ in range(3)]
    torch.manual_seed(3)
    eq.initialize(models[0], data(64, 8))
    eq.initialize(models[1], data(64, 8))
    torch.manual_seed(3)
    eq.initialize(models[2], data(64, 8))
    assert identical(state(models[0]), models[2])
    assert not torch.equal(models[0][0].weight, models[1][0].weight)


def test_one_parameter_can_be_drawn_alone_from_a_saved_plan(tmp_path):
    model = mlp([8, *[12] * 20, 3], nn.Softplus)
    report = eq.initialize(model, data(64, 8), generator=seeded())
    plan = Plan.load(report.plan.save(tmp_path / "plan.json"))
    for name, parameter in reversed(list(model.named_parameters())):
        alone = torch.from_numpy(plan.draw(name, report.seed)).float()
        assert torch.equal(alone, parameter.detach()), name


def test_a_plan_applies_to_another_model_of_the_same_shape():
    first, second = (mlp([8, 16, 16, 3], nn.GELU) for _ in range(2))
    plan = eq.plan(first, data(64, 8))
    eq.apply(first, plan, seeded(2))
    eq.apply(second, plan, seeded(2))
    assert identical(state(first), second)
    with pytest.raises(PlanError, match="missing"):
        eq.apply(mlp([8, 16, 16, 16, 3], nn.GELU), plan)
    with pytest.raises(PlanError, match="must have shape"):
        eq.apply(mlp([8, 17, 16, 3], nn.GELU), plan)


def test_undo_puts_everything_back_bit_for_bit():
    model = mlp([8, 16, 3], nn.Tanh)
    before = state(model)
    report = eq.initialize(model, data(64, 8))
    assert not identical(before, model)
    report.undo()
    assert identical(before, model)
    with pytest.raises(PlanError, match="second"):
        report.undo()


def test_a_dry_run_and_a_plan_touch_nothing():
    model = mlp([8, 16, 3], nn.Tanh)
    before = state(model)
    report = eq.initialize(model, data(64, 8), dry_run=True, generator=seeded())
    eq.plan(model, data(64, 8))
    eq.diagnose(model, data(64, 8))
    assert identical(before, model)
    assert not report.is_applied
    with pytest.raises(PlanError):
        report.undo()
    real = eq.initialize(model, data(64, 8), generator=seeded())
    assert report.measurements == real.measurements


def test_inputs_may_be_left_out_for_a_sequential_that_tells_its_shape():
    report = eq.initialize(nn.Sequential(mlp([8, 16, 3], nn.Tanh), nn.Tanh()))
    assert report.ok
    assert len(report.plan.assignments) == 4


def test_frozen_parameters_stay_and_are_listed_with_the_reason():
    model = mlp([8, 16, 16, 3], nn.Tanh)
    model[2].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    kept = model[2].weight.clone()
    report = eq.initialize(model, data(64, 8))
    assert torch.equal(model[2].weight, kept)
    assert {u.parameter: u.reason for u in report.plan.untouched} == {
        "2.weight": "frozen: requires_grad is False",
        "2.bias": "its weight '2.weight' keeps its values",
        "0.bias": "frozen: requires_grad is False",
    }


def test_shared_parameters_are_drawn_once_and_stay_shared():
    model = mlp([8, 8, 8, 8, 3], nn.Tanh)
    model[4].weight = model[2].weight
    report = eq.initialize(model, data(64, 8))
    assert model[4].weight is model[2].weight
    names = [a.parameter for a in report.plan.assignments]
    assert names.count("2.weight") == 1
    assert "4.weight" not in names
    singular = torch.linalg.svdvals(model[2].weight.detach())
    torch.testing.assert_close(singular, torch.ones(8), rtol=1e-5, atol=1e-5)


def test_parameters_nobody_uses_are_untouched_with_the_reason():
    model = mlp([8, 8, 3], nn.Tanh)
    model.register_parameter("spare", nn.Parameter(torch.ones(3)))
    report = eq.initialize(model, data(64, 8))
    assert [(u.parameter, u.reason) for u in report.plan.untouched] == [
        ("spare", "no operation of the model uses it")
    ]


class Sorted(nn.Module):
    """Parameters in an operation that no reader knows."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, h):
        return torch.addcmul(self.bias, torch.sort(h, -1).values, self.weight)


def test_opaque_parts_are_listed_and_the_rest_is_balanced():
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), Sorted(16), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 2)
    )
    report = eq.initialize(model, data(64, 8))
    assert {u.parameter for u in report.plan.untouched} == {"2.weight", "2.bias"}
    assert all("Sorted" in u.reason for u in report.plan.untouched)
    assert any(f.code == "plan-limit" for f in report.findings)
    assert report.ok


def test_dropout_forbids_mirroring_and_the_report_says_so():
    layers = [m for _ in range(30) for m in (nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.2))]
    plan = eq.plan(nn.Sequential(*layers, nn.Linear(16, 2)), data(64, 16))
    assert "dropout of 0.2 breaks mirrored pairs of relu" in plan.choice[0]
    assert any("dropout" in note for note in (*plan.notes, *plan.warnings))


def test_activations_that_no_scale_serves_come_with_a_warning():
    report = eq.initialize(mlp([8, *[16] * 3, 2], nn.Tanhshrink), data(64, 8))
    assert "no scale is stable in depth" in " ".join(report.plan.warnings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_drawn_in_float64_and_rounded_once(dtype):
    wide, narrow = mlp([8, 16, 16, 3], nn.Tanh).double(), mlp([8, 16, 16, 3], nn.Tanh).to(dtype)
    x = data(64, 8).to(dtype)
    report = eq.initialize(narrow, x, generator=seeded())
    eq.apply(wide, report.plan, seeded())
    for a, b in zip(wide.parameters(), narrow.parameters(), strict=True):
        assert torch.equal(a.to(dtype), b)


def test_buffers_gradients_modes_and_random_state_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model(data(16, 8)).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    random_state = torch.get_rng_state()
    with pytest.warns(EquipoiseWarning, match="6 parameters hold gradients"):
        eq.initialize(model, data(16, 8), generator=seeded())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    for p, g in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, g)
        assert p.requires_grad
        assert p.is_leaf


def test_a_meta_model_is_planned_and_applying_says_what_to_do():
    with torch.device("meta"):
        model = mlp([16, *[5000] * 3, 4], nn.GELU)
    x = torch.empty(4, 16, device="meta")
    assert len(eq.plan(model, x).assignments) == 8
    for call in (eq.initialize, eq.diagnose):
        with pytest.raises(PlanError, match="to_empty"):
            call(model, x)
    with pytest.raises(PlanError, match="to_empty"):
        eq.draw_(model[0].weight, eq.plan(model, x).assignments[0].law)


class Written(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(8, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


X = data(64, 8)
BAD = [
    ("scheme", lambda m: eq.initialize(m, X, "ortogonal"), ArgumentError, "mean 'orthogonal'"),
    ("nan", lambda m: eq.initialize(m, X / 0 * 0), ArgumentError, "inputs must be finite, got"),
    ("none", lambda m: eq.initialize(nn.ModuleList([m])), ArgumentError, "inputs must be given"),
    ("list", lambda m: eq.initialize(m, [X]), ArgumentError, "Wrap lists in a tuple"),
    ("empty batch", lambda m: eq.initialize(m, X[:0]), ArgumentError, "at least one entry"),
    ("shape", lambda m: eq.initialize(m, data(64, 9)), TraceError, r"inputs \(64, 9\) float32"),
    ("dtype", lambda m: eq.initialize(m, X.double()), TraceError, "'0' must be torch.float32"),
    ("integers", lambda m: eq.initialize(m, X.long()), TraceError, "int64"),
    ("zeros", lambda m: eq.initialize(m, X * 0), PlanError, "must not be all 0"),
    ("keyword", lambda m: eq.initialize(m, {"y": X}), TraceError, "unexpected keyword"),
    ("dict nan", lambda m: eq.initialize(m, {"input": X * float("inf")}), ArgumentError, "'input'"),
]  # fmt: skip


@pytest.mark.parametrize(("_", "call", "error", "message"), BAD, ids=[b[0] for b in BAD])
def test_bad_input_is_named_and_the_model_stays_as_it_was(_, call, error, message):
    model = mlp([8, 16, 3], nn.Tanh)
    before = state(model)
    with pytest.raises(error, match=message):
        call(model)
    assert identical(before, model)


def test_a_model_without_parameters_is_refused():
    for call in (eq.initialize, eq.plan, eq.diagnose):
        with pytest.raises(ArgumentError, match="got none in Tanh"):
            call(nn.Tanh(), X)


def test_a_scheme_that_cannot_serve_a_layer_names_it():
    with pytest.raises(PlanError, match="layer '0' must have at least 2 units"):
        eq.plan(mlp([8, 1, 3], nn.ReLU), X, "mirrored")
    with pytest.raises(PlanError, match="layer '2' must have at least 2 units"):
        eq.plan(nn.Sequential(*mlp([8, 4, 1, 3], nn.Tanh)), X, "mirrored")
    with pytest.raises(PlanError, match="has no odd part"):
        eq.plan(Written(torch.abs), X, "mirrored")
    for scheme in ("centred", "mirrored"):
        with pytest.raises(PlanError, match="which jumps"):
            eq.plan(mlp([8, 4, 3], nn.Hardshrink), X, scheme)
    assert "hardly part" in eq.plan(mlp([8, 4, 3], nn.Tanh), X, "mirrored").choice[0]
    with pytest.raises(PlanError, match="layer '0': activation must have a non-zero slope"):
        eq.plan(mlp([8, 4, 3], nn.Tanhshrink), X, "diagonal_noise")


def test_a_value_that_does_not_fit_the_dtype_is_refused_before_anything_is_written():
    model = mlp([8, 16, 3], nn.Tanh).half()
    before = state(model)
    with pytest.raises(PlanError, match=r"must fit torch\.float16"):
        eq.initialize(model, (X * 1e-7).half(), "auto")
    assert identical(before, model)


def test_an_unhealthy_network_can_be_made_to_raise():
    report = eq.initialize(mlp([8, *[16] * 100, 3], nn.ReLU), X, "xavier", seeded())
    assert not report.ok
    with pytest.raises(UnhealthyError, match="vanish"):
        report.raise_if_unhealthy()
    eq.initialize(mlp([8, 16, 3], nn.ReLU), X).raise_if_unhealthy()


@pytest.mark.parametrize("name", ["report.txt", "report.json", "report.html"])
def test_reports_are_files(tmp_path, name):
    report = eq.initialize(mlp([8, 16, 3], nn.ReLU), X)
    text = report.save(tmp_path / name).read_text(encoding="utf-8")
    assert "0.weight" in text or "framed" in text or "normal" in text
    with pytest.raises(ArgumentError, match="must end in"):
        report.save(tmp_path / "report.pdf")


def test_the_report_tells_what_was_drawn_where_and_why():
    text = str(eq.initialize(mlp([64, *[16] * 50, 10], nn.GELU), data(200, 64), generator=seeded()))
    for words in ("scheme auto", "mirrored", "exactly linear", "principal axes", "expected",
                  "in balance"):  # fmt: skip
        assert words in text


def test_draws_differ_from_parameter_to_parameter():
    model = mlp([8, *[8] * 6, 8], nn.Tanh)
    eq.initialize(model, X, "he", seeded())
    weights = [layer.weight for layer in model[::2]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))
