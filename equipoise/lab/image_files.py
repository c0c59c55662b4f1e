"""MNIST and Fashion-MNIST from files that lie in a folder; nothing is downloaded."""

import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.data import Classification, split

FOLDER_VARIABLE = "EQUIPOISE_DATA"
_CLASSES = 10
_SIDE = 28
_PARTS = ("x_train", "y_train", "x_test", "y_test")
_IDX = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
# Of the bytes that the files hold, not of the files: each is packed in several ways.
_SHA256: Mapping[str, Mapping[str, str]] = {
    "mnist": {
        "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    "fashion_mnist": {
        "x_train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "y_train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "x_test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "y_test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
}


def image_task(
    name: str,
    folder: Path | str = "",
    train_rows: int = 10_000,
    test_rows: int = 2_000,
    seed: int = 0,
) -> Classification:
    """A subset of MNIST or Fashion-MNIST with as many rows of each class, 28 x 28 pixels in a row.

    Args:
        name: ``mnist`` or ``fashion_mnist``.
        folder: holds ``<name>.npz`` with arrays x_train, y_train, x_test and y_test, or a folder
            ``<name>`` (``fashion-mnist`` will do) with the four original IDX files, gzipped. Left
            out, it is what the environment variable EQUIPOISE_DATA names.
        train_rows: drawn from the original training part, a multiple of 10 and at most 50,000.
        test_rows: drawn from the original test part, a multiple of 10 and at most 8,000.
        seed: of the choice of rows and of their order.

    Returns:
        The task.

    Raises:
        ArgumentError: if files are missing or are not the original data, or a number is out of
            range.

    Source: LeCun et al. 1998, MNIST; Xiao et al. 2017, Fashion-MNIST, arXiv 1708.07747.
    """
    _checks.one_of("name", name, _SHA256)
    # The rarest class has 5,421 training and 892 test rows in MNIST.
    for label, rows, most in (("train_rows", train_rows, 50_000), ("test_rows", test_rows, 8_000)):
        if not (0 < rows <= most and rows % _CLASSES == 0):
            raise ArgumentError(
                f"{label} must be a multiple of {_CLASSES} from {_CLASSES} to {most}, got {rows}. "
                "Each class gets the same number."
            )
    place = Path(folder or os.environ.get(FOLDER_VARIABLE, "")).expanduser()
    if not (folder or os.environ.get(FOLDER_VARIABLE)):
        raise ArgumentError(
            f"folder must name where the files of {name} lie, got nothing. Pass it or set "
            f"{FOLDER_VARIABLE}."
        )
    arrays = _read(name, place)
    rng = np.random.default_rng(seed)
    train = _balanced(arrays["y_train"], train_rows, rng)
    test = _balanced(arrays["y_test"], test_rows, rng)
    x = np.concatenate([arrays["x_train"][train], arrays["x_test"][test]])
    y = np.concatenate([arrays["y_train"][train], arrays["y_test"][test]])
    return split(x.reshape(len(x), -1).astype(np.float32), y, train_rows, _CLASSES)


def _balanced(labels: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of rows with each class as often, in random order."""
    chosen = [
        rng.choice(np.flatnonzero(labels == c), rows // _CLASSES, replace=False)
        for c in range(_CLASSES)
    ]
    return rng.permutation(np.concatenate(chosen))


def _read(name: str, folder: Path) -> dict[str, np.ndarray]:
    packed = folder / f"{name}.npz"
    loose = [folder / name, folder / name.replace("_", "-")]
    found = next((p for p in loose if p.is_dir()), None)
    try:
        if packed.is_file():
            with np.load(packed) as content:
                arrays = {part: np.ascontiguousarray(content[part], np.uint8) for part in _PARTS}
            origin = packed
        elif found is not None:
            arrays = {part: _idx(found / file) for part, file in _IDX.items()}
            origin = found
        else:
            raise ArgumentError(
                f"folder must hold {packed.name} or a folder {loose[-1].name} with the four IDX "
                f"files of {name}, got {folder}. Put the files there."
            )
    except (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ArgumentError(
            f"files of {name} must be readable, got {type(error).__name__}: {error}. "
            "Fetch them again."
        ) from error
    for part, expected in _SHA256[name].items():
        digest = hashlib.sha256(arrays[part].tobytes()).hexdigest()
        if digest != expected:
            raise ArgumentError(
                f"{part} of {name} must be the original data (SHA-256 {expected[:12]}...), got "
                f"{digest[:12]}... in {origin}. Fetch it again."
            )
    return {
        part: array.reshape(-1, _SIDE, _SIDE) if part.startswith("x") else array
        for part, array in arrays.items()
    }


def _idx(path: Path) -> np.ndarray:
    """The bytes of an IDX file: two zeros, the type (8: uint8), the number of axes, their sizes."""
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\0\0\x08" or axes not in (1, 3):
        raise ValueError(f"{path.name} does not start as an IDX file of bytes does")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes)
