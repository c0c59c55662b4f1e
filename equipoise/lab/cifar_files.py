"""CIFAR-10 from the files that its authors publish, pickled for Python or plain binary."""

import io
import pickle
import re
from pathlib import Path

import numpy as np

from equipoise.errors import ArgumentError

CLASSES = 10
_PIXELS = 3 * 32 * 32
_ROWS_OF_A_FILE = 10_000
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = "test_batch"
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10", "")
_NUMBERS = re.compile(r"[|<>=]?[biuf][1248]")
_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar.html"
# What unpickling something damaged comes to.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError,
    OverflowError, MemoryError,
)  # fmt: skip


def read_cifar10(folder: Path) -> dict[str, np.ndarray]:
    """All rows of CIFAR-10.

    Args:
        folder: holds the six files data_batch_1 to data_batch_5 and test_batch (of the Python
            version) or the same with the ending .bin (of the binary version), or has them in a
            folder cifar-10-batches-py, cifar-10-batches-bin or cifar10. A pickle may hold arrays
            of numbers and plain containers; one that asks for anything else is refused unread.

    Returns:
        uint8 arrays x_train, shape (50000, 3072), y_train (50000,), x_test (10000, 3072) and y_test
        (10000,); a row holds 1,024 red, then green, then blue numbers, each image line by line.

    Raises:
        ArgumentError: naming the folder and the file that is missing or is not what it should be.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """
    tried = [folder / name for name in _FOLDERS]
    for place in tried:
        for ending in ("", ".bin"):
            if (place / f"{_TRAIN[0]}{ending}").is_file():
                train = [_read(place / f"{name}{ending}") for name in _TRAIN]
                x_test, y_test = _read(place / f"{_TEST}{ending}")
                return {
                    "x_train": np.concatenate([x for x, _ in train]),
                    "y_train": np.concatenate([y for _, y in train]),
                    "x_test": x_test,
                    "y_test": y_test,
                }
    raise ArgumentError(
        f"folder must hold {_TRAIN[0]} or {_TRAIN[0]}.bin of CIFAR-10, itself or in a folder "
        f"{', '.join(_FOLDERS[:-1])}, got {folder}. Unpack the Python or the binary version from "
        f"{_ADDRESS} there."
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, shape (10000, 3072), and labels, shape (10000,), of one file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"{path.name} of CIFAR-10 must be a readable file in {path.parent}, got "
            f"{type(error).__name__}. Unpack the archive from {_ADDRESS} again."
        ) from error
    x, y = _from_binary(raw, path) if path.suffix == ".bin" else _from_pickle(raw, path)
    if y.min() < 0 or y.max() >= CLASSES:
        wrong = int(y.max() if y.max() >= CLASSES else y.min())
        raise _unfit(path, f"have labels from 0 to {CLASSES - 1}", f"{wrong}")
    return x, y.astype(np.uint8)


def _from_binary(raw: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    size = _ROWS_OF_A_FILE * (1 + _PIXELS)
    if len(raw) != size:
        raise _unfit(path, f"have {size} bytes", f"{len(raw)}")
    table = np.frombuffer(raw, np.uint8).reshape(_ROWS_OF_A_FILE, 1 + _PIXELS)
    return table[:, 1:], table[:, 0]


def _from_pickle(raw: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _Restricted(io.BytesIO(raw), encoding="bytes").load()
    except _UNREADABLE as error:
        raise _unfit(
            path, "be a pickle of arrays and plain containers", f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(content, dict):
        raise _unfit(path, "hold a dictionary", type(content).__name__)
    # Python 2 wrote the original: its words are bytes. Copies that Python 3 wrote have strings.
    x, y = (content.get(key.encode(), content.get(key)) for key in ("data", "labels"))
    shape = (_ROWS_OF_A_FILE, _PIXELS)
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape != shape:
        got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise _unfit(path, f"hold 'data', an array of bytes of shape {shape}", got)
    is_plain = isinstance(y, list) and all(isinstance(label, int) for label in y)
    if not (is_plain or (isinstance(y, np.ndarray) and y.dtype.kind in "iu")):
        raise _unfit(path, "hold 'labels', a list of whole numbers", type(y).__name__)
    labels = np.asarray(y)
    if labels.shape != shape[:1]:
        raise _unfit(path, f"hold {_ROWS_OF_A_FILE} labels", f"shape {labels.shape}")
    return x, labels


def _unfit(path: Path, requirement: str, got: str) -> ArgumentError:
    return ArgumentError(
        f"{path.name} of CIFAR-10 in {path.parent} must {requirement}, got {got}. "
        f"Unpack the archive from {_ADDRESS} again."
    )


class _Restricted(pickle.Unpickler):
    """Makes arrays of numbers and plain containers; a pickle could otherwise run any function."""

    def find_class(self, module: str, name: str) -> object:
        match module, name:
            # NumPy 2 moved its core.
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _empty
            case "numpy", "ndarray":
                return _NoCall
            case "numpy", "dtype":
                return _dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _NoCall:
    """Stands for numpy.ndarray, which a pickle must name but need not call."""

    def __init__(self, *given: object) -> None:
        raise pickle.UnpicklingError("it calls numpy.ndarray")


def _empty(*given: object) -> np.ndarray:
    """The array that the pickle then fills with its shape, type and bytes."""
    return np.empty(0, np.uint8)


def _dtype(code: object, *given: object) -> np.dtype:
    """A type of numbers, in a copy: the pickle then sets its byte order."""
    text = code.decode() if isinstance(code, bytes) else str(code)
    if not _NUMBERS.fullmatch(text):
        raise pickle.UnpicklingError(f"it asks for an array of type {text}")
    return np.dtype(text, False, True)
