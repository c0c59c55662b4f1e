"""All starts of a network in one program, and the replay of tanh networks on images."""

import math
import statistics

import pytest

from equipoise.lab import replay, replay_tanh_mnist
from equipoise.lab.rate_choice import AtBestRate
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.replay_tanh_mnist import at_chosen_rates
from equipoise.lab.setting import Setting, Trial, train_trials
from equipoise.lab.start_trials import train_starts
from equipoise.lab.tanh_mnist_tables import METHODS, SWEEP, Case, leads, pictures, swept, tables

REPLAY = REPLAYS["tanh-mnist"]
SMALL = {
    "mode": "corrected", "images": "digits", "rows": 60, "held": 20, "test_rows": 0, "width": 4,
    "depth": 2, "methods": ["orthogonal", "auto"], "rates": [1e-3, 1e-2], "epochs": 1,
    "seeds": [3, 4],
}  # fmt: skip


@pytest.fixture
def images_there(monkeypatch):
    monkeypatch.setattr(replay_tanh_mnist, "images_at_hand", lambda name: name)


def test_starts_are_trials_in_one_program():
    setting = Setting("digits(rows=80)", (4, 4), "tanh", epochs=1, validation=20)
    methods = {"mine": "orthogonal", "odd": "diagonal_noise"}
    found = train_starts(setting, methods, (1e-3, 1e-2), (3, 4))
    assert list(found) == ["mine", "odd"]
    for name, method in methods.items():
        for i, seed in enumerate((3, 4)):
            for j, rate in enumerate((1e-3, 1e-2)):
                alone = train_trials(setting, [Trial(method, rate, seed)])
                assert found[name].scores[i][j] == pytest.approx(alone.scores[0], abs=1e-6)
                assert found[name].held[i][j] == pytest.approx(alone.held[0], abs=1e-6)


def test_a_start_that_is_refused_leaves_the_others_in_place():
    setting = Setting("digits(rows=60)", (4,), "relu", epochs=1)
    methods = {"he": "he", "not for relu": "odd_sigmoid", "last": "orthogonal"}
    found = train_starts(setting, methods, (1e-2,), (0,))
    assert list(found) == ["he", "last"]
    alone = train_trials(setting, [Trial("orthogonal", 1e-2, 0)])
    assert found["last"].scores == [pytest.approx(list(alone.scores), abs=1e-6)]
    assert found["last"].held == []


def test_units_have_networks_of_all_widths_and_depths(images_there):
    made = list(REPLAY.units("quick", ("faithful", "corrected"), range(10)).values())
    assert {a["images"] for a in made} == {"mnist", "fashion_mnist"}
    for mode in ("faithful", "corrected"):
        shapes = {(a["width"], a["depth"]) for a in made if a["mode"] == mode}
        assert shapes >= {(width, depth) for width in (8, 16, 32, 64) for depth in (10, 50)}
    faithful = [a for a in made if a["mode"] == "faithful"]
    assert all(a["methods"] == ["Xavier", "diagonal + noise"] for a in faithful)
    assert all(a["rates"] == [1e-3] and a["held"] == 0 for a in faithful)
    corrected = [a for a in made if a["mode"] == "corrected"]
    assert {tuple(a["methods"]) for a in corrected} == {tuple(METHODS), tuple(SWEEP)}
    assert all(len(a["rates"]) > 1 and a["held"] > 0 for a in corrected)


@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_parts_hold_every_draw_once_and_fit_into_memory(images_there, budget):
    made = REPLAY.units(budget, ("corrected",), range(25)).values()
    seeds: dict[tuple, list[int]] = {}
    for a in made:
        assert len(a["seeds"]) * len(a["rates"]) * len(a["methods"]) <= 240
        case = (a["images"], a["width"], a["depth"], *a["methods"])
        seeds.setdefault(case, []).extend(a["seeds"])
    assert all(s == list(range(25)) for s in seeds.values())


def test_digits_stand_in_and_stay_few(monkeypatch):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    made = REPLAY.units("paper", ("corrected",), (0,)).values()
    assert {(a["images"], a["rows"] + a["held"]) for a in made} == {("digits", 1200)}


def test_a_unit_trains_on_its_rows_and_holds_others_back(monkeypatch):
    found = REPLAY.work(SMALL)
    setting = Setting("digits(rows=80)", (4, 4), "tanh", epochs=1, validation=20)
    alone = train_trials(setting, [Trial("auto", 1e-2, 4)])
    assert found["auto"]["scores"][1][1] == pytest.approx(alone.scores[0], abs=1e-6)
    assert found["auto"]["held"][1][1] == pytest.approx(alone.held[0], abs=1e-6)
    seen = []

    def refuse(setting, methods, rates, seeds):
        seen.append((setting.task, setting.validation, methods))
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_tanh_mnist, "train_starts", refuse)
    with pytest.raises(KeyboardInterrupt):
        REPLAY.work(SMALL | {"images": "mnist", "test_rows": 50, "methods": ["alpha 0.3"]})
    methods = {"alpha 0.3": "diagonal_noise(alpha=0.3)"}
    assert seen == [("mnist(rows=80, test_rows=50)", 20, methods)]


def of(scores, held):
    return {"scores": scores, "held": held}


