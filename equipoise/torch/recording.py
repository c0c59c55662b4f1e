"""The operations of one real forward, for models that torch.export cannot follow.

A branch on values, ``.item()`` or a derivative taken inside forward stop an export, which sees no
values. Here forward runs once on copies of the model and its inputs, and what it does is written
down: the branch that these inputs take, and no other.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from equipoise.torch.inputs import ModelInputs
from equipoise.torch.program import Program
from equipoise.torch.stateless import Copies, own_randomness, undisturbed

# What nodes are marked with.
_DERIVATIVE, _LAYER = "derivative", "layer"


def is_derivative(node: fx.Node) -> bool:
    """Whether an operation ran inside torch.autograd."""
    return _DERIVATIVE in node.meta.get("custom", {})


def record(model: nn.Module, inputs: ModelInputs, why: str) -> Program:
    """Run a model's forward once and write down its operations; nothing of the model changes.

    Args:
        model: any module with storage whose forward runs on the inputs.
        inputs: its arguments.
        why: why its forward was not exported.

    Returns:
        The program of the branch that was taken.

    Raises:
        Exception: whatever forward raises when it is recorded.
    """
    copies = Copies(model, {}, with_gradient=True)
    slots = {id(t): t for t in copies.by_slot.values()}
    state = list(slots.values())
    place_of = {key: i for i, key in enumerate(slots)}
    leaves, structure = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    given = [leaves[i].detach().clone().requires_grad_(leaves[i].requires_grad) for i in at]

    def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        by_slot = {name: tensors[place_of[id(t)]] for name, t in copies.by_slot.items()}
        filled = list(leaves)
        for i, tensor in zip(at, tensors[len(state) :], strict=True):
            filled[i] = tensor
        args, kwargs = pytree.tree_unflatten(filled, structure)
        result = torch.func.functional_call(model, by_slot, args, kwargs, tie_weights=False)
        return tuple(t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor))

    with (
        undisturbed(model),
        own_randomness(model),
        warnings.catch_warnings(),
        torch.enable_grad(),
        traceback.preserve_node_meta(),
        _layers_noted(model),
        _derivatives_noted(),
    ):
        warnings.simplefilter("ignore")
        recorded = make_fx(forward, pre_dispatch=True, _error_on_data_dependent_ops=False)(
            *state, *given
        )
    return _program(model, copies, recorded, state, why)


def _program(
    model: nn.Module,
    copies: Copies,
    recorded: fx.GraphModule,
    state: list[torch.Tensor],
    why: str,
) -> Program:
    graph = recorded.graph
    kinds = {name: type(module) for name, module in model.named_modules()}
    for node in graph.nodes:
        layer = node.meta.get("custom", {}).get(_LAYER, "")
        stack = {"": ("", type(model))}
        if layer:
            stack[layer] = (layer, kinds[layer])
        node.meta["nn_module_stack"] = stack
    places = [n for n in graph.nodes if n.op == "placeholder"]
    name_of = {id(t): name for name, t in copies.by_name.items()}
    held, rest = places[: len(state)], places[len(state) :]
    known = {n: t.detach() for n, t in zip(held, state, strict=True) if id(t) not in name_of}
    last = next(n for n in reversed(graph.nodes) if n.op == "output")
    for node in graph.nodes:
        if node.op == "get_attr":
            value = getattr(recorded, str(node.target), None)
            if isinstance(value, torch.Tensor):
                node.meta.setdefault("val", value)
                known[node] = value.detach()
    return Program(
        graph,
        {n: name_of[id(t)] for n, t in zip(held, state, strict=True) if id(t) in name_of},
        frozenset(rest),
        tuple(last.all_input_nodes),
        known,
        why,
    )


@contextmanager
def _layers_noted(model: nn.Module) -> Iterator[None]:
    """Mark every operation with the name of the module whose forward does it."""
    names = {id(module): name for name, module in model.named_modules()}
    call = nn.Module.__call__

    @functools.wraps(call)
    def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = names.get(id(module))
        if name is None:
            return call(module, *args, **kwargs)
        with traceback.annotate({_LAYER: name}):
            return call(module, *args, **kwargs)

    # This is how torch.fx follows modules too: hooks would be seen by the model.
    nn.Module.__call__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]


@contextmanager
def _derivatives_noted() -> Iterator[None]:
    """Mark every operation that runs inside torch.autograd."""
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            with traceback.annotate({_DERIVATIVE: True}):
                return function(*args, **kwargs)

        return marked

    torch.autograd.grad, torch.autograd.backward = noted(grad), noted(backward)
    try:
        yield
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
