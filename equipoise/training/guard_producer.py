"""Who made a number that is not finite: a weight, the batch, a module, the loss, or the way back.

Nothing is computed for this while all is well. A guard that knows the model keeps hold of the
inputs of this step; when a gradient or a loss is not finite, the forward pass runs once more on
them and the first module that gives out what did not come in is named.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from equipoise.training.gradient_norms import is_sharded, local
from equipoise.training.guard_names import plain_name

# Calls of the model that are kept hold of in one step; more is more accumulation than is usual.
_CALLS = 64


@dataclass(frozen=True)
class Producer:
    """Where a number that is not finite was made.

    Attributes:
        place: ``weight``, ``input``, ``forward``, ``loss`` or ``backward``; ``overflow`` where
            gradients are finite and their norm is not; ``unknown`` where the forward pass was not
            seen.
        where: name of the parameter, the module or the input.
        what: the fact in words.
    """

    place: Literal["weight", "input", "forward", "loss", "backward", "overflow", "unknown"]
    where: str
    what: str


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the model: its arguments, and under which precision."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_autocast: bool
    dtype: torch.dtype
    device: str


@dataclass(frozen=True, eq=False)
class Incident:
    """All that is known of a step that is not finite; what an ``explain`` function is given.

    Attributes:
        step: number of the step, from 1.
        is_loss_bad: whether a loss was given and is not finite.
        names: of all parameters in order of the model or optimizer.
        layers: the module of each.
        non_finite: places of those whose gradient is not finite.
        parameters: themselves.
        model: as given, or None.
        calls: of the model since the step before.
    """

    step: int
    is_loss_bad: bool
    names: tuple[str, ...]
    layers: tuple[str, ...]
    non_finite: tuple[int, ...]
    parameters: tuple[torch.Tensor, ...]
    model: nn.Module | None
    calls: tuple[Call, ...]


class Calls:
    """Keeps hold of the inputs of a model from one step to the next."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[Call] = []
        # Inside a model that was compiled in place a hook would become part of the graph.
        is_compiled = getattr(model, "_compiled_call_impl", None) is not None
        self._handle = (
            None if is_compiled else model.register_forward_pre_hook(self._saw, with_kwargs=True)
        )

    def forget(self) -> None:
        """Let go of the inputs."""
        self.seen.clear()

    def close(self) -> None:
        """Stop looking."""
        if self._handle is not None:
            self._handle.remove()
        self.forget()

    def _saw(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training and len(self.seen) < _CALLS:
            device = next((t.device.type for t in tree_leaves((args, kwargs))
                           if isinstance(t, torch.Tensor)), "cpu")  # fmt: skip
            is_on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            self.seen.append(Call(args, kwargs, is_on, dtype, device))


def find_producer(incident: Incident) -> Producer:
    """Name what made a number that is not finite.

    Args:
        incident: what is known.

    >>> p = torch.tensor([1.0, float("inf")])
    >>> find_producer(Incident(1, False, ("w",), ("",), (), (p,), None, ())).place
    'weight'
    """
    large = incident.non_finite or range(len(incident.parameters))
    held = [i for i in large if incident.parameters[i].grad is not None]
    is_overflow = (
        held
        and not incident.is_loss_bad
        and all(_is_finite(_gradient(incident.parameters[i])) for i in held)
    )
    if is_overflow:
        return Producer("overflow", incident.names[held[-1]],
                        "gradients are finite and their norm is not")  # fmt: skip
    for name, parameter in zip(incident.names, incident.parameters, strict=True):
        if not _is_finite(parameter):
            return Producer("weight", name, "the weight itself holds nan or infinity")
    order: list[str] = []
    can_run = incident.calls and not any(is_sharded(p) for p in incident.parameters)
    if incident.model is not None and can_run:
        for call in incident.calls:
            made, order = _run_again(_eager(incident.model), call)
            if made is not None:
                return made
        if incident.is_loss_bad:
            return Producer("loss", "loss", "the loss is not finite though every output is")
    return _backward(incident, order, is_forward_clear=bool(order))


def _backward(incident: Incident, order: Sequence[str], is_forward_clear: bool) -> Producer:
    """From gradients alone: on the way back, the first is the last in order of the forward pass."""
    bad = [incident.layers[i] for i in incident.non_finite]
    if not bad:
        return Producer("unknown", "loss", "the loss is not finite though every gradient is")
    at = {layer: i for i, layer in enumerate(order)}
    last = max(range(len(bad)), key=lambda i: (at.get(bad[i], -1), i))
    trainable = {
        incident.layers[i] for i, p in enumerate(incident.parameters) if p.grad is not None
    }
    is_all = trainable <= set(bad)
    share = f"{len(bad)} of {len(incident.names)} gradients are not finite"
    if is_forward_clear:
        from_loss = "; they come from the loss or from behind this layer" if is_all else ""
        return Producer("backward", bad[last], f"made on the way back: {share}{from_loss}")
    if is_all:
        return Producer("unknown", bad[last], f"{share}: made in the forward pass or in the loss")
    return Producer("backward", bad[last], f"made on the way back: {share}")


def _eager(model: nn.Module) -> nn.Module:
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def _run_again(model: nn.Module, call: Call) -> tuple[Producer | None, list[str]]:
    """One forward pass that changes nothing; who made the first number that is not finite."""
    watch = _Watch()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(_accelerators(call.device)))
        stack.enter_context(_buffers_kept(model))
        stack.enter_context(torch.autocast(call.device, dtype=call.dtype, enabled=call.is_autocast))
        for name, module in model.named_modules():
            for handle in watch.on(plain_name(name) or "model", module):
                stack.callback(handle.remove)
        model(*call.args, **call.kwargs)
    return watch.made, watch.order


def _accelerators(device: str) -> list[int]:
    return list(range(torch.cuda.device_count())) if device == "cuda" else []


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


class _Watch:
    """Follows a forward pass from module to module."""

    def __init__(self) -> None:
        self.made: Producer | None = None
        self.order: list[str] = []
        self._open: list[str] = []

    def on(self, name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        # -inf is a common mask and only a fault where a layer with weights computes it.
        has_weights = any(True for _ in module.parameters(recurse=False))

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.made is None and _is_bad((args, kwargs), False):
                self.made = (
                    Producer("forward", self._open[-1],
                             f"made by {self._open[-1]!r} itself, before it calls {name!r}")
                    if self._open else
                    Producer("input", "inputs", "the batch holds nan or infinity")
                )  # fmt: skip
            self._open.append(name)

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            self._open.pop()
            self.order.append(name)
            if self.made is None and _is_bad(output, has_weights):
                self.made = Producer("forward", name, f"made in the forward pass of {name!r}")

        yield module.register_forward_pre_hook(enter, with_kwargs=True)
        yield module.register_forward_hook(leave)


def _is_bad(values: Any, counts_minus: bool) -> bool:
    for tensor in tree_leaves(values):
        if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            bad = ~tensor.isfinite()
            if not counts_minus and not tensor.is_complex():
                bad &= ~tensor.isneginf()
            if bad.any():
                return True
    return False


def _is_finite(tensor: torch.Tensor) -> bool:
    # Of shards, those that are here: to ask the other ranks, each of them would have to ask.
    return bool(local(tensor.detach()).isfinite().all())


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


Explain = Callable[[Incident], Producer]
