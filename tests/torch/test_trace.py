"""Reading models: whatever way an activation is written, it is the same activation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.errors import TraceError
from equipoise.plan.nodes import Affine, Dropout, Merge, Nonlinearity, Opaque, Reshape, Softmax
from equipoise.plan.stacks import find_stacks
from equipoise.theory import activations
from equipoise.torch.inputs import read_inputs
from equipoise.torch.parameters import parameters_of
from equipoise.torch.trace import trace

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def read(model, x=X):
    return trace(model, read_inputs(model, x))


def only(traced, kind):
    return [node for node in traced.nodes if isinstance(node, kind)]


class Written(nn.Module):
    """One linear layer, any function, another layer."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(8, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


WAYS = [
    (nn.ReLU(), activations.relu()),
    (nn.ReLU(inplace=True), activations.relu()),
    (torch.relu, activations.relu()),
    (lambda h: h.relu(), activations.relu()),
    (lambda h: h.clamp(min=0), activations.relu()),
    (lambda h: torch.maximum(h, torch.zeros_like(h)), activations.relu()),
    (lambda h: h * (h > 0), activations.relu()),
    (lambda h: torch.where(h > 0, h, 0.01 * h), activations.leaky_relu()),
    (nn.LeakyReLU(0.3), activations.leaky_relu(0.3)),
    (lambda h: F.leaky_relu(h, 0.2), activations.leaky_relu(0.2)),
    (nn.RReLU(0.1, 0.3), activations.rrelu(0.1, 0.3, training=True)),
    (nn.RReLU(0.1, 0.3).eval(), activations.rrelu(0.1, 0.3)),
    (nn.PReLU(), activations.leaky_relu(0.25)),
    (nn.ReLU6(), activations.relu6()),
    (nn.GELU(), activations.gelu()),
    (nn.GELU("tanh"), activations.gelu("tanh")),
    (lambda h: h * torch.sigmoid(1.702 * h), activations.quick_gelu()),
    (lambda h: 0.5 * h * (1 + torch.erf(h / 2**0.5)), activations.gelu()),
    (nn.SiLU(), activations.silu()),
    (lambda h: h * h.sigmoid(), activations.silu()),
    (nn.Mish(), activations.mish()),
    (nn.Softplus(), activations.softplus()),
    (nn.Softplus(beta=3.0), activations.softplus(3.0)),
    (nn.Sigmoid(), activations.sigmoid()),
    (lambda h: 1 / (1 + torch.exp(-h)), activations.sigmoid()),
    (nn.LogSigmoid(), activations.logsigmoid()),
    (nn.Tanh(), activations.tanh()),
    (torch.tanh, activations.tanh()),
    (lambda h: h.tanh(), activations.tanh()),
    (lambda h: h.tanh_(), activations.tanh()),
    (nn.Hardtanh(), activations.hardtanh()),
    (nn.Hardtanh(-2.0, 1.0), activations.hardtanh(-2.0, 1.0)),
    (nn.Hardsigmoid(), activations.hardsigmoid()),
    (nn.Hardswish(), activations.hardswish()),
    (nn.Softsign(), activations.softsign()),
    (lambda h: h / (1 + h.abs()), activations.softsign()),
    (torch.atan, activations.arctan()),
    (torch.erf, activations.erf()),
    (lambda h: h / torch.sqrt(1 + h * h), activations.inverse_sqrt()),
    (torch.sin, activations.sin()),
    (nn.ELU(), activations.elu()),
    (nn.ELU(0.5), activations.elu(0.5)),
    (nn.SELU(), activations.selu()),
    (nn.CELU(2.0), activations.celu(2.0)),
    (nn.Tanhshrink(), activations.tanhshrink()),
    (nn.Softshrink(), activations.softshrink()),
    (nn.Hardshrink(), activations.hardshrink()),
    (lambda h: F.relu(h) ** 2, activations.squared_relu()),
    (lambda h: F.relu(h).square(), activations.squared_relu()),
]


@pytest.mark.parametrize(("function", "expected"), WAYS)
def test_every_way_of_writing_an_activation_is_read_as_that_activation(function, expected):
    found = only(read(Written(function)), Nonlinearity)
    assert [node.activation for node in found] == [expected]
    assert found[0].activation is expected


def test_an_unknown_activation_is_probed_with_an_exact_derivative():
    node = only(read(Written(lambda h: torch.sin(3 * h) + h.tanh())), Nonlinearity)[0]
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    assert node.activation.parity == "odd"
    exact = 3 * torch.cos(3 * z) + 1 - torch.tanh(z) ** 2
    torch.testing.assert_close(torch.from_numpy(node.activation.df(z.numpy())), exact)


def test_a_learnable_slope_is_read_as_it_stands():
    class Swish(nn.Module):
        def __init__(self):
            super().__init__()
            self.beta = nn.Parameter(torch.tensor(1.702))

        def forward(self, h):
            return h * torch.sigmoid(self.beta * h)

    node = only(read(Written(Swish())), Nonlinearity)[0]
    assert node.activation is activations.quick_gelu()
    assert node.parameters == ("function.beta",)


@pytest.mark.parametrize("name", ["logsumexp", "log_softmax"])
def test_what_joins_features_is_opaque_not_an_activation(name):
    function = {
        "logsumexp": lambda h: h.logsumexp(-1, keepdim=True).expand(-1, 8),
        "log_softmax": lambda h: h.log_softmax(-1),
    }[name]
    traced = read(Written(function))
    assert not only(traced, Nonlinearity)
    assert name in only(traced, Opaque)[0].reason


