"""The sharpness of a loss and the largest rate that it allows."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from equipoise import _checks
from equipoise._text import json_text
from equipoise.errors import ArgumentError
from equipoise.training.kept import kept
from equipoise.training.lanczos import largest_eigenpair
from equipoise.training.objective import LossFunction, Objective, generators_in, read_batches
from equipoise.training.products import Preconditioned, Products
from equipoise.training.step_law import StepLaw, is_adaptive, law_of, plain_law

_CURVATURES = ("hessian", "gauss-newton")


@dataclass(frozen=True)
class Sharpness:
    """The largest eigenvalue of the curvature, as an optimizer sees it.

    Attributes:
        value: lambda_max of the Hessian of the mean loss; with an optimizer, of P^-1 (H + decay).
        error: norm of the residual of the Ritz pair: an eigenvalue is this near.
        sampling_error: standard error over batches of u^T H u; nan with fewer than two. The largest
            eigenvalue of a mean over few batches is also biased upward.
        largest_rate: of the first group, at which the steps on this quadratic neither grow nor
            shrink; inf where no direction is curved upward.
        reach: largest_rate times value: 2 for gradient descent, 38 for Adam with beta1 = 0.9.
        optimizer: whose steps are meant.
        curvature: ``hessian`` or ``gauss-newton``.
        has_own_moments: False where second moments are those of the gradients of the batches given,
            as the optimizer has none yet.
        has_converged: whether the error is within the tolerance asked for.
        parameters: number of weights.
        batches: that were averaged.
        products: of the curvature with a vector.
        passes: forward passes of one batch that it took; a backward pass counts as two.
    """

    value: float
    error: float
    sampling_error: float
    largest_rate: float
    reach: float
    optimizer: str
    curvature: str
    has_own_moments: bool
    has_converged: bool
    parameters: int
    batches: int
    products: int
    passes: int

    def to_json(self) -> str:
        """The numbers as JSON text; nan and infinity become null."""
        return json_text(asdict(self))

    def __str__(self) -> str:
        sampled = (
            "" if math.isnan(self.sampling_error) else f", over batches {self.sampling_error:.2g}"
        )
        head = (
            f"sharpness {self.value:.4g} ({self.curvature}; error {self.error:.2g}{sampled}; "
            f"{self.products} products)"
        )
        notes = list[str]()
        if math.isinf(self.largest_rate):
            notes.append("no direction is curved upward here: any small rate goes down")
        else:
            notes.append(
                f"{self.optimizer} is stable up to a rate of {self.largest_rate:.4g} = "
                f"{self.reach:.4g} / sharpness"
            )
        if not self.has_own_moments:
            notes.append("second moments are those of the batches given: the optimizer is fresh")
        if not self.has_converged:
            notes.append("the search ended early: raise most_products")
        return "\n".join([head, *notes])


def sharpness(
    model: nn.Module,
    loss: LossFunction,
    batches: Any,
    optimizer: Any = None,
    *,
    curvature: str = "hessian",
    tolerance: float = 1e-2,
    most_products: int = 60,
    most_batches: int = 8,
    seed: int = 0,
) -> Sharpness:
    """The sharpness of a loss, lambda_max of its Hessian, and the largest stable learning rate.

    Gradient descent at rate eta oscillates and grows along a direction of curvature above 2 / eta.
    With an optimizer the curvature is the one that its steps meet: P^-1/2 (H + decay) P^-1/2 with
    P from its own second moments, and momentum, decay and the ratios of the rates of its groups
    are counted in. Training brings the sharpness up to that edge and stays there for a while, so
    the bound is on steps from here and no promise for later. P is held fixed; in the first steps of
    Adam it still changes.

    The model is left as it was, buffers, gradients and generators included. Forward runs in the
    mode that the model is in, with one dropout mask for each batch. Attention runs in plain
    operations, RNNs without cuDNN, compiled parts uncompiled, since the fast kernels have no second
    derivative. Memory: one vector of weights for each product.

    Args:
        model: any module; what requires a gradient counts.
        loss: loss(outputs, targets), or loss(outputs) for batches without targets; their mean.
        batches: a batch, ``(inputs, targets)``, a list of batches or a DataLoader.
        optimizer: SGD, Adam, AdamW or RMSprop; None for plain gradient descent.
        curvature: ``hessian`` or ``gauss-newton``, the part of it that is never negative for the
            usual losses.
        tolerance: residual to stop at, relative to the value, positive.
        most_products: to spend at the most, from 1.
        most_batches: to read at the most, from 1; all count alike.
        seed: of the starting vector and of dropout.

    Returns:
        The sharpness with its error and the rate that it allows.

    Raises:
        ArgumentError: for arguments out of range, a loss that is not finite, an optimizer whose
            edge is not known, or an operation without a second derivative.

    Source: Cohen et al. 2021, arXiv 2103.00065; Cohen et al. 2022, arXiv 2207.14484.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> found = sharpness(line, nn.functional.mse_loss, (x, 0 * x))
    >>> round(found.value, 4), round(found.largest_rate, 4)
    (9.3333, 0.2143)
    """
    _checks.one_of("curvature", curvature, _CURVATURES)
    _checks.positive("tolerance", tolerance)
    _checks.at_least("most_products", most_products, 1)
    _checks.at_least("most_batches", most_batches, 1)
    with torch.inference_mode(False), kept(model, optimizer, *generators_in(batches)):
        objective = Objective(model, loss)
        products = Products(
            objective,
            read_batches(batches, most_batches),
            "hessian" if curvature == "hessian" else "gauss-newton",
            seed,
        )
        law = _law(products, optimizer)
        operator = Preconditioned(products, law)
        pair = largest_eigenpair(
            operator.times, _start(law, operator.size, seed), tolerance, most_products
        )
        quotients = operator.quotients(pair.vector) if len(products.batches) > 1 else []
    if not math.isfinite(pair.value):
        raise ArgumentError(
            f"loss must have a finite curvature, got {pair.value}. Diagnose the model, or leave "
            "out a batch whose loss is not finite."
        )
    sampled = (
        float(np.std(quotients, ddof=1)) / math.sqrt(len(quotients)) if quotients else math.nan
    )
    # A curvature of no more than its own error is none.
    is_curved = pair.value > 0.0 and pair.value > 1e-12
    return Sharpness(
        pair.value,
        pair.residual,
        sampled,
        law.reach / pair.value if is_curved else math.inf,
        law.reach,
        law.name,
        curvature,
        law.has_state,
        pair.has_converged,
        operator.size,
        len(products.batches),
        operator.count,
        products.passes,
    )


def _law(products: Products, optimizer: Any) -> StepLaw:
    if optimizer is None:
        return plain_law(products.parameters)
    squares = list[torch.Tensor]()
    is_fresh = is_adaptive(optimizer) and any(
        not optimizer.state.get(p)
        for group in optimizer.param_groups for p in group["params"]
    )  # fmt: skip
    if is_fresh:
        squares = [torch.zeros_like(p) for p in products.parameters]
        for which in range(len(products.batches)):
            for square, g in zip(squares, products.gradients(which), strict=True):
                square.addcmul_(g, g, value=1 / len(products.batches))
    return law_of(optimizer, products.parameters, squares)


def _start(law: StepLaw, size: int, seed: int) -> torch.Tensor:
    """A random vector in the precision of the weights, no less than float32."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32
    for p in law.parameters:
        dtype = torch.promote_types(dtype, p.dtype)
    return torch.randn(size, generator=generator, dtype=dtype).to(law.parameters[0].device)
