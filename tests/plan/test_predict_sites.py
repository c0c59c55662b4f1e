"""Convolutions, pooling and flattening of predictions against torch's own."""

import math

import numpy as np
import pytest

from equipoise.plan.chain_sites import numbers, products
from equipoise.plan.entry import Inputs
from equipoise.plan.nodes import Affine, Pool
from equipoise.plan.predict import predict
from equipoise.plan.predict_sites import OnSites, flattened, layer_of, pooled
from equipoise.plan.predict_weights import Drawing
from equipoise.plan.stacks import Hidden, Stack
from equipoise.schemes.convolution import Convolution
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Constant, Frame, Framed, Normal, OffsetBias, Orthogonal, Taps
from equipoise.theory import activations

torch = pytest.importorskip("torch")
F = torch.nn.functional


def drawing(draws=1):
    return Drawing(np.random.default_rng(0), draws, {}, {})


GEOMETRIES = [
    (Convolution((3,), (2,), ((1, 1),), (1,)), (7,), (4,)),
    (Convolution((3, 2), (1, 2), ((1, 1), (0, 0)), (1, 1), 2), (5, 6), (5, 3)),
    (Convolution((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)), (5, 4), (5, 4)),
    (Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False, "circular"), (4, 4), (4, 4)),
    (Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False, "reflect"), (4, 4), (4, 4)),
    (Convolution((4, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 2, True), (3, 4), (6, 4)),
    (Convolution((2,), (2,), ((0, 0),), (1,), 1, True), (3,), (6,)),
]


