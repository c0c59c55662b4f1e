"""All replays by name. Another one is a file with a ``REPLAY`` and a line here."""

from collections.abc import Mapping

from equipoise.lab import (
    replay_allen_cahn,
    replay_burgers,
    replay_deep_linear,
    replay_few_data,
    replay_fractional,
    replay_helmholtz,
    replay_inr,
    replay_lyapunov,
    replay_mean_field,
    replay_mlp_stability,
    replay_odd_sigmoid,
    replay_poisson,
    replay_polynomial,
    replay_row_shared,
    replay_score_learning,
    replay_tanh_depth,
    replay_tanh_mnist,
)
from equipoise.lab.replay_data import Replay

REPLAYS: Mapping[str, Replay] = {
    replay.name: replay
    for replay in (
        replay_tanh_depth.REPLAY,
        replay_tanh_mnist.REPLAY,
        replay_mean_field.REPLAY,
        replay_lyapunov.REPLAY,
        replay_fractional.REPLAY,
        replay_deep_linear.REPLAY,
        replay_burgers.REPLAY,
        replay_allen_cahn.REPLAY,
        replay_poisson.REPLAY,
        replay_helmholtz.REPLAY,
        replay_polynomial.REPLAY,
        replay_score_learning.REPLAY,
        replay_mlp_stability.REPLAY,
        replay_inr.REPLAY,
        replay_row_shared.REPLAY,
        replay_few_data.REPLAY,
        replay_odd_sigmoid.REPLAY,
    )
}
