"""Reading: products with a matrix, functions of parameters, blends and gates, however written."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.plan.nodes import (
    Affine,
    Gain,
    Merge,
    Nonlinearity,
    Norm,
    Opaque,
    Permute,
    Pool,
    Product,
    Shift,
    Spread,
    Take,
)
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(4, 8, 4, 6, generator=torch.Generator().manual_seed(1))


class Written(nn.Module):
    """Any function of the module and its input, with parameters and modules by name."""

    def __init__(self, function, **held):
        super().__init__()
        self.function = function
        for name, value in held.items():
            is_module = isinstance(value, nn.Module)
            setattr(self, name, value if is_module else nn.Parameter(torch.as_tensor(value)))

    def forward(self, *x):
        return self.function(self, *x)


def read(function, x=X, **held):
    model = Written(function, **held)
    return trace(model, read_inputs(model, x))


def only(traced, kind):
    return [node for node in traced.nodes if isinstance(node, kind)]


# Linear maps over one axis.

STRAIGHT, TURNED = torch.randn(5, 8), torch.randn(8, 5)
PRODUCTS = {
    "einsum": (lambda m, x: torch.einsum("abi,oi->abo", x, m.w), STRAIGHT, 8, False),
    "weight first": (lambda m, x: torch.einsum("io, abi -> abo", m.w, x), TURNED, 8, True),
    "turned": (lambda m, x: torch.einsum("oi,abi->abo", m.w.T, x), TURNED, 8, True),
    "dots": (lambda m, x: torch.einsum("...i,oi->...o", x, m.w), STRAIGHT, 8, False),
    "units first": (lambda m, x: torch.einsum("abi,oi->oab", x, m.w), STRAIGHT, 8, False),
    "over sites": (lambda m, x: torch.einsum("ot,btc->boc", m.w, x), torch.randn(5, 6), 6, False),
    "w @ x": (lambda m, x: m.w @ x, torch.randn(5, 6), 6, False),
    "w.T @ x": (lambda m, x: m.w.T @ x, torch.randn(6, 5), 6, True),
    "w @ x.mT": (lambda m, x: (m.w @ x.mT).mT, STRAIGHT, 8, False),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, 1), TURNED, 8, True),
    "tensordot, its second": (lambda m, x: torch.tensordot(x, m.w, ([2], [1])), STRAIGHT, 8, False),
}


@pytest.mark.parametrize("written", PRODUCTS)
def test_linear_maps_over_one_axis(written):
    function, weight, size, is_turned = PRODUCTS[written]
    traced = read(function, w=weight)
    (layer,) = only(traced, Affine)
    assert (layer.in_size, layer.out_size, layer.is_turned) == (size, 5, is_turned)
    assert {type(node) for node in traced.nodes} <= {Affine, Permute}
    # Axes come out where they were asked for.
    shape = Written(function, w=weight)(X).shape
    made = traced.values[traced.outputs[0]]
    assert made.shape == tuple(shape)
    assert made.shape[made.axis] == 5


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.einsum("abi,oi->abio", x, m.w),
        lambda m, x: torch.einsum("abi,oi->ab", x, m.w),
        lambda m, x: torch.einsum("aab,ob->ao", x[:4, :4], m.w),
        lambda m, x: torch.einsum("abi,oi", x, m.w),
        lambda m, x: torch.tensordot(x, m.w.reshape(8, 5, 1), 1),
    ],
)
def test_other_sums_are_no_linear_map(function):
    traced = read(function, w=STRAIGHT)
    assert not only(traced, Affine)


def test_an_equation_that_does_not_name_its_result_is_not_read():
    assert not only(read(lambda m, x: torch.einsum("bi,oi", x[0], m.w), w=STRAIGHT), Affine)


# Functions of parameters.


@pytest.mark.parametrize(
    ("function", "held", "expected"),
    [
        (lambda m, x: m.a(x) * F.softplus(m.t), torch.zeros(8), math.log(2) ** 2),
        (lambda m, x: m.a(x) * (torch.sigmoid(m.t + 1) * 2), torch.zeros(1), 2.1378),
        (lambda m, x: m.a(x) / m.t, torch.tensor([1.0, 0.5] * 4), 2.5),
    ],
)
def test_gains_that_are_functions_of_a_parameter(function, held, expected):
    traced = read(function, t=held, a=nn.Linear(8, 8))
    (gain,) = only(traced, Gain)
    assert (gain.parameter, gain.is_kept) == ("t", True)
    assert gain.mean_square == pytest.approx(expected, rel=1e-4)
    assert not only(traced, Opaque)
    plan = eq.plan(Written(function, t=held, a=nn.Linear(8, 8)), X)
    (untouched,) = plan.untouched
    assert "goes through a function first" in untouched.reason


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda m, x: m.a(x) * m.t.exp(), math.exp(0.5)),
        (lambda m, x: m.a(x) / m.t.exp(), math.exp(-0.5)),
    ],
)
def test_a_number_that_is_computed_from_one_parameter_is_part_of_a_line(function, slope):
    traced = read(function, t=torch.tensor(0.5), a=nn.Linear(8, 8))
    (line,) = only(traced, Nonlinearity)
    assert line.parameters == ("t",)
    assert float(line.activation.f(2.0)) == pytest.approx(2 * slope)
    assert not only(traced, Opaque)


def test_a_function_of_a_parameter_may_stand_behind_a_norm():
    norm = nn.LayerNorm(8, elementwise_affine=False)
    model = Written(lambda m, x: m.a(m.n(x) * m.t.exp()), t=0.3 * torch.ones(8), n=norm,
                    a=nn.Linear(8, 5))  # fmt: skip
    (prediction,) = eq.plan(model, X).predictions
    assert prediction.signal == pytest.approx(1.0, rel=0.1)
    report = eq.initialize(model, X, generator=torch.Generator().manual_seed(0))
    assert report.measurements.layers[0].signal == pytest.approx(1.0, rel=0.3)
    assert float(model.t.detach()[0]) == pytest.approx(0.3)


def test_a_function_of_a_parameter_as_a_value_is_not_read():
    traced = read(lambda m, x: torch.cat([m.t.exp().expand(4, 1, 8), x], 1), t=torch.zeros(8))
    (opaque,) = only(traced, Opaque)
    assert opaque.parameters == ("t",)
    traced = read(lambda m, x: x.mean() * m.t.exp()[torch.tensor([0, 1])], t=torch.zeros(3, 8))
    assert all("t" in node.parameters for node in only(traced, Opaque) if node.parameters)


def test_offsets_with_a_number_added():
    traced = read(lambda m, x: m.a(x) + (m.b + 2), a=nn.Linear(8, 8), b=torch.zeros(8))
    (shift,) = only(traced, Shift)
    assert (shift.parameter, shift.offset, shift.mean_square) == ("b", 2.0, 4.0)
    model = Written(lambda m, x: m.c(m.a(x) + (m.b + 2)), a=nn.Linear(8, 64), b=torch.ones(64),
                    c=nn.Linear(64, 64))  # fmt: skip
    report = eq.initialize(model, X, output_rms=1.0, generator=torch.Generator().manual_seed(0))
    assert not model.b.detach().any()
    measured, expected = report.measurements.layers[-1], report.plan.predictions[-1]
    assert measured.signal == pytest.approx(expected.signal, rel=0.2)


# Sums.


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: torch.add(m.a(x), m.b(x), alpha=0.5), 0.25),
        (lambda m, x: torch.sub(m.a(x), m.b(x), alpha=3), 9.0),
        (lambda m, x: torch.rsub(m.a(x), m.b(x), alpha=2), 4.0),
        (lambda m, x: torch.stack([m.a(x), m.b(x)]).mean(0), 0.25),
        (lambda m, x: torch.stack([m.a(x), m.b(x)], -1).mean(-1), 0.25),
    ],
)
def test_sums_with_factors(function, expected):
    traced = read(function, a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    (gain,), (merge,) = only(traced, Gain), only(traced, Merge)
    assert gain.mean_square == expected
    assert len(merge.inputs) == 2
    assert not only(traced, Opaque)


@pytest.mark.parametrize(
    ("function", "mean_square", "gains"),
    [
        (lambda m, x: torch.add(m.a(x), m.b, alpha=2), 4.0, []),
        (lambda m, x: torch.sub(m.a(x), m.b, alpha=2), 4.0, []),
        (lambda m, x: torch.rsub(m.b, m.a(x), alpha=2), 4.0, []),
        (lambda m, x: torch.add(m.b, m.a(x), alpha=2), 1.0, [4.0]),
        (lambda m, x: torch.rsub(m.a(x), m.b, alpha=2), 1.0, [4.0]),
    ],
)
def test_factors_of_offsets_belong_to_one_of_the_two(function, mean_square, gains):
    traced = read(function, a=nn.Linear(8, 8), b=torch.ones(6, 8))
    (shift,) = only(traced, Shift)
    assert shift.mean_square == mean_square
    assert [gain.mean_square for gain in only(traced, Gain)] == gains


def test_a_sum_over_a_stack_is_a_sum_of_its_parts():
    traced = read(lambda m, x: torch.stack([m.a(x), x]).sum(0), a=nn.Linear(8, 8))
    assert [type(n).__name__ for n in traced.nodes] == ["Affine", "Merge"]
    for function in (
        lambda m, x: torch.stack([m.a(x), x]).sum(1),
        lambda m, x: torch.stack([m.a(x), x]).sum(0, keepdim=True),
        lambda m, x: torch.stack([m.a(x), x]).sum((0, 1)),
    ):
        assert not only(read(function, a=nn.Linear(8, 8)), Merge)


def test_a_sum_over_sites_is_a_mean_times_their_number():
    traced = read(lambda m, x: m.a(x).sum(1), a=nn.Linear(8, 8))
    (pool,), (gain,) = only(traced, Pool), only(traced, Gain)
    assert (pool.kind, pool.window, gain.mean_square) == ("average", (6,), 36.0)
    assert traced.values[traced.outputs[0]].shape == (4, 8)


# Gates, unit lengths, blends.


def test_a_gated_linear_unit_is_a_product_of_halves():
    traced = read(lambda m, x: F.glu(m.a(x), -1), a=nn.Linear(8, 10))
    halves, (product,) = only(traced, Take), only(traced, Product)
    assert [half.axis for half in halves] == [-1, -1]
    assert len(only(traced, Nonlinearity)) == 1
    assert product.inputs[0] == halves[0].output
    assert traced.values[product.output].shape == (4, 6, 5)
    assert not only(traced, Opaque)


@pytest.mark.parametrize(
    "function", [lambda x: F.normalize(x, dim=-1), lambda x: x / x.norm(dim=-1, keepdim=True)]
)
def test_rows_of_unit_length(function):
    traced = read(lambda m, x: function(m.a(x)), a=nn.Linear(8, 8))
    (norm,), (gain,) = only(traced, Norm), only(traced, Gain)
    assert (norm.kind, norm.size, gain.mean_square) == ("rms", 8, 1 / 8)
    assert not only(traced, Opaque)


@pytest.mark.parametrize("function", [lambda x: F.normalize(x, dim=1), lambda x: F.normalize(x, 1)])
def test_other_lengths_are_not_read(function):
    assert only(read(lambda m, x: function(m.a(x)), a=nn.Linear(8, 8)), Opaque)


@pytest.mark.parametrize(
    ("mode", "corners"), [("bilinear", False), ("bilinear", True), ("bicubic", False)]
)
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (2, 3)])
def test_blends_keep_the_squares_of_their_weights(mode, corners, size):
    def function(m, x):
        return F.interpolate(m.a(x), size=size, mode=mode, align_corners=corners)

    (spread,) = only(read(function, MAPS, a=nn.Conv2d(8, 8, 1)), Spread)
    noise = torch.randn(200, 64, 4, 6, generator=torch.Generator().manual_seed(0))
    made = F.interpolate(noise, size=size, mode=mode, align_corners=corners)
    drawn = made.square().mean(dim=(1, 2, 3))
    error = 4 * float(drawn.std()) / math.sqrt(len(drawn))
    assert spread.kept == pytest.approx(float(drawn.mean()), abs=error)


@pytest.mark.parametrize(
    ("shuffle", "channels"),
    [(nn.PixelShuffle(2), 2), (nn.PixelUnshuffle(2), 32), (nn.ChannelShuffle(2), 8)],
)
def test_shuffled_entries_are_all_there(shuffle, channels):
    traced = read(lambda m, x: m.c(shuffle(m.a(x))), MAPS, a=nn.Conv2d(8, 8, 1),
                  c=nn.Conv2d(channels, 3, 1))  # fmt: skip
    take, last = only(traced, Take)[0], only(traced, Affine)[-1]
    assert last.input == take.output
    assert last.in_space != only(traced, Affine)[0].out_space
    assert not only(traced, Opaque)


# Norms that keep their values.


def test_norms_know_their_size_and_what_they_keep():
    def of(module, x=MAPS):
        return only(trace(module, read_inputs(module, x)), Norm)[0]

    assert of(nn.LayerNorm(8), X).size == 8
    assert of(nn.RMSNorm(8), X).size == 8
    assert of(nn.GroupNorm(2, 8)).size == 4 * 24
    assert of(nn.InstanceNorm2d(8)).size == 24
    batch = nn.BatchNorm2d(8)
    assert of(batch).size == 4 * 24
    nn.init.constant_(batch.weight, 3.0), nn.init.constant_(batch.bias, 2.0)
    batch.running_mean.fill_(2.0), batch.running_var.fill_(0.5)
    norm = of(batch.eval())
    assert (norm.weight_square, norm.bias_square) == (9.0, 4.0)
    assert (norm.scale, norm.centre) == (pytest.approx(2.0, 1e-4), pytest.approx(8.0, 1e-4))


def test_statistics_and_gains_that_stay_are_counted():
    torch.manual_seed(0)
    batch, norm = nn.BatchNorm1d(64), nn.LayerNorm(64)
    batch.running_mean.normal_(), batch.running_var.uniform_(0.05, 0.2)
    nn.init.normal_(norm.weight, std=5.0).requires_grad_(False)
    x = torch.randn(256, 16)
    for layer in (batch.eval(), norm):
        model = nn.Sequential(nn.Linear(16, 64), layer, nn.Linear(64, 64))
        report = eq.initialize(model, x, generator=torch.Generator().manual_seed(0))
        measured, expected = report.measurements.layers[-1], report.plan.predictions[-1]
        assert measured.signal == pytest.approx(expected.signal, rel=0.2)


def test_a_weight_that_meets_itself_turned_round_is_not_predicted():
    model = Written(lambda m, x: torch.tanh(m.a(x)) @ m.a.weight, a=nn.Linear(8, 32))
    plan = eq.plan(model, X)
    assert math.isnan(plan.predictions[-1].signal)
    assert "turned round" in " ".join(plan.notes)
