"""Whether all replicas of a model can be trained at once, found by trying."""

import torch
from torch import nn

from equipoise.errors import in_words
from equipoise.lab.compare_loss import Loss
from equipoise.lab.compare_program import Program, Starts
from equipoise.lab.compare_rows import Rows

TOLERANCE = 1e-4
# What torch says of a forward that cannot be vectorised, and what to call it.
_KNOWN = {
    "random operation": "forward draws random numbers, as dropout does",
    "data-dependent control flow": "forward branches on values",
    ".item()": "forward takes a number out of a tensor, as .item() does",
}


def why_looped(model: nn.Module, loss: Loss, starts: Starts, batch: Rows) -> str:
    """Why replicas of a model must be trained one by one, or '' where they need not.

    Two steps of two replicas, each on its own half of the rows, and a test after them are computed
    both ways; losses, gradients and buffers must agree to 1e-4 of their size.

    Args:
        model: the model; its mode changes.
        loss: the loss.
        starts: at least two replicas; they stay as they are.
        batch: rows to try on.

    Returns:
        The reason in a few words, '' if both ways agree.
    """
    half = max(1, len(batch) // 2)
    index = torch.stack([torch.arange(half), torch.arange(len(batch) - half, len(batch))])
    both = batch.at(index)
    alone = _computed(Program(model, loss, False), starts, both, batch)
    try:
        together = _computed(Program(model, loss, True), starts, both, batch)
    # What runs alone and fails together is a reason to loop, whatever it raises.
    except Exception as error:
        said = str(error)
        return next((name for sign, name in _KNOWN.items() if sign in said), in_words(error))
    for (name, a), (_, b) in zip(alone, together, strict=True):
        if not _agree(a, b):
            return f"{name} computed together differ from those computed one by one"
    return ""


def _computed(
    program: Program, starts: Starts, both: Rows, batch: Rows
) -> list[tuple[str, torch.Tensor]]:
    here, found = starts.at(torch.arange(2)), []
    # The second step meets what the first has left behind in the model.
    for _ in range(2):
        losses, gradients = program.gradients(here, both)
        found += [("losses", losses), ("gradients", gradients)]
    found += [("buffers", value) for value in here.fixed.values()]
    return [*found, ("losses", program.test_losses(here, batch))]


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two replicas agree in norm, or both are not finite."""
    if a.shape != b.shape:
        return False
    rows = zip(a.double().reshape(2, -1), b.double().reshape(2, -1), strict=True)
    for one, other in rows:
        is_lost = not bool(torch.isfinite(one).all())
        if is_lost and not bool(torch.isfinite(other).all()):
            continue
        if not float((one - other).norm()) <= TOLERANCE * float(one.norm()):
            return False
    return True
