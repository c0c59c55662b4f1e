"""What a trace says of convolutions and poolings, computed again literally on real tensors."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equipoise.errors import TraceError
from equipoise.plan.nodes import Affine, Concat, Nonlinearity, Opaque, Pool, Spread, Take
from equipoise.plan.stacks import find_stacks
from equipoise.theory import activations
from equipoise.torch.inputs import read_inputs
from equipoise.torch.trace import trace

IMAGES = torch.randn(2, 4, 11, 9, generator=torch.Generator().manual_seed(0))


def read(model, x=IMAGES):
    return trace(model, read_inputs(model, x))


def only(traced, kind):
    return [node for node in traced.nodes if isinstance(node, kind)]


def literally(node, x, weight):
    """A convolution by its traced geometry alone: pad, then slide; bias left out."""
    c, axes = node.convolution, len(node.convolution.kernel)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    if c.is_transposed:
        whole = transposed(x, weight, None, c.stride, 0, 0, c.groups, c.dilation)
        # Cutting fewer than none at the end is adding sites that nothing reaches.
        ends = [-end for pair in reversed(c.padding) for end in pair]
        return F.pad(whole, ends)
    ends = [end for pair in reversed(c.padding) for end in pair]
    mode = "constant" if c.padding_mode == "zeros" else c.padding_mode
    return convolve(F.pad(x, ends, mode), weight, None, c.stride, 0, c.dilation, c.groups)


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Conv2d(4, 6, (3, 5), (2, 1), (0, 2), (1, 2), bias=False),
    nn.Conv2d(4, 6, (4, 2), padding="same", bias=False),
    nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(2, 1), bias=False),
    nn.Conv2d(4, 6, 3, padding="valid", bias=False),
    nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False),
    nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular", bias=False),
    nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect", bias=False),
    nn.Conv2d(4, 6, (4, 2), padding="same", padding_mode="replicate", bias=False),
    nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(4, 6, 3, padding=1, bias=False)),
    nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 0)), nn.Conv2d(4, 6, 3, bias=False)),
    nn.Sequential(nn.ReplicationPad2d((0, 1, 2, 0)), nn.Conv2d(4, 6, 3, bias=False)),
    nn.Sequential(nn.CircularPad2d((0, 1, 2, 0)), nn.Conv2d(4, 6, 3, bias=False)),
    nn.ConvTranspose2d(4, 6, 3, bias=False),
    nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False),
    nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, bias=False),
    nn.ConvTranspose2d(4, 6, 2, 3, 0, output_padding=(2, 0), bias=False),
    nn.ConvTranspose2d(4, 8, 3, 1, 2, groups=2, dilation=2, bias=False),
]


@pytest.mark.parametrize("model", CONVOLUTIONS, ids=str)
def test_a_convolution_is_what_its_geometry_says(model):
    traced = read(model)
    (node,) = traced.nodes
    weight = dict(model.named_parameters())[node.weight]
    torch.testing.assert_close(literally(node, IMAGES, weight), model(IMAGES))
    assert node.in_sites == IMAGES.shape[2:]
    assert node.out_sites == model(IMAGES).shape[2:]
    assert (node.in_size, node.out_size) == (4, model(IMAGES).shape[1])


@pytest.mark.parametrize("is_batched", [True, False])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_over_any_number_of_axes_with_and_without_a_batch(axes, is_batched):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[axes - 1]
    model = nn.Sequential(conv(3, 5, 2), nn.ReLU(), pool(2), transposed(5, 4, 2, 2))
    shape = (3, 9, 7, 5)[: axes + 1]
    x = torch.randn(2, *shape) if is_batched else torch.randn(shape)
    traced = read(model, x)
    first, second = only(traced, Affine)
    assert first.axis == second.axis == -1 - axes
    assert first.out_space == second.in_space == only(traced, Pool)[0].space
    assert second.out_sites == model(x).shape[-axes:]
    assert traced.values[traced.outputs[0]].shape == model(x).shape
    assert traced.values[0].axis == -1 - axes


POOLS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d((3, 2), (2, 1), 1),
    nn.MaxPool2d(2, dilation=3),
    nn.MaxPool2d(4, 3, ceil_mode=True),
    nn.AvgPool2d((2, 3)),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AdaptiveAvgPool2d((1, 3)),
    nn.AdaptiveAvgPool2d((11, 8)),
    nn.AdaptiveMaxPool2d((10, 1)),
]


@pytest.mark.parametrize("model", POOLS, ids=str)
def test_a_pooling_is_what_its_windows_say(model):
    node = only(read(model), Pool)[0]
    # Windows are gathered one by one; what lies outside is nothing: -inf, or not counted.
    empty = -torch.inf if node.kind == "maximum" else torch.nan
    before = node.padding or (0, 0)
    dilation = node.dilation or (1, 1)
    reach = [
        (n - 1) * s + d * (w - 1) + 1
        for n, s, d, w in zip(node.out_sites, node.stride, dilation, node.window, strict=True)
    ]
    after = [r - b - n for r, b, n in zip(reach, before, node.in_sites, strict=True)]
    x = F.pad(IMAGES, (before[1], max(after[1], 0), before[0], max(after[0], 0)), value=empty)
    rows = torch.arange(node.out_sites[0])[:, None] * node.stride[0]
    rows = rows + torch.arange(node.window[0]) * dilation[0]
    columns = torch.arange(node.out_sites[1])[:, None] * node.stride[1]
    columns = columns + torch.arange(node.window[1]) * dilation[1]
    windows = x[:, :, rows][..., columns].transpose(3, 4).flatten(4)
    if node.kind == "maximum":
        expected = windows.amax(-1)
    elif node.counts_padding:
        expected = windows.nan_to_num(0.0).mean(-1)
    else:
        expected = windows.nanmean(-1)
    torch.testing.assert_close(expected, model(IMAGES))
    assert node.is_global == (node.window == node.in_sites)


class Net(nn.Module):
    """Parts by name and any forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def convolutions(**more):
    return {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 3, padding=1), **more}


