"""A task from its name, with options in brackets, as on a command line."""

from pathlib import Path

from equipoise import _checks
from equipoise.lab.classification import Classification
from equipoise.lab.regression import Regression
from equipoise.lab.task_entries import TASK_CATALOGUE, TASKS
from equipoise.schemes.call_text import read_call
from equipoise.schemes.options import Option, options_given


def task_named(text: str, data_dir: Path | str | None = None) -> Classification | Regression:
    """A task from its name, with options in brackets where they differ from the defaults.

    Args:
        text: such as ``digits`` or ``spirals(turns=2, noise=0.1)``; names and options stand in
            ``TASK_CATALOGUE``. ``noise`` is label noise, for regressions noise on the targets; its
            rows, and those of ``balanced``, are chosen by ``seed``.
        data_dir: folder with the files of mnist, fashion_mnist and cifar10; left out, what the
            environment variable EQUIPOISE_DATA names. The other tasks need none.

    Returns:
        The task.

    Raises:
        ArgumentError: naming the task or option that is unknown and those that are known, or the
            value that an option cannot have.

    >>> task_named("digits(balanced=500, noise=0.2)").rows
    500
    >>> task_named("polynomial(degree=3, inputs=2)").score_name
    'variance explained'
    """
    call = read_call(text, "task", "spirals(turns=2)")
    entry = TASK_CATALOGUE[_checks.one_of("task", call.name, TASKS)]
    options = (*entry.options, *entry.changes)
    found = options_given(f"task {entry.name!r}", options, call)
    values = {o.name: _number(o, found.get(o.name, o.default)) for o in options}
    given = {option.name: values[option.name] for option in entry.options}
    task = entry.make(folder=data_dir or "", **given) if entry.needs_files else entry.make(**given)
    return _changed(task, values)


def _number(option: Option, value: object) -> float:
    assert isinstance(value, int | float)
    return int(value) if option.is_whole else float(value)


def _changed(
    task: Classification | Regression, values: dict[str, float]
) -> Classification | Regression:
    seed = int(values["seed"])
    if isinstance(task, Regression):
        return task.with_target_noise(values["noise"], seed) if values["noise"] else task
    if values.get("balanced"):
        task = task.balanced(int(values["balanced"]), seed)
    return task.with_label_noise(values["noise"], seed) if values["noise"] else task
