"""CIFAR-10 from tiny folders, in both versions, and pickles that would run something."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch

from equipoise.errors import ArgumentError
from equipoise.lab import cifar_files
from equipoise.lab.image_files import image_task

ROWS = 20
NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(cifar_files, "_ROWS_OF_A_FILE", ROWS)


def content(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (ROWS, 3072), np.uint8), rng.permutation(ROWS) % 10


def word(text):
    return b"U" + bytes([len(text)]) + text


def number(value):
    return b"J" + struct.pack("<i", value)


def python_2_pickle(x, y):
    """Protocol 2 as Python 2 writes it: words are bytes, arrays from numpy.core.multiarray."""
    raw = x.tobytes()
    dtype = (
        b"cnumpy\ndtype\n" + word(b"u1") + number(0) + number(1) + b"\x87R"
        b"(" + number(3) + word(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + number(0) + b"\x85" + word(b"b") + b"tR("
        + number(1) + number(x.shape[0]) + number(x.shape[1]) + b"\x86"
        + dtype + b"\x89" + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(number(int(label)) for label in y) + b"e"
    pairs = word(b"batch_label") + word(b"a batch") + word(b"labels") + labels
    return b"\x80\x02}(" + pairs + word(b"data") + array + b"u."


def python_3_pickle(x, y):
    return pickle.dumps({"data": x, "labels": np.asarray(y)})


def write(folder, form):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(NAMES):
        x, y = content(i)
        if form == "binary":
            table = np.concatenate([y[:, None].astype(np.uint8), x], axis=1)
            (folder / f"{name}.bin").write_bytes(table.tobytes())
        else:
            make = python_2_pickle if form == "python 2" else python_3_pickle
            (folder / name).write_bytes(make(x, y))
    return folder


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("python 2", "cifar-10-batches-py"),
        ("python 3", "cifar10"),
        ("python 2", ""),
        ("binary", "cifar-10-batches-bin"),
        ("binary", ""),
    ],
)
def test_every_form_holds_the_same(tmp_path, form, place):
    write(tmp_path / place, form)
    arrays = cifar_files.read_cifar10(tmp_path)
    made = [content(i) for i in range(6)]
    assert np.array_equal(arrays["x_train"], np.concatenate([x for x, _ in made[:5]]))
    assert np.array_equal(arrays["y_train"], np.concatenate([y for _, y in made[:5]]))
    assert np.array_equal(arrays["x_test"], made[5][0])
    assert np.array_equal(arrays["y_test"], made[5][1])
    assert all(array.dtype == np.uint8 for array in arrays.values())


def test_the_task_has_colour_images_of_each_class(tmp_path):
    write(tmp_path, "binary")
    task = image_task("cifar10", tmp_path, train_rows=50, test_rows=10)
    assert torch.bincount(task.y_train).tolist() == [5] * 10
    assert torch.bincount(task.y_test).tolist() == [1] * 10
    pictures = task.images()
    assert pictures.x_train.shape == (50, 3, 32, 32)
    # The second line of the green channel, wherever the row came from.
    assert torch.equal(pictures.x_train[7, 1, 1], task.x_train[7, 1024 + 32 : 1024 + 64])
    scale = float(task.x_test.max() - task.x_test.min()) / 255
    whole = (task.x_test - task.x_test.min()) / scale
    found = {tuple(row) for row in content(5)[0].tolist()}
    assert {tuple(row) for row in whole.round().int().tolist()} <= found


class Runs:
    """Would make a folder where it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_unread(tmp_path):
    write(tmp_path, "python 2")
    made = tmp_path / "made"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({"data": Runs(made)}))
    with pytest.raises(ArgumentError, match=r"data_batch_3 .*UnpicklingError: it asks for .*mkdir"):
        image_task("cifar10", tmp_path)
    assert not made.exists()


X, Y = content(0)
LABELS = Y.tolist()
BAD = [
    (pickle.dumps([1, 2]), "must hold a dictionary, got list"),
    (pickle.dumps({"labels": LABELS}), r"must hold 'data', an array of bytes .* got NoneType"),
    (python_3_pickle(X[:5], Y), r"must hold 'data'.* got uint8 \(5, 3072\)"),
    (python_3_pickle(X.astype(float), Y), "must hold 'data'.* got float64"),
    (pickle.dumps({"data": X, "labels": "cat"}), "'labels', a list of whole numbers, got str"),
    (python_3_pickle(X, Y[:3]), r"must hold 20 labels, got shape \(3,\)"),
    (python_3_pickle(X, Y + 1), "must have labels from 0 to 9, got 10"),
    (python_3_pickle(X, Y - 1), "must have labels from 0 to 9, got -1"),
    (python_2_pickle(X, Y)[:-500], "must be a pickle of arrays and plain containers"),
    (b"no pickle at all", "must be a pickle of arrays"),
    (b"", "must be a pickle of arrays and plain containers, got EOFError"),
    (pickle.dumps({"data": np.array(["a"])}), "it asks for an array of type U1"),
    (pickle.dumps({"data": np.array([{}])}), "it asks for an array of type O8"),
    (b"\x80\x02cnumpy\nndarray\n(K\x05tR.", "it calls numpy.ndarray"),
    (b"\x80\x02cos\nsystem\n(U\x04truetR.", "it asks for os.system"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD, ids=[b[1] for b in BAD])
def test_files_that_are_not_cifar_10_are_named(tmp_path, raw, message):
    write(tmp_path / "cifar10", "python 2")
    (tmp_path / "cifar10" / "test_batch").write_bytes(raw)
    with pytest.raises(ArgumentError, match=message) as caught:
        image_task("cifar10", tmp_path)
    text = str(caught.value)
    assert "test_batch" in text
    assert str(tmp_path / "cifar10") in text
    assert "Unpack the archive" in text


def test_missing_and_cut_files_are_named(tmp_path):
    with pytest.raises(ArgumentError, match=r"folder must hold data_batch_1 or data_batch_1.bin"):
        image_task("cifar10", tmp_path)
    place = write(tmp_path, "binary")
    (place / "data_batch_4.bin").write_bytes(bytes(3073 * ROWS - 1))
    with pytest.raises(ArgumentError, match=r"data_batch_4.bin .* must have 61460 bytes, got 614"):
        image_task("cifar10", tmp_path)
    (place / "data_batch_4.bin").unlink()
    with pytest.raises(ArgumentError, match=r"data_batch_4.bin .* got FileNotFoundError"):
        image_task("cifar10", tmp_path)
    table = np.full((ROWS, 3073), 11, np.uint8)
    (place / "data_batch_4.bin").write_bytes(table.tobytes())
    with pytest.raises(ArgumentError, match=r"data_batch_4.bin .* labels from 0 to 9, got 11"):
        image_task("cifar10", tmp_path)


def test_the_original_has_ten_thousand_rows_in_a_file(monkeypatch, tmp_path):
    monkeypatch.undo()
    write(tmp_path, "binary")
    with pytest.raises(ArgumentError, match="must have 30730000 bytes"):
        image_task("cifar10", tmp_path)
