"""The modules at which a monitor begins and ends to watch a forward pass."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from equipoise.training.guard_names import plain_name

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
           nn.ConvTranspose3d)  # fmt: skip


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of a module run compiled code.

    >>> is_compiled(nn.Linear(2, 2))
    False
    """
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def doors(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules at which watching begins: the model and its parts, none with compiled code inside.

    Training loops may call the model or some of its parts, so that both are doors. What is
    compiled, and whatever calls it, is left out: inside compiled code there are no calls to see.

    Args:
        model: where to look.
        name: of it.
    """
    if is_compiled(model):
        return
    is_clear = not any(is_compiled(m) for m in model.modules())
    has_forward = type(model).forward is not nn.Module.forward
    if is_clear and has_forward:
        yield name, model
    for own, child in model.named_children():
        path = f"{name}.{own}" if name else own
        if is_clear and has_forward:
            if not is_compiled(child) and type(child).forward is not nn.Module.forward:
                yield path, child
        else:
            yield from doors(child, path)


def unseen(model: nn.Module) -> tuple[str, ...]:
    """Names of the compiled parts of a model, the outermost of them."""
    if is_compiled(model):
        return ("model",)
    found: list[str] = []
    for name, module in model.named_modules():
        if is_compiled(module) and not any(name.startswith(f"{f}.") for f in found):
            found.append(plain_name(name))
    return tuple(found)


def computed_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers whose weight is computed anew at each call, such as under weight norm."""
    for name, module in model.named_modules():
        if isinstance(module, _AFFINE) and "weight" not in module._parameters:
            yield plain_name(name), module


def affine_weights(model: nn.Module) -> frozenset[int]:
    """Ids of the weights that torch draws uniformly within 1 / sqrt(fan_in)."""
    return frozenset(
        id(m.weight) for m in model.modules()
        if isinstance(m, _AFFINE) and "weight" in m._parameters
    )  # fmt: skip


def is_in_backward() -> bool:
    """Whether autograd is at work: a checkpointed part then runs forward once more."""
    # torch's own checkpointing asks in this way too.
    return torch._C._current_graph_task_id() != -1


def _nothing(_: list[Any]) -> None:
    """What the doors of a copied model do."""


class Inside:
    """A hook that says which module is at work, where a watch cannot tell by the weight.

    Args:
        says: told the name.
        name: of the module, '' behind it.
    """

    def __init__(self, says: Callable[[str], None], name: str) -> None:
        self._says: Callable[[str], None] | None = says
        self._name = name

    def __call__(self, *_: Any) -> None:
        """As a hook, whatever it is given."""
        if self._says is not None:
            self._says(self._name)

    def __getstate__(self) -> dict[str, Any]:
        # Copies of a model, and files of it, are not watched.
        return {"_says": None, "_name": self._name}


class Doors:
    """Calls ``enter`` before the outermost door opens and ``leave`` behind it.

    Args:
        model: whose doors.
        enter: called with the arguments of the call, by leaf.
        leave: called with what it returned, by leaf, once it is over, whether it failed or not.
    """

    def __init__(
        self,
        model: nn.Module,
        enter: Callable[[list[Any]], None],
        leave: Callable[[list[Any]], None],
    ) -> None:
        self._enter, self._leave = enter, leave
        self._open: list[nn.Module] = []
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        for _, module in doors(model):
            self.handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._behind, always_call=True))

    def close(self) -> None:
        """Take all hooks off."""
        for handle in self.handles:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        # Copies of a model, and files of it, are not watched.
        return {"_enter": _nothing, "_leave": _nothing, "_open": [], "handles": []}

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The compiler must not get to see what comes behind this.
        if torch.compiler.is_compiling():
            return
        if self._open or not module.training or not torch.is_grad_enabled() or is_in_backward():
            return
        self._open.append(module)
        self._enter(tree_leaves((args, kwargs)))

    def _behind(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self._open and self._open[0] is module:
            self._open.clear()
            self._leave(tree_leaves(output))
