"""``equipoise compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.batch import LARGEST_SEED
from equipoise.cli.files import check_result, read_data, save_result
from equipoise.cli.imported import importable_from_here, imported, make_model
from equipoise.cli.options import Factory, Jobs, Numbers, On, Page, place_named, starts_of
from equipoise.cli.terminal import INTERRUPTED, stdout_kept_clean, terminal
from equipoise.errors import ArgumentError, in_words

if TYPE_CHECKING:
    from equipoise.lab.optimizers import Optimizer


def compare(
    factory: Factory,
    data: Annotated[
        str,
        typer.Option(
            help="package.module:function that returns (x, y) or ((x, y), (x, y)) to train and to "
            "test on; or a file of inputs and targets: .npz, .pt or .safetensors."
        ),
    ],
    loss: Annotated[str, typer.Option(help="mse, cross-entropy or package.module:function.")] = "",
    schemes: Annotated[list[str] | None, starts_of("auto, he, xavier, default, lsuv")] = None,
    draws: Annotated[int, typer.Option(help="Of each start, at least 4.")] = 8,
    rates: Annotated[
        list[float] | None,
        typer.Option(help="Learning rates tried, such as: 1e-3 3e-3. Five of them if left out."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of the optimizer.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Rows of a step.")] = 64,
    optimizer: Annotated[str, typer.Option(help="adam, adamw or sgd.")] = "adam",
    test_share: Annotated[
        float, typer.Option(help="Held back to test on, where the data are one part.")
    ] = 0.2,
    seed: Annotated[
        int,
        typer.Option(help="Of draws, batches and parts.", min=0, max=LARGEST_SEED - 2**32),
    ] = 0,
    on: On = "auto",
    jobs: Jobs = 0,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of results; the same command goes on where one was stopped."),
    ] = None,
    out: Page = None,
    json: Numbers = None,
) -> None:
    """Find out which start trains your model best, on your data.

    Every start is drawn several times, trained at the learning rate that suits it, and tested. A
    factory and a function of data come from your own modules. All cores are used. Interrupted, the
    command prints what is finished and ends with status 130; with --store, the same command goes on
    from there.

    Example: equipoise compare mypackage.models:make_net --data mypackage.data:load --loss mse
    """
    check_result(out, json)
    from equipoise.lab import compare as run

    # A factory that does not work is refused in the words of the other commands.
    make_model(factory, seed)
    rows = _data(data)
    place = place_named(on)
    with stdout_kept_clean(), importable_from_here():
        found = run(
            imported(factory, "factory"), rows, _loss(loss, rows), schemes or _default_schemes(),
            draws, rates or (), steps=steps, batch_size=batch_size,
            optimizer=_optimizer(optimizer), test_share=test_share, seed=seed,
            on=place, jobs=jobs, store=store,
        )  # fmt: skip
    found.print(terminal())
    save_result(found, out, json)
    if not found.is_complete:
        raise typer.Exit(INTERRUPTED)


def _data(data: str) -> Any:
    """What a function returns, or the inputs and targets of a file."""
    if ":" not in data:
        inputs, targets = read_data(Path(data))
        if targets is None or isinstance(inputs, dict):
            held = "inputs by name" if isinstance(inputs, dict) else "no targets"
            raise ArgumentError(
                f"--data must hold 'inputs' and 'targets', got {held} in {data!r}. "
                "Save both under these names."
            )
        return inputs, targets
    make = imported(data, "--data")
    try:
        with stdout_kept_clean():
            return make()
    # The function is the caller's: it may raise anything, or end the program.
    except (Exception, SystemExit) as error:
        raise ArgumentError(
            f"--data must name a function that is called without arguments, got {data!r}, which "
            f"raised {in_words(error)}. Wrap it in one that passes what it needs."
        ) from error


def _loss(loss: str, rows: Any) -> Any:
    """A loss by name or by path; left out, the kind of targets tells it."""
    import torch

    if ":" in loss:
        return imported(loss, "--loss")
    if loss:
        return loss
    y = rows
    while isinstance(y, list | tuple) and len(y) == 2:
        y = y[1]
    is_number = isinstance(y, torch.Tensor) and y.is_floating_point()
    return "mse" if is_number else "cross-entropy"


def _default_schemes() -> tuple[str, ...]:
    from equipoise.lab.compare_run import STARTS

    return STARTS


def _optimizer(name: str) -> "Optimizer":
    from equipoise import _checks
    from equipoise.lab.optimizers import SGD, Adam, AdamW

    known: dict[str, Optimizer] = {"adam": Adam(), "adamw": AdamW(), "sgd": SGD(momentum=0.9)}
    return known[_checks.one_of("--optimizer", name, known)]
