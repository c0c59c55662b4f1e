"""MNIST and Fashion-MNIST from tiny folders, and fetching them from an address of this machine."""

import gzip
import hashlib
import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.lab import image_download, mnist_files
from equipoise.lab.image_download import SOURCES, download_images
from equipoise.lab.image_files import FOLDER_VARIABLE, image_task
from equipoise.lab.mnist_files import IDX_FILES, idx_bytes, read_mnist

ROWS = {"x_train": 60, "y_train": 60, "x_test": 30, "y_test": 30}


def made():
    rng = np.random.default_rng(0)
    return {
        part: rng.integers(0, 256, (n, 28, 28), np.uint8) if part[0] == "x"
        else (rng.permutation(n) % 10).astype(np.uint8)
        for part, n in ROWS.items()
    }  # fmt: skip


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def write(folder):
    folder.mkdir(parents=True)
    for part, array in made().items():
        (folder / IDX_FILES[part]).write_bytes(idx(array))
    return folder


@pytest.fixture
def _own_checksums(monkeypatch):
    sums = {part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in made().items()}
    for module in (mnist_files, image_download):
        monkeypatch.setattr(module, "CHECKSUMS", {"mnist": sums, "fashion_mnist": sums})


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(url, timeout):
        raise AssertionError(f"asked for {url}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("_own_checksums")
@pytest.mark.parametrize(
    ("name", "place"),
    [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist"), ("fashion_mnist", "fashion_mnist")],
)
def test_tiny_folders_of_idx_files(tmp_path, name, place):
    write(tmp_path / place)
    arrays, truth = read_mnist(name, tmp_path), made()
    for part in ROWS:
        assert np.array_equal(arrays[part], truth[part].reshape(arrays[part].shape))
    task = image_task(name, str(tmp_path), train_rows=20, test_rows=10)
    assert torch.bincount(task.y_train).tolist() == [2] * 10
    assert task.images().x_test.shape == (10, 1, 28, 28)
    # Every row is one of the truth with its own label.
    scale = float(task.x_test.max() - task.x_test.min()) / 255
    assert scale > 0
    labelled = {(tuple(x.ravel().tolist()), int(y))
                for x, y in zip(truth["x_test"], truth["y_test"], strict=True)}  # fmt: skip
    whole = ((task.x_test - task.x_test.min()) / scale).round().int().tolist()
    rows = zip(whole, task.y_test.tolist(), strict=True)
    assert {(tuple(x), y) for x, y in rows} <= labelled


@pytest.mark.usefixtures("_own_checksums")
def test_an_npz_holds_the_same(tmp_path):
    np.savez(tmp_path / "mnist.npz", **made())
    write(tmp_path / "other" / "mnist")
    packed, loose = read_mnist("mnist", tmp_path), read_mnist("mnist", tmp_path / "other")
    assert all(np.array_equal(packed[part], loose[part]) for part in ROWS)


def test_the_refusal_names_folder_and_remedy(tmp_path):
    with pytest.raises(ArgumentError, match="download_images") as caught:
        image_task("fashion_mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "fashion-mnist" in str(caught.value)
    with pytest.raises(ArgumentError, match="seed must be"):
        image_task("mnist", tmp_path, seed=-1)


def test_a_file_that_unpacks_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(mnist_files, "_MOST_BYTES", 20)
    assert idx_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 0]) + bytes(999)), "f").size == 12


@pytest.mark.usefixtures("_own_checksums")
def test_files_are_fetched_checked_and_kept(tmp_path, monkeypatch):
    source = write(tmp_path / "far")
    folder = tmp_path / "data"
    place = download_images("fashion_mnist", folder, source.as_uri())
    assert place == folder / "fashion-mnist"
    assert sorted(p.name for p in place.iterdir()) == sorted(IDX_FILES.values())
    assert image_task("fashion_mnist", folder, 20, 10).rows == 20

    # What is there and right is not asked for again; what is wrong is replaced.
    fetched = []
    fetch = image_download._fetch
    monkeypatch.setattr(image_download, "_fetch",
                        lambda url, path: fetched.append(url) or fetch(url, path))  # fmt: skip
    wrong = place / IDX_FILES["y_test"]
    wrong.write_bytes(b"wrong")
    download_images("fashion_mnist", folder, f"{source.as_uri()}/")
    assert fetched == [f"{source.as_uri()}/{wrong.name}"]
    assert wrong.read_bytes() == (source / wrong.name).read_bytes()


def test_files_that_are_not_the_original_are_not_kept(tmp_path):
    source = write(tmp_path / "far")
    with pytest.raises(ArgumentError, match="source must hold the original train-images"):
        download_images("mnist", tmp_path / "data", source.as_uri())
    assert not (tmp_path / "data").exists()


def test_what_cannot_be_fetched_says_where_it_belongs(tmp_path):
    for source in ((tmp_path / "nowhere").as_uri(), "no address"):
        with pytest.raises(EquipoiseError, match="could not be fetched") as caught:
            download_images("mnist", tmp_path, source)
        assert str(tmp_path / "mnist" / IDX_FILES["x_train"]) in str(caught.value)
    with pytest.raises(ArgumentError, match="name must be one of fashion_mnist, mnist"):
        download_images("cifar10", tmp_path)


@pytest.mark.usefixtures("_no_network")
def test_reading_never_asks_the_network(tmp_path):
    with pytest.raises(ArgumentError, match=r"folder must hold mnist\.npz"):
        image_task("mnist", tmp_path)
    with pytest.raises(AssertionError, match=SOURCES["mnist"]):
        download_images("mnist", tmp_path)


def test_the_checksums_are_those_of_the_published_files(tmp_path):
    folder = os.environ.get(FOLDER_VARIABLE, "")
    source = Path(folder) / "fashion-mnist"
    if not folder or not source.is_dir():
        pytest.skip(f"{FOLDER_VARIABLE} names no folder with fashion-mnist")
    place = download_images("fashion_mnist", tmp_path, source.resolve().as_uri())
    assert image_task("fashion_mnist", place.parent, 100, 10).rows == 100
