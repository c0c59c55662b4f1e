"""All replays by name. Another one is a file with a ``REPLAY`` and a line here."""

from collections.abc import Mapping

from equipoise.lab import (
    replay_deep_linear,
    replay_few_data,
    replay_fractional,
    replay_lyapunov,
    replay_mean_field,
    replay_row_shared,
    replay_tanh_depth,
)
from equipoise.lab.replay_data import Replay

REPLAYS: Mapping[str, Replay] = {
    replay.name: replay
    for replay in (
        replay_tanh_depth.REPLAY,
        replay_mean_field.REPLAY,
        replay_lyapunov.REPLAY,
        replay_fractional.REPLAY,
        replay_deep_linear.REPLAY,
        replay_row_shared.REPLAY,
        replay_few_data.REPLAY,
    )
}
