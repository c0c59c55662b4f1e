"""All starts of a network at all learning rates and draws: what replays of trainings repeat."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.lab.image_files import FOLDER_VARIABLE
from equipoise.lab.setting import Setting, Trial, train_trials


@dataclass(frozen=True)
class StartScores:
    """What became of one start: a row for each draw of one number for each learning rate.

    Attributes:
        scores: on the test part.
        held: on the rows held back, [] where there are none.
    """

    scores: list[list[float]]
    held: list[list[float]]


def train_starts(
    setting: Setting, methods: Mapping[str, str], rates: Sequence[float], seeds: Sequence[int]
) -> dict[str, StartScores]:
    """Train every start at every rate and draw, as one tensor program.

    Draw i has the same batches for every start and rate. Files lie where EQUIPOISE_DATA says.

    Args:
        setting: network, task and training.
        methods: of ``rivals.methods()``, by the name in tables.
        rates: learning rates.
        seeds: of the draws.

    Returns:
        Scores by name; a start that cannot serve the network is left out.

    Raises:
        ArgumentError: for a task, activation, method or rate that is not known.

    >>> few = Setting("digits(rows=100)", (4,), "tanh", epochs=1)
    >>> done = train_starts(few, {"He": "he"}, (1e-3, 1e-2), (0, 1, 2))
    >>> len(done["He"].scores), len(done["He"].scores[0]), done["He"].held
    (3, 2, [])
    """
    trials = [
        Trial(method, rate, seed) for method in methods.values() for seed in seeds for rate in rates
    ]
    done = train_trials(setting, trials, os.environ.get(FOLDER_VARIABLE, ""))
    count = len(rates)

    def rows_of(place: int, values: Sequence[float]) -> list[list[float]]:
        first = place * len(seeds) * count
        starts = range(first, first + len(seeds) * count, count)
        return [list(values[i : i + count]) for i in starts] if values else []

    return {
        name: StartScores(rows_of(place, done.scores), rows_of(place, done.held))
        for place, (name, method) in enumerate(methods.items())
        if method not in done.refused
    }
