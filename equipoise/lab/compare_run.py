"""Which start trains a model best: the comparison on a person's own model and data."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equipoise import _checks
from equipoise.errors import ArgumentError, EquipoiseError, in_words
from equipoise.lab.compare_loss import Loss, constant_loss, read_loss
from equipoise.lab.compare_program import Program
from equipoise.lab.compare_result import Compared, Setting
from equipoise.lab.compare_rows import read_rows
from equipoise.lab.compare_scheme import Finished, Parts, finish
from equipoise.lab.compare_starts import MakeModel, check_fresh, draw, generators_kept
from equipoise.lab.compare_training import Course
from equipoise.lab.compare_vectorised import why_looped
from equipoise.lab.compare_verdict import judge
from equipoise.lab.optimizers import SGD, Adam, Optimizer
from equipoise.lab.rivals import OUTSIDE
from equipoise.schemes.catalogue import SCHEMES, parse_scheme

STARTS = ("auto", "he", "xavier", "default", "lsuv")
# Half a decade apart, rounded, around what each optimizer is most often given.
ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SGD_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_ADAM = Adam()


class _Advance(Protocol):
    def __call__(self, steps: int) -> None: ...


def compare(
    make_model: MakeModel,
    data: Any,
    loss: str | Loss,
    schemes: Sequence[str] = STARTS,
    draws: int = 8,
    learning_rates: Sequence[float] = (),
    *,
    steps: int = 500,
    batch_size: int = 64,
    optimizer: Optimizer = _ADAM,
    test_share: float = 0.2,
    choosing_share: float = 0.2,
    margin: float = 0.1,
    seed: int = 0,
    show_progress: bool = True,
) -> Compared:
    """Which start trains a model best, on its owner's own model, data and loss.

    Every scheme is drawn several times; its learning rate is chosen on training rows held back for
    that, and it is trained anew with it on all training rows. Draw i has the same batches under
    every scheme and rate. All draws and rates of a scheme are trained at once where a trial shows
    that this changes nothing, otherwise one by one. A draw whose loss or gradient stops being
    finite is frozen. Global random state is put back, and no object of the caller's is changed.
    Interrupted from the keyboard, it returns the schemes that are finished.

    Args:
        make_model: makes a new model at each call, with the device and dtype to train in.
        data: ``(x, y)``, of which a share is held back to test on, or
            ``((x_train, y_train), (x_test, y_test))``: tensors whose first axis counts the rows.
        loss: a function of (outputs, targets) whose result is one number, the mean over rows; or
            ``mse`` or ``cross-entropy``.
        schemes: ``default`` (models as they are made), ``lsuv``, ``anyinit`` where it is installed,
            or schemes of the catalogue. Those that cannot serve the model are left out, and said.
        draws: of each scheme, at least 4.
        learning_rates: tried for each scheme; five around 1e-3 for Adam and 3e-2 for SGD if none.
        steps: of the optimizer.
        batch_size: rows of a step; all rows where there are fewer.
        optimizer: one of ``equipoise.lab.optimizers``.
        test_share: what is held back of ``(x, y)``.
        choosing_share: share of the training rows that the rate is chosen on.
        margin: a draw has trained if its test loss ends lower by this share than at birth, and
            than that of the best constant output.
        seed: of draws, batches and parts.
        show_progress: whether to show a bar, on stderr, where that is a terminal.

    Returns:
        The comparison.

    Raises:
        ArgumentError: for arguments that are not usable, or if no scheme can serve the model.
        TraceError: if forward fails on the rows.
        KeyboardInterrupt: if interrupted before the first scheme is finished.

    >>> from torch import nn
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> make = lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> found = compare(make, (x, x[:, :1]), "mse", ["auto", "he"], 4, [1e-2], steps=40)
    >>> sorted(row.scheme for row in found.table), found.is_vectorised
    (['auto', 'he'], True)
    """
    names = _read_schemes(schemes)
    rates = _read_rates(learning_rates, optimizer)
    _checks.at_least("draws", draws, 4, "The winner is picked on half of them.")
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        _checks.at_least(name, count, 1)
    _checks.at_least("seed", seed, 0)
    _checks.in_unit_interval("margin", margin)
    function = read_loss(loss)
    training, test = read_rows(data, test_share, seed)
    choosing = training.parted(choosing_share, seed + 1, "choosing_share")
    seeds = [seed + i for i in range(draws)]
    course = Course(steps, min(batch_size, len(choosing[0])), optimizer)
    total = steps * draws * (len(rates) + 1)
    with generators_kept(), torch.inference_mode(False), _no_word_of_fallbacks():
        model = check_fresh(make_model, seed)
        device = next(model.parameters()).device
        training, test = training.to(device), test.to(device)
        looped = Program(model, function, False)
        starts = draw(make_model, "default", training.x, seeds)
        few = training.at(torch.arange(min(len(training), max(2, course.batch_size))))
        looped.try_out(starts, few)
        why = why_looped(model, function, starts, few)
        program = looped if why else Program(model, function, True)
        outputs = looped.outputs(starts, few)
        both = (choosing[0].to(device), choosing[1].to(device)), (training, test)
        constants = [constant_loss(outputs, function, *pair) for pair in both]
        parts = Parts(*both, (constants[0], constants[1]))
        finished: list[Finished] = []
        left_out: list[tuple[str, str]] = []
        is_complete = False
        try:
            with _bar(show_progress) as progress:
                for name in names:
                    bar = progress.add_task(name, total=total)
                    try:
                        starts = draw(make_model, name, training.x, seeds)
                    except EquipoiseError as error:
                        left_out.append((name, in_words(error).partition(": ")[2]))
                        progress.remove_task(bar)
                        continue
                    advance = _advance(progress, bar)
                    finished.append(
                        finish(program, name, starts, parts, rates, seeds, course, margin, advance)
                    )
            is_complete = True
        except KeyboardInterrupt:
            if not finished:
                raise
    if not finished:
        why_not = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise ArgumentError(
            f"schemes must hold one that can serve the model, got {', '.join(names)} ({why_not}). "
            "Add 'default'."
        )
    table, curves, winners, is_log = judge(finished, rates, constants[1], margin)
    setting = Setting(
        type(model).__name__, program.size, (len(training), len(choosing[1]), len(test)), draws,
        steps, course.batch_size, _optimizer_name(optimizer), rates, margin, constants[1], is_log,
        seed,
    )  # fmt: skip
    return Compared(setting, table, curves, winners, not why, why, tuple(left_out), is_complete)


def _read_schemes(schemes: Sequence[str]) -> tuple[str, ...]:
    """Names of schemes, each once; an unknown one is refused before any work is done."""
    if isinstance(schemes, str) or not schemes:
        raise ArgumentError(
            f"schemes must be a list of at least one name, got {schemes!r}. Pass ['auto', 'he']."
        )
    for name in schemes:
        known = _checks.one_of("schemes", name.partition("(")[0].strip(), (*SCHEMES, *OUTSIDE))
        if known in SCHEMES:
            parse_scheme(name)
    return tuple(dict.fromkeys(schemes))


def _read_rates(rates: Sequence[float], optimizer: Optimizer) -> tuple[float, ...]:
    if not isinstance(optimizer, SGD | Adam):
        raise ArgumentError(
            f"optimizer must be one of equipoise.lab.optimizers, got {type(optimizer).__name__}. "
            "Pass Adam(), AdamW() or SGD(momentum=0.9)."
        )
    chosen = tuple(rates) or (SGD_RATES if isinstance(optimizer, SGD) else ADAM_RATES)
    for rate in chosen:
        _checks.positive("learning_rates", rate)
    if any(a >= b for a, b in pairwise(chosen)):
        raise ArgumentError(f"learning_rates must rise, got {list(chosen)}. Sort them.")
    return tuple(float(rate) for rate in chosen)


def _optimizer_name(optimizer: Optimizer) -> str:
    if isinstance(optimizer, Adam):
        return "AdamW" if optimizer.is_decoupled else "Adam"
    return f"SGD with momentum {optimizer.momentum:g}" if optimizer.momentum else "SGD"


@contextmanager
def _no_word_of_fallbacks() -> Iterator[None]:
    """Keep torch from telling, at each new operation, which could be vectorised better."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


@contextmanager
def _bar(is_shown: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:10}"), BarColumn(), TimeElapsedColumn())
    hidden = not (is_shown and (console.is_terminal or console.is_jupyter))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden) as progress:
        yield progress


def _advance(progress: Progress, bar: Any) -> _Advance:
    return lambda steps: progress.advance(bar, steps)
