"""Tables of the replay of stability: one for each way in which plain networks fail."""

import math
from collections.abc import Callable, Mapping, Sequence

from equipoise.lab.born_dead import chance_of_death
from equipoise.lab.replay_data import Estimate, Mode, ResultTable, Row
from equipoise.lab.stability_study import TRAINS, StabilityCase, StabilityDraw

Found = Sequence[tuple[StabilityCase, Sequence[StabilityDraw]]]


def trains(case: StabilityCase, draws: Sequence[StabilityDraw]) -> tuple[Estimate, int]:
    """Share of the draws that train at the best rate of a case, and the place of that rate.

    >>> case = StabilityCase(8, 2, "relu", ("he",), "Adam", (1e-3, 1e-2))
    >>> ends = ((0.1, 0.9), (0.0, 0.0), (0.0, 0.0), (-1, -1))
    >>> draw = StabilityDraw("he", 0, 0.0, 0.0, False, 1.0, 1.0, *ends)
    >>> trains(case, [draw])[1]
    1
    """
    shares = [
        sum(draw.accuracy[i] > TRAINS for draw in draws) / len(draws)
        for i in range(len(case.rates))
    ]
    best = max(range(len(shares)), key=lambda i: shares[i])
    return _share(shares[best], len(draws)), best


def _share(share: float, draws: int) -> Estimate:
    return Estimate(share, math.sqrt(share * (1 - share) / draws), draws)


def _mean(draws: Sequence[StabilityDraw], value: Callable[[StabilityDraw], float]) -> Estimate:
    return Estimate.of([value(draw) for draw in draws])


def _log10(draws: Sequence[StabilityDraw], value: Callable[[StabilityDraw], float]) -> Estimate:
    """Mean of a logarithm over draws whose number is above 0; nan where none is."""
    logs = [math.log10(value(draw)) for draw in draws if 0 < value(draw) < math.inf]
    return Estimate.of(logs) if logs else Estimate(math.nan, math.nan, len(draws))


def born_dead_table(deaths: Mapping[tuple[int, int], Sequence[float]]) -> ResultTable:
    """Share of inputs that die, by width and depth, beside the closed form."""
    rows = tuple(
        Row((str(width), str(depth)), (Estimate.of(shares, chance_of_death(width, depth)),))
        for (width, depth), shares in deaths.items()
    )
    return ResultTable(
        "ReLU networks at birth: share of inputs of which nothing arrives", "faithful",
        ("width", "depth"), ("share",), "closed form", rows,
    )  # fmt: skip


def dying_table(found: Found, mode: Mode) -> ResultTable:
    """Units that no input moves, at birth and behind training at each rate, and what trains."""
    rates = found[0][0].rates
    rows = []
    for case, draws in found:
        values = [_mean(draws, lambda draw: draw.born_stuck)]
        for i in range(len(rates)):
            shares = [draw.accuracy[i] > TRAINS for draw in draws]
            values += [
                _mean(draws, lambda draw, i=i: draw.stuck[i]),  # type: ignore[misc]
                _share(sum(shares) / len(shares), len(shares)),
            ]
        rows.append(Row((case.activation, str(case.depth), case.methods[0]), tuple(values)))
    heads = [f"{kind}, rate {rate:g}" for rate in rates for kind in ("stuck", "trains")]
    return ResultTable(
        f"Rectifiers and their variants, width {found[0][0].width}: stuck units, share that trains",
        mode, ("activation", "depth", "start"), ("stuck at birth", *heads), "none", tuple(rows),
    )  # fmt: skip


def saturation_table(found: Found, mode: Mode) -> ResultTable:
    """Flat units and rows of sigmoids, the first gradient over the last, and what trains."""
    rows = []
    for case, draws in found:
        share, best = trains(case, draws)
        rows.append(
            Row(
                (case.activation, str(case.depth), case.methods[0]),
                (
                    _mean(draws, lambda draw: draw.born_saturated),
                    _mean(draws, lambda draw, i=best: draw.saturated[i]),  # type: ignore[misc]
                    _log10(draws, lambda draw: draw.born_ratio),
                    share,
                ),
            )
        )
    return ResultTable(
        f"Sigmoids, width {found[0][0].width}: saturated units and rows, share that trains at the "
        "best rate", mode, ("activation", "depth", "start"),
        ("saturated at birth", "at the end", "log10 first / last gradient", "trains"), "none",
        tuple(rows),
    )  # fmt: skip


def clip_table(found: Found, mode: Mode) -> ResultTable:
    """What trains and what diverges under each clip."""
    rates = found[0][0].rates
    rows = []
    for case, draws in found:
        values = [_log10(draws, lambda draw: draw.born_norm)]
        for i in range(len(rates)):
            right = sum(draw.accuracy[i] > TRAINS for draw in draws) / len(draws)
            lost = sum(draw.diverged_at[i] >= 0 for draw in draws) / len(draws)
            values += [_share(right, len(draws)), _share(lost, len(draws))]
        loud = f"{case.activation}, x {case.loud_hidden:g}"
        rows.append(Row((loud, case.methods[0], case.clip), tuple(values)))
    heads = [f"{kind}, {rate:g}" for rate in rates for kind in ("trains", "not finite")]
    return ResultTable(
        f"Gradients that explode, {found[0][0].depth} layers of width {found[0][0].width}, "
        f"{found[0][0].optimizer}: shares by learning rate", mode,
        ("hidden weights", "start", "clip"), ("log10 gradient at birth", *heads), "none",
        tuple(rows),
    )  # fmt: skip


def softmax_table(found: Found, mode: Mode) -> ResultTable:
    """What trains with the softmax as on paper, and with the stable form, by size of outputs."""
    rows = []
    for case, draws in found:
        share, best = trains(case, draws)
        lost = sum(draw.diverged_at[best] >= 0 for draw in draws) / len(draws)
        rows.append(
            Row(
                (f"{case.loud_output:g}", "as on paper" if case.is_naive else "stable"),
                (share, _share(lost, len(draws))),
            )
        )
    return ResultTable(
        "Softmax and cross-entropy, by the factor on the output weights", mode,
        ("output weights x", "form"), ("trains", "not finite"), "none", tuple(rows),
    )  # fmt: skip
