"""Tasks by name: they equal those made by hand, and refusals name what is known."""

import inspect

import pytest
import torch

from equipoise.errors import ArgumentError
from equipoise.lab import task_entries
from equipoise.lab.data import checkerboard, digits, sign_products, teacher, two_spirals
from equipoise.lab.image_files import FOLDER_VARIABLE
from equipoise.lab.regression import Regression
from equipoise.lab.regression_tasks import diabetes, friedman, polynomial, sine
from equipoise.lab.task_entries import TASK_CATALOGUE, TASKS
from equipoise.lab.task_names import task_named

BY_HAND = {
    "digits": digits,
    "digits(rows=1000, seed=3)": lambda: digits(1000, seed=3),
    "digits(noise=0.2)": lambda: digits().with_label_noise(0.2),
    "digits(noise=0.2, balanced=500, seed=3)": lambda: (
        digits(seed=3).balanced(500, seed=3).with_label_noise(0.2, seed=3)
    ),
    "spirals": two_spirals,
    " spirals( turns = 2, jitter=0.1, rows=100 )": lambda: two_spirals(100, 2.0, 0.1),
    "spirals(noise=1)": lambda: two_spirals().with_label_noise(1.0),
    "sign_products": sign_products,
    "sign_products(order=3, features=4)": lambda: sign_products(order=3, features=4),
    "checkerboard": checkerboard,
    "checkerboard(cells=3, rows=50.0)": lambda: checkerboard(50, 3),
    "teacher": teacher,
    "teacher(features=3, width=4, gain=1, seed=2)": lambda: teacher(2000, 3, 4, 1.0, 2),
    "diabetes": diabetes,
    "diabetes(rows=100, seed=1)": lambda: diabetes(100, 1),
    "friedman": friedman,
    "friedman(function=3, noise=0.5, seed=4)": lambda: friedman(3, seed=4).with_target_noise(
        0.5, 4
    ),
    "polynomial": polynomial,
    "polynomial(degree=4, inputs=2, rows=30, seed=9)": lambda: polynomial(4, 2, 30, 9),
    "sine": sine,
    "sine(frequency=2.5)": lambda: sine(2.5),
}
PARTS = ("x_train", "y_train", "x_test", "y_test")


@pytest.mark.parametrize("text", BY_HAND)
def test_named_tasks_equal_those_made_by_hand(text):
    named, by_hand = task_named(text), BY_HAND[text]()
    for part in PARTS:
        assert torch.equal(getattr(named, part), getattr(by_hand, part))
    kind = TASK_CATALOGUE[text.strip().partition("(")[0]].kind
    assert kind == ("regression" if isinstance(named, Regression) else "classification")


def test_every_task_is_tried_and_told_of():
    tried = {text.strip().partition("(")[0] for text in BY_HAND}
    assert set(TASKS) == tried | {"mnist", "fashion_mnist", "cifar10"}
    for name, entry in TASK_CATALOGUE.items():
        assert name == entry.name
        assert entry.summary
        assert entry.source
        names = [option.name for option in (*entry.options, *entry.changes)]
        assert len(names) == len(set(names))
        assert {"seed", "rows", "noise"} <= set(names)
        for option in (*entry.options, *entry.changes):
            assert option.allows(option.default)


def test_options_are_those_of_the_functions():
    for name, function in {
        "sign_products": sign_products, "checkerboard": checkerboard, "teacher": teacher,
        "friedman": friedman, "polynomial": polynomial, "sine": sine,
    }.items():  # fmt: skip
        options = {option.name for option in TASK_CATALOGUE[name].options}
        assert options == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_image_tasks_get_their_folder(name, monkeypatch, tmp_path):
    asked = []

    def image_task(*given):
        asked.append(given)
        return digits()

    monkeypatch.setattr(task_entries, "image_task", image_task)
    task_named(f"{name}(rows=5000, test_rows=100, seed=2)", tmp_path)
    task = task_named(f"{name}(noise=0.5)")
    assert asked == [(name, tmp_path, 5000, 100, 2), (name, "", 10_000, 2_000, 0)]
    assert torch.equal(task.y_train, digits().with_label_noise(0.5).y_train)


def test_image_tasks_without_a_folder_say_what_to_do(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ArgumentError, match="folder must name where the files of cifar10 lie"):
        task_named("cifar10")
    with pytest.raises(ArgumentError, match="train_rows must be a multiple of 10"):
        task_named("mnist(rows=15)", "x")


BAD = [
    ("digit", r"task must be one of checkerboard, .*, got 'digit'. Did you mean 'digits'"),
    ("digits(noises=1)", r"option of task 'digits' must be one of balanced, noise, rows, seed"),
    ("digits(500)", r"options of task 'digits' must be written by name, got 500. It has rows=1400"),
    ("digits(noise=2)", r"noise of task 'digits' must be a number from 0 to 1, got 2. It is share"),
    ("digits(rows=10.5)", "rows of task 'digits' must be an integer from 10 to 1700"),
    ("digits(rows='many')", "rows of task 'digits' must be an integer from 10 to 1700"),
    ("digits(seed=-1)", "seed of task 'digits' must be an integer from 0 to 1e"),
    ("spirals(turns=0)", "turns of task 'spirals' must be a number above 0"),
    ("polynomial(degree=21)", "degree of task 'polynomial' must be an integer from 1 to 20"),
    ("polynomial(noise=-0.5)", "noise of task 'polynomial' must be a number from 0 to 1000"),
    ("polynomial(degree=5, inputs=40)", "inputs must leave at most 10000 monomials"),
    ("friedman(function=4)", "function of task 'friedman' must be an integer from 1 to 3"),
    ("sine(frequency=4, frequency=5)", "frequency of task 'sine' must be given once, got 5"),
    ("sign_products(order=9)", "features must be"),
    ("digits(balanced=505)", "rows must be a multiple of the 10 classes"),
    ("digits(", 'task must be a name, or a name with options .* "spirals'),
    ("fashion-mnist", "task must be a name"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=[b[0] for b in BAD])
def test_refusals_name_what_is_known(text, message):
    with pytest.raises(ArgumentError, match=message):
        task_named(text)
