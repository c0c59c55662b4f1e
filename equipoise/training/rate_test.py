"""A range test of the learning rate that always has an answer, and says how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from torch import nn
from torch.amp.grad_scaler import GradScaler

from equipoise import _checks
from equipoise._text import json_text, printed
from equipoise.errors import ArgumentError
from equipoise.training.first_step import follows_gradient, step_line
from equipoise.training.kept import kept
from equipoise.training.objective import LossFunction, Objective, generators_in, read_batches
from equipoise.training.one_step import Stepper, own_rate
from equipoise.training.rate_curve import Reading, read_curve
from equipoise.training.rate_sweep import RateCurve, losses_at_birth, sweep
from equipoise.training.rate_verdict import Verdict, judge
from equipoise.training.sparkline import sparkline

if TYPE_CHECKING:
    import plotly.graph_objects as go

Confidence = Literal["high", "fair", "low", "none"]
# Decades about the rate at which the first step goes lowest, and steps in each.
_BELOW, _ABOVE, _PER_DECADE = 3.0, 2.0, 14
# Decades to go on, once and again, where a sweep rises at once or falls to its end.
_FURTHER, _TRIES = 3.0, 2


@dataclass(frozen=True)
class RateTest:
    """What a range test found.

    Attributes:
        rate: the answer, for the first group of the optimizer; other groups in proportion.
        confidence: ``high``, ``fair``, ``low`` or ``none``.
        verdict: ``minimum``, ``falls to the end``, ``diverges at once``, ``flat``, ``noisy`` or
            ``not finite``.
        reason: why, in words.
        factor: one standard deviation of the answer over repeats, as a factor from 1; inf where
            fewer than two of them have an answer.
        lowest_at: rate of the lowest loss, the middle of the repeats; nan for none.
        returns_at: rate at which the loss is back at its start; inf where it never is.
        own_rate: what the optimizer has.
        follows_gradient: whether a step grows with its gradient, as SGD's does and Adam's does not.
        gradient_norm: median over the steps before the loss starts to fall.
        curves: one for each repeat.
        readings: of the curves.
        passes: forward passes that it took; a backward pass counts as two.
    """

    rate: float
    confidence: Confidence
    verdict: str
    reason: str
    factor: float
    lowest_at: float
    returns_at: float
    own_rate: float
    follows_gradient: bool
    gradient_norm: float
    curves: tuple[RateCurve, ...]
    readings: tuple[Reading, ...]
    passes: int

    def to_json(self) -> str:
        """Everything as JSON text; nan and infinity become null."""
        return json_text(asdict(self))

    def figure(self) -> "go.Figure":
        """The curves, the smoothed ones and the answer, as a plotly figure."""
        # plotly takes a second to import, and most who train never ask for a picture.
        from equipoise.training.rate_plot import rate_figure

        return rate_figure(self.curves, self.readings, self.rate, str(self).partition("\n")[0])

    def to_html(self, path: str | Path) -> Path:
        """Write the figure as a page that needs no network; the path is returned."""
        path = Path(path)
        page = self.figure().to_html(include_plotlyjs=True, full_html=True)
        path.write_text(page, encoding="utf-8")
        return path

    def print(self, console: Console) -> None:
        """Print the answer and a curve of one line to a rich console."""
        within = f", within a factor {self.factor:.2g}" if math.isfinite(self.factor) else ""
        console.print(
            f"learning rate {self.rate:.2g} (confidence {self.confidence}{within}): {self.verdict}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        console.print(self.reason, markup=False, highlight=False, soft_wrap=True)
        if self.curves:
            curve, reading = self.curves[0], self.readings[0]
            line = sparkline(reading.smooth)
            console.print(
                f"{curve.rates[0]:.1e} {line} {curve.rates[-1]:.1e}", markup=False, highlight=False,
                soft_wrap=True,
            )  # fmt: skip

    def __str__(self) -> str:
        return printed(self.print)


def find_learning_rate(
    model: nn.Module,
    optimizer: Any,
    batches: Any,
    loss: LossFunction,
    *,
    lowest: float = math.nan,
    highest: float = math.nan,
    per_decade: int = _PER_DECADE,
    repeats: int = 3,
    most_batches: int = 64,
    clip_norm: float = math.inf,
    precision: torch.dtype | None = None,
    scaler: GradScaler | None = None,
    seed: int = 0,
) -> RateTest:
    """A learning rate by a range test: train while the rate grows, and see where the loss turns.

    The sweep starts where the first step hardly changes the loss and ends where the loss has
    doubled. Each repeat takes the batches in another order. A loss is held against what its own
    batch had at the start, and smoothing is symmetric in the logarithm of the rate. The answer is a
    fixed share of the rates at which the loss is lowest and at which it is back where it started:
    those were the best predictors in ``docs/training-learning-rate.md``, better than the steepest
    slope. There is always an answer; where the curve has no minimum, ``verdict`` and ``confidence``
    say so.

    Model, optimizer, scaler and generators are left bit for bit as they were, also after an
    exception or Ctrl-C; a copy of weights and optimizer state is held meanwhile. A dataset that
    counts its own reads is out of reach.

    Args:
        model: any module, in the mode that it trains in.
        optimizer: anything with ``param_groups`` that have ``lr``; groups keep the ratios of their
            rates. Its state counts, so this may be asked in the middle of a training.
        batches: a batch, ``(inputs, targets)``, a list of batches or a DataLoader; no iterator.
        loss: loss(outputs, targets), or loss(outputs) for batches without targets; their mean.
        lowest: rate to start from; nan for a thousandth of where the first step goes lowest.
        highest: rate to end at; nan for a hundred times that.
        per_decade: steps in each decade of the rate, from 4.
        repeats: sweeps, from 1; the confidence needs two.
        most_batches: to read at the most and to go round in, from 1.
        clip_norm: largest norm of a gradient, where training clips.
        precision: dtype of autocast, where training has it.
        scaler: the GradScaler of the training, for float16.
        seed: of the orders of batches and of dropout.

    Returns:
        The answer with its confidence, curves and a figure.

    Raises:
        ArgumentError: for arguments out of range, an optimizer without rates, a loss that is not
            one number, or batches that cannot be gone through again.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> x = torch.randn(256, 4)
    >>> batches = list(zip(x.split(32), x.prod(1, keepdim=True).split(32)))
    >>> adam = torch.optim.Adam(net.parameters())
    >>> found = find_learning_rate(net, adam, batches, nn.functional.mse_loss)
    >>> found.verdict, 1e-3 < found.rate < 1e-1
    ('minimum', True)
    """
    ends = _read_ends(lowest, highest)
    _checks.at_least("per_decade", per_decade, 4)
    _checks.at_least("repeats", repeats, 1)
    if clip_norm != math.inf:
        _checks.positive("clip_norm", clip_norm)
    with torch.inference_mode(False), torch.enable_grad():
        with kept(model, optimizer, scaler, *generators_in(batches)):
            objective = Objective(model, loss, precision)
            stepper = Stepper(objective, optimizer, scaler, clip_norm)
            found = read_batches(batches, most_batches)
            torch.manual_seed(seed)
            at_birth = losses_at_birth(objective, found)
            own = own_rate(optimizer)
            if not all(math.isfinite(x) for x in at_birth):
                return _unusable(own, len(found))
            follows = follows_gradient(objective, optimizer, found[0], seed)
            low, high, passes = _range(
                ends, objective, optimizer, found[0], scaler, clip_norm, seed
            )
            curves, readings = _sweeps(
                stepper, objective, found, at_birth, (low, high), per_decade, repeats, seed,
                all(math.isnan(end) for end in ends),
            )  # fmt: skip
    taken = passes + 6 * len(found) + 7 + sum(3 * len(c.rates) + 1 for c in curves)
    verdict = judge(curves, readings, own, follows)
    return _result(verdict, own, follows, curves, readings, taken)


def _sweeps(
    stepper: Stepper,
    objective: Objective,
    batches: Sequence[Any],
    at_birth: Sequence[float],
    ends: tuple[float, float],
    per_decade: int,
    repeats: int,
    seed: int,
    may_move: bool,
) -> tuple[list[RateCurve], list[Reading]]:
    """All repeats, in a range that the first may move."""
    low, high = ends
    tries = _TRIES if may_move else 0
    curves, readings = list[RateCurve](), list[Reading]()
    while len(curves) < repeats:
        with kept(objective.model, stepper.optimizer, stepper.scaler):
            rates = _rates(low, high, per_decade)
            curve = sweep(stepper, objective, batches, at_birth, rates, seed + len(curves))
        reading = read_curve(curve)
        at_once = reading.kind == "rises" and reading.returns_at <= 10 * low
        if tries and not curves and (at_once or reading.kind == "falls to the end"):
            tries -= 1
            if at_once:
                low, high = low / 10**_FURTHER, low * 10
            else:
                low, high = high / 10**_FURTHER, high * 10**_FURTHER
            continue
        curves.append(curve)
        readings.append(reading)
    return curves, readings


def _rates(low: float, high: float, per_decade: int) -> list[float]:
    steps = max(2, round(math.log10(high / low) * per_decade))
    return [low * (high / low) ** (k / steps) for k in range(steps + 1)]


def _read_ends(lowest: float, highest: float) -> tuple[float, float]:
    for name, end in (("lowest", lowest), ("highest", highest)):
        if not math.isnan(end):
            _checks.positive(name, end)
    if lowest >= highest:
        raise ArgumentError(
            f"lowest must be below highest, got {lowest} and {highest}. Leave both out to have "
            "them found."
        )
    return lowest, highest


def _range(
    ends: tuple[float, float],
    objective: Objective,
    optimizer: Any,
    batch: Any,
    scaler: GradScaler | None,
    clip_norm: float,
    seed: int,
) -> tuple[float, float, int]:
    """Where to start and to end, and the forward passes that finding them took."""
    low, high = ends
    if not math.isnan(low) and not math.isnan(high):
        return low, high, 0
    line = step_line(objective, optimizer, batch, scaler, clip_norm, seed)
    # Where no step goes down, a change of the weights by a thousandth is as good a place as any.
    centre = line.rates[0] if math.isnan(line.lowest_at) else line.lowest_at
    low = centre / 10**_BELOW if math.isnan(low) else low
    high = centre * 10**_ABOVE if math.isnan(high) else high
    return min(low, high / 10), max(high, 10 * low), line.passes


def _unusable(own: float, passes: int) -> RateTest:
    why = (
        "The loss is not finite before the first step, so no rate can be tried. The rate is the "
        "optimizer's own. Diagnose the model."
    )
    verdict = Verdict(own, "none", "not finite", why, math.inf, math.nan, math.inf)
    return _result(verdict, own, False, [], [], passes)


def _result(
    verdict: Verdict,
    own: float,
    follows: bool,
    curves: Sequence[RateCurve],
    readings: Sequence[Reading],
    passes: int,
) -> RateTest:
    early = [
        norm
        for curve, reading in zip(curves, readings, strict=True)
        for rate, norm in zip(curve.rates, curve.gradient_norms, strict=True)
        if not rate > reading.falls_from and math.isfinite(norm)
    ]
    norm = float(torch.tensor(early, dtype=torch.float64).median()) if early else math.nan
    return RateTest(
        verdict.rate, verdict.confidence, verdict.kind, verdict.reason, verdict.factor,
        verdict.lowest_at, verdict.returns_at, own, follows, norm, tuple(curves), tuple(readings),
        passes,
    )  # fmt: skip
