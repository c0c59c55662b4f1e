"""Columns that join sites, against drawn mixtures."""

import numpy as np
import pytest

from equipoise.errors import ArgumentError
from equipoise.theory import activations
from equipoise.theory.columns import Columns
from equipoise.theory.structured import HiddenLayer, balance


def _haar(rng, size, count):
    return np.linalg.qr(rng.standard_normal((size, count)))[0]


@pytest.mark.parametrize(
    ("widths", "fan_in", "copies", "read", "kept"),
    [
        ((8, 8), 3, (1, 1), (3, 8, 8), (3, 8, 8)),
        ((8, 8), 3, (4, 1), (3, 3, 8), (3, 8, 8)),  # 3 columns at 4 sites are enough for 8
        ((8, 40), 3, (4, 1), (3, 8, 16), (3, 32, 16)),  # all 8 at 4 sites are 32, too few for 40
        ((8, 20), 3, (4, 1), (3, 5, 16), (3, 20, 16)),  # 5 at 4 sites are 20
        ((8, 4), 12, (9, 1), (8, 8, 4), (8, 4, 4)),
    ],
)
def test_how_many_columns_are_read(widths, fan_in, copies, read, kept):
    columns = Columns.of(widths, fan_in, 16, copies=copies)
    assert columns.read == read
    assert columns.kept == kept


@pytest.mark.parametrize(("copies", "following"), [(4, 8), (4, 40), (2, 5)])
def test_joined_energies_are_those_of_a_mixture(copies, following):
    """Mean energy of the columns of a joined frame, and the cotangent that they send back."""
    rng, fan_in, width = np.random.default_rng(0), 3, 8
    columns = Columns.of((width, following), fan_in, 16, copies=(copies, 1))
    read, kept = columns.read[1], columns.kept[1]
    energy = rng.uniform(0.5, 2.0, width)
    starts = (0, *columns.ends[:-1])
    groups = list(zip(starts, columns.ends, strict=True))
    profile = [energy[a : min(b, width)].mean() if a < width else 0.0 for a, b in groups]
    forward, back = [], []
    for _ in range(4000):
        mixture = _haar(rng, read * copies, kept)
        signal = (np.sqrt(energy[:read, None]) * rng.standard_normal((read, copies))).ravel()
        forward.append(np.mean((mixture.T @ signal) ** 2))
        cotangent = mixture @ rng.standard_normal(kept)
        back.append(np.square(cotangent).reshape(read, copies).sum(1).mean())
    carried = columns.carried(1, profile)
    returned = columns.returned(1, [1.0] * len(profile))
    for found, expected in ((forward, carried[0]), (back, returned[0])):
        error = np.std(found) / len(found) ** 0.5
        assert abs(np.mean(found) - expected) < 4 * error + 1e-12
    assert all((e > 0) == (end <= kept) for e, end in zip(carried, columns.ends, strict=True))
    assert all((b > 0) == (end <= read) for b, end in zip(returned, columns.ends, strict=True))


def test_a_join_of_one_site_is_no_join():
    layers = [HiddenLayer(8, activations.tanh()), HiddenLayer(5, activations.elu())]
    same = [HiddenLayer(layer.width, layer.activation, 1) for layer in layers]
    assert balance(layers, 6, 4, 0.3) == balance(same, 6, 4, 0.3)


def test_joins_keep_the_energy_of_a_column():
    """Where every column is carried at every site, a join is a layer of the same level."""
    tanh = activations.tanh()
    joined = balance([HiddenLayer(8, tanh, 4)] * 6, 8, 8, 0.3)
    plain = balance([HiddenLayer(8, tanh)] * 6, 8, 8, 0.3)
    assert joined.q == pytest.approx(plain.q, rel=1e-6)
    assert joined.gains == pytest.approx(plain.gains, rel=1e-6)
    assert joined.cotangent_log[0] == pytest.approx(plain.cotangent_log[0], rel=1e-6)


def test_a_centred_mean_leaves_the_degree_without_its_constant():
    """Growth of one layer: sum k a_k^2 over sum a_k^2 from k = 1, in Hermite coefficients."""
    elu, q = activations.elu(), 0.25
    nodes = np.linspace(-9, 9, 20001)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    values = elu.f(np.sqrt(q) * nodes)
    mean = weights @ values
    degree = q * (weights @ elu.df(np.sqrt(q) * nodes) ** 2) / (weights @ (values - mean) ** 2)
    budget = float(np.log(degree))
    found = balance([HiddenLayer(16, elu, 1, True)] * 2, 16, 16, budget)
    assert found.reached
    assert found.q == pytest.approx((q, q), rel=1e-4)


@pytest.mark.parametrize("copies", [(2,), (1, 2, 3), (1, 0)])
def test_copies_are_checked(copies):
    with pytest.raises(ArgumentError, match="copies must"):
        Columns.of((4, 4), 4, 4, copies=copies)
