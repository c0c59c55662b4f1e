"""Whether what the library makes of a model is right by measurement, or refused with a reason.

A fault is one of

* ``crash``: an exception that is no ``EquipoiseError``, or a message that names nothing;
* ``changed``: a model or generator that is not bit for bit what it was after a refusal, or buffers
  and training flags that are not after a start;
* ``unlisted``: a parameter that stands nowhere in the plan, or that the gradient reaches although
  the plan says that no operation uses it;
* ``not finite``: a forward or backward pass that is finite before, and is not behind a start;
* ``signal``, ``gradient``, ``across``: a finite prediction that most draws miss by more than a
  factor.

A fault of the last kind is named by the call where its own measurement disagrees with the
prediction (finding ``prediction-missed``) or finds nothing left (``vanished-...``), and silent
where it does not; all others are silent.

What is measured comes from a mode of its own that sees every product of a value with a parameter.
"""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import equipoise.torch as eq
from equipoise.errors import EquipoiseError
from equipoise.plan.plan import Plan

# Factors within which the median draw must lie, and draws to look at first and to be sure.
FACTORS = {"signal": 2.0, "gradient": 3.0, "across": 3.0}
_FIRST, _SURE = 9, 101
# Standard errors by which more than half of the draws must miss.
_ERRORS = 3.0
_MAPS = frozenset(
    {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
     "conv_transpose3d", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum",
     "tensordot"}
)  # fmt: skip
_SUMS = frozenset({"add", "__add__", "__radd__"})
_UNUSED = "no operation of the model uses it"


@dataclass
class Examined:
    """What was found of one model.

    Attributes:
        status: ``started`` or ``refused``.
        reason: of a refusal.
        faults: one sentence each, the kind first.
        predicted, unknown: number of layers with and without a predicted signal.
        across: number of layers with a predicted gradient from the outputs of the model.
        unread: operations that were not read.
        named: kinds of faults that the call itself found in its measurement.
    """

    status: str = "started"
    reason: str = ""
    faults: list[str] = field(default_factory=list)
    predicted: int = 0
    unknown: int = 0
    across: int = 0
    unread: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)

    @property
    def silent(self) -> list[str]:
        """Faults that the call did not name."""
        return [f for f in self.faults if f.split(":")[0] not in self.named]

    def fault(self, kind: str, text: str) -> None:
        """Take note of a fault."""
        self.faults.append(f"{kind}: {text}")