def test_a_padding_that_is_read_by_something_else_too_is_zeros_beside_a_value_only_there():
    def forward(net, x):
        padded = F.pad(torch.relu(net.a(x)), (1, 1, 1, 1))
        return net.b(padded), F.max_pool2d(padded, 2)

    traced = read(Net(forward, **convolutions()))
    (joined,) = only(traced, Concat)
    assert joined.sizes[1] > 0
    assert not only(traced, Opaque)
    assert only(traced, Affine)[1].convolution.padding == ((2, 2), (2, 2))


def test_a_padding_with_another_number_is_not_read():
    traced = read(Net(lambda net, x: net.b(nn.ConstantPad2d(1, 2.0)(net.a(x))), **convolutions()))
    assert "pad" in only(traced, Opaque)[0].reason
    assert only(traced, Affine)[1].convolution.padding == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("pad", "kind"), [(nn.ZeroPad2d(-1), Take), (nn.ReflectionPad2d(1), Spread)]
)
def test_a_padding_that_no_convolution_could_do_moves_entries(pad, kind):
    traced = read(Net(lambda net, x: net.b(pad(net.a(x))), **convolutions()))
    assert len(only(traced, kind)) == 1
    assert not only(traced, Opaque)
    assert only(traced, Affine)[1].convolution.padding == ((1, 1), (1, 1))


def test_channels_of_0_are_joined_to_others():
    traced = read(
        Net(lambda net, x: net.b(F.pad(net.a(x), (0, 0, 0, 0, 1, 1))[:, 1:5]), **convolutions())
    )
    (joined,) = only(traced, Concat)
    assert joined.sizes == (4, 2)
    assert not only(traced, Opaque)


def test_a_transposed_convolution_takes_no_padding_as_its_own():
    model = nn.Sequential(nn.ZeroPad2d(1), nn.ConvTranspose2d(4, 4, 3, padding=1))
    traced = read(model)
    assert len(only(traced, Concat)) == 1
    assert only(traced, Affine)[0].in_sites == (13, 11)


def test_functional_convolutions_and_shared_kernels():
    def forward(net, x):
        h = F.conv2d(x, net.kernel, padding=1).tanh()
        return torch.convolution(h, net.kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)

    model = Net(forward, kernel=nn.Parameter(torch.randn(4, 4, 3, 3)))
    first, second = only(read(model), Affine)
    assert first.weight == second.weight == first.layer == "kernel"
    assert first.convolution == second.convolution
    assert first.in_space == second.in_space == first.out_space == second.out_space
    assert [stack.depth for stack in find_stacks(read(model))] == [0, 0]


def test_a_computed_kernel_or_bias_is_opaque_with_its_parameters():
    def forward(net, x):
        return F.conv2d(x, net.kernel * 2.0, net.offset * 3.0)

    parts = {"kernel": nn.Parameter(torch.ones(4, 4, 1, 1)), "offset": nn.Parameter(torch.ones(4))}
    traced = read(Net(forward, **parts))
    assert {name for node in only(traced, Opaque) for name in node.parameters} == set(parts)
    assert any("weight is not a parameter" in node.reason for node in only(traced, Opaque))

    traced = read(Net(lambda net, x: F.conv2d(x, net.kernel, net.offset * 3.0), **parts))
    assert any("bias is not a parameter" in node.reason for node in only(traced, Opaque))


def test_a_kernel_that_is_cast_is_still_the_parameter():
    def forward(net, x):
        return F.conv2d(x.double(), net.a.weight.double(), net.a.bias.double(), padding=1).float()

    traced = read(Net(forward, **convolutions()))
    assert [type(node) for node in traced.nodes] == [Affine]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_memory_formats(dtype):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 2, 3))
    model = model.to(dtype, memory_format=torch.channels_last)
    traced = read(model, IMAGES.to(dtype, memory_format=torch.channels_last))
    assert [stack.depth for stack in find_stacks(traced)] == [1]
    with pytest.raises(TraceError, match="float32"):
        read(model, IMAGES)


