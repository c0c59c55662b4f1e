"""Framed stacks of maps against drawn convolutional networks, run forward and back by torch."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from equipoise.schemes.convolution import Convolution
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.framed import framed_stack
from equipoise.schemes.laws import Mirrored, OffsetBias, Plain, Taps, Zero
from equipoise.schemes.maps import FrameColumns, Maps, Passage, loudness
from equipoise.schemes.sites import Pooling, Sites, block_sites, window_sites
from equipoise.schemes.space import Entry, Space
from equipoise.theory import activations

PLAIN, MIRRORED = Plain(), Mirrored()
TANH, GELU, RELU = activations.tanh(), activations.gelu(), activations.relu()
ELU, SIGMOID, SOFTPLUS = activations.elu(), activations.sigmoid(), activations.softplus()
SIDE, CHANNELS, OUTPUTS = 8, 3, 6


def _fields(rows, seed=0):
    """Smooth images of a mean that fades to nothing at one side, (rows, channels, side, side)."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((rows, CHANNELS, SIDE + 2, SIDE + 2))
    smooth = F.avg_pool2d(torch.from_numpy(raw), 3, 1).numpy()
    return smooth * np.linspace(0.3, 1.5, SIDE)


def _convolution(stride):
    return Convolution((3, 3), (stride, stride), ((1, 1), (1, 1)), (1, 1))


