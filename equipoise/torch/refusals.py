"""What cannot be initialized or measured, named before anything changes."""

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from equipoise.errors import ArgumentError, EquipoiseWarning, PlanError

_WRITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def usable(model: nn.Module) -> nn.Module:
    """The module whose parameters are meant: the model, or what ``torch.compile`` wraps.

    Args:
        model: what a caller gave as a model.

    Returns:
        The model; of a compiled one the module inside, whose parameters have their own names.

    Raises:
        ArgumentError: for what is no model, holds nothing, hides its layers in another form
            (scripted, quantized, sharded, wrapped for many devices) or cannot be walked through.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. Wrap functions in one."
        )
    while isinstance(model, torch._dynamo.OptimizedModule):
        model = model._orig_mod
    _refuse_cycles(model, "", [], set())
    for name, module in model.named_modules():
        _refuse_other_forms(name, module)
    if next(model.parameters(), None) is None:
        raise ArgumentError(
            f"model must have parameters, got none in {type(model).__name__}. "
            "Pass the module that holds the layers; layers in a plain list belong in nn.ModuleList."
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _refuse_unreadable(name, tensor)
    return model


def refuse_mixed_meta(model: nn.Module) -> None:
    """Refuse a model of which only a part has storage.

    Raises:
        PlanError: naming the first parameter without storage.
    """
    without = [name for name, p in model.named_parameters() if p.is_meta]
    count = sum(1 for _ in model.parameters())
    if 0 < len(without) < count:
        raise PlanError(
            f"parameters must all have storage or none, got {len(without)} of {count} on the meta "
            f"device, the first is {without[0]!r}. Call .to_empty(device='cpu') on those modules."
        )


def refuse_meta(model: nn.Module) -> None:
    """Refuse a model without storage where values are needed.

    Raises:
        PlanError: naming the first parameter without storage.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise PlanError(
                f"parameter {name!r} must have storage, got one on the meta device. "
                "Call model.to_empty(device='cpu') and load or initialize it first."
            )


