"""One map: start x activation against optimizer x clip x learning rate, and what trains."""

import math
from collections.abc import Sequence

from equipoise.lab.replay_data import Estimate, HeatMap, Picture, ResultTable, Row
from equipoise.lab.stability_study import TRAINS, StabilityCase, StabilityDraw

MAP_STARTS = ("default", "xavier", "he", "orthogonal", "auto")
Found = Sequence[tuple[StabilityCase, Sequence[StabilityDraw]]]
_SHORT = {"SGD, momentum .9": "SGD"}


def cells(found: Found) -> dict[tuple[str, str], dict[str, float]]:
    """Share of the draws that train, by (activation, start) and then by column."""
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for case, draws in found:
        optimizer = _SHORT.get(case.optimizer, case.optimizer)
        clipped = "" if case.clip == "none" else ", clipped"
        row = shares.setdefault((case.activation, case.methods[0]), {})
        for i, rate in enumerate(case.rates):
            right = sum(draw.accuracy[i] > TRAINS for draw in draws) / len(draws)
            row[f"{optimizer} {rate:g}{clipped}"] = right
    return shares


def share_that_trains(found: Found, start: str) -> float:
    """Mean share over all activations and columns of one start."""
    values = [v for (_, s), row in cells(found).items() if s == start for v in row.values()]
    return math.fsum(values) / len(values)


def map_table(found: Found) -> ResultTable:
    """For each start and activation the share of all columns' draws that train."""
    shares = cells(found)
    activations = list(dict.fromkeys(f for f, _ in shares))
    draws = len(found[0][1])
    rows = []
    for start in MAP_STARTS:
        values, everything = [], []
        for f in activations:
            row = list(shares[f, start].values())
            everything += row
            values.append(_over_columns(row, draws))
        rows.append(Row((start,), (*values, _over_columns(everything, draws))))
    case = found[0][0]
    return ResultTable(
        f"Share that trains over optimizers, rates and clips, {case.depth} layers of width "
        f"{case.width}", "corrected", ("start",), (*activations, "all"), "none", tuple(rows),
    )  # fmt: skip


def _over_columns(row: Sequence[float], draws: int) -> Estimate:
    """Mean of shares over columns, which are chosen and not drawn: its error is of the draws."""
    mean = math.fsum(row) / len(row)
    variance = math.fsum(s * (1 - s) for s in row) / draws
    return Estimate(mean, math.sqrt(variance) / len(row), draws)


def map_picture(found: Found) -> Picture:
    """The map as one heat map, a row for each activation and start."""
    shares = cells(found)
    columns = list(dict.fromkeys(name for row in shares.values() for name in row))
    columns.sort(key=lambda name: (name.split()[0], "clipped" in name))
    activations = list(dict.fromkeys(f for f, _ in shares))
    # Drawn from below: the first activation and our start come out on top.
    rows = [(f, start) for f in reversed(activations) for start in MAP_STARTS]
    said = ", ".join(f"{share_that_trains(found, start):.2f} of {start}" for start in MAP_STARTS)
    case = found[0][0]
    return Picture(
        f"What trains: {case.depth} layers of width {case.width}, share of draws above "
        f"{TRAINS:g} accuracy",
        f"Over all columns and activations: {said}.",
        "optimizer, learning rate, clipping", "",
        (),
        heat=(
            HeatMap(
                tuple(float(i) for i in range(len(columns))),
                tuple(float(i) for i in range(len(rows))),
                tuple(tuple(shares[row].get(name, math.nan) for name in columns) for row in rows),
                "share that trains", 0.5,
            ),
        ),
        x_names=tuple(columns),
        y_names=tuple(f"{f}, {start}" for f, start in rows),
    )  # fmt: skip
