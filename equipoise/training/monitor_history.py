"""What a monitor remembers: one row of numbers for each layer and look, and quantiles of all."""

import csv
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.training.guard_names import Watched
from equipoise.training.monitor_quantiles import Quantiles, buckets
from equipoise.training.monitor_row import Reading

METRICS = (
    "signal", "mean", "output_gradient", "saturation", "dead", "rank", "gradient_norm",
    "weight_norm", "update_norm", "update_ratio", "noise_scale", "logit_max", "entropy",
)  # fmt: skip
_AT = {name: i for i, name in enumerate(METRICS)}
# Share of what was known that a new look at the noise of gradients leaves.
_DECAY = 0.9


class History:
    """The last looks, and quantiles of all of them.

    Args:
        watched: the parameters.
        capacity: looks that are kept.
    """

    def __init__(self, watched: Sequence[Watched], capacity: int) -> None:
        self.capacity = _checks.at_least("capacity", capacity, 1)
        self.layers: list[str] = []
        self._place: dict[str, int] = {}
        self.follow(watched)
        self._rows: deque[tuple[int, float, np.ndarray]] = deque(maxlen=capacity)
        self._sketches: dict[tuple[str, str], Quantiles] = {}
        self._common = self._differs = np.zeros(0)

    def follow(self, watched: Sequence[Watched]) -> None:
        """Go on with these parameters."""
        self._watched = watched
        self._columns: np.ndarray | None = None
        for one in watched:
            self._row_of(one.layer)

    def take(self, one: Reading) -> np.ndarray:
        """Take a step that was looked at closely in; its numbers, shape (layers, metrics)."""
        for x in one.layers:
            self._row_of(x.layer)
        for layer in one.scores:
            self._row_of(layer)
        numbers = np.full((len(self.layers), len(METRICS)), math.nan)
        for x in one.layers:
            row = numbers[self._place[x.layer]]
            row[: _AT["rank"] + 1] = (x.signal, x.mean, x.gradient, x.saturation, x.dead, x.rank)
        for layer, (logit, entropy) in one.scores.items():
            numbers[self._place[layer], [_AT["logit_max"], _AT["entropy"]]] = logit, entropy
        self._parameters(one, numbers)
        self._rows.append((one.step, one.loss, numbers))
        known = np.isfinite(numbers)
        at, columns = np.nonzero(known)
        for i, j, bucket in zip(at.tolist(), columns.tolist(), buckets(numbers[known]).tolist(),
                                strict=True):  # fmt: skip
            key = METRICS[j], self.layers[i]
            if key not in self._sketches:
                self._sketches[key] = Quantiles()
            self._sketches[key].add_bucket(bucket)
        return numbers

    def arrays(self) -> dict[str, np.ndarray]:
        """``step`` and ``loss`` of shape (looks,), each metric of shape (looks, layers)."""
        count, width = len(self._rows), len(self.layers)
        found = np.full((count, width, len(METRICS)), math.nan)
        for i, (_, _, numbers) in enumerate(self._rows):
            # Layers that were first seen later have no numbers yet.
            found[i, : len(numbers)] = numbers
        steps, losses = [row[0] for row in self._rows], [row[1] for row in self._rows]
        arrays = {"step": np.array(steps, dtype=np.int64), "loss": np.array(losses, dtype=float)}
        return arrays | {name: found[:, :, i].copy() for name, i in _AT.items()}

    def quantiles(self, metric: str, layer: str, shares: Sequence[float]) -> np.ndarray:
        """Quantiles of all looks so far, also of those that are no longer kept."""
        _checks.one_of("metric", metric, METRICS)
        _checks.one_of("layer", layer, self.layers)
        return self._sketches.get((metric, layer), Quantiles()).at(shares)

    def latest(self) -> dict[str, float]:
        """The last look as ``metric/layer``, what is known of it, with ``loss``."""
        if not self._rows:
            return {}
        _, loss, numbers = self._rows[-1]
        found = {"loss": loss} if loss == loss else {}
        for layer, row in zip(self.layers, numbers, strict=False):
            for name, number in zip(METRICS, row, strict=True):
                if number == number:
                    found[f"{name}/{layer}"] = float(number)
        return found

    def to_csv(self, path: str | Path) -> None:
        """One line for each look and layer; empty where a number is not known."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "loss", "layer", *METRICS))
            for step, loss, numbers in self._rows:
                for layer, row in zip(self.layers, numbers, strict=False):
                    cells = ["" if x != x else repr(float(x)) for x in (loss, *row)]
                    writer.writerow((step, cells[0], layer, *cells[1:]))

    def to_parquet(self, path: str | Path) -> None:
        """The same table as a Parquet file; nan where a number is not known."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ArgumentError(
                "a Parquet file needs pyarrow, which is not installed. Install pyarrow, or use "
                "to_csv."
            ) from error
        columns: dict[str, list[object]] = {n: [] for n in ("step", "loss", "layer", *METRICS)}
        for step, loss, numbers in self._rows:
            for layer, row in zip(self.layers, numbers, strict=False):
                for name, cell in zip(columns, (step, loss, layer, *map(float, row)), strict=True):
                    columns[name].append(cell)
        pyarrow.parquet.write_table(pyarrow.table(columns), str(path))

    def _row_of(self, layer: str) -> int:
        if layer not in self._place:
            self._place[layer] = len(self.layers)
            self.layers.append(layer)
        return self._place[layer]

    def _parameters(self, one: Reading, numbers: np.ndarray) -> None:
        """Norms of layers: of all their parameters together."""
        for kind, name in (("gradient", "gradient_norm"), ("weight", "weight_norm"),
                           ("update", "update_norm")):  # fmt: skip
            numbers[:, _AT[name]] = np.sqrt(self._sums(one, kind, 2, len(numbers)))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = numbers[:, _AT["update_norm"]] / numbers[:, _AT["weight_norm"]]
        numbers[:, _AT["update_ratio"]] = np.where(np.isfinite(ratio), ratio, math.nan)
        common = self._sums(one, "common", 1, len(numbers))
        differs = self._sums(one, "differs", 1, len(numbers))
        # A quotient of means: single looks at the mean gradient may well be negative.
        self._common = _smoothed(self._common, common)
        self._differs = _smoothed(self._differs, differs)
        known = np.isfinite(differs) & (self._common > 0)
        numbers[known, _AT["noise_scale"]] = self._differs[known] / self._common[known]

    def _sums(self, one: Reading, kind: str, power: int, width: int) -> np.ndarray:
        """Sums over the parameters of each layer, nan where there is none."""
        values = one.by_parameter.get(kind)
        if values is None or not len(values):
            return np.full(width, math.nan)
        if self._columns is None:
            self._columns = np.array([self._place[w.layer] for w in self._watched])
        known = one.has_gradient if kind == "gradient" else ~np.isnan(values)
        columns = self._columns[known]
        sums = np.bincount(columns, values[known] ** power, width)
        return np.where(np.bincount(columns, minlength=width) > 0, sums, math.nan)


def _smoothed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """A running mean of what is known; layers that are new begin with what they show."""
    held = np.full(len(now), math.nan)
    held[: len(before)] = before
    mixed = np.where(np.isfinite(held), _DECAY * held + (1 - _DECAY) * now, now)
    found: np.ndarray = np.where(np.isfinite(now), mixed, held)
    return found
