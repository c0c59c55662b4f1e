"""Every start under one call."""

import pytest
import torch
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.lab import rivals
from equipoise.lab.lsuv import lsuv_
from equipoise.lab.models import mlp, plain_cnn
from equipoise.lab.rivals import methods, starter

X = torch.randn(128, 12, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("method", methods())
def test_the_same_seed_starts_alike_and_global_state_is_left_alone(method):
    # Each of the two refuses what the other serves.
    activation = nn.ReLU if method == "shifted" else nn.Tanh
    models = [mlp((12, 16, 16, 3), activation) for _ in range(3)]
    start = starter(models[0], method, X)
    state = torch.random.get_rng_state()
    for model, seed in zip(models, (5, 5, 6), strict=True):
        start(model, seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert bool(torch.isfinite(weights(models[0])).all())
    if method != "identity":
        assert not torch.equal(weights(models[0]), weights(models[2]))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("method", ["auto", "orthogonal", "he", "default", "lsuv"])
def test_convolutional_networks_are_started(method):
    models = [plain_cnn(4, nn.ReLU, channels=8, stride=2) for _ in range(2)]
    start = starter(models[0], method, IMAGES)
    for model in models:
        start(model, 1)
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_starts_are_those_of_their_makers():
    model, other = mlp((12, 16, 3), nn.ReLU), mlp((12, 16, 3), nn.ReLU)
    starter(model, "default", X)(model, 3)
    torch.manual_seed(3)
    assert torch.equal(weights(model), weights(mlp((12, 16, 3), nn.ReLU)))
    starter(model, "lsuv", X)(model, 3)
    lsuv_(other, X, torch.Generator().manual_seed(3))
    assert torch.equal(weights(model), weights(other))
    starter(model, "auto", X)(model, 3)
    eq.initialize(other, X, generator=torch.Generator().manual_seed(3))
    assert torch.equal(weights(model), weights(other))


def test_unknown_and_missing_methods_are_refused(monkeypatch):
    model = mlp((12, 16, 3), nn.ReLU)
    with pytest.raises(ArgumentError, match=r"Did you mean 'xavier'"):
        starter(model, "xaver", X)
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    assert "anyinit" not in methods()
    with pytest.raises(ArgumentError, match="pip install anyinit"):
        starter(model, "anyinit", X)