class Watch(TorchFunctionMode):
    """Keeps the result of every linear map that reads a parameter of two axes or more.

    A parameter is known by its memory, so that a transpose or a view of it is known too. A bias
    that is added to a result at once is part of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {p.untyped_storage().data_ptr(): n for n, p in model.named_parameters()
                       if p.dim() > 1}  # fmt: skip
        self._biases = {p.untyped_storage().data_ptr() for p in model.parameters() if p.dim() == 1}
        self.seen: list[tuple[str, torch.Tensor]] = []
        self._last: torch.Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _SUMS and any(x is self._last for x in args) and self._has_bias(args):
            self.seen[-1] = (self.seen[-1][0], out)
            return out.clone()
        if name not in _MAPS or not isinstance(out, torch.Tensor):
            return out
        given = pytree.tree_leaves((args, kwargs or {}))
        names = [self._names.get(t.untyped_storage().data_ptr(), "") for t in given
                 if isinstance(t, torch.Tensor) and t.dim() > 1]  # fmt: skip
        names = [name for name in names if name]
        if names:
            self.seen.append((names[0], out))
            # Operations in place on what comes next must not change what is kept.
            self._last = out.clone()
            return self._last
        return out

    def _has_bias(self, args: tuple[Any, ...]) -> bool:
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        return self._last is not None and any(
            x.untyped_storage().data_ptr() in self._biases for x in tensors
        )


def examine(model: nn.Module, inputs: tuple[torch.Tensor, ...], seed: int = 0) -> Examined:
    """Everything that is to be checked of one model; it is started by the end."""
    found = Examined()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        _examine(found, model, inputs)
    return found


def _examine(found: Examined, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    before, flags = _state(model), [m.training for m in model.modules()]
    reached, was_finite = _reached(model, inputs)
    _put_back(model, before)
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    try:
        report = eq.initialize(model, inputs, generator=generator)
    except EquipoiseError as error:
        found.status, found.reason = "refused", str(error)
        if not re.search(r"'.+?'|\b(inputs|model|layer|forward)\b", str(error)):
            found.fault("crash", f"the message names neither layer nor argument: {error}")
        if not _same(before, _state(model)) or not torch.equal(state, generator.get_state()):
            found.fault("changed", "after a refusal")
        return
    # Whatever else is raised is what is looked for.
    except Exception as error:
        found.fault("crash", f"{type(error).__name__}: {str(error).splitlines()[:1]}")
        return
    if [m.training for m in model.modules()] != flags:
        found.fault("changed", "training flags")
    buffers = {name for name, _ in model.named_buffers()}
    after = _state(model)
    if not _same({n: before[n] for n in buffers}, {n: after[n] for n in buffers}):
        found.fault("changed", "buffers")
    for finding in report.findings:
        if finding.code == "prediction-missed" or finding.code.startswith("vanished"):
            found.named |= {"signal"} if "signal" in finding.what else {"gradient", "across"}
    _check_list(found, model, report.plan, reached)
    _, is_finite = _reached(model, inputs)
    _put_back(model, after)
    if was_finite and not is_finite:
        found.fault("not finite", "forward or backward")
    _check_predictions(found, model, inputs, report.plan)
    _put_back(model, after)


def _check_list(found: Examined, model: nn.Module, plan: Plan, reached: set[str]) -> None:
    reasons = {a.parameter: a.reason for a in plan.assignments}
    reasons |= {u.parameter: u.reason for u in plan.untouched}
    names = {name for name, _ in model.named_parameters()}
    if set(reasons) != names or not all(reasons.values()):
        found.fault("unlisted", f"{sorted(set(reasons) ^ names)}")
    for u in plan.untouched:
        if u.reason == _UNUSED and u.parameter in reached:
            found.fault("unlisted", f"{u.parameter} is reached, the plan says {u.reason!r}")
    found.unread = [m for note in plan.notes for m in re.findall(r"not read, (.*)", note)]


def _check_predictions(
    found: Examined, model: nn.Module, inputs: tuple[torch.Tensor, ...], plan: Plan
) -> None:
    known = [math.isfinite(p.signal) for p in plan.predictions]
    found.predicted, found.unknown = sum(known), len(known) - sum(known)
    found.across = sum(math.isfinite(p.across) for p in plan.predictions)
    if not any(known):
        return
    drawn = _drawn(model, inputs, plan, range(_FIRST))
    suspect = [key for key, ratios in drawn.items() if _misses(ratios, key[1], 0.0)]
    if not suspect:
        return
    drawn = _drawn(model, inputs, plan, range(_SURE))
    for place, kind in suspect:
        ratios = drawn[place, kind]
        if _misses(ratios, kind, _ERRORS):
            p = plan.predictions[place]
            found.fault(
                kind,
                f"{p.weight} (of {len(known)} the {place + 1}th), predicted {getattr(p, kind):.3g},"
                f" log std {p.log_std:.2g}, the median of {len(ratios)} draws is "
                f"{np.median(ratios):.3g} times that",
            )


def _misses(ratios: list[float], kind: str, errors: float) -> bool:
    """Whether more than half of all draws lie on one side of the factor."""
    factor, most = FACTORS[kind], len(ratios) / 2 + errors * math.sqrt(len(ratios)) / 2
    return any(
        sum(outside) > most
        for outside in ([r < 1 / factor for r in ratios], [r > factor for r in ratios])
    )


def _drawn(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], plan: Plan, seeds: Iterable[int]
) -> Mapping[tuple[int, str], list[float]]:
    """Measured over predicted, by place of the prediction and kind, for each draw."""
    ratios: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, p in enumerate(plan.predictions):
        places[p.weight].append(place)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    for seed in seeds:
        eq.apply(model, plan, torch.Generator().manual_seed(seed))
        with Watch(model) as watch:
            made = model(*(x.clone() for x in inputs))
        _put_back(model, buffers)
        turns = {name: iter(found) for name, found in places.items()}
        outputs = dict[int, torch.Tensor]()
        for name, out in watch.seen:
            place = next(turns.get(name, iter(())), None)
            if place is not None:
                outputs[place] = out
        for place, out in outputs.items():
            if plan.predictions[place].signal > 0:
                ratios[place, "signal"].append(_rms(out) / plan.predictions[place].signal)
        for place, gradient in _relative_gradients(plan, outputs).items():
            if plan.predictions[place].gradient > 0:
                ratios[place, "gradient"].append(gradient / plan.predictions[place].gradient)
        found = {
            place: gradient / plan.predictions[place].across
            for place, gradient in _gradients_across(outputs, made).items()
            if plan.predictions[place].across > 0
        }
        # What a model returns several times gets several cotangents: the last layer is the measure.
        anchor = found.get(max(found, default=0), 0.0) or 1.0
        for place, ratio in found.items():
            ratios[place, "across"].append(ratio / anchor)
    return ratios


def _gradients_across(outputs: Mapping[int, torch.Tensor], made: Any) -> dict[int, float]:
    """RMS of the gradient at each layer, of a random cotangent of RMS 1 at what a model returns."""
    heads = [t for t in pytree.tree_leaves(made) if t.is_floating_point() and t.requires_grad]
    wanted = {place: out for place, out in outputs.items() if out.requires_grad}
    if not heads or not wanted:
        return {}
    cotangents = [torch.randn_like(t) for t in heads]
    try:
        found = torch.autograd.grad(heads, list(wanted.values()), cotangents, allow_unused=True)
    # As above.
    except RuntimeError:
        return {}
    return {p: _rms(g) for p, g in zip(wanted, found, strict=True) if g is not None}


def _relative_gradients(plan: Plan, outputs: Mapping[int, torch.Tensor]) -> dict[int, float]:
    """RMS of the gradient at each layer over that at the last one of its chain.

    As a plan means it: for a random cotangent there. What comes back through a norm is not random:
    it has nothing in the direction of the signal, which is all that a layer of width 1 passes on.
    """
    found = dict[int, float]()
    for chain in {p.stack for p in plan.predictions}:
        places = [i for i, p in enumerate(plan.predictions) if p.stack == chain]
        last = outputs.get(places[-1])
        before = [i for i in places[:-1] if i in outputs and outputs[i].requires_grad]
        if last is None or not last.requires_grad or not before:
            continue
        cotangent = torch.randn_like(last)
        try:
            gradients = torch.autograd.grad(
                last, [outputs[i] for i in before], cotangent, retain_graph=True, allow_unused=True
            )
        # Values that are needed were written over: torch has no gradient of this model.
        except RuntimeError:
            continue
        for place, g in zip(before, gradients, strict=True):
            found[place] = _rms(g) / _rms(cotangent) if g is not None else 0.0
    return found


def _reached(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[set[str], bool]:
    """Parameters that the gradient reaches, and whether all values are finite."""
    model.zero_grad()
    try:
        is_finite = _backward(model, model(*(x.clone() for x in inputs)))
    # A model that refuses its inputs is to be refused; one that has no backward pass may start.
    except (ValueError, RuntimeError):
        model.zero_grad()
        return set(), False
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    is_finite &= all(bool(torch.isfinite(g).all()) for g in grads.values())
    return {name for name, g in grads.items() if bool(g.ne(0).any())}, is_finite


def _backward(model: nn.Module, outputs: Any) -> bool:
    """Send a random cotangent back; whether the outputs are finite."""
    found = [t for t in pytree.tree_leaves(outputs) if t.is_floating_point()]
    total = sum((t * torch.randn_like(t)).sum() for t in found)
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    return all(bool(torch.isfinite(t).all()) for t in found)


def _rms(x: torch.Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def _same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(t.nan_to_num(7.0), second[name].nan_to_num(7.0)) for name, t in first.items()
    )


def _put_back(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    held = model.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            held[name].copy_(value)