class Net:
    """A stack as steps: ('conv', width, stride), ('average' | 'maximum'), closed by a flatten."""

    def __init__(self, steps, activation, layout, ending="flatten"):
        self.activation, self.layout, self.steps = activation, layout, steps
        self.strides, self.widths, pools, side = [], [], [], SIDE
        sides = []
        for step in steps:
            if isinstance(step, str):
                pools[-1].append((step, side))
                side //= 2
            else:
                side //= step[1]
                self.widths.append(step[0])
                self.strides.append(step[1])
                pools.append([])
                sides.append(side)
        self.pools, self.ending, self.copies = pools, ending, side * side
        self.spaces, passages = [], []
        for i, width in enumerate(self.widths):
            late = tuple(
                Pooling(kind, window_sites((n, n), (n // 2, n // 2), (2, 2), (2, 2)))
                for kind, n in pools[i]
            )
            here = sides[i] // 2 ** len(late)
            if i + 1 < len(self.widths):
                s = self.strides[i + 1]
                block = (s, s)
                reads = block_sites(_convolution(s), block, (here, here), (here // s, here // s))
            elif ending == "flatten":
                block, reads = (), Sites(here * here, np.arange(here * here)[None])
            else:
                whole = window_sites((here, here), (1, 1), (here, here), (1, 1))
                late = (*late, Pooling("average", whole))
                block, reads = (), Sites(1, np.zeros((1, 1), dtype=np.int64))
            copies = math.prod(block) if block else reads.width
            self.spaces.append(Space(f"h{i}", width, activation, layout, copies, block))
            passages.append(Passage(reads, (), late))
        self.names = [f"w{i}" for i in range(len(self.spaces) + 1)]
        self.passages = tuple(passages)

    def plan(self, x, **options):
        values = x.reshape(len(x), CHANNELS, -1)
        entry = Entry("in", CHANNELS, float(np.mean(values**2)), block=(1, 1))
        maps = Maps(values, False, self.passages)
        return framed_stack(self.names, entry, self.spaces, "out", OUTPUTS, maps=maps, **options)

    def drawn(self, stack, seed):
        joined = self.spaces[-1].width * self.spaces[-1].copies
        shapes = [
            (n, before, 3, 3)
            for n, before in zip(self.widths, [CHANNELS, *self.widths], strict=False)
        ] + [(OUTPUTS, joined)]
        streams = Streams(
            seed,
            {frame.id: frame for frame in stack.frames},
            weights=dict(zip(self.names, zip(stack.weights, shapes, strict=True), strict=True)),
        )
        named = list(zip(self.names, shapes, strict=True))
        weights = [
            draw(law, n, s, streams) for law, (n, s) in zip(stack.weights, named, strict=True)
        ]
        biases = [
            draw(law, f"{n}.bias", s[:1], streams)
            for law, (n, s) in zip(stack.biases, named, strict=True)
        ]
        return [torch.from_numpy(w) for w in weights], [torch.from_numpy(b) for b in biases]

    def run(self, weights, biases, x):
        """Outputs of all weights."""
        f = {
            TANH.name: torch.tanh, GELU.name: F.gelu, RELU.name: torch.relu, ELU.name: F.elu,
            SIGMOID.name: torch.sigmoid, SOFTPLUS.name: F.softplus,
        }[self.activation.name]  # fmt: skip
        h, outputs = torch.from_numpy(x), []
        for i, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            outputs.append(F.conv2d(h, w, b, self.strides[i], 1).requires_grad_())
            outputs[-1].retain_grad()
            h = f(outputs[-1])
            for kind, _ in self.pools[i]:
                h = F.avg_pool2d(h, 2) if kind == "average" else F.max_pool2d(h, 2)
        h = h.flatten(1) if self.ending == "flatten" else h.mean((2, 3))
        outputs.append((h @ weights[-1].T + biases[-1]).requires_grad_())
        outputs[-1].retain_grad()
        return outputs


def _measured(net, stack, x, draws):
    """RMS of signal and gradient by layer, of every draw."""
    rng = np.random.default_rng(5)
    signal, gradient = [], []
    for seed in range(draws):
        outputs = net.run(*net.drawn(stack, seed), x)
        outputs[-1].backward(torch.from_numpy(rng.standard_normal((len(x), OUTPUTS))))
        signal.append([float(z.detach().square().mean().sqrt()) for z in outputs])
        gradient.append([float(z.grad.square().mean().sqrt()) for z in outputs])
    gradient = np.array(gradient)
    return np.array(signal), gradient / gradient[:, -1:]


A, M = "average", "maximum"
NETS = {
    "tanh": ([(24, 1)] * 8, TANH, PLAIN, "flatten"),
    "tanh, strides": ([(12, 1), (24, 2)] + [(24, 1)] * 4 + [(32, 2)], TANH, PLAIN, "flatten"),
    "tanh, averages": ([(24, 1)] * 4 + [A] + [(24, 1)] * 4 + [A], TANH, PLAIN, "mean"),
    "sigmoid, maximum": ([(24, 1)] * 4 + [M] + [(24, 1)] * 3, SIGMOID, PLAIN, "flatten"),
    "elu, average": ([(24, 1)] * 4 + [A] + [(24, 1)] * 4, ELU, PLAIN, "flatten"),
    "gelu, strides": ([(24, 1), (33, 2), (33, 1), (33, 2), (24, 1)], GELU, MIRRORED, "mean"),
    "relu, maximum": ([(24, 1)] * 3 + [M] + [(24, 1)] * 3, RELU, MIRRORED, "flatten"),
    "softplus, average": ([(24, 1)] * 3 + [A] + [(24, 1)] * 3, SOFTPLUS, MIRRORED, "mean"),
}


@pytest.mark.parametrize("name", NETS)
def test_drawn_networks_meet_the_prediction(name):
    """RMS of signal within a tenth and of gradients within a quarter, of the median draw."""
    net = Net(*NETS[name])
    x = _fields(20)
    stack = net.plan(x, output_rms=0.7)
    signal, gradient = _measured(net, stack, x, 9)
    for found, expected, allowed in (
        (signal, stack.signal, 0.1), (gradient, stack.gradient, 0.25),
    ):  # fmt: skip
        logs = np.log(found / np.array(expected))
        noise = 4 * 1.25 * logs.std(axis=0, ddof=1) / math.sqrt(len(logs))
        assert (abs(np.median(logs, axis=0)) < allowed + noise).all()
    assert np.median(signal[:, -1]) == pytest.approx(0.7, rel=0.2)


def test_mirrored_gates_are_one_linear_map_at_every_site():
    """Each site of each layer is the same rotation of the input there, pools and borders too."""
    net = Net([(16, 1)] * 6 + ["average"] + [(16, 1)] * 3, GELU, MIRRORED)
    x = _fields(10)
    stack = net.plan(x)
    weights, biases = net.drawn(stack, 0)
    outputs = net.run(weights, biases, x)
    before = [x, F.avg_pool2d(torch.from_numpy(x), 2).numpy()]
    for i, z in enumerate(outputs[:-1]):
        energy = z.detach().square().sum(1).numpy()
        expected = np.square(before[i >= 6]).sum(1)
        np.testing.assert_allclose(energy / energy.mean(), expected / expected.mean(), rtol=1e-9)
    # The map is linear as a whole.
    both = net.run(weights, biases, x + _fields(10, seed=9))[-1]
    other = net.run(weights, biases, _fields(10, seed=9))[-1]
    np.testing.assert_allclose((outputs[-1] + other).detach(), both.detach(), atol=1e-12)


@pytest.mark.parametrize("width", [12, 13])
def test_what_the_channels_carry_is_all_that_a_stride_reads(width):
    """Three carried columns at four sites fill 12 pairs: nothing is lost, in any draw."""
    net = Net([(width, 1), (24, 2), (24, 1)], RELU, MIRRORED)
    x = _fields(6)
    stack = net.plan(x)
    assert [frame.columns for frame in stack.frames if frame.parent] == [12, OUTPUTS]
    for seed in range(3):
        outputs = net.run(*net.drawn(stack, seed), x)
        # A leftover unit listens but is heard by none.
        heard = [z.detach()[:, : 2 * (z.shape[1] // 2)] for z in outputs[:3]]
        totals = [z.square().sum((1, 2, 3)).numpy() for z in heard]
        np.testing.assert_allclose(totals[1] / totals[0], (totals[1] / totals[0])[0], rtol=1e-9)
        np.testing.assert_allclose(totals[2], totals[1], rtol=1e-9)


def test_laws_of_kernels():
    net = Net([(8, 1), (8, 2)], TANH, PLAIN)
    stack = net.plan(_fields(6))
    assert [law.block if isinstance(law, Taps) else () for law in stack.weights] == [
        (1, 1), (2, 2), (),
    ]  # fmt: skip
    assert [frame.id for frame in stack.frames if frame.parent] == ["h0:joined", "h1:joined"]
    assert stack.biases == (Zero(),) * 3


def test_plain_units_behind_a_maximum_rest_at_its_mean():
    """The mean of a maximum, taken away for all units at once, leaves little of a common signal."""
    net = Net([(24, 1)] * 3 + ["maximum"] + [(24, 1)] * 3, SIGMOID, PLAIN)
    x = _fields(20)
    stack = net.plan(x)
    means = {True: [], False: []}
    for seed in range(6):
        weights, biases = net.drawn(stack, seed)
        for is_centred in means:
            if not is_centred:
                biases[3] = -0.5 * weights[3].sum((1, 2, 3))
            z = net.run(weights, biases, x)[3].detach()
            means[is_centred].append(float(z.mean((0, 2, 3)).square().mean()))
    assert isinstance(stack.biases[3], OffsetBias)
    assert stack.biases[3].constant > 0.5
    assert np.mean(means[True]) < 0.35 * np.mean(means[False])


def test_without_a_sample_sites_are_taken_to_be_alike():
    """Nothing pooled: the nominal numbers are those of independent sites of one loudness."""
    net = Net([(24, 1), (24, 2), (24, 1)], TANH, PLAIN)
    entry = Entry("in", CHANNELS, 1.0, block=(1, 1))
    stack = framed_stack(net.names, entry, net.spaces, "out", OUTPUTS)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, CHANNELS, SIDE, SIDE))
    x *= math.sqrt(CHANNELS) / np.linalg.norm(x, axis=1, keepdims=True)
    signal, gradient = _measured(net, stack, x, 11)
    assert np.allclose(np.median(signal, 0), stack.signal, rtol=0.12)
    assert np.allclose(np.median(gradient, 0), stack.gradient, rtol=0.12)


def test_loudness_and_columns():
    assert loudness(np.array([[4.0, 0.0], [4.0, 0.0]])) == 4.0
    assert loudness(np.zeros((2, 2))) == 0.0
    values = np.random.default_rng(0).standard_normal((2000, 5, 2))
    state = FrameColumns(values, np.ones((2000, 2)), is_ordered=True, columns=5)
    assert state.participation() == pytest.approx(5.0, rel=0.02)
    state.common = 1e6
    assert state.participation() == pytest.approx(1.0, rel=1e-3)
    assert FrameColumns(0 * values, np.ones((2000, 2)), True, 5).participation() == 0.0
    state.keep(2)
    assert state.values.shape == (2000, 2, 2)
    assert state.common == pytest.approx(4e5)


def test_images_that_average_to_nothing():
    """No weight can make up for them: the output stays silent, and the scale finite."""
    net = Net([(16, 1)] * 3, GELU, MIRRORED, "mean")
    x = _fields(10)
    x -= x.mean((2, 3), keepdims=True)
    stack = net.plan(x)
    usual = net.plan(_fields(10))
    assert stack.weights[-1].scale < 20 * usual.weights[-1].scale
    assert float(net.run(*net.drawn(stack, 0), x)[-1].detach().abs().max()) < 1e-12


def test_an_average_before_the_activation():
    """The activation meets the level of the stack, and the weight before is louder."""
    net = Net([(24, 1)] * 4, TANH, PLAIN)
    table = window_sites((SIDE, SIDE), (4, 4), (2, 2), (2, 2))
    reads = [Sites(16, np.arange(16)[:, None])] * 3 + [Sites(16, np.arange(16)[None])]
    first = Passage(reads[0], (Pooling("average", table),))
    net.passages = (first, *(Passage(r) for r in reads[1:]))
    net.spaces[-1] = Space("h3", 24, TANH, PLAIN, 16)
    x = _fields(20)
    stack = net.plan(x)
    z = []
    for seed in range(6):
        w, b = net.drawn(stack, seed)
        z.append(F.conv2d(torch.from_numpy(x), w[0], b[0], padding=1))
    assert math.sqrt(np.mean([v.square().mean() for v in z])) == pytest.approx(
        stack.signal[0], rel=0.05
    )
    quiet = math.sqrt(np.mean([F.avg_pool2d(v, 2).square().mean() for v in z]))
    assert quiet == pytest.approx(math.sqrt(stack.balanced.q[0]), rel=0.3)
    assert quiet < 0.95 * stack.signal[0]
