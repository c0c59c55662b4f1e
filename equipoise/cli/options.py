"""Arguments and options that several commands take."""

from typing import Annotated

import typer

Factory = Annotated[str, typer.Argument(help="package.module:function that makes the model.")]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of one input without the batch, such as 16 or 3,32,32; made up with mean 0 "
        "and variance 1. Once for each argument of forward.",
    ),
]
Rows = Annotated[int, typer.Option(help="Rows to make, or to take from the file.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 1 for a warning too.")]
