"""Weights and biases in a form that no linear layer can use, told from inputs that do not fit.

Parameters of any form may stand in a model: only where a linear layer or a convolution reads them
do they have to be dense and real. So they are judged by the graph of forward, or, where forward
fails, by the module in which it did.
"""

from collections.abc import Iterator

import torch
from torch import nn

from equipoise.errors import ArgumentError, TraceError
from equipoise.torch.geometry import is_convolution
from equipoise.torch.graph import arguments, layer_of, op_name
from equipoise.torch.program import Program

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AFFINE = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


def refuse_unfit_reads(model: nn.Module, program: Program) -> None:
    """Refuse weights and biases that a linear layer reads as they stand and cannot use.

    A cast between the two makes any dtype fit, and a frozen weight of complex numbers fits complex
    values.

    Args:
        model: the model.
        program: its exported forward.

    Raises:
        ArgumentError: naming the parameter and the remedy.
    """
    names = program.parameters
    for node in program.graph.nodes:
        if op_name(node) != "linear" and not is_convolution(node):
            continue
        given = arguments(node)
        for read in (given["weight"], given["bias"]):
            if not isinstance(read, torch.fx.Node) or read not in names:
                continue
            parameter = model.get_parameter(names[read])
            fits = parameter.dtype == given["input"].meta["val"].dtype
            why = _why(parameter)
            if why and not (fits and _is_dense(parameter) and not parameter.requires_grad):
                raise ArgumentError(_refusal(names[read], why))


def refuse_other_dtype(
    node: torch.fx.Node, source: torch.fx.Node, weight: torch.fx.Node, casts: bool
) -> None:
    """Refuse an input of another dtype than its weight: export lets pass what a forward refuses.

    Args:
        node: the layer.
        source: its input.
        weight: its weight.
        casts: whether it lies in a region under autocast.

    Raises:
        TraceError: naming the layer, unless autocast makes them fit.
    """
    device = source.meta["val"].device.type
    if casts or (device != "meta" and torch.is_autocast_enabled(device)):
        return
    given, needed = source.meta["val"].dtype, weight.meta["val"].dtype
    if given != needed:
        raise TraceError(
            f"input of layer {layer_of(node)!r} must be {needed}, as its weight is, got "
            f"{given}. Convert the inputs with .to({needed})."
        )


def refuse_unfit_where(model: nn.Module, error: Exception) -> None:
    """Refuse the parameter that made forward fail, if it was one in a form that does not fit.

    Args:
        model: the model.
        error: what its forward raised.

    Raises:
        ArgumentError: naming the parameter and the remedy.
    """
    for layer, name, parameter in _suspects(model, error):
        why = _why(parameter)
        if why:
            place = f"{layer}.{name}" if layer else name
            raise ArgumentError(_refusal(place, why)) from error


def _suspects(model: nn.Module, error: Exception) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Parameters of the innermost module that failed, then trainable ones of linear layers."""
    places = {id(module): name for name, module in model.named_modules()}
    failed: nn.Module | None = None
    step = error.__traceback__
    while step is not None:
        found = step.tb_frame.f_locals.get("self")
        if isinstance(found, nn.Module) and id(found) in places:
            failed = found
        step = step.tb_next
    if failed is not None:
        for name, parameter in failed.named_parameters(recurse=False):
            yield places[id(failed)], name, parameter
    for layer, module in model.named_modules():
        if isinstance(module, _AFFINE):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    yield layer, name, parameter


def _is_dense(parameter: torch.Tensor) -> bool:
    return parameter.layout == torch.strided and not parameter.is_quantized


def _why(parameter: torch.Tensor) -> str:
    """What a parameter must be and what it is, '' where it can be used."""
    if not _is_dense(parameter):
        kind = f"layout {parameter.layout}" if not parameter.is_quantized else "a quantized one"
        return f"must be dense, got {kind}"
    if parameter.dtype not in _REAL:
        known = ", ".join(str(d).removeprefix("torch.") for d in _REAL)
        return f"must hold real numbers ({known}), got {parameter.dtype}"
    return ""


def _refusal(name: str, why: str) -> str:
    remedy = (
        "Initialize the layer in its dense form and convert it after."
        if "dense" in why
        else "Convert the layer with .to(torch.float32) first."
    )
    return f"parameter {name!r} {why}, where forward reads it. {remedy}"
