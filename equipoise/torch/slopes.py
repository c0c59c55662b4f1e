"""Parameters inside activations: one number for all units, or one for each."""

import torch
from torch import fx

from equipoise.torch.graph import op_name
from equipoise.torch.pointwise import is_pointwise

# Operations between a value and where it meets what was made of it: x * sigmoid(beta * x).
_MOST_STEPS = 16


def one_number(tensor: torch.Tensor) -> float | None:
    """The number that all entries of a parameter are, None where they differ or have no values."""
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return None
    first = tensor.detach().reshape(-1)[0]
    return float(first) if bool((tensor.detach() == first).all()) else None


def is_slope(node: fx.Node, parameter: fx.Node) -> bool:
    """Whether a parameter of several entries stands inside an activation, and is no gain.

    It does where what an operation makes of a value meets that value again, entry by entry.

    Args:
        node: the operation that reads it.
        parameter: the operand that it is.
    """
    if op_name(node) == "prelu":
        return True
    origins = {n for n in node.all_input_nodes if n is not parameter}
    waiting, seen = [node], {node}
    while waiting and len(seen) <= _MOST_STEPS:
        for user in waiting.pop().users:
            if user in seen or not is_pointwise(user):
                continue
            if origins.intersection(user.all_input_nodes):
                return True
            seen.add(user)
            waiting.append(user)
    return False


def computed(node: fx.Node, numbers: dict[fx.Node, float]) -> float | None:
    """What a pointwise operation makes of numbers alone, None where it makes no single one.

    Args:
        node: the operation.
        numbers: what each of its operands is.
    """
    assert isinstance(node.target, torch._ops.OpOverload)
    if node.target._schema.is_mutable:
        return None
    tensors = {n: torch.tensor(v, dtype=torch.float64, device="cpu") for n, v in numbers.items()}
    args = fx.node.map_arg(node.args, tensors.__getitem__)
    kwargs = fx.node.map_arg(dict(node.kwargs), tensors.__getitem__)
    with torch.no_grad():
        made = node.target(*args, **kwargs)
    return float(made) if isinstance(made, torch.Tensor) and made.numel() == 1 else None