def refuse_unwritable(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor into which no values can be written one by one.

    Args:
        name: of the tensor, for the message.
        tensor: a parameter or plain tensor.

    Raises:
        PlanError: if it has no storage, holds anything but real floating-point numbers, keeps them
            in another layout, or has entries that share memory.
    """
    if tensor.is_meta:
        raise PlanError(
            f"parameter {name!r} must have storage, got one on the meta device. Call "
            "model.to_empty(device='cpu') first; a plan can be made without it."
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "a quantized one" if tensor.is_quantized else f"layout {tensor.layout}"
        raise PlanError(
            f"parameter {name!r} must be dense, got {kind}. Initialize it in its dense form and "
            "convert it after."
        )
    if tensor.dtype not in _WRITABLE:
        known = ", ".join(str(d).removeprefix("torch.") for d in _WRITABLE)
        raise PlanError(
            f"parameter {name!r} must hold real numbers ({known}), got {tensor.dtype}. Initialize "
            "it in one of these and convert it after, or freeze it with requires_grad_(False)."
        )
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise PlanError(
            f"parameter {name!r} must be a plain tensor, got {type(tensor).__name__}, which keeps "
            "its values in a form of its own. Initialize the model before it is sharded or packed."
        )
    if _overlaps_itself(tensor):
        raise PlanError(
            f"parameter {name!r} must have a place in memory for each entry, got an expanded one "
            f"of shape {tuple(tensor.shape)} and strides {tensor.stride()}. "
            "Use nn.Parameter(tensor.contiguous())."
        )


def refuse_aliases(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse parameters to be written whose memory another parameter or buffer shares.

    One tensor under several names is tied and fine; two tensors over the same memory are not:
    whichever is written last would undo the other. Views of one buffer that do not meet are fine.

    Args:
        model: the model.
        names: parameters to be written.

    Raises:
        PlanError: naming both.
    """
    wanted = set(names)
    tensors = [
        (name, t) for name, t in [*model.named_parameters(), *model.named_buffers()]
        if not t.is_meta and t.layout == torch.strided and t.numel() and _has_address(t)
    ]  # fmt: skip
    spans = sorted(
        ((t.device.type, t.device.index or 0, *_span(t)), name, t) for name, t in tensors
    )
    for i, (place, name, tensor) in enumerate(spans):
        for other_place, other, second in spans[i + 1 :]:
            if other_place[:2] != place[:2] or other_place[2] >= place[3]:
                break
            if (name in wanted or other in wanted) and _share_bytes(tensor, second):
                first, last = sorted((name, other))
                raise PlanError(
                    f"parameter {first!r} must have memory of its own, got some that {last!r} "
                    "shares, so that writing one changes the other. Tie them by assigning the "
                    "same Parameter to both, or give one a .clone()."
                )


def warn_of_training(model: nn.Module, stacklevel: int) -> None:
    """Warn once where gradients say that training is in progress."""
    held = [name for name, p in model.named_parameters() if p.grad is not None]
    if held:
        warnings.warn(
            f"{len(held)} parameters hold gradients, the first is {held[0]!r}: training seems to "
            "be in progress. New weights make gradients and the state of an optimizer stale; call "
            "zero_grad() and make a new optimizer.",
            EquipoiseWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_hidden_layers(model: nn.Module, stacklevel: int) -> None:
    """Warn once where layers stand in plain containers, unseen by optimizers and by us."""
    known = {id(p) for p in model.parameters()}
    for name, module in model.named_modules():
        for attribute, parameters in _unregistered(module):
            if any(p.requires_grad and id(p) not in known for p in parameters):
                place = f"{name}.{attribute}" if name else attribute
                warnings.warn(
                    f"{place!r} holds trainable parameters in a plain container: neither an "
                    "optimizer nor equipoise sees them. Use nn.ModuleList, nn.ModuleDict or "
                    "nn.ParameterList, or freeze them.",
                    EquipoiseWarning,
                    stacklevel=stacklevel + 1,
                )
                return


def _refuse_cycles(
    module: nn.Module, name: str, above: list[nn.Module], seen: set[nn.Module]
) -> None:
    if any(module is m for m in above):
        raise ArgumentError(
            f"model must be a tree of modules, got {name!r}, which contains itself. Keep a "
            "reference to a parent in a list or tuple: model.parent = (parent,)."
        )
    # A module in several places is walked through once, or nested sharing would take forever.
    if module in seen:
        return
    seen.add(module)
    for child_name, child in module._modules.items():
        if child is not None:
            place = f"{name}.{child_name}" if name else child_name
            _refuse_cycles(child, place, [*above, module], seen)


def _refuse_other_forms(name: str, module: nn.Module) -> None:
    """Refuse modules whose layers stand in a form that is made after initialization."""
    where = f"module {name!r}" if name else "model"
    homes = [c.__module__ for c in type(module).__mro__]
    if isinstance(module, _WRAPPERS):
        raise ArgumentError(
            f"{where} must be the module itself, got {type(module).__name__}. Pass model.module, "
            "before it is wrapped."
        )
    if any(home.startswith("torch.distributed.fsdp") for home in homes):
        raise ArgumentError(
            f"{where} must be whole, got {type(module).__name__}, which is sharded. Initialize it "
            "before sharding; or plan it on the meta device and draw each weight alone."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ArgumentError(
            f"{where} must be an eager module, got a {type(module).__name__}. Initialize it before "
            "scripting."
        )
    if any(home.startswith("torch.ao.nn.quantized") for home in homes):
        raise ArgumentError(
            f"{where} must hold floating-point weights, got quantized {type(module).__name__}. "
            "Initialize the model before it is quantized."
        )


def _refuse_unreadable(name: str, tensor: torch.Tensor) -> None:
    if isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
        raise ArgumentError(
            f"parameter {name!r} must have a shape, got a lazy one. "
            "Run one forward pass on real data first."
        )
    if isinstance(tensor, nn.Parameter) and tensor.is_inference():
        raise ArgumentError(
            f"parameter {name!r} must be an ordinary tensor, got one made in inference mode, which "
            "cannot be trained. Build the model outside torch.inference_mode()."
        )
    if tensor.requires_grad and tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        raise ArgumentError(
            f"parameter {name!r} must be of 16 bits at least, got {tensor.dtype}. Initialize the "
            "model in bfloat16 or float32 and convert it after."
        )


def _unregistered(module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Parameters in plain lists, tuples, dicts and sets of a module, by the attribute's name."""
    for attribute, value in vars(module).items():
        if attribute in ("_modules", "_parameters", "_buffers"):
            continue
        held: Iterable[object] = ()
        if isinstance(value, dict):
            held = value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            held = value
        for item in held:
            if isinstance(item, nn.Module):
                yield attribute, list(item.parameters())
            elif isinstance(item, nn.Parameter):
                yield attribute, [item]


def _has_address(tensor: torch.Tensor) -> bool:
    """Whether values stand in memory that this process can compare; wrappers hold none."""
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte of a strided tensor and the one after its last."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (reach + 1) * tensor.element_size()


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two entries share memory."""
    if 0 in tensor.shape:
        return False
    reach = 0
    steps = sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1)
    for step, count in steps:
        if step <= reach:
            # Axes that interleave may still miss each other: count the places.
            return int(_places(tensor).sum()) < tensor.numel() * tensor.element_size()
        reach += step * (count - 1)
    return False


def _share_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether any byte of memory belongs to both of two tensors whose spans meet."""
    low = min(_span(first)[0], _span(second)[0])
    high = max(_span(first)[1], _span(second)[1])
    return bool((_places(first, low, high) & _places(second, low, high)).any())


def _places(tensor: torch.Tensor, low: int = 0, high: int = 0) -> np.ndarray:
    """Which bytes from ``low`` to ``high`` a tensor's entries take; its own span by default."""
    start, stop = _span(tensor)
    low, high = low or start, high or stop
    taken = np.zeros(high - low, dtype=np.bool_)
    size = tensor.element_size()
    view = np.lib.stride_tricks.as_strided(
        taken[start - low :],
        (*tensor.shape, size),
        (*(s * size for s in tensor.stride()), 1),
    )
    view[...] = True
    return taken
