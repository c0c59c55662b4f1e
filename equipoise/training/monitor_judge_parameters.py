"""Parameters that do not take part: frozen, forgotten, alike, or not as they were initialized."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.rules.finding import Finding
from equipoise.rules.units import in_units
from equipoise.rules.zeros import Zeros
from equipoise.training.guard_names import Watched, plain_name
from equipoise.training.monitor_doors import affine_weights
from equipoise.training.monitor_limits import LEAST_GRADIENT, SAME, STILL
from equipoise.training.monitor_row import Reading
from equipoise.training.monitor_twins import is_default

_FROZEN_CURE = (
    "If this is not meant, set requires_grad, look for a detach or no_grad in forward, and hand "
    "all of model.parameters() to the optimizer."
)


class ParameterJudge:
    """Looks at which parameters move.

    Args:
        model: whose parameters.
        watched: those of the optimizers.
    """

    def __init__(self, model: nn.Module, watched: Sequence[Watched]) -> None:
        self._model, self._watched = model, watched
        self._waits = np.zeros(len(watched), dtype=int)
        self._still = np.zeros(len(watched), dtype=int)
        self._affine = affine_weights(model)
        # A sample of a table may rest where other rows move.
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self._is_judged = np.array([id(w.parameter) not in tables for w in watched], dtype=bool)
        self._is_first = True

    def judge(self, one: Reading) -> list[Finding]:
        """What a step says; all of its numbers are finite."""
        found = list[Finding]()
        if "since" in one.by_parameter and self._is_first:
            self._is_first = False
            found += [*self._forgotten(), *self._kept_frozen()]
            found += self._swallowed(one.by_parameter["since"])
            found += self._alike(one.by_parameter.get("mark"))
            found += self._defaults(one.by_parameter.get("bound"), one.outputs)
        if "twins" in one.by_parameter:
            found += self._twins(one.by_parameter["twins"])
        return [*found, *self._frozen(one)]

    def _forgotten(self) -> list[Finding]:
        held = {id(w.parameter) for w in self._watched}
        missing = [plain_name(name) for name, p in self._model.named_parameters()
                   if p.requires_grad and id(p) not in held]  # fmt: skip
        if not missing:
            return []
        return [
            Finding("not-in-optimizer", "warning", missing[0],
                    "a parameter asks for gradients and no optimizer moves it",
                    "every trainable parameter in an optimizer", _named(missing),
                    "Hand all of model.parameters() to the optimizer, after the last layer was "
                    "added; or set requires_grad to False.")
        ]  # fmt: skip

    def _kept_frozen(self) -> list[Finding]:
        """A few weights that ask for no gradient, behind others that do.

        Whoever freezes on purpose freezes what comes first, or nearly all; such are left alone.
        """
        held = {id(w.parameter) for w in self._watched}
        named = [(plain_name(n), p) for n, p in self._model.named_parameters()]
        weights = [(n, p) for n, p in named if id(p) in self._affine]
        frozen = [i for i, (_, p) in enumerate(weights) if not p.requires_grad]
        free = [i for i, (_, p) in enumerate(weights) if p.requires_grad]
        some = [i for i in frozen if id(weights[i][1]) not in held and free and i > free[0]]
        if not some or len(frozen) >= len(free):
            return []
        names = [weights[i][0] for i in some]
        return [
            Finding("frozen-parameter", "warning", names[0],
                    "a weight asks for no gradient though layers on both sides of it train",
                    "a weight that trains", _named(names), _FROZEN_CURE)
        ]  # fmt: skip

    def _swallowed(self, since: np.ndarray) -> list[Finding]:
        moved = np.flatnonzero(since > SAME).tolist()
        if not moved:
            return []
        names = [self._watched[i].name for i in moved]
        return [
            Finding("swallowed-init", "warning", names[0],
                    "before the first step a weight is not what it was initialized to",
                    "the same weights", f"{since[moved[0]]:.0%} away from it; {_named(names)}",
                    "Initialize last: after the model is wrapped, moved, loaded and reset.")
        ]  # fmt: skip

    def _alike(self, marks: np.ndarray | None) -> list[Finding]:
        """Weights that are the same, of layers that are not one."""
        if marks is None:
            return []
        seen: dict[tuple[tuple[int, ...], float], str] = {}
        pairs = []
        for w, number in zip(self._watched, marks, strict=True):
            if not number or np.isnan(number):
                continue
            key = tuple(w.parameter.shape), float(f"{number:.6g}")
            if key in seen:
                pairs.append((w.name, seen[key]))
            seen.setdefault(key, w.name)
        if not pairs:
            return []
        return [
            Finding("identical-layers", "warning", pairs[0][0],
                    "layers start from the same weights, as copies of one layer do",
                    "weights that were drawn one by one",
                    f"the same as {pairs[0][1]!r}; {_named([a for a, _ in pairs])}",
                    "Initialize after copying: equipoise.torch.initialize draws each weight by "
                    "itself.")
        ]  # fmt: skip

    def _defaults(self, bounds: np.ndarray | None, outputs: frozenset[str]) -> list[Finding]:
        """Layers with torch's own draw, where most others have another."""
        if bounds is None:
            return []
        judged = [i for i, w in enumerate(self._watched) if id(w.parameter) in self._affine]
        kept = [i for i in judged
                if is_default(bounds[i], self._watched[i].parameter.numel())]  # fmt: skip
        # New heads on an old body are drawn by torch, and nothing is wrong with that.
        heads = outputs or {self._watched[i].layer for i in judged[-1:]}
        kept = [i for i in kept if self._watched[i].layer not in heads]
        sure = [i for i in judged if self._watched[i].parameter.numel() >= 1000]
        if not kept or 2 * len(kept) >= len(sure):
            return []
        names = [self._watched[i].name for i in kept]
        return [
            Finding("default-init", "info", names[0],
                    "a layer has torch's own draw though most others were initialized",
                    "one way to start for all", _named(names),
                    "Initialize it as well, or make it before the call that initializes.")
        ]  # fmt: skip

    def _twins(self, shares: np.ndarray) -> list[Finding]:
        """The rule of the diagnosis, on shares of units that repeat each other."""
        nan = float("nan")
        layers = tuple(
            LayerMeasurement(w.layer, w.name, 1, nan, nan, nan, nan, 0.0, 0.0, twins=share,
                             weight_norm=1.0)
            for w, share in zip(self._watched, shares, strict=True) if share == share
        )  # fmt: skip
        measured = Measurements(layers, nan, nan, nan, nan, True, 0)
        found = in_units(measured, {}, lambda layer: "", Zeros())
        return [f for f in found if f.code == "symmetric-units"]

    def _frozen(self, one: Reading) -> list[Finding]:
        """Parameters that get no gradient, or do not move, while others do."""
        update = one.by_parameter.get("update")
        if update is None or not (np.nan_to_num(update) > 0).any():
            return []
        gradient = np.nan_to_num(one.by_parameter.get("gradient", np.zeros(len(update))))
        is_waiting = ~one.has_gradient & ~(update > 0)
        is_still = one.has_gradient & (update == 0) & self._is_judged
        self._waits = np.where(is_waiting, self._waits + 1, 0)
        self._still = np.where(is_still, self._still + 1, 0)
        found = list[Finding]()
        found += self._resting(self._waits, "no gradient ever arrives", one.step)
        if (self._still == STILL).any():
            places = self._still == STILL
            what = "its gradient is not 0 and it does not move"
            felt = gradient > LEAST_GRADIENT * np.linalg.norm(gradient)
            found += self._resting(np.where(felt, self._still, 0), what, one.step)
            what = "its gradient is exactly 0"
            found += self._resting(np.where(places & (gradient == 0), STILL, 0), what, one.step)
        return found

    def _resting(self, counts: np.ndarray, what: str, step: int) -> list[Finding]:
        ripe = np.flatnonzero(counts == STILL).tolist()
        if not ripe:
            return []
        names = [self._watched[i].name for i in ripe]
        return [
            Finding("frozen-parameter", "warning", names[0],
                    f"a parameter has not moved for {STILL} steps up to step {step}: {what}",
                    "a parameter that moves as others do", _named(names),
                    _FROZEN_CURE if "ever" in what else
                    "Look at the learning rate of its group; in half precision, keep the weights "
                    "in float32.")
        ]  # fmt: skip


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def weights_by_layer(watched: Sequence[Watched], numbers: np.ndarray) -> Mapping[str, float]:
    """Norms of layers from those of their parameters; those that are not known are left out."""
    squares: dict[str, float] = {}
    for w, number in zip(watched, numbers, strict=True):
        if number == number:
            squares[w.layer] = squares.get(w.layer, 0.0) + float(number) ** 2
    return {layer: total**0.5 for layer, total in squares.items()}
