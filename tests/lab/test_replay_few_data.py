"""Learning rates chosen apart from the draw that they serve, and the replay of few images."""

import math
import statistics

import pytest

from equipoise.errors import ArgumentError
from equipoise.lab import replay_few_data, start_trials
from equipoise.lab.rate_choice import ahead, at_best_rate, errors_ahead
from equipoise.lab.replay_data import Estimate
from equipoise.lab.replay_few_data import METHODS
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.setting import Setting, Trial, train_trials

REPLAY = REPLAYS["few-data"]
SMALL = {
    "mode": "corrected", "images": "digits", "activation": "tanh", "count": 20, "steps": 3,
    "test_rows": 0, "choice": 2, "seeds": [4, 5], "methods": ["orthogonal", "auto"],
    "rates": [1e-3, 1e-2],
}  # fmt: skip


def test_a_draw_has_no_say_in_its_rate():
    rates = (1e-4, 1e-3, 1e-2)
    scores = [[0.1, 0.5, 0.9], [0.2, 0.6, 0.1], [0.3, 0.4, 0.2], [0.3, 0.7, 0.2]]
    slow = []
    for i, row in enumerate(scores):
        others = [s for j, s in enumerate(scores) if j != i]
        means = [statistics.fmean(s[k] for s in others) for k in range(3)]
        slow.append(row[means.index(max(means))])
    found = at_best_rate(scores, rates)
    assert found.scores == tuple(slow)
    assert [row[p] for row, p in zip(scores, found.places, strict=True)] == slow
    assert found.rate == 1e-3


def test_one_draw_has_the_best_rate_there_is_and_equals_take_the_first():
    assert at_best_rate([[0.2, 0.4]], (1.0, 2.0)).scores == (0.4,)
    assert at_best_rate([[0.3, 0.3], [0.3, 0.3]], (1.0, 2.0)).rate == 1.0


def test_rows_held_back_choose_and_the_test_part_has_no_say():
    rates = (1e-4, 1e-3)
    scores = [[0.9, 0.1], [0.9, 0.2], [0.9, 0.3]]
    held = [[0.5, 0.7], [0.9, 0.2], [0.1, 0.7]]
    # Sums of the others: 1 and .9 for draw 0, .6 and 1.4 for draw 1, 1.4 and .9 for draw 2.
    assert at_best_rate(scores, rates, held).scores == (0.9, 0.2, 0.9)
    assert at_best_rate(scores, rates, held).rate == 1e-3


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([[0.1]], "held must have a row of 2 numbers"),
        ([[0.1, 0.2]] * 3, "held must have a row for each of the 2 draws of scores, got 3"),
    ],
)
def test_rows_held_back_are_those_of_the_same_draws(held, message):
    with pytest.raises(ArgumentError, match=message):
        at_best_rate([[0.1, 0.2]] * 2, (1.0, 2.0), held)


def test_errors_of_a_gain_need_an_error():
    assert errors_ahead(Estimate(0.3, 0.1, 5)) == pytest.approx(3.0)
    assert math.isnan(errors_ahead(Estimate(0.3, math.nan, 1)))
    assert math.isnan(errors_ahead(Estimate(0.3, 0.0, 4)))


@pytest.mark.parametrize("scores", [[], [[0.1, 0.2], [0.1]]])
def test_scores_need_a_number_for_each_rate(scores):
    with pytest.raises(ArgumentError, match="a row of 2 numbers for each draw"):
        at_best_rate(scores, (1.0, 2.0))


def test_units_share_images_among_all_starts(monkeypatch):
    monkeypatch.setattr(replay_few_data, "images_at_hand", lambda name: name)
    made = REPLAY.units("quick", ("faithful", "corrected"), (0, 1, 2))
    faithful = [a for a in made.values() if a["mode"] == "faithful"]
    assert len(faithful) == 3
    assert all(a["seeds"] == [0, 1, 2] and a["choice"] == 0 for a in faithful)
    assert all(a["rates"] == [1e-3] and "auto" not in a["methods"] for a in faithful)
    corrected = [a for a in made.values() if a["mode"] == "corrected"]
    assert len(corrected) == 9
    assert all(a["seeds"] == [a["choice"]] and a["methods"] == list(METHODS) for a in corrected)


def test_a_unit_is_trials_of_the_batched_trainer(monkeypatch):
    monkeypatch.setattr(replay_few_data, "DEPTH", 3)
    found = REPLAY.work(SMALL)
    assert list(found) == ["orthogonal", "auto"]
    setting = Setting("digits(balanced=20, seed=2)", (16,) * 3, "tanh", epochs=3, batch_size=50)
    alone = train_trials(setting, [Trial("auto", 1e-2, 5)]).scores[0]
    assert found["auto"][1][1] == pytest.approx(alone, abs=1e-6)


def test_a_start_that_does_not_serve_is_left_out(monkeypatch):
    monkeypatch.setattr(replay_few_data, "DEPTH", 3)
    found = REPLAY.work(
        SMALL | {"activation": "relu", "methods": ["odd-sigmoid", "He, exact moments"]}
    )
    assert list(found) == ["He, exact moments"]


def test_images_come_from_the_files_that_are_named(monkeypatch):
    seen = []

    def refuse(setting, trials, data_dir):
        seen.append((setting.task, setting.epochs, data_dir))
        raise KeyboardInterrupt

    monkeypatch.setenv("EQUIPOISE_DATA", "some/folder")
    monkeypatch.setattr(start_trials, "train_trials", refuse)
    with pytest.raises(KeyboardInterrupt):
        REPLAY.work(SMALL | {"images": "mnist", "count": 100, "steps": 400, "test_rows": 1000})
    assert seen == [("mnist(rows=100, test_rows=1000, seed=2)", 200, "some/folder")]


def test_findings_compare_draw_by_draw():
    auto, rival = [[0.7], [0.8], [0.6]], [[0.6], [0.75], [0.5]]
    case = SMALL | {"rates": [1e-3], "images": "mnist"}
    done = [
        (case | {"seeds": [i]}, {"orthogonal": [rival[i]], "auto": [auto[i]]}) for i in range(3)
    ]
    done.append((case | {"mode": "faithful"}, {"Xavier": [[0.1], [0.3]]}))
    found = REPLAY.findings(done, ("faithful", "corrected"))
    faithful, corrected = found.tables
    assert math.isnan(faithful.rows[0].values[1].mean)
    assert faithful.rows[0].values[0].mean == pytest.approx(0.2)
    gain = corrected.rows[0].values[1]
    assert gain.mean == pytest.approx((0.1 + 0.05 + 0.1) / 3)
    error = statistics.stdev([0.1, 0.05, 0.1]) / math.sqrt(3)
    assert gain.standard_error == pytest.approx(error)
    assert math.isnan(corrected.rows[1].values[1].mean)
    assert "5.0 standard errors more" in found.headline
    assert len(found.pictures) == 1
    assert ahead([1.0, 2.0], [1.0, 1.0]).mean == 0.5


def test_digits_are_named_where_they_stand_in():
    found = REPLAY.findings([(SMALL, {"auto": [[0.5, 0.6]], "orthogonal": [[0.1, 0.2]]})],
                            ("corrected",))  # fmt: skip
    assert "scikit-learn's digits" in " ".join(found.sentences)
    assert found.headline.endswith("0.200 by orthogonal, 0.600 by auto")
