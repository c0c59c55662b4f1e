"""Every task by name: what it is, where it comes from and its options."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from equipoise.lab.classification import Classification
from equipoise.lab.data import checkerboard, digits, sign_products, teacher, two_spirals
from equipoise.lab.image_files import MOST_TEST_ROWS, MOST_TRAIN_ROWS, image_task
from equipoise.lab.regression import Regression
from equipoise.lab.regression_tasks import MOST_DEGREE, diabetes, friedman, polynomial, sine
from equipoise.schemes.options import Option

# Generators refuse what does not fit their words.
_MOST_SEED = 1e9


@dataclass(frozen=True)
class TaskEntry:
    """One task of the catalogue.

    Attributes:
        name: as it is written.
        summary: what it is, in one line.
        source: who published it.
        make: makes it from ``options``, by name, and from ``folder`` where it needs files.
        options: what may be set.
        kind: what a network must do.
        changes: options that change the task once it is made.
        needs_files: whether its data lies in a folder of the user's.
    """

    name: str
    summary: str
    source: str
    make: Callable[..., Classification | Regression]
    options: tuple[Option, ...]
    kind: str = "classification"
    changes: tuple[Option, ...] = ()
    needs_files: bool = False


_SEED = Option("seed", 0, "seed of everything random", 0, _MOST_SEED, is_whole=True)
_LABEL_NOISE = Option("noise", 0.0, "share of the training labels that are wrong", 0, 1)
_TARGET_NOISE = Option(
    "noise", 0.0, "standard deviation of the noise on training targets, in theirs", 0, 1e3
)
_BALANCED = Option(
    "balanced", 0, "training rows to keep, as many of each class, 0 for all", 0, is_whole=True
)


def _rows(default: int, least: float = 10, most: float = float("inf")) -> Option:
    return Option("rows", default, "rows to train on", least, most, is_whole=True)


def _whole(name: str, default: int, meaning: str, least: int, most: float = 1e4) -> Option:
    return Option(name, default, meaning, least, most, is_whole=True)


def _positive(name: str, default: float, meaning: str) -> Option:
    return Option(name, default, meaning, 0, is_open=True)


def _digits(rows: int, seed: int) -> Classification:
    return digits(rows, seed)


def _spirals(rows: int, turns: float, jitter: float, seed: int) -> Classification:
    return two_spirals(rows, turns, jitter, seed)


def _images(name: str, folder: str, rows: int, test_rows: int, seed: int) -> Classification:
    return image_task(name, folder, rows, test_rows, seed)


def _diabetes(rows: int, seed: int) -> Regression:
    return diabetes(rows, seed)


def _of_images(name: str, summary: str, source: str) -> TaskEntry:
    options = (
        _rows(10_000, most=MOST_TRAIN_ROWS),
        _whole("test_rows", 2_000, "rows to test on", 10, MOST_TEST_ROWS),
        _SEED,
    )
    make = partial(_images, name)
    return TaskEntry(name, summary, source, make, options, changes=(_LABEL_NOISE,),
                     needs_files=True)  # fmt: skip


def _of_classes(
    name: str,
    summary: str,
    source: str,
    make: Callable[..., Classification],
    *options: Option,
) -> TaskEntry:
    return TaskEntry(name, summary, source, make, options, changes=(_BALANCED, _LABEL_NOISE))


def _of_targets(
    name: str, summary: str, source: str, make: Callable[..., Regression], *options: Option
) -> TaskEntry:
    return TaskEntry(name, summary, source, make, options, "regression", (_TARGET_NOISE,))


_ENTRIES = (
    _of_classes(
        "digits",
        "handwritten digits of 8 x 8 pixels, 10 classes, bundled",
        "Alpaydin and Kaynak 1998",
        _digits,
        _rows(1400, most=1700),
        _SEED,
    ),
    _of_images("mnist", "handwritten digits of 28 x 28 pixels, 10 classes", "LeCun et al. 1998"),
    _of_images(
        "fashion_mnist",
        "clothes of 28 x 28 pixels, 10 classes",
        "Xiao et al. 2017, arXiv 1708.07747",
    ),
    _of_images("cifar10", "things and animals, 32 x 32 in colour, 10 classes", "Krizhevsky 2009"),
    _of_classes(
        "spirals",
        "two interleaved spirals in the plane",
        "Lang and Witbrock 1988",
        _spirals,
        _rows(2000),
        _positive("turns", 1.0, "turns of each spiral"),
        Option("jitter", 0.02, "standard deviation of the noise on the inputs", 0),
        _SEED,
    ),
    _of_classes(
        "sign_products",
        "the sign of a product of coordinates: XOR, parity",
        "Minsky and Papert 1969",
        sign_products,
        _rows(2000),
        _whole("order", 2, "factors of the product", 1),
        _whole("features", 8, "inputs, no fewer than the order", 1),
        _SEED,
    ),
    _of_classes(
        "checkerboard",
        "the colour of a cell in the plane",
        "Ho and Kleinberg 1996",
        checkerboard,
        _rows(2000),
        _whole("cells", 4, "cells along each side", 2),
        _SEED,
    ),
    _of_classes(
        "teacher",
        "labels of a random network of two hidden layers",
        "Gardner and Derrida 1989",
        teacher,
        _rows(2000),
        _whole("features", 8, "inputs", 1),
        _whole("width", 16, "width of its hidden layers", 1),
        _positive("gain", 3.0, "how strongly it bends"),
        _SEED,
    ),
    _of_targets(
        "diabetes",
        "progress of diabetes in 442 patients, 10 inputs, bundled",
        "Efron et al. 2004",
        _diabetes,
        _rows(342, 20, 422),
        _SEED,
    ),
    _of_targets(
        "friedman",
        "Friedman's functions of 10 or 4 inputs",
        "Friedman 1991",
        friedman,
        _whole("function", 1, "which of the three", 1, 3),
        _rows(2000),
        _SEED,
    ),
    _of_targets(
        "polynomial",
        "a random polynomial, another one for each seed",
        "arXiv 2602.10949",
        polynomial,
        _whole("degree", 5, "its degree", 1, MOST_DEGREE),
        _whole("inputs", 1, "its variables", 1),
        _rows(2000),
        _SEED,
    ),
    _of_targets(
        "sine",
        "a fast sine of one input",
        "Rahaman et al. 2019, arXiv 1806.08734",
        sine,
        _positive("frequency", 4.0, "periods over the range of the input"),
        _rows(2000),
        _SEED,
    ),
)
TASK_CATALOGUE: dict[str, TaskEntry] = {entry.name: entry for entry in _ENTRIES}
TASKS: tuple[str, ...] = tuple(TASK_CATALOGUE)
