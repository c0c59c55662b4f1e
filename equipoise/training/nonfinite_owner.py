"""What a tensor is called: a parameter, buffer or gradient of the model, or an argument of it."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from equipoise.training.nonfinite_operation import Operand
from equipoise.training.nonfinite_origin import key_of
from equipoise.training.nonfinite_place import optimizer_running, plain_name
from equipoise.training.nonfinite_span import kind_in, span_of


class Owners:
    """Names tensors by the memory they lie in.

    Args:
        model: whose parameters and buffers go by their names.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        self._arguments: dict[int, str] = {}

    def take_arguments(self, arguments: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Note the tensors that the model was called with."""
        self._arguments = {key: name for name, t in arguments if (key := key_of(t)) is not None}

    def parameter(self, leaf: object) -> str:
        """Name of a parameter, by its identity; '' for another leaf."""
        name = self._names.get(id(leaf))
        return f"parameter '{name}'" if name is not None else ""

    def of(self, tensor: torch.Tensor) -> str:
        """What a tensor is, '' where that is not known."""
        return self.whole(tensor)[0]

    def whole(self, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        """What a tensor is, and the parameter, buffer or gradient that it is a view of.

        Returns:
            '' and the tensor itself where that is not known.
        """
        key = key_of(tensor)
        if key is None:
            return "", tensor
        for name, held in self._held():
            if key_of(held) == key:
                return name, held
        return self._arguments.get(key, ""), tensor

    def state(self, tensor: torch.Tensor) -> str:
        """What a tensor is to the optimizer whose step is under way, '' where it is not its."""
        optimizer, key = optimizer_running(), key_of(tensor)
        if optimizer is None or key is None:
            return ""
        for parameter, state in optimizer.state.items():
            for name, held in state.items():
                if isinstance(held, torch.Tensor) and key_of(held) == key:
                    owner = self.parameter(parameter) or "a parameter"
                    return f"the optimizer's state '{name}' of {owner}"
        return ""

    def before(self) -> Iterator[Operand]:
        """Parameters, buffers and gradients that are not finite as they stand."""
        with torch.no_grad():
            for name, tensor in self._held():
                if kind_in(tensor):
                    yield Operand(name, "", span_of(tensor, rows=True))

    def _held(self) -> Iterator[tuple[str, torch.Tensor]]:
        for path, parameter in self._model.named_parameters():
            name = plain_name(path)
            yield f"parameter '{name}'", parameter
            if parameter.grad is not None:
                yield f"gradient of parameter '{name}'", parameter.grad
        for name, buffer in self._model.named_buffers():
            yield f"buffer '{plain_name(name)}'", buffer
