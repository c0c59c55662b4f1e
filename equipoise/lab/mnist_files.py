"""The files of MNIST and Fashion-MNIST, and what they must hold."""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from equipoise.errors import ArgumentError

_SIDE = 28
# The largest file unpacks to 47,040,016 bytes; a wrong one must not fill the memory.
_MOST_BYTES = 2**26
IDX_FILES: Mapping[str, str] = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
# Of the bytes that the files hold, not of the files: each is packed in several ways.
CHECKSUMS: Mapping[str, Mapping[str, str]] = {
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
# What reading a file that is damaged, or something else, comes to.
UNREADABLE = (OSError, EOFError, KeyError, ValueError, zlib.error, zipfile.BadZipFile)


def read_mnist(name: str, folder: Path) -> dict[str, np.ndarray]:
    """All rows of MNIST or Fashion-MNIST.

    Args:
        name: ``mnist`` or ``fashion_mnist``.
        folder: holds ``<name>.npz`` with arrays x_train, y_train, x_test and y_test, or a folder
            ``<name>`` (``fashion-mnist`` will do) with the four original IDX files, gzipped.

    Returns:
        uint8 arrays x_train, shape (60000, 784), y_train (60000,), x_test (10000, 784) and y_test
        (10000,).

    Raises:
        ArgumentError: if files are missing, cannot be read or are not the original data.
    """
    packed, loose = folder / f"{name}.npz", idx_folder(name, folder)
    origin = packed if packed.is_file() else loose
    if not origin.exists():
        raise ArgumentError(
            f"folder must hold {packed.name} or a folder {loose.name} with the four IDX files of "
            f"{name}, got {folder}. Put the files there, or fetch them with "
            f"equipoise.lab.image_download.download_images({name!r}, {str(folder)!r})."
        )
    try:
        if origin == packed:
            with np.load(packed) as content:
                arrays = {p: np.ascontiguousarray(content[p], np.uint8) for p in IDX_FILES}
        else:
            arrays = {p: idx_bytes((loose / f).read_bytes(), f) for p, f in IDX_FILES.items()}
    except UNREADABLE as error:
        raise ArgumentError(
            f"files of {name} must be readable, got {type(error).__name__}: {error} in {origin}. "
            "Fetch them again."
        ) from error
    for part, array in arrays.items():
        found = hashlib.sha256(array.tobytes()).hexdigest()
        if found != CHECKSUMS[name][part]:
            raise ArgumentError(
                f"{part} of {name} must be the original data (SHA-256 "
                f"{CHECKSUMS[name][part][:12]}...), got {found[:12]}... in {origin}. "
                "Fetch it again."
            )
    return {
        part: array.reshape(-1, _SIDE * _SIDE) if part.startswith("x") else array
        for part, array in arrays.items()
    }


def idx_folder(name: str, folder: Path) -> Path:
    """The folder of the four IDX files: ``<name>`` where it exists, else ``<name>`` with dashes.

    >>> idx_folder("fashion_mnist", Path("data")).as_posix()
    'data/fashion-mnist'
    """
    plain = folder / name
    return plain if plain.is_dir() else folder / name.replace("_", "-")


def idx_bytes(packed: bytes, file: str) -> np.ndarray:
    """The numbers of a gzipped IDX file: two zeros, type (8: uint8), number of axes, their sizes.

    Args:
        packed: content of the file.
        file: its name, for the error.

    Returns:
        uint8, shape (numbers,).

    Raises:
        ValueError: if it does not start as such a file does; one of ``UNREADABLE`` if it cannot be
            unpacked.

    >>> idx_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])), "labels").tolist()
    [7, 9]
    """
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        raw = stream.read(_MOST_BYTES)
    axes = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\0\0\x08" or axes not in (1, 3):
        raise ValueError(f"{file} does not start as an IDX file of bytes does")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes)
