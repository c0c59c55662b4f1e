"""Recurrent cells against torch's own, in double precision."""

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory.recurrence import GATES, run

torch = pytest.importorskip("torch")
nn = torch.nn
KINDS = {
    "tanh": lambda **k: nn.RNN(5, 7, **k),
    "relu": lambda **k: nn.RNN(5, 7, nonlinearity="relu", **k),
    "lstm": lambda **k: nn.LSTM(5, 7, **k),
    "gru": lambda **k: nn.GRU(5, 7, **k),
}


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_torch(kind):
    layer = KINDS[kind](batch_first=True).double()
    with torch.no_grad():
        layer.bias_hh_l0.zero_()
    x = torch.randn(3, 11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted, last = layer(x)
    parts = [p.detach().numpy() for p in (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0)]
    states, cells = run(kind, *parts, x.numpy())
    np.testing.assert_allclose(states, wanted.detach(), atol=1e-12)
    last_cell = last[1] if kind == "lstm" else last
    np.testing.assert_allclose(cells[:, -1], last_cell[0].detach(), atol=1e-12)
    assert len(parts[0]) == GATES[kind] * 7


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_is_that_of_torch():
    layer = nn.LSTM(5, 7, proj_size=3).double()
    with torch.no_grad():
        layer.bias_hh_l0.zero_()
    x = torch.randn(11, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted, (_, cell) = layer(x)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hr_l0")
    w, u, b, p = (getattr(layer, name).detach().numpy() for name in names)
    states, cells = run("lstm", w, u, b, x.numpy().swapaxes(0, 1), p)
    np.testing.assert_allclose(states.swapaxes(0, 1), wanted.detach(), atol=1e-12)
    np.testing.assert_allclose(cells[:, -1], cell[0].detach(), atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "projection", "message"),
    [
        ("elman", None, "kind must be one of tanh"),
        ("gru", np.eye(2), "projection must be left out"),
    ],
)
def test_what_is_no_cell_is_refused(kind, projection, message):
    one = np.ones((2, 2))
    with pytest.raises(ArgumentError, match=message):
        run(kind, one, one, np.ones(2), np.ones((1, 1, 2)), projection)