def test_parts_of_draws_are_joined_and_images_held_back_choose_the_rate():
    part = SMALL | {"seeds": [0]}
    done = [
        (part, {"auto": of([[0.9, 0.1]], [[0.2, 0.8]])}),
        (part | {"seeds": [1]}, {"auto": of([[0.8, 0.3]], [[0.1, 0.7]])}),
        (part | {"mode": "faithful", "rates": [1e-3]}, {"Xavier": of([[0.4], [0.6]], [])}),
    ]
    found = at_chosen_rates(done)
    assert found[Case("corrected", "digits", 4, 2)]["auto"] == AtBestRate((0.1, 0.3), 1e-2, (1, 1))
    assert found[Case("faithful", "digits", 4, 2)]["Xavier"] == AtBestRate((0.4, 0.6), 1e-3, (0, 0))


def cases_of(images="mnist"):
    """Two widths at two depths, and a sweep at the middle."""
    found = {}
    for width, depth, shift in ((8, 50, 0.0), (16, 50, 0.1), (16, 10, 0.2)):
        found[Case("corrected", images, width, depth)] = {
            "Xavier": AtBestRate((0.1, 0.2, 0.3), 1e-3, ()),
            "diagonal + noise": AtBestRate((0.4 + shift, 0.5 + shift, 0.6 + shift), 3e-3, ()),
            "auto": AtBestRate((0.6 + shift, 0.75 + shift, 0.75 + shift), 1e-3, ()),
        }
    found[Case("corrected", images, 16, 50)] |= {
        "alpha 0.005": AtBestRate((0.2, 0.2, 0.2), 1e-3, ()),
        "alpha 1": AtBestRate((0.1, 0.1, 0.1), 1e-3, ()),
    }
    return found


def test_a_lead_is_over_the_best_published_start_draw_by_draw():
    one = leads(cases_of())[0]
    gains = [0.2, 0.25, 0.15]
    assert one.rival == "diagonal + noise"
    assert one.gain.mean == pytest.approx(statistics.fmean(gains))
    assert one.gain.standard_error == pytest.approx(statistics.stdev(gains) / math.sqrt(3))
    assert one.is_clear
    single = {Case("corrected", "mnist", 8, 10): {"he": AtBestRate((0.1,), 1e-3, ())}}
    assert leads(single) == []


def test_tables_have_widths_in_columns_and_the_summary_beside_the_range():
    accuracy, rates, ranges, lead, sweep = tables(cases_of(), "corrected")
    assert accuracy.quantities == ("width 8", "width 16")
    rows = {row.names: row.values for row in accuracy.rows}
    assert math.isnan(rows["10", "auto"][0].mean)
    assert rows["50", "auto"][0].mean == pytest.approx(0.7)
    assert rows["50", "auto"][1].mean == pytest.approx(0.8)
    assert {r.names: r.values for r in rates.rows}["50", "diagonal + noise"][1].mean == 3e-3
    theirs, ours = ranges.rows
    assert theirs.names == ("mnist", "50", "diagonal + noise", "8", "16")
    assert [v.reference for v in theirs.values] == [0.48, 0.96]
    assert [v.mean for v in theirs.values] == pytest.approx([0.5, 0.6])
    assert all(math.isnan(v.reference) for v in ours.values)
    assert [row.names[3] for row in lead.rows] == ["diagonal + noise"] * 3
    assert [row.names[2] for row in sweep.rows] == ["0.005", "0.085", "1"]
    of_digits = tables(cases_of("digits"), "corrected")[2]
    assert all(math.isnan(v.reference) for row in of_digits.rows for v in row.values)


def test_the_published_alpha_stands_within_the_sweep():
    middle = cases_of()[Case("corrected", "mnist", 16, 50)]
    assert list(swept(middle)) == [0.005, 0.085, 1.0]
    assert swept(middle)[0.085] == middle["diagonal + noise"]
    assert swept({"diagonal + noise": middle["diagonal + noise"]}) == {}


def test_pictures_go_over_widths_depths_and_alpha():
    wide, deep, alpha = pictures(cases_of(), "corrected")
    assert [c.name for c in wide.curves] == ["Xavier", "diagonal + noise", "auto"]
    assert wide.curves[0].x == (8.0, 16.0)
    assert deep.curves[0].x == (10.0, 50.0)
    assert alpha.curves[0].x == (0.005, 0.085, 1.0)
    assert alpha.curves[0].y == pytest.approx((0.2, 0.6, 0.1))
    assert alpha.curves[1].style == "dashed"
    assert alpha.curves[1].y == pytest.approx((0.8, 0.8))
    assert "at alpha 0.085" in alpha.summary
    assert pictures(cases_of(), "faithful") == ()


def test_the_whole_on_few_digits(monkeypatch, tmp_path):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    monkeypatch.setattr(replay_tanh_mnist, "_NETWORKS", {"quick": ((4, 2), (6, 2))})
    monkeypatch.setattr(replay_tanh_mnist, "_SWEPT", {"quick": ((4, 2),)})
    monkeypatch.setattr(replay_tanh_mnist, "_ROWS", {"quick": (60, 20, 0)})
    monkeypatch.setattr(replay_tanh_mnist, "_EPOCHS", 1)
    found = replay("tanh-mnist", draws=2, is_quiet=True)
    text = str(found)
    assert "Fashion-MNIST is not at hand" in text
    assert "networks: Xavier" in found.headline()
    assert "of 2 networks" in found.headline()
    assert "lowest at width" in text
    assert found.to_html(tmp_path / "page.html").stat().st_size > 1000
    alone = replay("tanh-mnist", modes="faithful", draws=1, is_quiet=True)
    assert "standard errors on" not in alone.headline()
    assert "held back, for every start" not in str(alone)
