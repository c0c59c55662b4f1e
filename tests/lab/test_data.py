"""Tasks: where they come from, how they are split, and what a linear model makes of them."""

import gzip
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from equipoise.errors import ArgumentError
from equipoise.lab.data import (
    Classification,
    checkerboard,
    digits,
    sign_products,
    teacher,
    two_spirals,
)
from equipoise.lab.image_files import FOLDER_VARIABLE, image_task

DRAWN = {
    "two spirals": lambda **k: two_spirals(**k),
    "sign products": lambda **k: sign_products(**k),
    "sign products of 3": lambda **k: sign_products(order=3, **k),
    "checkerboard": lambda **k: checkerboard(**k),
    "teacher": lambda **k: teacher(**k),
}


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_tasks_are_standardized_balanced_and_repeat(name):
    task, again, other = DRAWN[name](), DRAWN[name](), DRAWN[name](seed=1)
    assert isinstance(task, Classification)
    assert (len(task.x_train), len(task.x_test), task.classes) == (2000, 1000, 2)
    assert float(task.x_train.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(task.x_train.std()) == pytest.approx(1.0, abs=1e-6)
    # Fair coins: 4 standard errors.
    assert float(task.y_train.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))
    assert torch.equal(task.x_train, again.x_train)
    assert torch.equal(task.y_test, again.y_test)
    assert not torch.equal(task.x_train, other.x_train)
    assert len(DRAWN[name](rows=100).x_test) == 50
    assert task.validation(200).x_train.shape[0] == 1800


@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"teacher"}))
def test_no_linear_model_solves_them(name):
    task = DRAWN[name]()
    fit = LogisticRegression().fit(task.x_train.numpy(), task.y_train.numpy())
    assert fit.score(task.x_test.numpy(), task.y_test.numpy()) < 0.7


def test_labels_say_what_they_should():
    task = sign_products(order=3, features=5)
    # Standardizing shifts by a mean that is nearly 0.
    clear = task.x_train.abs().min(1).values > 0.2
    signs = task.x_train[clear][:, :3].prod(1) > 0
    assert torch.equal(signs, task.y_train[clear] == 1)

    task = two_spirals(turns=2.0, noise=0.0)
    spread = task.x_train - task.x_train.mean(0)
    radius = spread.norm(dim=1)
    # Both arms reach equally far: the label says nothing about the radius.
    means = [float(radius[task.y_train == c].mean()) for c in (0, 1)]
    assert means[0] == pytest.approx(means[1], rel=0.1)

    task = checkerboard(cells=2)
    x = task.x_train - task.x_train.mean(0)
    clear = x.abs().min(1).values > 0.2
    assert torch.equal(x[clear].prod(1) < 0, task.y_train[clear] == 1)


def test_digits_are_standardized_by_their_training_part_and_split_for_good():
    task = digits()
    assert float(task.x_train.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(task.x_train.std()) == pytest.approx(1.0, abs=1e-6)
    assert (task.features, task.classes) == (64, 10)
    part = task.validation(200)
    assert torch.equal(torch.cat([part.x_train, part.x_test]), task.x_train)
    assert not torch.equal(digits(seed=1).y_train, task.y_train)
    pictures = task.images()
    assert pictures.features == 64
    assert torch.equal(pictures.x_train[3, 0, 2], task.x_train[3, 16:24])


BAD = [
    (lambda: digits(5), "train_rows must be"),
    (lambda: digits().validation(5000), "rows must be below"),
    (lambda: digits().validation(0), "at least 1"),
    (lambda: teacher().images(), "must be a square"),
    (lambda: two_spirals(turns=0.0), "turns must be positive"),
    (lambda: two_spirals(noise=-1.0), "noise must be"),
    (lambda: two_spirals(rows=1), "rows must be"),
    (lambda: two_spirals(seed=-1), "seed must be"),
    (lambda: sign_products(order=0), "order must be"),
    (lambda: sign_products(order=9), "features must be"),
    (lambda: checkerboard(cells=1), "cells must be"),
    (lambda: teacher(features=0), "features must be"),
    (lambda: teacher(width=0), "width must be"),
    (lambda: teacher(gain=0.0), "gain must be"),
    (lambda: image_task("cifar", "x"), "name must be one of"),
    (lambda: image_task("mnist", "x", train_rows=15), "train_rows must be a multiple"),
    (lambda: image_task("mnist", "x", test_rows=9000), "test_rows must be a multiple"),
    (lambda: image_task("mnist", "/nowhere"), "folder must hold mnist.npz"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[b[1] for b in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_folder_must_be_named(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ArgumentError, match="folder must name"):
        image_task("mnist")


def test_files_that_are_not_the_original_are_refused(tmp_path):
    shape = {"x_train": (20, 28, 28), "y_train": (20,), "x_test": (20, 28, 28), "y_test": (20,)}
    zeros = {k: np.zeros(v, np.uint8) for k, v in shape.items()}
    np.savez(tmp_path / "mnist.npz", **zeros)
    with pytest.raises(ArgumentError, match=r"x_train of mnist must be the original data"):
        image_task("mnist", tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=zeros["x_train"])
    with pytest.raises(ArgumentError, match="must be readable, got KeyError"):
        image_task("mnist", tmp_path)
    loose = tmp_path / "fashion-mnist"
    loose.mkdir()
    with pytest.raises(ArgumentError, match="must be readable, got FileNotFoundError"):
        image_task("fashion_mnist", tmp_path)
    (loose / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"no images"))
    with pytest.raises(ArgumentError, match="does not start as an IDX file"):
        image_task("fashion_mnist", tmp_path)
    (loose / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(99))[:20])
    with pytest.raises(ArgumentError, match="must be readable, got EOFError"):
        image_task("fashion_mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_image_files(name, monkeypatch):
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        pytest.skip(f"{FOLDER_VARIABLE} names no folder with {name}")
    task = image_task(name, train_rows=500, test_rows=200)
    assert task.x_train.shape == (500, 784)
    assert torch.bincount(task.y_train).tolist() == [50] * 10
    assert torch.bincount(task.y_test).tolist() == [20] * 10
    assert float(task.x_train.std()) == pytest.approx(1.0, abs=1e-5)
    # No row of the test part is in the training part.
    assert not (task.x_test[:, None] == task.x_train[None, :50]).all(-1).any()
    monkeypatch.delenv(FOLDER_VARIABLE)
    again = image_task(name, folder, train_rows=500, test_rows=200)
    assert torch.equal(again.x_train, task.x_train)
    assert task.images().x_train.shape == (500, 1, 28, 28)


def test_both_ways_of_packing_hold_the_same(tmp_path):
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        pytest.skip(f"{FOLDER_VARIABLE} names no folder with fashion_mnist")
    source = Path(folder) / "fashion-mnist"
    arrays = {}
    for part, file in {
        "x_train": "train-images-idx3-ubyte.gz", "y_train": "train-labels-idx1-ubyte.gz",
        "x_test": "t10k-images-idx3-ubyte.gz", "y_test": "t10k-labels-idx1-ubyte.gz",
    }.items():  # fmt: skip
        header = 16 if part.startswith("x") else 8
        arrays[part] = np.frombuffer(gzip.decompress((source / file).read_bytes())[header:], "u1")
    np.savez(tmp_path / "fashion_mnist.npz", **arrays)
    packed = image_task("fashion_mnist", tmp_path, train_rows=100, test_rows=20)
    shutil.rmtree(tmp_path)
    loose = image_task("fashion_mnist", folder, train_rows=100, test_rows=20)
    assert torch.equal(packed.x_train, loose.x_train)
    assert torch.equal(packed.y_test, loose.y_test)
