"""``equipoise init``."""

import math
from pathlib import Path
from typing import Annotated

import typer

from equipoise.cli.batch import LARGEST_SEED, ROWS, make_batch
from equipoise.cli.files import (
    PLANS,
    REPORTS,
    WEIGHTS,
    check_target,
    load_checkpoint,
    save_weights,
    writing,
)
from equipoise.cli.imported import make_model
from equipoise.cli.options import Factory, InputShapes, Rows, Strict
from equipoise.cli.terminal import stdout_kept_clean, terminal


def init(
    factory: Factory,
    inputs: InputShapes = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Inputs from a file: .npy, .npz, .pt or .safetensors."),
    ] = None,
    scheme: Annotated[
        str, typer.Option(help="auto, or a scheme with its options: see equipoise schemes.")
    ] = "auto",
    purpose: Annotated[
        str, typer.Option(help="What the outputs are for: classification or regression.")
    ] = "",
    for_derivatives: Annotated[
        bool,
        typer.Option(
            "--for-derivatives", help="The loss reads derivatives with respect to the inputs."
        ),
    ] = False,
    residual: Annotated[
        str, typer.Option(help="How loud residual branches start: auto, gpt2, depth, fixup, ...")
    ] = "auto",
    output_rms: Annotated[
        float | None,
        typer.Option(help="RMS wanted of the outputs, such as the scale of the targets: 5."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Draw these alone: 'head.*', or a module, such as head. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Keep the values of these. Repeatable.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights to load first: .safetensors, .pt, .pth, .bin or .ckpt."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the draw and of the rows.", min=0, max=LARGEST_SEED)
    ] = 0,
    rows: Rows = ROWS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Draw and measure; the model stays as it was made.")
    ] = False,
    strict: Strict = False,
    report: Annotated[
        Path | None, typer.Option(help="Save the report: .html, .json or .txt.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Save the plan as .json.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Save the weights: .safetensors, .pt or .pth.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Make a model, initialize it, and print the report.

    Exit status: 0 in balance, 1 if a finding is an error, 2 for bad arguments.

    A file of data holds one array; or several: 'inputs', or arguments of forward by name.

    With --checkpoint and --only a new head is drawn for a trained body: what the body sends is
    measured on the inputs, so give it real ones with --data.

    Example: equipoise init mypackage.models:make_net --input 16 --save net.safetensors
    """
    check_target("--report", report, REPORTS)
    check_target("--plan", plan, PLANS)
    check_target("--save", save, WEIGHTS)
    import torch

    import equipoise.torch as eq

    model = make_model(factory, seed)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    batch = make_batch(model, inputs or (), data, rows, seed)
    generator = torch.Generator().manual_seed(seed)
    with stdout_kept_clean():
        result = eq.initialize(
            model, batch.inputs, scheme, generator, dry_run,
            purpose=purpose, for_derivatives=for_derivatives,
            output_rms=math.nan if output_rms is None else output_rms,
            only=only or None, skip=skip or None,
            residual=residual,
        )  # fmt: skip
    if as_json:
        typer.echo(result.to_json())
    else:
        result.print(terminal())
    if report is not None:
        with writing("--report", report):
            typer.echo(f"report: {result.save(report)}", err=as_json)
    if plan is not None:
        with writing("--plan", plan):
            typer.echo(f"plan: {result.plan.save(plan)}", err=as_json)
    if save is not None:
        save_weights(model, save)
        typer.echo(f"weights: {save}", err=as_json)
    if result.status or (strict and not result.ok):
        raise typer.Exit(1)
