"""Reading convolutional models: geometry, sites, axes and spaces, whatever way they are written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.plan.nodes import (
    Affine,
    Flatten,
    Merge,
    Nonlinearity,
    Opaque,
    Product,
    Spread,
)
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def read(model, x=IMAGES):
    return trace(model, read_inputs(model, x))


def only(traced, kind):
    return [node for node in traced.nodes if isinstance(node, kind)]


def kinds(traced):
    return [type(node).__name__ for node in traced.nodes]


class Written(nn.Module):
    """Two convolutions around any function."""

    def __init__(self, function, channels=8, after=8):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.second, self.function = nn.Conv2d(after, 5, 1), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


class Behind(nn.Module):
    """A convolution, any function, a linear layer of as many features as that leaves."""

    def __init__(self, function, features):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(features, 5)
        self.function = function

    def forward(self, x):
        return self.linear(self.function(torch.relu(self.conv(x))))


CHAINS = [
    (lambda h: h.flatten(1), 8 * 144, ["Flatten"]),
    (lambda h: h.view(h.size(0), -1), 8 * 144, ["Flatten"]),
    (lambda h: h.reshape(4, -1), 8 * 144, ["Flatten"]),
    (lambda h: h.flatten(2).flatten(1), 8 * 144, ["Reshape", "Flatten"]),
    (lambda h: h.mean((2, 3)), 8, ["Pool", "Reshape"]),
    (lambda h: h.mean((-1, -2)), 8, ["Pool", "Reshape"]),
    (lambda h: h.mean(3).mean(2), 8, ["Pool", "Reshape"] * 2),
    (lambda h: h.mean((2, 3), keepdim=True).flatten(1), 8, ["Pool", "Reshape"]),
    (lambda h: h.amax((2, 3)), 8, ["Pool", "Reshape"]),
    (lambda h: h.max(3)[0].max(2).values, 8, ["Pool", "Reshape"] * 2),
    (lambda h: F.adaptive_avg_pool2d(h, 1).flatten(1), 8, ["Pool", "Reshape"]),
    (lambda h: F.adaptive_avg_pool2d(h, 1).squeeze(), 8, ["Pool", "Reshape"]),
    (lambda h: F.adaptive_avg_pool2d(h, 1)[:, :, 0, 0], 8, ["Pool", "Reshape", "Reshape"]),
    (lambda h: F.adaptive_avg_pool2d(h, (2, 3)).flatten(1), 48, ["Pool", "Flatten"]),
    (lambda h: F.adaptive_max_pool2d(h, 1).flatten(1), 8, ["Pool", "Reshape"]),
    (lambda h: F.max_pool2d(h, 12).flatten(1), 8, ["Pool", "Reshape"]),
    (lambda h: F.max_pool2d(h, 2, return_indices=True)[0].flatten(1), 288, ["Pool", "Flatten"]),
    (lambda h: h.permute(0, 2, 3, 1), 8, ["Permute"]),
    (lambda h: h.movedim(1, -1), 8, ["Permute"]),
    (lambda h: h.flatten(2).transpose(1, 2), 8, ["Reshape", "Permute"]),
    (lambda h: h.flatten(2).mT.mean(1), 8, ["Reshape", "Permute", "Pool", "Reshape"]),
    (lambda h: h.permute(0, 2, 3, 1).mean((1, 2)), 8, ["Permute", "Pool", "Reshape"]),
    (lambda h: F.dropout2d(h, 0.3).flatten(1), 8 * 144, ["Dropout", "Flatten"]),
    (lambda h: h.permute(0, 2, 3, 1).flatten(1), 8 * 144, ["Permute", "Reshape"]),
    (lambda h: h.mean(1).flatten(1), 144, ["Opaque", "Reshape"]),
    (lambda h: h.sum((2, 3)), 8, ["Pool", "Reshape", "Gain"]),
    (lambda h: h.mean((2, 3), dtype=torch.float32), 8, ["Opaque"]),
    (lambda h: h.view(4, 4, -1).flatten(1), 8 * 144, ["Reshape", "Reshape"]),
]


@pytest.mark.parametrize(("function", "features", "between"), CHAINS)
def test_what_stands_between_a_convolution_and_a_linear_layer(function, features, between):
    traced = read(Behind(function, features))
    assert kinds(traced) == ["Affine", "Nonlinearity", *between, "Affine"]
    conv, linear = only(traced, Affine)
    assert (conv.axis, linear.axis) == (-3, -1)
    assert (linear.in_size, traced.sizes[linear.in_space]) == (features, features)
    is_channel = features == 8 and between != ["Opaque"]
    assert (linear.in_space == conv.out_space) == is_channel
    for node in only(traced, Flatten):
        assert node.in_space == conv.out_space
        assert traced.sizes[node.out_space] == 8 * node.sites
        assert node.out_space == linear.in_space


def test_a_flatten_joins_units_as_its_docstring_says():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    node = only(read(model), Flatten)[0]
    maps = torch.randn(1, 8, 10, 10, generator=torch.Generator().manual_seed(1))
    flat = model[1](maps)[0]
    assert node.sites == 100
    assert all(flat[5 * node.sites + 10 * row + 3] == maps[0, 5, row, 3] for row in range(10))


SAME_SPACE = [
    (nn.ReLU(inplace=True), ["Nonlinearity"]),
    (lambda h: F.relu_(h), ["Nonlinearity"]),
    (lambda h: h.to(memory_format=torch.channels_last), []),
    (lambda h: h.contiguous(memory_format=torch.channels_last), []),
    (lambda h: h.clone(), []),
    (lambda h: h[:, :, :, :], []),
    (lambda h: h.contiguous() * torch.sigmoid(h), ["Nonlinearity"]),
    (nn.Dropout2d(0.2), ["Dropout"]),
    (nn.Dropout2d(0.2).eval(), ["Dropout"]),
    (nn.MaxPool2d(2), ["Pool"]),
    (nn.MaxPool2d(3, 2, 1), ["Pool"]),
    (nn.MaxPool2d(2, dilation=2), ["Pool"]),
    (nn.AvgPool2d(2, ceil_mode=True), ["Pool"]),
    (nn.AvgPool2d(3, 1, 1, count_include_pad=False), ["Pool"]),
    (nn.AvgPool2d(2, divisor_override=4), ["Pool"]),
    (nn.AdaptiveAvgPool2d(6), ["Pool"]),
    (nn.AdaptiveAvgPool2d((None, 4)), ["Pool"]),
    (lambda h: h.mT, ["Permute"]),
    (lambda h: h.permute(0, 2, 3, 1).permute(0, 3, 1, 2), ["Permute", "Permute"]),
    (lambda h: h.flatten(2).unflatten(2, (12, 12)), ["Reshape", "Reshape"]),
    (lambda h: h + h.tanh(), ["Nonlinearity"]),
    (nn.Upsample(scale_factor=2), ["Spread"]),
    (nn.Upsample(scale_factor=2, mode="bilinear"), ["Spread"]),
    (lambda h: h[:, :, :-1, 2:], ["Take", "Take"]),
    (nn.BatchNorm2d(8), ["Norm"]),
    (nn.GroupNorm(2, 8), ["Norm"]),
    (nn.InstanceNorm2d(8), ["Norm"]),
    (nn.ZeroPad2d(1), []),
    (nn.ConstantPad2d(1, 0.5), ["Opaque"]),
    (lambda h: torch.log(h), ["Opaque"]),
]


@pytest.mark.parametrize(("function", "between"), SAME_SPACE)
def test_channels_stay_the_same_units(function, between):
    traced = read(Written(function))
    assert kinds(traced) == ["Affine", *between, "Affine"]
    first, second = only(traced, Affine)
    assert first.out_space == second.in_space
    assert len({*traced.values[first.output].spaces, first.in_space}) == 5


APART = [
    (nn.LPPool2d(3, 2), "must be finite"),
    (nn.AvgPool2d(2, divisor_override=3), "divides by 3"),
    (nn.AdaptiveAvgPool2d(5), "12 sites to 5"),
    (nn.AdaptiveMaxPool2d(24), "12 sites to 24"),
    (lambda h: F.pad(h, (1, 1, 0, 0, 1, -1)), "pad"),
    (lambda h: h.cumsum(1), "cumsum"),
    (lambda h: h.sort(1)[0], "sort"),
    (lambda h: torch.fft.fft(h, dim=1).real, "real"),
    (nn.AlphaDropout(0.2), "alpha_dropout"),
    (nn.FractionalMaxPool2d(2, 5), "fractional_max_pool2d"),
]


@pytest.mark.parametrize(("function", "reason"), APART)
def test_what_is_not_read_says_why(function, reason):
    traced = read(Written(function))
    node = only(traced, Opaque)[-1]
    assert reason in node.reason
    first, second = only(traced, Affine)
    assert (second.axis, second.in_size) == (-3, 8)
    assert traced.values[node.outputs[0]].axis == -3
    if "finite" not in reason:
        assert first.out_space != second.in_space


TAKEN = [
    (nn.ChannelShuffle(2), ["Take"]),
    (lambda h: h.flip(1), ["Take"]),
    (lambda h: torch.cat([h, h], 1)[:, 4:12], ["Concat", "Take"]),
    (lambda h: h.roll(1, 1), ["Take"]),
]


@pytest.mark.parametrize(("function", "between"), TAKEN)
def test_channels_that_are_moved_are_other_units(function, between):
    traced = read(Written(function))
    assert kinds(traced) == ["Affine", *between, "Affine"]
    first, second = only(traced, Affine)
    assert traced.values[second.input].axis == -3
    assert first.out_space != second.in_space


def test_pixel_shuffles_change_the_channels():
    traced = read(Written(nn.PixelShuffle(2), after=2))
    assert kinds(traced) == ["Affine", "Take", "Affine"]
    first, second = only(traced, Affine)
    assert second.in_sites == (24, 24)
    assert first.out_space != second.in_space
    traced = read(Written(nn.PixelUnshuffle(2), after=32))
    assert kinds(traced) == ["Affine", "Take", "Affine"]


def test_a_residual_sum_ties_every_axis():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            h = self.a(x)
            out = self.b(F.relu(h))
            out += h
            return F.relu_(out)

    traced = read(Residual())
    assert kinds(traced) == ["Affine", "Nonlinearity", "Affine", "Merge", "Nonlinearity"]
    first, second = only(traced, Affine)
    merge = only(traced, Merge)[0]
    assert merge.space == first.out_space == second.in_space == second.out_space
    assert traced.values[first.output].spaces == traced.values[second.output].spaces


def test_a_gate_of_each_channel_ties_channels_but_no_sites():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            h = self.a(x)
            return h * torch.sigmoid(self.b(h.mean((2, 3), keepdim=True)))

    traced = read(Gate())
    (product,) = only(traced, Product)
    first, second = only(traced, Affine)
    assert first.out_space == second.in_space == second.out_space
    maps, gate = traced.values[first.output], traced.values[second.output]
    assert traced.values[product.output].spaces == maps.spaces
    assert not set(maps.spaces[2:]) & set(gate.spaces[2:])


def test_the_feature_axis_of_an_input_is_the_one_that_the_first_layer_reads():
    traced = read(nn.Sequential(nn.Tanh(), nn.Conv2d(3, 5, 1)))
    node = only(traced, Nonlinearity)[0]
    assert traced.values[0].axis == traced.values[1].axis == -3
    assert node.space == traced.values[0].space == only(traced, Affine)[0].in_space
    assert traced.sizes[node.space] == 3


def test_a_linear_layer_may_read_the_columns_of_an_image():
    node = only(read(nn.Linear(12, 5)), Affine)[0]
    assert (node.axis, node.in_sites, node.in_size) == (-1, (), 12)
    flat = read(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)))
    assert kinds(flat) == ["Reshape", "Affine"]


def test_images_made_of_rows_by_a_reshape():
    model = nn.Sequential(nn.Unflatten(1, (3, 12, 12)), nn.Conv2d(3, 5, 3))
    traced = read(model, IMAGES.flatten(1))
    assert kinds(traced) == ["Reshape", "Affine"]
    assert traced.values[1].shape == (4, 3, 12, 12)


def test_a_generator_from_a_vector():
    model = nn.Sequential(nn.Linear(7, 32), nn.Unflatten(1, (8, 2, 2)), nn.ReLU(),
                          nn.ConvTranspose2d(8, 3, 4, 2, 1))  # fmt: skip
    traced = read(model, torch.randn(4, 7))
    linear, conv = only(traced, Affine)
    assert linear.out_space != conv.in_space
    assert traced.sizes[only(traced, Nonlinearity)[0].space] == 8


def test_several_results_of_an_opaque_operation_are_told_apart():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            left, right = self.a(x).aminmax(dim=1, keepdim=True)
            return self.b(left.expand(-1, 4, -1, -1)), self.c(right.expand(-1, 4, -1, -1))

    traced = read(Split())
    _, left, right = only(traced, Affine)
    spread = {node.output: node.input for node in only(traced, Spread)}
    assert only(traced, Opaque)[0].outputs == (spread[left.input], spread[right.input])


def test_indices_of_a_pooling_are_values_of_their_own():
    class Unpool(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            h, indices = F.max_pool2d(self.a(x), 2, return_indices=True)
            return self.b(F.max_unpool2d(h, indices, 2))

    traced = read(Unpool())
    assert kinds(traced) == ["Affine", "Pool", "Opaque", "Opaque", "Affine"]
    places, unpool = only(traced, Opaque)
    assert "places" in places.reason
    assert unpool.inputs == (places.inputs[0], places.outputs[0])
