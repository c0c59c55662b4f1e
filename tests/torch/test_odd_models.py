"""Legitimate models that are easy to get wrong."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError, PlanError, TraceError
from equipoise.lab.models import mlp

X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Two(nn.Module):
    """Two layers with any function of module and input for a forward."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(16, 16), nn.Linear(16, 16), function

    def forward(self, *args):
        return self.function(self, *args)


def test_a_module_used_several_times_stays_the_module_it_was():
    layer, slope, norm = nn.Linear(16, 16), nn.PReLU(), nn.BatchNorm1d(16)
    model = nn.Sequential(layer, slope, norm, layer, slope, norm, nn.Linear(16, 2))
    kept = [layer.weight, layer.bias, slope.weight, norm.weight, norm.running_mean]
    mean = norm.running_mean.clone()
    for _ in range(2):
        eq.diagnose(model, X)
        eq.initialize(model, X)
    now = [layer.weight, layer.bias, slope.weight, norm.weight, norm.running_mean]
    assert all(a is b for a, b in zip(kept, now, strict=True))
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(mean, norm.running_mean)


def test_wrong_input_of_a_model_with_reused_modules_is_blamed_on_the_input():
    layer = nn.Linear(16, 16)
    with pytest.raises(TraceError, match="cannot be multiplied"):
        eq.initialize(nn.Sequential(layer, layer), X[:, :5])


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)])
def test_in_place_operations_on_the_inputs_leave_the_callers_data(first):
    x = X.clone()
    assert eq.initialize(nn.Sequential(first, nn.Linear(16, 16)), x).ok
    assert torch.equal(x, X)


def test_integer_inputs_are_left_alone_too():
    def forward(m, x, mask):
        return m.a(x) * mask.mul_(2)

    mask = torch.ones(256, 1, dtype=torch.long)
    eq.diagnose(Two(forward), (X, mask))
    assert int(mask.max()) == 1


IN_PLACE = [
    (lambda m, x: (h := m.a(x), h.view(-1).mul_(100), m.b(h))[-1], "share memory"),
    (lambda m, x: (h := m.a(x), h[:, :4].relu_(), m.b(h))[-1], "share memory"),
    (lambda m, x: (v := (h := m.a(x)).view(-1), h.mul_(100), m.b(v.view(-1, 16)))[-1], "share"),
]


@pytest.mark.parametrize(("forward", "reason"), IN_PLACE)
def test_writes_through_views_are_not_guessed_at(forward, reason):
    report = eq.initialize(Two(forward), X)
    assert reason in " ".join(report.plan.notes)
    assert math.isnan(report.plan.predictions[-1].signal)
    assert "prediction-missed" not in {f.code for f in report.findings}


def test_a_chain_of_in_place_operations_is_one_activation():
    def forward(m, x):
        h = m.a(x)
        h.mul_(2)
        h.tanh_()
        return m.b(h)

    report = eq.initialize(Two(forward), X)
    assert report.ok
    assert not report.plan.notes


