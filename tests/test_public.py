"""What ``import equipoise`` gives."""

import warnings

import pytest
import torch
from torch import nn

import equipoise
import equipoise.torch as eq


def test_every_public_name_is_there():
    for module in (equipoise, eq):
        assert list(module.__all__) == sorted(module.__all__, key=lambda n: (n[0].islower(), n))
        assert all(hasattr(module, name) for name in module.__all__)


def test_our_warnings_can_be_told_from_others():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    model(torch.ones(3, 4)).sum().backward()
    with pytest.warns(equipoise.EquipoiseWarning, match="parameters hold gradients"):
        eq.initialize(model, torch.randn(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", equipoise.EquipoiseWarning)
        eq.initialize(model, torch.randn(8, 4))
