"""Healthy runs raise no finding above ``info``."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from monitored import (
    Attention,
    Images,
    Recurrent,
    Sums,
    Tokens,
    Vectors,
    convolutional,
    dense,
    train,
)

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 2e-3),
    "sgd": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("make", "data"),
    [(dense, Vectors), (lambda: dense(nn.Tanh, 6), Vectors), (convolutional, Images),
     (Attention, Tokens), (Recurrent, Sums)],
    ids=["relu", "tanh", "convolutional", "attention", "recurrent"],
)  # fmt: skip
def test_nothing_is_said(make, data, optimizer):
    for every in (1, 10):
        torch.manual_seed(3)
        m = train(make(), data(3), 120, OPTIMIZERS[optimizer], every)
        assert [str(f) for f in m.findings if f.severity != "info"] == []
        assert m.steps == 120
        assert len(m.history["step"]) == 120 // every