@pytest.mark.parametrize(("geometry", "before", "after"), GEOMETRIES)
def test_kernels_move_as_torch_moves_them(geometry, before, after):
    """With whole matrices read back from units: the matrix first, then the map against torch."""
    affine = Affine("c", "c.weight", "", 0, 1, 0, 1, 4, 6, geometry, before, after)
    layer = layer_of(Normal(1.0), affine, drawing())
    assert isinstance(layer, OnSites)
    size = 4 * math.prod(before)
    # Every input at once: the draw is whole, and the answer is the matrix of the map.
    units = np.eye(size).reshape(size, 4, math.prod(before)).transpose(1, 0, 2).reshape(1, 4, -1)
    made = layer.forward(units)[0].reshape(6, size, -1).transpose(1, 0, 2)
    returned = layer.back(np.ones((1, 6, size * math.prod(after))))[0]

    inputs = torch.eye(size, dtype=torch.float64).reshape(size, 4, *before).requires_grad_()
    taps, groups = geometry.kernel, geometry.groups
    shape = (4, 6 // groups, *taps) if geometry.is_transposed else (6, 4 // groups, *taps)
    weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    output = _torch_map(inputs, weight, geometry)
    # The map is linear in the kernel: torch's own kernel is the one that makes these outputs.
    target = torch.from_numpy(made.reshape(output.shape).copy())
    columns = [_torch_map(inputs, e.reshape(shape), geometry).reshape(-1)
               for e in torch.eye(weight.numel(), dtype=torch.float64)]  # fmt: skip
    basis = torch.stack(columns, dim=1).detach()
    kernel = torch.linalg.lstsq(basis, target.reshape(-1, 1)).solution.reshape(shape)
    output = _torch_map(inputs, kernel, geometry)
    assert torch.allclose(output, target)
    assert float(kernel.std()) == pytest.approx(1.0, abs=5 / math.sqrt(2 * kernel.numel()))
    gradient = torch.autograd.grad(output.sum(), inputs)[0]
    wanted = gradient.reshape(size, 4, -1).permute(1, 0, 2).reshape(4, -1)
    assert np.allclose(returned, wanted.numpy())


def _torch_map(inputs, weight, geometry):
    axes = len(geometry.kernel)
    padding = [before for before, _ in geometry.padding]
    if geometry.is_transposed:
        move = (F.conv_transpose1d, F.conv_transpose2d)[axes - 1]
        return move(inputs, weight, None, geometry.stride, padding, 0, geometry.groups,
                    geometry.dilation)  # fmt: skip
    move = (F.conv1d, F.conv2d)[axes - 1]
    if geometry.padding_mode != "zeros":
        both = [p for p in reversed(padding) for _ in range(2)]
        inputs, padding = F.pad(inputs, both, mode=geometry.padding_mode), 0
    return move(inputs, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups)


@pytest.mark.parametrize("kind", ["average", "maximum"])
@pytest.mark.parametrize("counts", [True, False])
def test_pools_and_their_ways_back(kind, counts):
    node = Pool("", kind, (3, 2), (2, 2), 0, 1, 0, (6, 5), (3, 3), (1, 1), counts)
    x = np.random.default_rng(0).standard_normal((2, 3, 4 * 30))
    found, back = pooled(node, x)
    maps = torch.from_numpy(x.reshape(2 * 3 * 4, 1, 6, 5)).requires_grad_()
    if kind == "maximum":
        wanted = F.max_pool2d(maps, (3, 2), 2, 1)
    else:
        wanted = F.avg_pool2d(maps, (3, 2), 2, 1, count_include_pad=counts)
    assert np.allclose(found.reshape(24, -1), wanted.detach().numpy().reshape(24, -1))
    u = np.random.default_rng(1).standard_normal(found.shape)
    gradient = torch.autograd.grad(wanted, maps, torch.from_numpy(u.reshape(wanted.shape)))[0]
    assert np.allclose(back(u).reshape(24, -1), gradient.numpy().reshape(24, -1))


def test_flattening_follows_torch():
    x = np.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    found, back = flattened(x, 4)
    maps = torch.from_numpy(x.reshape(2, 3, 2, 4)).permute(0, 2, 1, 3).flatten(2)
    assert np.array_equal(found.transpose(0, 2, 1), maps.numpy())
    assert np.array_equal(back(found), x)


def small_net(activation, kind):
    """Two convolutions, a pool, a flatten and a linear layer: 1 x 8 x 8 to 10."""
    same = Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    sites, half = (8, 8), (4, 4)
    affines = (
        Affine("a", "a.weight", "a.bias", 0, 1, 0, 1, 1, 10, same, sites, sites, -3),
        Affine("b", "b.weight", "b.bias", 2, 3, 1, 2, 10, 12, same, sites, sites, -3),
        Affine("c", "c.weight", "c.bias", 6, 7, 3, 4, 12 * 16, 10),
    )
    pool = Pool("", kind, (2, 2), (2, 2), 4, 5, 2, sites, half)
    hidden = (
        Hidden(1, 10, activation, sites=sites),
        Hidden(2, 12, activation, sites=sites, pools=(pool,), copies=16),
    )
    return Stack(affines, hidden, activations.identity(), 7, (True,) * 3)


def drawn_net(weights, activation, kind, maps, streams_of, draws, biases=()):
    """Log RMS of signal and gradient of the net above, by torch."""
    shapes = {"a.weight": (10, 1, 3, 3), "b.weight": (12, 10, 3, 3), "c.weight": (10, 192)}
    f = {"tanh": torch.tanh, "relu": torch.relu}[activation]
    pool = {"average": F.avg_pool2d, "maximum": F.max_pool2d}[kind]
    signal, gradient = [], []
    generator = torch.Generator().manual_seed(0)
    for d in range(draws):
        streams = streams_of(d, shapes)
        w = [
            torch.from_numpy(draw(law, name, shape, streams))
            for law, (name, shape) in zip(weights, shapes.items(), strict=True)
        ]
        b = [
            torch.from_numpy(draw(law, name, (shapes[name.replace("bias", "weight")][0],), streams))
            for law, name in zip(biases, ("a.bias", "b.bias", "c.bias"), strict=True)
        ] if biases else [None] * 3  # fmt: skip
        x = torch.from_numpy(maps.reshape(-1, 1, 8, 8)).requires_grad_()
        first = F.conv2d(x, w[0], b[0], padding=1)
        second = F.conv2d(f(first), w[1], b[1], padding=1)
        last = F.linear(pool(f(second), 2).flatten(1), w[2], b[2])
        cotangent = torch.randn(last.shape, dtype=torch.float64, generator=generator)
        back = torch.autograd.grad(last, (first, second, last), cotangent)
        signal.append([float(v.detach().square().mean().log()) / 2 for v in (first, second, last)])
        logs = [float(v.square().mean().log()) / 2 for v in back]
        gradient.append([v - logs[-1] for v in logs])
    return np.array(signal), np.array(gradient)


def check(expected, logs, allowance):
    error = 4 * 1.2533 * logs.std(axis=0, ddof=1) / math.sqrt(len(logs))
    miss = np.abs(np.log(expected) - np.median(logs, axis=0))
    assert np.all(miss <= error + allowance), (expected, np.exp(np.median(logs, axis=0)))


@pytest.mark.parametrize(("name", "kind"), [("relu", "average"), ("tanh", "maximum")])
@pytest.mark.parametrize("scheme", ["independent", "one tap", "frames"])
def test_a_whole_net_against_drawn_ones(name, kind, scheme):
    activation = {"tanh": activations.tanh(), "relu": activations.relu()}[name]
    frames, biases = (), ()
    match scheme:
        case "independent":
            weights = [Normal(0.5), Normal(0.15), Normal(0.1)]
        case "one tap":
            weights = [Taps(Orthogonal(3.0), (1, 1)), Taps(Orthogonal(1.4), (1, 1)), Orthogonal(2)]
        case _:
            frames = (
                Frame("i", 1, 1), Frame("x", 10, 10), Frame("y", 12, 10), Frame("z", 10, 10),
                Frame("y:joined", 192, 10, "", "y", 16),
            )  # fmt: skip
            weights = [Taps(Framed("x", "i", 1, 3.0), (1, 1)),
                       Taps(Framed("y", "x", 10, 1.3), (1, 1)),
                       Framed("z", "y:joined", 10, 2.0)]  # fmt: skip
            biases = (Constant(0.1), OffsetBias("b.weight", 0.2), OffsetBias("c.weight", 0.1))
    maps = np.random.default_rng(0).standard_normal((32, 1, 64)) + 0.5
    stack = small_net(activation, kind)
    inputs = Inputs(float(np.mean(maps**2)), maps.reshape(-1, 1), maps)
    expected = predict(stack, weights, inputs, biases, frames)

    def streams(seed, shapes):
        named = {k: (law, v) for law, (k, v) in zip(weights, shapes.items(), strict=True)}
        return Streams(seed, {f.id: f for f in frames}, {}, named)

    signal, gradient = drawn_net(weights, name, kind, maps, streams, 60, biases)
    check(expected.signal, signal, 0.06)
    check(expected.gradient, gradient, 0.06)


def test_the_offset_of_a_kernel_is_the_same_at_the_border():
    stack = small_net(activations.tanh(), "average")
    maps = np.full((32, 1, 64), 2.0)
    biases = [OffsetBias("a.weight", 2.0), Constant(0.0), Constant(0.0)]
    weights = [Normal(0.5), Normal(0.15), Normal(0.1)]
    found = predict(stack, weights, Inputs(4.0, maps.reshape(-1, 1), maps), biases)
    # Inside nothing is left of a constant image; at the border the padding is 2 below it.
    corner, edge = 4 * 5, 24 * 3
    assert found.signal[0] == pytest.approx(0.5 * 2 * math.sqrt((corner + edge) / 64), rel=0.12)


def test_sizes_and_limits():
    stack = small_net(activations.tanh(), "average")
    assert numbers(stack) == 64 + 640 + 768 + 10
    assert products(stack) == 64 * 90 + 64 * 1080 + 1920
    large = Convolution((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    one = Affine("a", "a.weight", "", 0, 1, 0, 1, 256, 256, large, (224, 224), (224, 224), -3)
    alone = Stack((one,), (), activations.identity(), 1, (False,))
    assert "size" in predict(alone, [Normal(0.02, mean=0.1)], 1.0).note
    few = Taps(OffsetBias("w"), (1, 1))
    assert "OffsetBias" in predict(stack, [few] * 3, 1.0).note


def test_sites_that_a_stack_hides_are_not_followed():
    """Between two convolutions a site was cut off, which their stack does not tell."""
    geometry = Convolution((3,), (1,), ((1, 1),), (1,))
    layers = (
        Affine("a", "a.weight", "", 0, 1, 0, 1, 4, 6, geometry, (7,), (7,), -2),
        Affine("b", "b.weight", "", 2, 3, 1, 2, 6, 5, geometry, (6,), (6,), -2),
    )
    stack = Stack(
        layers, (Hidden(1, 6, activations.relu(), sites=(7,)),), activations.identity(), 3,
        (False, False),
    )  # fmt: skip
    maps = np.random.default_rng(0).standard_normal((32, 4, 7))
    entry = Inputs(1.0, np.moveaxis(maps, 1, 2).reshape(-1, 4), maps)
    found = predict(stack, [Normal(0.3), Normal(0.3)], entry)
    assert "sites change between its layers" in found.note
    assert all(math.isnan(s) for s in found.signal)
