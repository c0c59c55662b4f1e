"""Which start trains a model best: the comparison on a person's own model and data."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.compare_loss import Loss, constant_loss, read_loss
from equipoise.lab.compare_place import check_place, chosen_place
from equipoise.lab.compare_program import Program
from equipoise.lab.compare_result import Compared, Setting
from equipoise.lab.compare_rows import read_rows
from equipoise.lab.compare_schedule import train_schemes
from equipoise.lab.compare_scheme import Scheme
from equipoise.lab.compare_starts import MakeModel, check_fresh, draw, generators_kept
from equipoise.lab.compare_training import most_in_unit
from equipoise.lab.compare_units import (
    Bench,
    network_of,
    no_word_of_fallbacks,
    optimizer_data,
    rows_in_words,
)
from equipoise.lab.compare_vectorised import why_looped
from equipoise.lab.compare_verdict import judge
from equipoise.lab.optimizers import SGD, Adam, Optimizer
from equipoise.lab.rivals import OUTSIDE
from equipoise.lab.work import Place, name_in_module
from equipoise.schemes.catalogue import SCHEMES, parse_scheme

STARTS = ("auto", "he", "xavier", "default", "lsuv")
# Half a decade apart, rounded, around what each optimizer is most often given.
ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SGD_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_ADAM = Adam()


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
    on: Place = "here",
    jobs: int = 0,
    store: Path | None = None,
) -> Compared:
    """Which start trains a model best, on its owner's own model, data and loss.

    Every scheme is drawn several times; its learning rate is chosen on training rows held back for
    that, and it is trained anew with it on all training rows. Draw i has the same batches under
    every scheme and rate. All draws and rates of a scheme are trained at once where a trial shows
    that this changes nothing, otherwise one by one. A draw whose loss or gradient stops being
    finite is frozen. Global random state is put back, and no object of the caller's is changed.
    Interrupted from the keyboard, it returns the schemes that are finished.

    Trainings are units of work (``equipoise.lab.work``): with ``on="processes"`` they use all
    cores, with ``on="ray"`` a cluster, and give the same numbers as here, but for the last bits
    that torch's number of threads decides. Other processes must get at ``make_model`` and ``loss``:
    for ``processes`` they are functions or classes at the top of a module or script, or anything
    else that pickle holds, such as ``nn.HuberLoss()``; a script starts the comparison under
    ``if __name__ == "__main__"``, and what is defined in a notebook stays here. For ``ray``
    functions inside of functions will do too, and modules must be importable on the nodes. ``data``
    are sent. ``here`` takes anything.

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
        show_progress: whether to show bars, on stderr, where that is a terminal; they tell the
            result of each scheme as it comes.
        on: ``here``, in this process; ``processes``, ``ray``; or ``auto``, which says in the
            comparison what it chose: here where the functions cannot be sent, where the model is
            not on the CPU and where there is one core, else what ``work.choose_place`` says.
        jobs: trainings at a time, 0 for one on each core; not for ``here``.
        store: folder of results; the same call goes on where one was stopped. It knows
            ``make_model`` and ``loss`` by the names they have in their modules, and the model also
            by its layers: pass another folder where the code of forward or of the loss has changed.

    Returns:
        The comparison.

    Raises:
        ArgumentError: for arguments that are not usable, before any training, or if no scheme can
            serve the model.
        TraceError: if forward fails on the rows.
        WorkError: if a training raises, or its process is killed again and again; what is finished
            is in the store.
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
    _checks.at_least("jobs", jobs, 0, "Pass 0 for one on each core.")
    _checks.in_unit_interval("margin", margin)
    function = read_loss(loss)
    sent = {"make_model": make_model, "loss": loss}
    check_place(on, sent, store is not None)
    training, test = read_rows(data, test_share, seed)
    choosing = training.parted(choosing_share, seed + 1, "choosing_share")
    seeds = [seed + i for i in range(draws)]
    size = min(batch_size, len(choosing[0]))
    with generators_kept(), torch.inference_mode(False), no_word_of_fallbacks():
        model = check_fresh(make_model, seed)
        device = next(model.parameters()).device
        place, why_there = chosen_place(on, sent, device, jobs)
        looped = Program(model, function, False)
        starts = draw(make_model, "default", training.x.to(device), seeds)
        few = training.at(torch.arange(min(len(training), max(2, size)))).to(device)
        looped.try_out(starts, few)
        why = why_looped(model, function, starts, few)
        program = looped if why else Program(model, function, True)
        outputs = looped.outputs(starts, few)
        parts = (part.to(device) for part in (*choosing, training, test))
        fitted, held, all_rows, tested = parts
        constants = (
            constant_loss(outputs, function, fitted, held),
            constant_loss(outputs, function, all_rows, tested),
        )
        given = {
            "network": network_of(model), "make_model": name_in_module(make_model),
            "loss": loss if isinstance(loss, str) else name_in_module(loss),
            "rows": rows_in_words(*choosing, test), "first_seed": seed,
            "is_vectorised": not why, "steps": steps, "batch_size": size,
            "optimizer": optimizer_data(optimizer),
        }  # fmt: skip
        at_once = most_in_unit(program)
        running = [
            Scheme(name, rates, seeds, at_once, given, constants[0], margin) for name in names
        ]
        bench = Bench(make_model, function, training, test, choosing)
        total = steps * draws * (len(rates) + 1)
        is_complete = train_schemes(running, bench, total, show_progress, store, place, jobs)
    finished = [scheme.finished for scheme in running if scheme.finished]
    left_out = tuple((scheme.name, scheme.left_out) for scheme in running if scheme.left_out)
    if not finished:
        why_not = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise ArgumentError(
            f"schemes must hold one that can serve the model, got {', '.join(names)} ({why_not}). "
            "Add 'default'."
        )
    table, curves, winners, is_log = judge(finished, rates, constants[1], margin)
    setting = Setting(
        type(model).__name__, program.size, (len(training), len(choosing[1]), len(test)), draws,
        steps, size, _optimizer_name(optimizer), rates, margin, constants[1], is_log, seed,
    )  # fmt: skip
    return Compared(
        setting, table, curves, winners, not why, why, left_out, is_complete, place, why_there
    )


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
