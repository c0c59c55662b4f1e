"""``equipoise diagnose``."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.batch import LARGEST_SEED, ROWS, make_batch, read_loss
from equipoise.cli.files import REPORTS, check_target, load_checkpoint, writing
from equipoise.cli.imported import make_model
from equipoise.cli.options import Factory, InputShapes, Rows, Strict
from equipoise.cli.terminal import stdout_kept_clean, terminal


def diagnose(
    factory: Factory,
    inputs: InputShapes = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Inputs, and targets, from a file: .npy, .npz, .pt or .safetensors."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights to load first: .safetensors, .pt, .pth, .bin or .ckpt."),
    ] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse or package.module:function.")] = "",
    classes: Annotated[
        int | None, typer.Option(help="Number of classes; targets are made up if none are given.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Of the model, the rows and the targets.", min=0, max=LARGEST_SEED),
    ] = 0,
    rows: Rows = ROWS,
    strict: Strict = False,
    report: Annotated[
        Path | None, typer.Option(help="Save the diagnosis: .html, .json or .txt.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the diagnosis as JSON and nothing else.")
    ] = False,
) -> None:
    """Measure a model as it stands, or with a checkpoint's weights, and say what is wrong with it.

    Exit status: 0 in balance, 1 if a finding is an error, 2 for bad arguments.

    A file of data holds one array; or 'inputs', or arguments of forward by name, and 'targets'.

    Example: equipoise diagnose mypackage.models:make_net --input 16 --checkpoint net.safetensors
    """
    check_target("--report", report, REPORTS)
    import equipoise.torch as eq

    model = make_model(factory, seed)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    batch = make_batch(model, inputs or (), data, rows, seed)
    function, targets = read_loss(loss, classes, batch, seed)
    with stdout_kept_clean():
        result = eq.diagnose(model, batch.inputs, function, targets)
    if as_json:
        typer.echo(result.to_json())
    else:
        result.print(terminal())
    if report is not None:
        with writing("--report", report):
            typer.echo(f"report: {result.save(report)}", err=as_json)
    if result.status or (strict and not result.ok):
        raise typer.Exit(1)
