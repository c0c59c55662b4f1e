"""One forward and one backward pass, watched at every affine layer; no side effects."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from equipoise.errors import TraceError
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.stacks import find_stacks
from equipoise.plan.trace import Affine, Trace
from equipoise.theory.activations import Activation, identity
from equipoise.torch.inputs import ModelInputs, batch_rms
from equipoise.torch.stateless import Copies, own_randomness

_MOST_ROWS = 128
# The cosine of scalars is 1 or -1, of pairs not much else.
_LEAST_UNITS = 4


def measure(
    model: nn.Module,
    trace: Trace,
    inputs: ModelInputs,
    values: Mapping[str, torch.Tensor] | None = None,
) -> Measurements:
    """Send the inputs forward and a random cotangent back.

    The cotangent has independent normal entries of variance 1 / (number of output entries), so
    gradients do not depend on a loss or on targets. Buffers are copied, random state is restored
    and no gradient is left on any parameter.

    Args:
        model: the model.
        trace: its trace.
        inputs: what to send.
        values: tensors to use in place of parameters, by name; the model's own where left out.

    Returns:
        The measurements.

    Raises:
        TraceError: if forward raises.
    """
    copies = Copies(model, values or {}, with_gradient=True)
    watch = _Watch({id(copy): name for name, copy in copies.by_name.items()})
    # Dropout and the cotangent are the same at each call: a report can be repeated.
    with torch.inference_mode(False), torch.enable_grad(), own_randomness(model):
        try:
            with watch:
                output = copies.call(model, inputs.args, inputs.kwargs)
        # A user's forward may raise anything.
        except Exception as error:
            raise TraceError(
                f"forward of {type(model).__name__} must accept the inputs given, "
                f"{inputs.describe()}; it raised {type(error).__name__}: {error}"
            ) from error
        outputs = [
            t for t in pytree.tree_leaves(output)
            if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]  # fmt: skip
        gradients = _backward(
            model, outputs, [*watch.outputs, *(copies.by_name[n] for n in watch.weights)]
        )

    affines = [n for n in trace.nodes if isinstance(n, Affine)]
    feeds = _following_activations(trace)
    count = len(watch.outputs)
    layers = []
    for i, (name, seen) in enumerate(zip(watch.weights, watch.outputs, strict=True)):
        matches = i < len(affines) and affines[i].weight == name
        layer = affines[i].layer if matches else name.rpartition(".")[0] or name
        activation = feeds.get(affines[i].output, identity()) if matches else identity()
        layers.append(_layer(layer, name, seen, gradients[i], gradients[count + i], activation))
    return _summary(layers, inputs, outputs)


class _Watch(TorchFunctionMode):
    """Records the output of every linear map whose weight is a parameter, however it is called."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.weights: list[str] = []
        self.outputs: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            if id(weight) in self._names:
                self.weights.append(self._names[id(weight)])
                self.outputs.append(out)
                # An in-place activation behind it must not overwrite what is to be measured.
                return out.clone()
        return out


def _backward(
    model: nn.Module, outputs: list[torch.Tensor], targets: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    live = [t for t in outputs if t.requires_grad]
    wanted = [t for t in targets if t.requires_grad]
    if not live or not wanted:
        return [None] * len(targets)
    count = sum(t.numel() for t in live)
    cotangents = [torch.randn(t.shape, dtype=torch.float32).to(t) / math.sqrt(count) for t in live]
    try:
        found = iter(torch.autograd.grad(live, wanted, cotangents, allow_unused=True))
    except RuntimeError as error:
        raise TraceError(
            f"backward of {type(model).__name__} must run, it raised: {str(error).splitlines()[0]} "
            "Mend forward; in-place operations on what backward needs are the usual cause."
        ) from error
    return [next(found) if t.requires_grad else None for t in targets]


def _layer(
    layer: str,
    weight: str,
    output: torch.Tensor,
    gradient: torch.Tensor | None,
    weight_gradient: torch.Tensor | None,
    activation: Activation,
) -> LayerMeasurement:
    if output.numel() == 0:
        nan = math.nan
        return LayerMeasurement(layer, weight, output.shape[-1], nan, nan, nan, nan, 0.0, 0.0)
    rows = output.detach().double().reshape(-1, output.shape[-1])
    if len(rows) > _MOST_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, _MOST_ROWS).long()]
    z = rows.cpu().numpy()
    with torch.no_grad():
        dead = float((abs(activation.f(z)).max(axis=0) == 0).mean())
        # A kinked unit is flat on half its inputs by design: only bounded functions saturate.
        steepest = _steepest_if_bounded(activation)
        flat = float((abs(activation.df(z)) < 0.01 * steepest).mean()) if steepest else 0.0
    return LayerMeasurement(
        layer,
        weight,
        output.shape[-1],
        batch_rms(output),
        batch_rms(gradient) if gradient is not None else math.nan,
        float(weight_gradient.double().norm()) if weight_gradient is not None else math.nan,
        _correlation(rows, _LEAST_UNITS),
        flat,
        dead,
    )


@lru_cache
def _steepest_if_bounded(activation: Activation) -> float:
    """Largest |f'| of a bounded activation; 0 for an unbounded one, or one flat on a side of 0."""
    if 0.0 in (activation.slope_left, activation.slope_right):
        return 0.0
    far = float(abs(activation.f(np.array([-1e4, 1e4]))).max())
    return float(abs(activation.df(np.linspace(-6, 6, 2001))).max()) if far < 1e3 else 0.0


def _correlation(rows: torch.Tensor, least_units: int = 1) -> float:
    """Mean cosine over pairs of different rows; nan for fewer units than say anything."""
    n = len(rows)
    if rows.shape[1] < least_units:
        return math.nan
    norms = rows.norm(dim=1, keepdim=True)
    if n < 2 or not bool((norms > 0).all()):
        return math.nan
    total = float((rows / norms).sum(0).square().sum())
    return (total - n) / (n * (n - 1))


def _following_activations(trace: Trace) -> dict[int, Activation]:
    """Activation behind each affine output, by value number."""
    found: dict[int, Activation] = {}
    for stack in find_stacks(trace):
        behind = [*(h.activation for h in stack.hidden), stack.exit_activation]
        found.update({a.output: f for a, f in zip(stack.affines, behind, strict=True)})
    return found


def _summary(
    layers: list[LayerMeasurement], inputs: ModelInputs, outputs: list[torch.Tensor]
) -> Measurements:
    given = [t for _, t in inputs.tensors() if t.is_floating_point()]
    numbers = torch.cat([t.detach().double().reshape(-1).cpu() for t in given] or [torch.empty(0)])
    first = given[0].detach().double() if given else torch.ones(1, 1, dtype=torch.float64)
    rows = first.reshape(len(first), -1) if first.dim() else first.reshape(1, 1)
    made = torch.cat([t.detach().double().reshape(-1).cpu() for t in outputs] or [torch.empty(0)])
    return Measurements(
        tuple(layers),
        batch_rms(numbers),
        float(numbers.mean()) if numbers.numel() else math.nan,
        _correlation(rows),
        batch_rms(made),
        bool(torch.isfinite(made).all()),
        len(rows),
    )