def test_a_backward_pass_that_cannot_run_is_named_and_nothing_is_written():
    model = Two(lambda m, x: m.b(m.a(x).sigmoid_().mul_(2)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(TraceError, match="backward of Two must run"):
        eq.initialize(model, X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("activation", [nn.Hardshrink, lambda: nn.Threshold(0.1, 20.0)])
def test_activations_that_jump_do_not_break_the_report(activation):
    report = eq.initialize(mlp([16] * 5 + [2], activation), X)
    assert "jumps" in " ".join(report.plan.warnings)


def test_nothing_measured_is_not_in_balance():
    norms = nn.Sequential(*[nn.BatchNorm1d(4) for _ in range(4)])
    seen = eq.diagnose(norms, torch.randn(8, 4, 16))
    assert not seen.ok
    assert "in balance" not in str(seen)
    stopped = Two(lambda m, x: m.b(m.a(x).detach()))
    assert {f.code for f in eq.diagnose(stopped, X).findings} == {"not-measured"}


def test_units_off_zero_are_centred_only_where_a_bias_can_do_it():
    layers = [m for _ in range(20) for m in (nn.Linear(16, 16, bias=False), nn.Sigmoid())]
    report = eq.initialize(nn.Sequential(*layers, nn.Linear(16, 3, bias=False)), X)
    assert "no bias of its own" in " ".join(report.plan.notes)
    assert "exact moments" in report.plan.choice[0]
    with pytest.raises(PlanError, match="no bias of its own"):
        eq.plan(nn.Sequential(*layers), X, "centred")


def test_a_bias_that_two_layers_share_is_not_used_for_centring():
    model = mlp([16, 16, 16, 16], nn.Sigmoid)
    model[4].bias = model[2].bias
    plan = eq.plan(model, X)
    laws = {a.parameter: type(a.law).__name__ for a in plan.assignments}
    assert laws["2.bias"] == "Zero"
    assert "no bias of its own" in " ".join(plan.notes)


def test_a_bias_that_keeps_its_values_makes_predictions_unknown():
    model = mlp([16, 16, 16, 16], nn.Tanh)
    for layer in model[::2]:
        nn.init.constant_(layer.bias, 5.0)
        layer.bias.requires_grad_(False)
    report = eq.initialize(model, X)
    assert all(math.isnan(p.signal) for p in report.plan.predictions)
    assert "keeps its values" in " ".join(report.plan.notes)


def test_past_an_opaque_part_nothing_is_predicted():
    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(dim=-1).values

    model = nn.Sequential(Sorted(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    report = eq.initialize(model, 200 * X)
    assert all(math.isnan(p.signal) for p in report.plan.predictions)
    assert "prediction-missed" not in {f.code for f in report.findings}


def test_branches_are_measured_against_their_own_expectation():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.b = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

        def forward(self, h, g):
            for a, b in zip(self.a, self.b, strict=True):
                h, g = torch.tanh(a(h)), torch.relu(b(g))
            return h, g

    report = eq.initialize(Branches(), (X, 30 * X), "he", seeded())
    assert [p.weight for p in report.plan.predictions[:2]] == ["a.0.weight", "b.0.weight"]
    assert report.plan.predictions[1].signal > 10
    assert "prediction-missed" not in {f.code for f in report.findings}


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_predicted_as_the_model_stands(training):
    layers = [m for _ in range(8) for m in (nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))]
    model = nn.Sequential(*layers, nn.Linear(256, 8)).train(training)
    x = torch.randn(400, 256, generator=seeded())
    report = eq.initialize(model, x, "he", seeded())
    seen = [layer.signal for layer in report.measurements.layers]
    expected = [p.signal for p in report.plan.predictions]
    assert seen == pytest.approx(expected, rel=0.35)
    assert (expected[-1] > 10) == training


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_followed_through_a_framed_stack(training):
    layers = [m for _ in range(8) for m in (nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.5))]
    model = nn.Sequential(*layers, nn.Linear(64, 16)).train(training)
    x = torch.randn(400, 64, generator=seeded())
    reports = [eq.initialize(model, x, generator=seeded(seed)) for seed in range(5)]
    seen = np.median([[y.signal for y in r.measurements.layers] for r in reports], axis=0)
    expected = [p.signal for p in reports[0].plan.predictions]
    assert reports[0].plan.choice[0].startswith("layers 0 to 24: centred")
    assert seen == pytest.approx(expected, rel=0.1)
    # Scales are those for training; without dropout the signal is quieter.
    assert expected[-2] == pytest.approx(expected[0] * (1.0 if training else 0.2), rel=0.3)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_exact_moments_are_kept_through_active_dropout(p):
    layers = [m for _ in range(8) for m in (nn.Linear(128, 128), nn.ReLU(), nn.Dropout(p))]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    x = torch.randn(400, 128, generator=seeded())
    seen = [
        [y.signal for y in eq.initialize(model, x, generator=seeded(s)).measurements.layers]
        for s in range(5)
    ]
    assert np.median(seen, axis=0) == pytest.approx([1.0] * 9, rel=0.15)
    model.eval()
    off = eq.initialize(model, x, generator=seeded())
    assert any("dropout is off" in note for note in off.plan.notes)
    assert off.measurements.layers[-2].signal == pytest.approx((1 - p) ** 3.5, rel=0.3)


def test_a_sum_is_foretold_with_what_its_terms_have_in_common():
    class Blocks(nn.Module):
        def __init__(self, activation, is_last):
            super().__init__()
            self.a = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
            self.b = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
            self.f, self.is_last = activation, is_last

        def forward(self, x):
            for a, b in zip(self.a, self.b, strict=True):
                x = x + (self.f(b(a(x))) if self.is_last else b(self.f(a(x))))
            return x

    x = torch.randn(300, 64, generator=seeded())
    # Outputs of ReLU are all positive and add up: their means are the same in all terms.
    for activation, is_last in ((torch.relu, False), (torch.tanh, True), (torch.relu, True)):
        report = eq.initialize(Blocks(activation, is_last), x, generator=seeded())
        expected = [p.signal for p in report.plan.predictions]
        seen = [layer.signal for layer in report.measurements.layers]
        assert seen == pytest.approx(expected, rel=0.3)


def test_a_zero_input_beside_another_is_no_error():
    def forward(m, x, h):
        return m.a(x) + m.b(h)

    plan = eq.plan(Two(forward), (X, torch.zeros(256, 16)))
    assert "RMS 1 is assumed" in " ".join(plan.notes)


HEALTHY = {
    "one output": lambda: (nn.Linear(64, 1), torch.randn(100, 64) + 3),
    "anisotropic": lambda: (nn.Linear(8, 1), torch.randn(100, 8) * torch.logspace(0, 2, 8)),
    "expansion": lambda: (mlp([8, *[16] * 20, 1], nn.GELU), torch.randn(200, 8)),
    "two inputs": lambda: (mlp([2, *[64] * 30, 1], nn.Tanh), torch.randn(200, 2)),
    "wide": lambda: (mlp([16, 256, 256, 4], nn.ReLU), torch.randn(200, 16)),
    "softsign": lambda: (mlp([16, *[16] * 300, 4], nn.Softsign), torch.randn(100, 16)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_are_not_called_ill(name):
    """At most 1 of 20 draws may come with a warning."""
    count = 5 if name == "softsign" else 20
    torch.manual_seed(0)
    ill = []
    for seed in range(count):
        model, x = HEALTHY[name]()
        report = eq.initialize(model, x, generator=seeded(seed))
        ill += [f.code for f in report.findings if f.severity != "info"][:1]
    assert len(ill) <= 1, ill


def test_functions_that_grow_faster_than_a_line_come_with_a_warning():
    for function in (torch.sinh, lambda h: h + h**3, lambda h: h * 2 + h.abs() * h):
        plan = eq.plan(Two(lambda m, x, f=function: m.b(f(m.a(x)))), X)
        assert "grows faster than a line" in " ".join(plan.notes)


def test_an_activation_that_overflows_is_planned_and_reported():
    report = eq.initialize(Two(lambda m, x: m.b(torch.exp(m.a(x)))), X)
    assert len(report.plan.assignments) == 4


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_family_member_out_of_the_usual_range_is_probed(alpha):
    plan = eq.plan(Two(lambda m, x: m.b(F.elu(m.a(x), alpha))), X)
    assert "not read" not in " ".join(plan.notes)


def test_a_vector_for_a_weight_is_opaque():
    class Vector(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(16))

        def forward(self, x):
            return F.linear(x, self.w)

    assert [u.parameter for u in eq.plan(Vector(), X).untouched] == ["w"]


def test_tensors_inside_containers_are_inputs():
    model = Two(lambda m, xs: m.b(m.a(xs[0]) + xs[1]["k"]))
    report = eq.initialize(model, ([X, {"k": X}],))
    assert report.measurements.input_rms == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ArgumentError, match=r"inputs\[1\]\['k'\] must be finite"):
        eq.plan(model, ([X, {"k": X / 0}],))


def test_inputs_made_in_inference_mode_and_calls_inside_it():
    with torch.inference_mode():
        x = torch.randn(64, 16)
    assert eq.initialize(mlp([16, 16, 4], nn.Tanh), x).ok
    with torch.no_grad():
        assert eq.initialize(mlp([16, 16, 4], nn.Tanh), X).ok


def test_data_given_to_a_meta_model_are_read():
    with torch.device("meta"):
        model = mlp([16, *[8] * 20, 3], nn.Tanh)
    assert "principal axes" in eq.plan(model, X).choice[0]


UNUSABLE = [
    (lambda: nn.LazyLinear(3), {}, "lazy"),
    (lambda: nn.DataParallel(nn.Linear(16, 2)), {}, "model.module"),
    (lambda: lambda x: x, {}, "must be a torch.nn.Module"),
    (lambda: nn.Linear(16, 2), {"inputs": X.to_sparse()}, "to_dense"),
]


@pytest.mark.parametrize(("model", "changes", "message"), UNUSABLE)
def test_what_cannot_be_used_is_named(model, changes, message):
    with pytest.raises(ArgumentError, match=message):
        eq.plan(model(), **{"inputs": X, **changes})


def test_a_generator_that_is_a_number_is_named():
    with pytest.raises(ArgumentError, match="manual_seed"):
        eq.initialize(nn.Linear(16, 2), X, generator=0)


def test_constant_inputs_do_not_accuse_the_network():
    report = eq.initialize(mlp([16, 16, 4], nn.Tanh), torch.ones(64, 16))
    assert "lost-correlation" not in {f.code for f in report.findings}


def test_a_layer_without_units_is_no_obstacle():
    model = Two(lambda m, x: m.b(m.a(x)))
    model.empty = nn.Parameter(torch.empty(0, 4))
    assert {u.reason for u in eq.plan(model, X).untouched} >= {"has no entries"}


class Masked(nn.Module):
    """An input that a mask silences wherever a layer reads it, beside one that is heard."""

    def __init__(self, silent, heard):
        super().__init__()
        self.silent, self.heard = silent, heard
        self.register_buffer("mask", torch.zeros(()))

    def forward(self, x):
        return self.silent(x * self.mask) + self.heard(x)


@pytest.mark.parametrize(
    "part", [lambda: nn.Linear(16, 8), lambda: nn.Sequential(nn.Linear(16, 8), nn.Tanh())]
)
def test_a_part_that_hears_nothing_starts_as_if_it_did(part):
    model = Masked(part(), part())
    report = eq.initialize(model, X, generator=seeded())
    weight = next(p for name, p in model.silent.named_parameters() if name.endswith("weight"))
    assert 0.1 < float(weight.detach().std()) < 1.0
    assert any("RMS 1 is assumed" in note for note in report.plan.notes)


def test_a_kernel_that_is_shown_the_silent_images_of_a_batch_knows_the_level_of_all():
    x = torch.zeros(8, 1, 128, 128)
    # Of large images some are looked at closely: seven of these eight, which leaves out this one.
    x[6] = torch.randn(1, 128, 128, generator=seeded())
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.AdaptiveMaxPool2d(1),
                        nn.Flatten(), nn.Linear(16, 4))  # fmt: skip
    report = eq.initialize(net, x, generator=seeded())
    assert 0.1 < report.measurements.layers[0].signal < 10.0
