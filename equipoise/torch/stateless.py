"""Calling a model on copies: whatever forward does, the model and the caller's data stay."""

import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from equipoise.training.kept import refill


class Copies:
    """Copies of a model's parameters and buffers, one for each tensor, under all their names.

    A module that is used in several places has one slot for each tensor, not one for each name:
    swapped in under every name, the last restore would put a copy in place of the original.

    Attributes:
        by_slot: copies by the name of the slot that holds the original.
        by_name: copies of parameters by the first name of the parameter.
    """

    def __init__(
        self, model: nn.Module, values: Mapping[str, torch.Tensor], with_gradient: bool
    ) -> None:
        """Copy a model's state.

        Args:
            model: the model.
            values: tensors to use in place of parameters, by first name.
            with_gradient: whether copies of floating-point parameters ask for gradients.
        """
        self.by_slot: dict[str, torch.Tensor] = {}
        self.by_name: dict[str, torch.Tensor] = {}
        made: dict[int, torch.Tensor] = {}
        first = {id(p): name for name, p in model.named_parameters()}
        for prefix, module in model.named_modules():
            slots: list[tuple[str, torch.Tensor]] = [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]
            for name, tensor in slots:
                if id(tensor) not in made:
                    # Values are the caller's to spend; what the model holds is not.
                    given = values.get(first.get(id(tensor), ""))
                    # A copy made in inference mode could carry no gradient.
                    with torch.inference_mode(False):
                        copy = tensor.detach().clone() if given is None else given.detach()
                    if id(tensor) in first:
                        copy.requires_grad_(with_gradient and copy.is_floating_point())
                        self.by_name[first[id(tensor)]] = copy
                    made[id(tensor)] = copy
                self.by_slot[f"{prefix}.{name}" if prefix else name] = made[id(tensor)]

    def call(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model's output for copies of the arguments, computed with these copies.

        What forward stores in attributes of modules is put back.
        """
        arguments, keywords = pytree.tree_map_only(
            torch.Tensor, lambda t: t.detach().clone(), (args, dict(kwargs))
        )
        with undisturbed(model):
            return torch.func.functional_call(
                model, self.by_slot, arguments, keywords, tie_weights=False
            )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model's forward as it is written, and put back what it stores in its modules.

    Forward may count its calls, keep its last output, register buffers or draw from the random
    generators of Python and numpy. Attributes, the contents of plain containers in them, tensors in
    attributes and those generators are as before when this ends. Compiled parts run uncompiled, so
    that their operations can be seen.
    """
    kept = [_Attributes(module) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for attributes in kept:
            attributes.put_back()
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class _Attributes:
    """What stands in the attributes of one module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._values = dict(vars(module))
        self._contents = [
            (value, value.copy())
            for value in self._values.values()
            if isinstance(value, list | dict | set | deque)
        ]
        # Forward may write into tensors that are neither parameters nor buffers: it gets copies.
        for name, value in self._values.items():
            if isinstance(value, torch.Tensor):
                vars(module)[name] = value.detach().clone().requires_grad_(value.requires_grad)

    def put_back(self) -> None:
        now = vars(self._module)
        for name in [name for name in now if name not in self._values]:
            del now[name]
        now.update(self._values)
        for value, before in self._contents:
            refill(value, before)


@contextmanager
def own_randomness(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Seed torch for a while, on the devices of a model, and restore all generators after."""
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        # torch.manual_seed would also seed devices whose state is not kept.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