def test_a_softmax_is_no_activation():
    traced = read(Written(lambda h: h.softmax(-1)))
    assert not only(traced, Nonlinearity)
    assert [node.size for node in only(traced, Softmax)] == [8]


def test_a_function_with_a_pole_is_opaque_with_its_reason():
    traced = read(Written(lambda h: torch.log(h)))
    assert "finite" in only(traced, Opaque)[0].reason


def test_axes_of_a_weight_are_out_by_in():
    node = only(read(nn.Sequential(nn.Linear(8, 3))), Affine)[0]
    assert (node.in_size, node.out_size, node.layer) == (8, 3, "0")
    assert (node.weight, node.bias) == ("0.weight", "0.bias")


def test_layer_without_bias_and_functional_linear():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(5, 8))

        def forward(self, x):
            return F.linear(x, self.matrix)

    node = only(read(Functional()), Affine)[0]
    assert (node.weight, node.bias, node.layer) == ("matrix", "", "matrix")


def test_dropout_and_reshapes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.drop = nn.Linear(8, 4), nn.Linear(12, 2), nn.Dropout(0.3)

        def forward(self, x):
            h = self.drop(torch.tanh(self.a(x)))
            return self.b(h.flatten(1))

    traced = read(Net(), torch.randn(5, 3, 8))
    assert only(traced, Dropout)[0].probability == 0.3
    reshape = only(traced, Reshape)[0]
    assert traced.sizes[reshape.in_space] == 4
    assert (traced.sizes[reshape.out_space], reshape.out_size) == (12, 12)
    assert [stack.depth for stack in find_stacks(traced)] == [0, 0]


@pytest.mark.parametrize("view", [lambda h: h.unsqueeze(0), lambda h: h.reshape(2, 3, 8)])
def test_a_reshape_that_keeps_the_feature_axis_stays_inside_a_stack(view):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.tanh(view(self.a(x))))

    assert [stack.depth for stack in find_stacks(read(Net()))] == [1]


def test_a_sum_ties_its_spaces_and_ends_stacks():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.a(x)
            return self.c(h + torch.relu(self.b(h)))

    traced = read(Residual())
    a, b, c = only(traced, Affine)
    assert a.out_space == b.in_space == b.out_space == c.in_space
    assert only(traced, Merge)
    assert [stack.depth for stack in find_stacks(traced)] == [0, 0, 0]


def test_the_sum_of_one_value_with_its_own_function_is_an_activation():
    node = only(read(Written(lambda h: h + h.tanh())), Nonlinearity)[0]
    assert node.activation.slope == pytest.approx(2.0, abs=1e-5)


def test_a_value_read_twice_ends_the_stack():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, x):
            h = self.a(x).tanh()
            return self.b(h), self.c(h)

    traced = read(Fork())
    assert len(only(traced, Nonlinearity)) == 1
    assert len(traced.outputs) == 2
    assert [len(stack.affines) for stack in find_stacks(traced)] == [1, 1, 1]


def test_an_in_place_operation_changes_what_is_read_later():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.a(x)
            F.relu_(h)
            return self.b(h)

    traced = read(InPlace())
    assert only(traced, Nonlinearity)[0].activation is activations.relu()
    assert [stack.hidden[0].activation.name for stack in find_stacks(traced)] == ["relu"]


def test_a_module_used_twice_ties_the_spaces_on_both_sides():
    shared = nn.Linear(8, 8)
    traced = read(nn.Sequential(nn.Linear(8, 8), shared, nn.Tanh(), shared, nn.Linear(8, 2)))
    uses = [n for n in only(traced, Affine) if n.weight == "1.weight"]
    assert len(uses) == 2
    assert len({n.in_space for n in uses} | {n.out_space for n in uses}) == 1


def test_tied_parameters_are_listed_once_with_all_names():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    found = {p.name: p.aliases for p in parameters_of(model)}
    assert found == {"0.weight": ("1.weight",), "0.bias": (), "1.bias": ()}


def test_everything_else_is_opaque_with_its_parameters():
    model = nn.Sequential(nn.Linear(8, 8), nn.Bilinear(8, 8, 5), nn.Linear(5, 2))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model

        def forward(self, x):
            h = self.layers[0](x)
            return self.layers[2](self.layers[1](h, h))

    opaque = only(read(Twice()), Opaque)
    assert opaque[0].parameters == ("layers.1.weight", "layers.1.bias")
    assert "Bilinear" in opaque[0].reason


def test_inputs_as_tuple_and_as_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 2)

        def forward(self, x, scale=None):
            return self.a(x)

    for inputs in ((X,), {"x": X}, (X, None)):
        assert len(only(read(Two(), inputs), Affine)) == 1


def test_a_forward_that_raises_is_named_with_the_inputs():
    with pytest.raises(TraceError, match=r"must accept the inputs given, inputs \(6, 8\) float32"):
        read(nn.Linear(9, 3))


def test_wrong_dtype_is_named():
    with pytest.raises(TraceError, match="float64"):
        read(nn.Linear(8, 3), X.double())


def test_a_forward_that_export_refuses_is_recorded_and_says_so():
    def branch(h):
        return h if float(h.sum()) > 0 else -h

    assert read(Written(branch)).why_recorded == "a branch in it depends on values of tensors"
    assert read(Written(lambda h: -h)).why_recorded == ""


def test_a_meta_model_is_read_without_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 4000), nn.Tanh(), nn.Linear(4000, 4000))
    traced = read(model, torch.empty(6, 8, device="meta"))
    assert [n.out_size for n in only(traced, Affine)] == [4000, 4000]
