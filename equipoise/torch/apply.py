"""Draw a plan into a model: everything is drawn and checked before the first weight changes."""

from collections.abc import Mapping

import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.plan import Plan
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Law
from equipoise.torch.parameters import parameters_of

_LARGEST_SEED = 2**63 - 1


def root_seed(generator: torch.Generator | None) -> int:
    """One draw from the caller's generator, or from torch's global state where there is none."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"generator must be a torch.Generator, got {type(generator).__name__}. "
            "For a seed pass torch.Generator().manual_seed(seed)."
        )
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(0, _LARGEST_SEED, (), generator=generator, device=device))


def draw_(
    tensor: torch.Tensor, law: Law, generator: torch.Generator | None = None, name: str = "tensor"
) -> torch.Tensor:
    """Fill one tensor from a law that refers to nothing else, in place, and return it.

    Args:
        tensor: a parameter or plain tensor of any floating dtype, not on the meta device.
        law: such as ``Orthogonal(1.0)``; laws that name frames or weights need a plan.
        generator: as in ``torch.nn.init``; torch's global state where left out.
        name: key of the random stream.

    Returns:
        The tensor.

    Raises:
        PlanError: if the tensor is on the meta device or the law cannot fill it.

    >>> from equipoise.schemes.laws import Orthogonal
    >>> w = draw_(torch.empty(3, 5), Orthogonal(2.0), torch.Generator().manual_seed(0))
    >>> torch.allclose(w @ w.T, 4 * torch.eye(3), atol=1e-5)
    True
    """
    _refuse_meta(name, tensor)
    values = draw(law, name, tuple(tensor.shape), Streams(root_seed(generator)))
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values))
    return tensor


def draw_all(model: nn.Module, plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """Draw every assigned parameter, in its dtype and on its device; the model is not changed.

    Args:
        model: the model that the plan was made for.
        plan: the plan.
        seed: root seed.

    Returns:
        New tensors by parameter name.

    Raises:
        PlanError: if the plan does not fit the model, a parameter is on the meta device, or a value
            does not fit its dtype.
    """
    plan.verify_complete(parameters_of(model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for assignment in plan.assignments:
        _refuse_meta(assignment.parameter, parameters[assignment.parameter])
    streams = plan.streams(seed)
    drawn = {}
    for assignment in plan.assignments:
        name = assignment.parameter
        values = draw(assignment.law, name, assignment.shape, streams)
        target = parameters[name]
        tensor = torch.from_numpy(values).to(target.dtype)
        if not bool(torch.isfinite(tensor).all()):
            raise PlanError(
                f"values of {name!r} must fit {target.dtype}, got up to {abs(values).max():.3g}. "
                "Use a wider dtype or scale the inputs."
            )
        drawn[name] = tensor.to(target.device)
    return drawn


def apply(model: nn.Module, plan: Plan, generator: torch.Generator | None = None) -> int:
    """Draw a plan into a model, in place; all or nothing.

    Args:
        model: with the parameters that the plan names.
        plan: made here, elsewhere, or loaded from a file.
        generator: as in ``torch.nn.init``.

    Returns:
        The root seed: the same plan and seed give the same weights in any process.

    Raises:
        PlanError: if the plan does not fit the model or the model is on the meta device.
    """
    seed = root_seed(generator)
    write(model, draw_all(model, plan, seed))
    return seed


def write(model: nn.Module, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy values into parameters by name and return copies of what stood there."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before = {name: parameters[name].detach().clone() for name in values}
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
    return before


def _refuse_meta(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise PlanError(
            f"parameter {name!r} must have storage, got one on the meta device. Call "
            "model.to_empty(device='cpu') first; a plan can be made without it."
        )