def test_autocast_around_and_inside_a_forward():
    def forward(net, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = net.a(2.0 * x)
            h = F.max_pool2d(h.relu_(), 2)
        return net.b(h.float())

    model = Net(forward, **convolutions())
    stacks = find_stacks(read(model))
    assert [stack.depth for stack in stacks] == [1]
    assert stacks[0].hidden[0].activation is activations.relu()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [s.depth for s in find_stacks(read(CONVOLUTIONS[0]))] == [0]


def test_a_meta_model():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 4000, 3), nn.PReLU(), nn.Conv2d(4000, 4000, 3))
    traced = read(model, torch.empty(2, 4, 16, 16, device="meta"))
    assert [node.out_sites for node in only(traced, Affine)] == [(14, 14), (12, 12)]


IN_PLACE = [
    (lambda h: torch.sigmoid(h) + h.relu_(), lambda h: torch.sigmoid(h) + torch.relu(h)),
    (lambda h: h.relu_().tanh_() + 0 * h, lambda h: torch.relu(h).tanh()),
    (lambda h: (h.relu_(), h.neg_(), h.sin())[2], lambda h: torch.sin(-torch.relu(h))),
    (lambda h: h.flatten(1).relu_().unflatten(1, (4, 11, 9)), torch.relu),
    (lambda h: (h.float() * 2).to(torch.int32).float(), lambda h: torch.trunc(2 * h)),
    (lambda h: (h > 0).float() - 0.5, lambda h: torch.sign(h) / 2 - (h == 0) / 2),
    (lambda h: h.clone().relu_() * h, lambda h: torch.relu(h) * h),
]


@pytest.mark.parametrize(("function", "expected"), IN_PLACE)
def test_in_place_operations_and_casts_compute_what_they_do(function, expected):
    traced = read(Net(lambda net, x: net.b(function(net.a(x))), **convolutions()))
    (node,) = only(traced, Nonlinearity)
    z = torch.linspace(-3, 3, 41, dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(node.activation.f(z.numpy())), expected(z))


def test_a_write_to_memory_that_is_read_later_under_another_name_is_opaque():
    def forward(net, x):
        h = net.a(x)
        h.view(2, -1).relu_()
        return net.b(h)

    assert "share memory" in only(read(Net(forward, **convolutions())), Opaque)[0].reason

    def later(net, x):
        h = net.a(x).relu_()
        return net.b(h.view_as(h)) + h.flatten(1).tanh_().sum() * 0 + h

    assert any("share memory" in n.reason for n in only(read(Net(later, **convolutions())), Opaque))


layers = st.lists(
    st.one_of(
        st.tuples(
            st.just("conv"), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2),
            st.integers(1, 2), st.sampled_from(["zeros", "circular", "replicate"]),
        ),
        st.tuples(st.just("transposed"), st.integers(1, 4), st.integers(1, 3)),
        st.tuples(st.just("pool"), st.booleans(), st.integers(1, 3), st.integers(1, 2)),
        st.tuples(st.just("relu")),
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layers, st.integers(1, 2))
def test_sites_are_those_of_a_real_forward(chosen, axes):
    size, channels, modules = 14, 2, []
    for kind, *numbers in chosen:
        match kind:
            case "conv":
                k, stride, padding, dilation, mode = numbers
                make, reach = (nn.Conv1d, nn.Conv2d)[axes - 1], dilation * (k - 1)
                if size + 2 * padding <= reach or padding > size:
                    continue
                groups = 2 if channels % 2 == 0 and k % 2 else 1
                modules.append(
                    make(channels, channels + 2, k, stride, padding, dilation, groups,
                         padding_mode=mode)
                )  # fmt: skip
                size, channels = (size + 2 * padding - reach - 1) // stride + 1, channels + 2
            case "transposed":
                k, stride = numbers
                make = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
                modules.append(make(channels, 3, k, stride))
                size, channels = (size - 1) * stride + k, 3
            case "pool" if size >= numbers[1]:
                kinds = ((nn.AvgPool1d, nn.MaxPool1d), (nn.AvgPool2d, nn.MaxPool2d))[axes - 1]
                modules.append(kinds[numbers[0]](numbers[1], numbers[2]))
                size = (size - numbers[1]) // numbers[2] + 1
            case "relu":
                modules.append(nn.ReLU(inplace=True))
        if size > 40:
            break
    model = nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * size**axes, 3))
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _, given, made, name=name: shapes.__setitem__(name, (given[0].shape, made.shape))
        )
    x = torch.randn(2, 2, *[14] * axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(x)
        seen = dict(shapes)
        traced = read(model, x)
    assert not only(traced, Opaque)
    for node in (*only(traced, Affine), *only(traced, Pool)):
        before, after = seen[node.layer]
        assert node.in_sites == (before[2:] if len(before) > 2 else ())
        assert node.out_sites == (after[2:] if len(after) > 2 else ())
        assert traced.values[node.output].shape == after
