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
from equipoise.training.monitor_quantiles import Quantiles
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
        self.follow(watched)
        self.layers: list[str] = []
        self._place: dict[str, int] = {}
        for one in watched:
            self._row_of(one.layer)
        self._rows: deque[tuple[int, float, np.ndarray]] = deque(maxlen=capacity)
        self._sketches: dict[tuple[str, str], Quantiles] = {}
        self._common: dict[str, float] = {}
        self._differs: dict[str, float] = {}

    def follow(self, watched: Sequence[Watched]) -> None:
        """Go on with these parameters."""
        self._watched = watched

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
        for layer, row in zip(self.layers, numbers, strict=True):
            for name, number in zip(METRICS, row, strict=True):
                if number == number:
                    self._sketches.setdefault((name, layer), Quantiles()).add(float(number))
        return numbers

    def arrays(self) -> dict[str, np.ndarray]:
        """``step`` and ``loss`` of shape (looks,), each metric of shape (looks, layers)."""
        count, width = len(self._rows), len(self.layers)
        found = np.full((count, width, len(METRICS)), math.nan)
        for i, (_, _, numbers) in enumerate(self._rows):
            # Layers that were first seen later have no numbers yet.
            found[i, : len(numbers)] = numbers
        arrays = {"step": np.array([step for step, _, _ in self._rows], dtype=np.int64),
                  "loss": np.array([loss for _, loss, _ in self._rows], dtype=np.float64)}  # fmt: skip
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
            for layer, total in self._sums(one, kind, squared=True).items():
                numbers[self._row_of(layer), _AT[name]] = math.sqrt(total)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = numbers[:, _AT["update_norm"]] / numbers[:, _AT["weight_norm"]]
        numbers[:, _AT["update_ratio"]] = np.where(np.isfinite(ratio), ratio, math.nan)
        common, differs = self._sums(one, "common"), self._sums(one, "differs")
        for layer, noise in differs.items():
            if not (math.isfinite(noise) and math.isfinite(common[layer])):
                continue
            # A quotient of means: single looks at the mean gradient may well be negative.
            self._common[layer] = _smoothed(self._common.get(layer), common[layer])
            self._differs[layer] = _smoothed(self._differs.get(layer), noise)
            if self._common[layer] > 0:
                scale = self._differs[layer] / self._common[layer]
                numbers[self._row_of(layer), _AT["noise_scale"]] = scale

    def _sums(self, one: Reading, kind: str, squared: bool = False) -> dict[str, float]:
        found: dict[str, float] = {}
        values = one.by_parameter.get(kind)
        if values is None:
            return found
        for w, value in zip(self._watched, values, strict=True):
            known = one.has_gradient.any() if kind != "gradient" else value == value
            if known and value == value:
                term = float(value) ** 2 if squared else float(value)
                found[w.layer] = found.get(w.layer, 0.0) + term
        return found


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else _DECAY * before + (1 - _DECAY) * now
