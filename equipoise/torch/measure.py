"""One forward and one backward pass, watched at every affine layer; no side effects."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.errors import TraceError
from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.nodes import Affine
from equipoise.plan.stacks import find_stacks
from equipoise.plan.trace import Trace
from equipoise.theory.activations import Activation, identity
from equipoise.torch.inputs import ModelInputs, batch_rms
from equipoise.torch.measure_layer import by_input, cosine, input_share, layer_measurement
from equipoise.torch.measure_loss import NO_LOSS, Loss
from equipoise.torch.parametrized import effective
from equipoise.torch.stateless import Copies, own_randomness
from equipoise.training.affine_watch import Seen, Watch

# More rows than these change no number that is measured by more than its own error.
_MOST_INPUTS = 1024


def measure(
    model: nn.Module,
    trace: Trace,
    inputs: ModelInputs,
    values: Mapping[str, torch.Tensor] | None = None,
    loss: Loss = NO_LOSS,
) -> Measurements:
    """Send the inputs forward, and the gradient of a loss or a random cotangent back.

    Without a loss the cotangent has independent normal entries of variance 1 / (number of output
    entries), so gradients depend on no targets. Of more than 1,024 rows as many are sent, evenly
    spaced. Buffers are copied, random state is restored and no gradient is left on any parameter.
    Hooks of the model fire once, as in any call.

    Args:
        model: the model.
        trace: its trace; it says which activation follows a layer.
        inputs: what to send.
        values: tensors to use in place of parameters, by name; the model's own where left out.
        loss: what gradients are of.

    Returns:
        The measurements.

    Raises:
        ArgumentError: if the loss cannot be computed from outputs and targets.
        TraceError: if forward or backward raises.
    """
    given = _batch(inputs)
    sent, loss = _fewer(inputs, loss, given)
    with effective(model):
        try:
            return _pass(model, trace, sent, values or {}, loss, given)
        except TraceError:
            if sent is inputs:
                raise
        # A forward that knows the size of its batch takes no other.
        return _pass(model, trace, inputs, values or {}, loss, given)


def _pass(
    model: nn.Module,
    trace: Trace,
    inputs: ModelInputs,
    values: Mapping[str, torch.Tensor],
    loss: Loss,
    given: int,
) -> Measurements:
    copies = Copies(model, values, with_gradient=True)
    watch = Watch({id(copy): name for name, copy in copies.by_name.items()})
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
        value, facts = loss.of(output)
        names = [n for n, p in copies.by_name.items() if p.requires_grad]
        wanted = [s.output for s in watch.seen] + [copies.by_name[n] for n in names]
        heads, cotangents = ([value], None) if value is not None else (outputs, _random(outputs))
        found = _backward(model, heads, cotangents, wanted)
    at_outputs = found[: len(watch.seen)]
    at_parameters = dict(zip(names, found[len(watch.seen) :], strict=True))
    layers = _layers(trace, watch.seen, at_outputs, at_parameters, copies, model)
    summary = _summary(layers, inputs, outputs, given)
    cotangent = math.nan if value is not None else _size(outputs)
    reached = _reach(model, at_parameters)
    return replace(summary, cotangent=cotangent, **facts.__dict__, **reached)


def _random(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    size = _size(outputs)
    return [
        torch.randn(t.shape, dtype=torch.float32, device="cpu").to(t) * size
        if t.requires_grad
        else t
        for t in outputs
    ]


def _size(outputs: list[torch.Tensor]) -> float:
    """RMS of a cotangent whose squares add up to 1 over all outputs; nan where none takes one."""
    count = sum(t.numel() for t in outputs if t.requires_grad)
    return 1.0 / math.sqrt(count) if count else math.nan


def _backward(
    model: nn.Module,
    heads: list[torch.Tensor],
    cotangents: list[torch.Tensor] | None,
    targets: list[torch.Tensor],
) -> list[torch.Tensor | None]:
    """Gradients at the targets, None where none arrives."""
    live = [i for i, t in enumerate(heads) if t.requires_grad]
    wanted = [t for t in targets if t.requires_grad]
    if not live or not wanted:
        return [None] * len(targets)
    into = None if cotangents is None else [cotangents[i] for i in live]
    try:
        found = iter(torch.autograd.grad([heads[i] for i in live], wanted, into, allow_unused=True))
    # A function of the model's own may raise anything on the way back.
    except Exception as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TraceError(
            f"backward of {type(model).__name__} must run, it raised: {words} "
            "Mend forward; in-place operations on what backward needs are the usual cause."
        ) from error
    return [next(found) if t.requires_grad else None for t in targets]


def _layers(
    trace: Trace,
    seen: list[Seen],
    gradients: list[torch.Tensor | None],
    at_parameters: Mapping[str, torch.Tensor | None],
    copies: Copies,
    model: nn.Module,
) -> list[LayerMeasurement]:
    """Each call of a layer beside the node of the trace that is the same turn of its weight."""
    nodes: dict[str, list[Affine]] = {}
    for node in trace.nodes:
        if isinstance(node, Affine):
            nodes.setdefault(node.weight, []).append(node)
    feeds = _following_activations(trace)
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    found = []
    for one, gradient in zip(seen, gradients, strict=True):
        waiting = nodes.get(one.weight)
        turn = waiting.pop(0) if waiting else None
        layer = turn.layer if turn else one.weight.rpartition(".")[0] or one.weight
        measured = layer_measurement(
            layer,
            one,
            copies.by_name[one.weight],
            gradient,
            at_parameters.get(one.weight),
            feeds.get(turn.output, identity()) if turn else identity(),
        )
        found.append(replace(measured, is_trainable=trainable.get(one.weight, True)))
    return found


def _following_activations(trace: Trace) -> dict[int, Activation]:
    """Activation behind each affine output, by value number."""
    found: dict[int, Activation] = {}
    for stack in find_stacks(trace):
        behind = [*(h.activation for h in stack.hidden), stack.exit_activation]
        found.update({a.output: f for a, f in zip(stack.affines, behind, strict=True)})
    return found


def _reach(model: nn.Module, gradients: Mapping[str, torch.Tensor | None]) -> dict[str, Any]:
    """How many of the trainable numbers have no gradient, and which parameters have none at all."""
    total = still = 0
    silent = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name not in gradients or not parameter.numel():
            continue
        gradient = gradients[name]
        # An embedding may have a sparse gradient.
        zeros = parameter.numel()
        if gradient is not None:
            zeros = int((gradient.to_dense() == 0).sum())
        total, still = total + parameter.numel(), still + zeros
        if zeros == parameter.numel():
            silent.append(name)
    return {"without_gradient": still / total if total else 0.0, "silent": tuple(silent)}


@dataclass(frozen=True)
class _Flat:
    """Entries of several tensors, float64."""

    numbers: torch.Tensor

    @staticmethod
    def of(tensors: list[torch.Tensor]) -> "_Flat":
        return _Flat(
            torch.cat(
                [t.detach().double().reshape(-1).cpu() for t in tensors]
                or [torch.empty(0, device="cpu")]
            )
        )


def _summary(
    layers: list[LayerMeasurement], inputs: ModelInputs, outputs: list[torch.Tensor], given: int
) -> Measurements:
    tensors = [t for _, t in inputs.tensors() if t.is_floating_point()]
    numbers, made = _Flat.of(tensors).numbers, _Flat.of(outputs).numbers
    rows = by_input(tensors[0].detach()) if tensors else torch.ones(1, 1, device="cpu")
    shares = [input_share(by_input(t.detach())) for t in outputs[:1] if t.dim() > 1]
    return Measurements(
        tuple(layers),
        batch_rms(numbers),
        float(numbers.mean()) if numbers.numel() else math.nan,
        cosine(rows),
        batch_rms(made),
        bool(torch.isfinite(made).all()),
        _batch(inputs),
        given,
        shares[0] if shares else math.nan,
    )


def _batch(inputs: ModelInputs) -> int:
    """Number of rows of the first tensor that has any."""
    return next((len(t) for _, t in inputs.tensors() if t.dim()), 1)


def _fewer(inputs: ModelInputs, loss: Loss, count: int) -> tuple[ModelInputs, Loss]:
    """Evenly spaced rows, where every tensor is clearly a batch of the same rows."""
    tensors = [t for _, t in inputs.tensors()]
    together = tensors + ([loss.targets] if loss.targets is not None else [])
    are_rows = all(t.dim() and len(t) == count and count not in t.shape[1:] for t in together)
    if count <= _MOST_INPUTS or not are_rows:
        return inputs, loss
    rows = torch.linspace(0, count - 1, _MOST_INPUTS, device="cpu").long()
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t[rows.to(t.device)], (inputs.args, dict(inputs.kwargs))
    )
    return ModelInputs(args, kwargs, inputs.is_given), loss.at(rows)
