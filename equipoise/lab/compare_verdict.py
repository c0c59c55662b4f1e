"""From trained schemes to rows, curves and a winner."""

import math
import statistics
from collections.abc import Sequence

import torch
from scipy.stats import t as student

from equipoise.lab.compare_result import Curve, SchemeRow, Winner
from equipoise.lab.compare_scheme import Finished
from equipoise.lab.compare_scores import Scale, counted, have_trained, worst_of
from equipoise.lab.comparison import Comparison
from equipoise.lab.comparison import compare as compare_scores

# Of a curve: enough to see its course, few enough that batches do not blur it.
_POINTS = 50


def judge(
    finished: Sequence[Finished], rates: Sequence[float], constant: float, margin: float
) -> tuple[tuple[SchemeRow, ...], tuple[Curve, ...], tuple[Winner, ...], bool]:
    """Rows and curves of schemes, the best first, and the winner.

    Args:
        finished: at least one scheme.
        rates: that were tried.
        constant: test loss of the best constant output, nan where there is none.
        margin: by how much a draw must improve to have trained.

    Returns:
        Rows, curves, the winner (none of a single scheme), and whether losses are compared by their
        logarithms.
    """
    worst = worst_of(*(loss for f in finished for loss in (f.trained.at_birth, f.trained.at_end)))
    losses: dict[str, list[float]] = {}
    births: dict[str, list[float]] = {}
    for f in finished:
        one = f.trained
        ends, starts = counted(one.at_end, one.at_birth, one.has_diverged, worst)
        losses[f.scheme], births[f.scheme] = ends.tolist(), starts.tolist()
    scale = Scale.of(*([x for row in rows.values() for x in row] for rows in (losses, births)))
    rows = []
    for f in finished:
        one = f.trained
        mean, error = scale.mean(losses[f.scheme])
        passed = have_trained(one.at_end, one.at_birth, one.has_diverged, constant, margin)
        rows.append(
            SchemeRow(
                f.scheme, mean, error, float(passed.float().mean()), f.rate, f.window,
                f.window[0] == rates[0] or f.window[1] == rates[-1],
                tuple(losses[f.scheme]), tuple(births[f.scheme]),
                int(one.has_diverged.sum()), f.by_rate,
            )
        )  # fmt: skip
    rows.sort(key=lambda row: row.mean_loss)
    curves = {f.scheme: f.trained.curve for f in finished}
    # Positive on the test part need not be positive on every batch.
    is_positive = all(bool((c[torch.isfinite(c)] >= 0).all()) for c in curves.values())
    drawn = Scale(scale.is_log and is_positive)
    scores = {name: [scale.score(x) for x in row] for name, row in losses.items()}
    winners = (winner(scores),) if scores.keys() - {rows[0].scheme} else ()
    ordered = tuple(_curve(row.scheme, curves[row.scheme], drawn) for row in rows)
    return tuple(rows), ordered, winners, scale.is_log


def winner(scores: dict[str, list[float]]) -> Winner:
    """The better of the two schemes that lead on the even draws, as the odd ones tell.

    Args:
        scores: of at least two schemes, at least 4 draws each, higher is better.

    Returns:
        The winner.

    >>> winner({"a": [1.0, 1.1, 0.9, 1.2], "b": [0.1, 0.0, 0.2, 0.1]}).scheme
    'a'
    """
    # Picked like its rival: whoever is picked on the draws compared on would be flattered.
    ours = max(scores, key=lambda name: statistics.mean(scores[name][::2]))
    found = compare_scores(scores[ours], {k: v for k, v in scores.items() if k != ours})
    if found.difference < 0:
        back = Comparison(ours, -found.difference, found.standard_error, found.draws)
        ours, found = found.rival, back
    if found.standard_error > 0:
        ratio = found.difference / found.standard_error
        return Winner(ours, found, float(student.cdf(ratio, found.draws - 1)))
    return Winner(ours, found, 1.0 if found.difference > 0 else 0.5)


def _curve(scheme: str, losses: torch.Tensor, scale: Scale) -> Curve:
    """Mean and band of training losses, shape (steps, R), over stretches of steps."""
    size = math.ceil(len(losses) / _POINTS)
    steps, rows = [], []
    for first in range(0, len(losses), size):
        stretch = losses[first : first + size].mean(0)
        scores = [scale.score(x) for x in stretch.tolist() if math.isfinite(x)]
        if not scores:
            break
        mean, spread = statistics.mean(scores), statistics.pstdev(scores)
        # The lower the score, the higher the loss.
        rows.append([scale.loss(score) for score in (mean, mean + spread, mean - spread)])
        steps.append(min(first + size, len(losses)))
    columns = [tuple(column) for column in zip(*rows, strict=True)] or [(), (), ()]
    return Curve(scheme, tuple(steps), *columns)
