"""The best of several draws: which it is, in any order, and what a choice along a path gains."""

import numpy as np
import pytest

from equipoise.schemes.draw import PROBES, Streams, draw
from equipoise.schemes.laws import BestOf, Normal


def _chain(draws, depth=6, n=8):
    names = [f"w{i}" for i in range(depth)]
    return {
        name: (BestOf(Normal(0.5), draws, "relu", 0.0, names[i - 1] if i else ""), (n, n))
        for i, name in enumerate(names)
    }


@pytest.mark.parametrize("draws", [1, 5])
def test_chosen_weights_are_the_best_of_their_candidates(draws):
    """Against a loop that follows the probes by hand."""
    chain, n = _chain(draws), 8
    streams = Streams(3, weights=chain)
    signal = streams.rng("probes", "w0").standard_normal((n, PROBES))
    signal = signal / np.sqrt(np.square(signal).mean(axis=0))
    for name in chain:
        rng = Streams(3).rng("parameter", name)
        best = None
        for _ in range(draws):
            w = 0.5 * rng.standard_normal((n, n))
            sent = np.maximum(w @ signal, 0.0)
            rms = np.sqrt(np.square(sent).mean(axis=0))
            distance = abs(np.log(np.maximum(rms, 1e-150)).mean())
            if best is None or distance < best[0]:
                best = distance, w, sent
        np.testing.assert_array_equal(draw(*chain[name][:1], name, (n, n), streams), best[1])
        signal = best[2]


@pytest.mark.parametrize("order", [range(6), reversed(range(6)), [5, 0, 3, 3, 1, 4, 2]])
def test_chosen_weights_do_not_depend_on_the_order_of_drawing(order):
    chain = _chain(4)
    together = Streams(1, weights=chain)
    for i in order:
        law, shape = chain[f"w{i}"]
        alone = draw(law, f"w{i}", shape, Streams(1, weights=chain))
        np.testing.assert_array_equal(draw(law, f"w{i}", shape, together), alone)


def test_a_weight_is_chosen_even_where_the_signal_overflows():
    law = BestOf(Normal(1e200), 3)
    with np.errstate(over="ignore"):
        assert draw(law, "w", (4, 4), Streams(0)).any()


def test_a_weight_deep_in_a_chain_can_be_drawn_alone():
    chain = _chain(1, depth=3000, n=2)
    law, shape = chain["w2999"]
    assert draw(law, "w2999", shape, Streams(0, weights=chain)).shape == (2, 2)


def test_choosing_along_the_path_keeps_the_norm_of_a_deep_network():
    """100 layers of width 16: the log norm of fresh inputs strays by 3 nats, chosen by a quarter.

    Where each weight is chosen on probes of its own, next to nothing is gained.
    """
    f = "leaky_relu(negative_slope=0.01)"

    def spread(draws, is_path, nets):
        laws = {
            f"w{i}": (
                BestOf(Normal(0.3861), draws, f, 0.0, f"w{i - 1}" if i and is_path else ""),
                (16, 16),
            )
            for i in range(100)
        }
        found = []
        for seed in range(nets):
            streams = Streams(seed, weights=laws)
            x = np.random.default_rng(100 + seed).standard_normal((16, 20))
            for name, (law, shape) in laws.items():
                z = draw(law, name, shape, streams) @ x
                x = np.where(z > 0, z, 0.01 * z)
            found.append(np.log(np.sqrt(np.square(x).mean(axis=0))).mean())
        return np.sqrt(np.square(found).mean())

    assert spread(1, True, 25) > 2.0
    assert spread(4, False, 15) > 1.5
    assert spread(4, True, 15) < 0.6
