"""LSUV against a literal transcription of the published loop, on real layers."""

import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.lab.lsuv import lsuv_

TOLERANCE, MOST_ROUNDS = 1e-6, 10


def literal(model, inputs, generator):
    """Orthonormal start; each layer in turn is divided by sqrt(Var) until Var is 1."""
    layers = [m for m in model if hasattr(m, "weight")]
    for layer in layers:
        with torch.no_grad():
            nn.init.orthogonal_(layer.weight, generator=generator)
            layer.bias.zero_()
    for layer in layers:
        for _ in range(MOST_ROUNDS):
            h = inputs
            for m in model:
                h = m(h)
                if m is layer:
                    break
            variance = h.detach().double().var(correction=0)
            if abs(variance - 1) < TOLERANCE:
                break
            with torch.no_grad():
                layer.weight /= variance.sqrt().float()


def dense(a, b):
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, a), nn.ReLU(), nn.Linear(a, 5))


NETS = {
    "linear 64 -> 256 -> 64": (lambda: dense(64, 256), (64,)),
    "linear 256 -> 64 -> 256": (lambda: dense(256, 64), (256,)),
    "conv, strided": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 16, 3)), (3, 9, 9)),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 4, 1)),
        (8, 7, 7)),
    "conv1d, conv3d": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Unflatten(2, (3, 2, 2)),
                              nn.Conv3d(6, 5, (2, 1, 1))), (4, 14)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_it_draws_what_the_published_loop_draws(name):
    make, shape = NETS[name]
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(7)) * 3 + 1
    ours, slow = make(), make()
    slow.load_state_dict(ours.state_dict())
    lsuv_(ours, x, torch.Generator().manual_seed(1))
    literal(slow, x, torch.Generator().manual_seed(1))
    for mine, theirs in zip(ours.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_has_unit_variance_forward_and_gradients_are_finite(name):
    make, shape = NETS[name]
    model = make()
    x = torch.randn(256, *shape) * 0.01
    scaled = lsuv_(model, x)
    assert [s.layer for s in scaled] == [
        str(i) for i, m in enumerate(model) if hasattr(m, "weight")
    ]
    h = x
    for m in model:
        h = m(h)
        if hasattr(m, "weight"):
            assert float(h.detach().var(correction=0)) == pytest.approx(1.0, abs=1e-4)
    h.square().mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose1d(6, 4, 3), (6, 5)),
        (nn.ConvTranspose2d(6, 4, 2, stride=2), (6, 5, 5)),
        (nn.ConvTranspose3d(4, 3, 2), (4, 3, 3, 3)),
    ],
)
def test_rows_of_a_transposed_convolution_are_what_an_output_channel_reads(layer, shape):
    lsuv_(layer, torch.randn(64, *shape))
    rows = layer.weight.detach().transpose(0, 1).flatten(1)
    gram = rows @ rows.T
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(len(rows)), rtol=1e-4, atol=1e-5)
    assert float(layer(torch.randn(64, *shape)).detach().var()) == pytest.approx(1.0, rel=0.3)


def test_running_statistics_modes_and_shared_layers():
    shared = nn.Linear(8, 8)
    unused = nn.Linear(3, 3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.drop, self.spare = (
                shared, nn.BatchNorm1d(8), nn.Dropout(0.5), unused,
            )  # fmt: skip

        def forward(self, x):
            return self.a(self.drop(self.norm(self.a(x))))

    net = Net()
    net.drop.eval()
    before = {k: v.clone() for k, v in net.norm.state_dict().items()}
    scaled = lsuv_(net, torch.randn(32, 8))
    assert [s.layer for s in scaled] == ["a"]
    assert all(torch.equal(v, before[k]) for k, v in net.norm.state_dict().items())
    assert (net.training, net.norm.training, net.drop.training) == (True, True, False)
    torch.testing.assert_close(unused.weight @ unused.weight.T, torch.eye(3))


class Breaks(nn.Module):
    def forward(self, x):
        raise RuntimeError("no")


BAD = [
    (nn.Sequential(nn.ReLU()), torch.ones(4, 4), ArgumentError, "must have Linear"),
    (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(4, 4), ArgumentError,
     "layer '0' must vary"),
    (nn.Sequential(nn.Linear(4, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 4)), torch.randn(4, 4),
     ArgumentError, "layer '2' must vary"),
    (nn.Sequential(nn.Linear(4, 4)), torch.full((4, 4), torch.nan), ArgumentError, "variance nan"),
    (nn.Sequential(nn.Linear(4, 4), Breaks()), torch.randn(4, 4), RuntimeError, "no"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "inputs", "kind", "message"), BAD)
def test_a_failure_leaves_the_model_as_it_was(model, inputs, kind, message):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(kind, match=message):
        lsuv_(model, inputs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
