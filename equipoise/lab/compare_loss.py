"""The loss of a comparison: a function of outputs and targets, or the name of a known one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.compare_rows import Rows

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
LOSSES = ("cross-entropy", "mse")
# The best constant: rows it is fitted to, iterations, and how much flatter the loss is to be there.
_FITTED, _ITERATIONS, _FLAT = 2000, 50, 0.02


def read_loss(loss: str | Loss) -> Loss:
    """The function that a loss means.

    Args:
        loss: a function of (outputs, targets) whose result is one number, the mean over rows; or
            ``mse`` or ``cross-entropy``.

    Returns:
        The function.

    Raises:
        ArgumentError: for another name, or what cannot be called.

    >>> read_loss("mse")(torch.ones(3, 1), torch.zeros(3, 1))
    tensor(1.)
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise ArgumentError(
            f"loss must be a function of (outputs, targets) or one of {', '.join(LOSSES)}, got "
            f"{type(loss).__name__}. Pass the function itself."
        )
    name = _checks.one_of("loss", loss.replace("_", "-"), LOSSES)
    return _mse if name == "mse" else F.cross_entropy


def _mse(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    # Torch would stretch (rows,) against (rows, 1) to a square, and train on nonsense.
    if outputs.shape != targets.shape:
        raise ArgumentError(
            f"targets must have the shape of the outputs for loss 'mse', got "
            f"{tuple(targets.shape)} for {tuple(outputs.shape)}. Reshape them, as with y[:, None]."
        )
    return F.mse_loss(outputs, targets)


def constant_loss(outputs: Any, loss: Loss, training: Rows, test: Rows) -> float:
    """Loss on the test part of the best output that does not depend on the input.

    What a network reaches that learned nothing but the targets' mean, their frequencies, or
    whatever the loss asks for: one that ends no lower knows nothing of the inputs.

    Args:
        outputs: of the model for some rows; their mean is where the search starts.
        loss: the loss.
        training: rows that the constant is fitted to.
        test: rows that it is judged on.

    Returns:
        The loss; nan where the outputs are no floating-point tensor with a row for each input, or
        the loss has no minimum over constants, as with logarithms of probabilities.
    """
    if not isinstance(outputs, torch.Tensor) or not outputs.dim():
        return math.nan
    if not outputs.is_floating_point() or not bool(torch.isfinite(outputs).all()):
        return math.nan
    best = outputs.detach().mean(0, keepdim=True).clone().requires_grad_()
    targets = training.y[:_FITTED]
    slopes: list[float] = []

    def closure() -> float:
        value = loss(best.expand(len(targets), *best.shape[1:]), targets)
        (best.grad,) = torch.autograd.grad(value, best)
        slopes.append(float(best.grad.norm()))
        return float(value.detach())

    stepper = torch.optim.LBFGS([best], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
    try:
        with torch.enable_grad():
            stepper.step(closure)  # type: ignore[no-untyped-call]
            closure()
        with torch.no_grad():
            found = float(loss(best.expand(len(test), *best.shape[1:]), test.y))
    # The loss is the caller's, and may refuse what lies outside the range of the model.
    except Exception:
        return math.nan
    is_flat = slopes[-1] <= max(_FLAT * slopes[0], 1e-6)
    return found if is_flat and math.isfinite(found) else math.nan
