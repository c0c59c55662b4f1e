"""``equipoise lab``: experiments that anyone can run again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from equipoise.cli.files import check_result, save_result
from equipoise.cli.options import Jobs, ListCommand, Numbers, On, Page, place_named, starts_of
from equipoise.cli.terminal import INTERRUPTED, terminal

if TYPE_CHECKING:
    from equipoise.lab.grid_cells import Sample

lab = typer.Typer(
    help="Experiments behind the library, each one command.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@lab.command(cls=ListCommand)
def grid(
    sample: Annotated[
        str, typer.Option(help="scoreboard (80 cells), held-out (40 others) or quick.")
    ] = "quick",
    starts: Annotated[list[str] | None, starts_of("all")] = None,
    survey: Annotated[int, typer.Option(help="Draws of every start at every rate.")] = 2,
    draws: Annotated[int, typer.Option(help="Of the starts compared, at least 4.")] = 8,
    cells: Annotated[str, typer.Option(help="Only cells whose name holds this text.")] = "",
    on: On = "processes",
    jobs: Jobs = 0,
    data_dir: Annotated[
        str, typer.Option(help="Folder of MNIST and Fashion-MNIST; else EQUIPOISE_DATA.")
    ] = "",
    store: Annotated[
        Path | None, typer.Option(help="Folder of results; results/grid-SAMPLE if left out.")
    ] = None,
    out: Page = None,
    json: Numbers = None,
) -> None:
    """Which start trains which network: the trainability grid.

    Activations, depths, widths and tasks in a fixed, balanced sample. Each start gets the learning
    rate that suits it, and auto is compared with the best of the others in each cell. Interrupted,
    the same command goes on from what is finished.

    Example: equipoise lab grid --sample scoreboard --out grid.html
    """
    check_result(out, json)
    from equipoise import _checks
    from equipoise.errors import ArgumentError
    from equipoise.lab.grid_cells import SAMPLES
    from equipoise.lab.grid_cells import cells as cells_of
    from equipoise.lab.grid_run import Effort, run_grid

    settings = cells_of(cast("Sample", _checks.one_of("--sample", sample, SAMPLES)))
    chosen = tuple(s for s in settings if cells in s.name)
    if not chosen:
        names = ", ".join(repr(s.name) for s in settings[:3])
        raise ArgumentError(f"--cells must be part of a name such as {names}, got {cells!r}.")
    folder = store or Path("results") / f"grid-{sample}"
    effort = Effort(survey=survey, draws=draws, most_draws=max(draws, 32))
    place = place_named(on)
    try:
        found = run_grid(
            chosen, starts or (), effort, folder, place, jobs, data_dir,
            is_quiet=not terminal(stderr=True).is_terminal,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. The same command goes on from what is in {folder}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    found.print(terminal())
    save_result(found, out, json)


@lab.command()
def run(
    name: Annotated[str, typer.Argument(help="Of a replay; equipoise lab replays lists them.")],
    budget: Annotated[
        str, typer.Option(help="quick, minutes on two cores, or paper, the source's own.")
    ] = "quick",
    mode: Annotated[
        str, typer.Option(help="faithful, as the source does it, corrected, or both.")
    ] = "both",
    draws: Annotated[int, typer.Option(help="Of each case; 0 for as many as the budget has.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the first draw.")] = 0,
    on: On = "processes",
    jobs: Jobs = 0,
    store: Annotated[
        Path | None, typer.Option(help="Folder of results; results/NAME-BUDGET if left out.")
    ] = None,
    out: Page = None,
    json: Numbers = None,
) -> None:
    """Replay a published result, with what its source got beside what we get.

    Interrupted, the same command goes on from what is finished.

    Example: equipoise lab run tanh-depth --budget quick --out tanh-depth.html
    """
    check_result(out, json)
    from equipoise import _checks
    from equipoise.lab import replay_run
    from equipoise.lab.replay_data import BUDGETS, MODES, Budget, Mode
    from equipoise.lab.replay_names import REPLAYS

    _checks.one_of("NAME", name, REPLAYS)
    chosen = cast("Budget", _checks.one_of("--budget", budget, BUDGETS))
    _checks.one_of("--mode", mode, (*MODES, "both"))
    modes = MODES if mode == "both" else (cast("Mode", mode),)
    folder = store or Path("results") / f"{name}-{budget}"
    place = place_named(on)
    try:
        found = replay_run.replay(
            name, chosen, modes, draws, seed, folder, place, jobs,
            is_quiet=not terminal(stderr=True).is_terminal,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. The same command goes on from what is in {folder}.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    found.print(terminal())
    save_result(found, out, json)


@lab.command()
def replays() -> None:
    """Published results that can be replayed: source, setting and what each shows.

    Example: equipoise lab replays
    """
    from rich.table import Table

    from equipoise.lab.replay_names import REPLAYS

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for column in ("replay", "what it shows", "source", "setting"):
        table.add_column(column, overflow="fold")
    for one in REPLAYS.values():
        table.add_row(one.name, one.title, one.source, one.setting)
    terminal().print(table, highlight=False, markup=False)


@lab.command()
def phase(
    activation: Annotated[
        str, typer.Argument(help="A known activation, 'leaky_relu(0.2)' or package.module:function")
    ],
    plan: Annotated[
        list[Path] | None, typer.Option(help="A plan saved as .json, to be placed; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw that is placed.")] = 0,
    out: Page = None,
    json: Numbers = None,
) -> None:
    """The phase diagram of an activation, with networks on it: order, chaos and depth scales.

    Example: equipoise lab phase tanh --plan plan.json --out phase.html
    """
    check_result(out, json)
    from equipoise import _checks
    from equipoise.cli.theory import activation_given
    from equipoise.lab.phase_map import phase_map
    from equipoise.theory.activation import Activation
    from equipoise.theory.probe import examine
    from equipoise.torch import Plan

    _checks.at_least("--seed", seed, 0)
    found = activation_given(activation)
    if not isinstance(found, Activation):
        found = examine(found, activation.partition(":")[2]).activation
    networks = {path.stem: Plan.load(path) for path in plan or ()}
    made = phase_map(found, networks, seed=seed)
    made.print(terminal())
    save_result(made, out, json)
