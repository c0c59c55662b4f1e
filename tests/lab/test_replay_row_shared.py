"""Images as rows, networks that share weights among them, and the replay of the deep one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.lab import replay_row_shared
from equipoise.lab.batched import Replicas, train
from equipoise.lab.replay_names import REPLAYS
from equipoise.lab.row_images import images_at_hand, row_shared_network, row_task

REPLAY = REPLAYS["row-shared"]
SMALL = {
    "images": "digits", "rows": 100, "test_rows": 50, "epochs": 2, "method": "auto", "rate": 1e-3,
    "seed": 3,
}  # fmt: skip


def test_digits_stand_in_where_no_files_are(monkeypatch, tmp_path):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    assert images_at_hand("mnist") == "digits"
    monkeypatch.setenv("EQUIPOISE_DATA", str(tmp_path))
    assert images_at_hand("mnist") == "digits"
    (tmp_path / "fashion-mnist").mkdir()
    assert (images_at_hand("mnist"), images_at_hand("fashion_mnist")) == ("digits", "fashion_mnist")


def test_rows_are_those_of_the_images_and_grey_is_0_to_1():
    whole, grey = row_task("digits"), row_task("digits", is_standardized=False)
    assert whole.x_train.shape == (1400, 8, 8)
    assert float(whole.x_train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(whole.x_train.std()) == pytest.approx(1, abs=1e-5)
    # All 17 levels of the original, 0 to 16.
    levels = torch.unique(torch.round(grey.x_train * 16, decimals=3))
    assert levels.tolist() == list(range(17))
    few = row_task("digits", 30, 20, is_standardized=False, seed=1)
    assert few.x_train.shape == (30, 8, 8)
    assert len(few.y_test) == 20
    place = (grey.x_train == few.x_train[0]).all(2).all(1).nonzero()[0, 0]
    assert grey.y_train[place] == few.y_train[0]


def test_files_of_mnist_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "equipoise.lab.row_images.read_mnist",
        lambda name, folder: {
            "x_train": np.arange(3 * 784).reshape(3, 784).astype(np.uint8),
            "y_train": np.array([1, 2, 3]),
            "x_test": np.full((2, 784), 255, np.uint8),
            "y_test": np.array([4, 5]),
        },
    )
    task = row_task("mnist", is_standardized=False)
    assert task.x_train.shape == (3, 28, 28)
    assert float(task.x_train[0, 1, 2]) == pytest.approx(30 / 255)
    assert float(task.x_test.min()) == 1.0
    assert task.y_test.tolist() == [4, 5]


def test_a_replica_equals_a_plain_run_of_its_own():
    task = row_task("digits", 90, 40)
    torch.manual_seed(0)
    models = [row_shared_network(8, (6, 3, 5)) for _ in range(2)]
    done = train(Replicas.of(models), task, [1e-2, 3e-3], [4, 5], epochs=3, batch_size=32)
    outputs = done.replicas.forward(task.x_test)
    for i, (model, rate) in enumerate(zip(models, (1e-2, 3e-3), strict=True)):
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        generator = torch.Generator().manual_seed(4 + i)
        for _ in range(3):
            for rows in torch.split(torch.randperm(90, generator=generator), 32):
                loss = nn.functional.cross_entropy(model(task.x_train[rows]), task.y_train[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()
        torch.testing.assert_close(outputs[i], model(task.x_test).detach(), rtol=1e-4, atol=1e-5)
        right = (model(task.x_test).argmax(1) == task.y_test).float().mean()
        assert float(done.score[i]) == pytest.approx(float(right), abs=1e-6)


def test_the_network_is_that_of_the_source():
    network = row_shared_network(28, replay_row_shared.WIDTHS)
    hidden = [x for x in network if isinstance(x, nn.Linear)][:-1]
    assert len(hidden) == 101
    assert [x.out_features for x in hidden[:5]] == [16, 16, 4, 16, 4]
    x = torch.randn(2, 28, 28, generator=torch.Generator().manual_seed(0))
    features = network[:-2](x)
    # A row is read by the same weights wherever it stands.
    torch.testing.assert_close(network[:-2](x.flip(1)).flip(1), features)
    assert network(x).shape == (2, 10)


def test_units_say_what_they_train_on(monkeypatch):
    monkeypatch.delenv("EQUIPOISE_DATA", raising=False)
    made = REPLAY.units("quick", ("faithful", "corrected"), (0, 1))
    assert len(made) == 2 * (2 + 5 * 2)
    assert all(a["images"] == "digits" and a["rows"] == 0 for a in made.values())
    assert {a["rate"] for a in made.values() if a["mode"] == "faithful"} == {1e-3}
    paper = REPLAY.units("paper", ("faithful",), (0,))
    assert [(a["rate"], a["epochs"]) for a in paper.values()] == [(1e-5, 100)] * 2
    monkeypatch.setattr(replay_row_shared, "images_at_hand", lambda name: name)
    there = REPLAY.units("quick", ("corrected",), (0,))
    assert all((a["images"], a["rows"]) == ("mnist", 2000) for a in there.values())


def test_a_unit_trains_in_both_modes(monkeypatch):
    monkeypatch.setattr(replay_row_shared, "WIDTHS", (16, 16, 4, 16, 4))
    for mode in ("faithful", "corrected"):
        found = REPLAY.work(SMALL | {"mode": mode})
        assert len(found["accuracy"]) == len(found["loss"]) == 2
        assert all(0 <= value <= 1 for value in found["accuracy"])
        assert found["loss"][0] == pytest.approx(math.log(10), abs=0.8)
    assert REPLAY.work(SMALL | {"mode": "corrected"}) == found


def test_a_start_that_does_not_serve_is_named(monkeypatch):
    monkeypatch.setattr(replay_row_shared, "WIDTHS", (16, 4))
    monkeypatch.setitem(replay_row_shared.METHODS, "shifted", "shifted")
    with pytest.raises(PlanError):
        REPLAY.work(SMALL | {"mode": "corrected", "method": "shifted"})


def fake(images="mnist", rows=3000):
    done = []
    for mode, method, rate, ends in (
        ("faithful", "Xavier", 1e-3, (0.5, 0.7)),
        ("faithful", "diagonal + noise", 1e-3, (0.8, 0.9)),
        ("corrected", "auto", 1e-3, (0.9, 0.94)),
        ("corrected", "auto", 3e-3, (0.97, 0.99)),
    ):
        for seed, end in enumerate(ends):
            arguments = SMALL | {
                "mode": mode, "method": method, "rate": rate, "seed": seed, "images": images,
                "rows": rows,
            }  # fmt: skip
            loss = 0.5 if rate == 3e-3 else 0.2
            done.append((arguments, {"accuracy": [0.3, end], "loss": [2.0, loss]}))
    return done


def test_the_rate_is_chosen_by_training_loss_and_numbers_stand_beside_the_published():
    found = REPLAY.findings(fake(), ("faithful", "corrected"))
    faithful, corrected = found.tables
    value = faithful.rows[1].values[0]
    assert value.mean == pytest.approx(0.85)
    assert value.standard_error == pytest.approx(0.05)
    assert value.reference == 0.8909
    assert corrected.rows[0].names == ("auto", "0.001")
    assert corrected.rows[0].values[0].mean == pytest.approx(0.92)
    assert corrected.rows[0].values[1].mean == 0.9
    assert "0.9200 by auto" in found.headline
    assert "3,000 images" in " ".join(found.sentences)
    assert found.pictures[1].curves[0].y == pytest.approx((0.3, 0.92))


def test_digits_have_no_published_number():
    found = REPLAY.findings(fake("digits", 0), ("faithful",))
    assert all(math.isnan(row.values[0].reference) for row in found.tables[0].rows)
    assert "scikit-learn's digits" in " ".join(found.sentences)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: row_task("cifar10"), "name must be one of"),
        (lambda: row_task("digits", 2000), "rows must be at most the 1400 images of digits"),
        (lambda: row_task("digits", 10, 500), "test_rows must be at most the 397"),
        (lambda: row_task("digits", -1), "rows must be"),
        (lambda: images_at_hand("cifar10"), "name must be one of"),
        (lambda: row_shared_network(8, ()), "widths must hold at least one layer"),
        (lambda: row_shared_network(0, (4,)), "side must be"),
        (lambda: row_shared_network(8, (4,), "tangh"), "activation must be one of"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_replicas_of_rows_need_images():
    task = row_task("digits", 40, 20)
    wide = Replicas.of([row_shared_network(9, (4,))])
    with pytest.raises(ArgumentError, match=r"inputs of shape \(8, 8\)"):
        train(wide, task, [1e-3], [0])
