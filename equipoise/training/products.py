"""Products of the Hessian of a loss, or of its Gauss-Newton part, with vectors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from equipoise.errors import ArgumentError
from equipoise.training.objective import Objective
from equipoise.training.step_law import StepLaw

Curvature = Literal["hessian", "gauss-newton"]
_Product = Callable[[list[torch.Tensor]], list[torch.Tensor]]
# What torch says of an operation that has a derivative and no second one.
_NO_SECOND = ("is not implemented", "double backward")
# The node that stands for the backward of a function marked with once_differentiable.
_CUT = "torch::autograd::Error"


@dataclass(eq=False)
class Products:
    """The curvature over some batches, as something that multiplies vectors.

    The loss is the mean over batches, each of the same weight. Every batch has one dropout mask,
    that of its own seed. Buffers that forward writes are written in copies.

    Attributes:
        objective: what is minimised.
        batches: to average over.
        curvature: ``hessian``: all of it, by a backward pass through the gradient, or
            ``gauss-newton``: J^T H_out J, which leaves out how the outputs bend and is never
            negative where the loss is convex in the outputs.
        seed: of torch before a forward pass; batch k has seed + k.
        passes: forward passes so far; a backward pass counts as two.
    """

    objective: Objective
    batches: Sequence[Any]
    curvature: Curvature
    seed: int = 0
    passes: int = 0

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.objective.model.parameters() if p.requires_grad]
        # With one batch the graph is walked again; of several, the graphs would fill the memory.
        self._one: _Product | None = None
        self._is_checked = False

    def gradients(self, which: int) -> list[torch.Tensor]:
        """The gradient of one batch, by parameter."""
        with twice_differentiable():
            outputs, targets = self._forward(which)
            loss = self.objective.measured(outputs, targets)
            self.passes += 2
            return list(_grad([loss], self.parameters, None, keeps=False))

    def of_batch(self, which: int, vector: list[torch.Tensor]) -> list[torch.Tensor]:
        """The curvature of one batch times a vector."""
        with twice_differentiable():
            product = self._one or self._product(which)
            if len(self.batches) == 1:
                self._one = product
            self.passes += 4
            return product(vector)

    def times(self, vector: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean curvature times a vector.

        Raises:
            ArgumentError: if the loss is not finite, or an operation has no second derivative.
        """
        total = [torch.zeros_like(v) for v in vector]
        for which in range(len(self.batches)):
            for sum_, part in zip(total, self.of_batch(which, vector), strict=True):
                sum_.add_(part, alpha=1 / len(self.batches))
        return total

    def _forward(self, which: int) -> tuple[Any, tuple[Any, ...]]:
        buffers = dict[str, torch.Tensor]()
        made = dict[int, torch.Tensor]()
        for name, buffer in self.objective.model.named_buffers(remove_duplicate=False):
            buffers[name] = made.setdefault(id(buffer), buffer.detach().clone())
        torch.manual_seed(self.seed + which)
        self.passes += 1
        return self.objective.outputs(self.batches[which], buffers)

    def _product(self, which: int) -> _Product:
        outputs, targets = self._forward(which)
        if self.curvature == "gauss-newton":
            return self._gauss_newton(outputs, targets)
        loss = self.objective.measured(outputs, targets)
        _refuse_lost(loss)
        gradients = _grad([loss], self.parameters, None, creates=True)
        self._refuse_cut(loss, gradients)
        self.passes += 2
        return lambda vector: _pulled(gradients, self.parameters, vector)

    def _refuse_cut(self, loss: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        """Refuse graphs that end in a function marked with once_differentiable.

        Torch passes over such an end without a word, and the curvature behind it would be missing.
        """
        if self._is_checked:
            return
        if any(node.name() == _CUT for node in _nodes(gradients)):
            own = {
                type(node).__name__.removesuffix("Backward")
                for node in _nodes([loss])
                if isinstance(node, torch.autograd.function.BackwardCFunction)
            }
            raise ArgumentError(
                "model and loss must be differentiable twice, got a function marked with "
                f"once_differentiable, one of: {', '.join(sorted(own)) or 'unknown'}. Take that "
                "mark off if its backward is made of torch operations, or ask find_learning_rate."
            )
        self._is_checked = True

    def _gauss_newton(self, outputs: Any, targets: tuple[Any, ...]) -> _Product:
        """J^T H_out J v: J v as the derivative, by w, of J^T w, which is linear in w."""
        leaves, shape = pytree.tree_flatten(outputs)
        where = [
            i for i, t in enumerate(leaves) if isinstance(t, torch.Tensor) and t.requires_grad
        ]  # fmt: skip
        made = [leaves[i] for i in where]
        apart = [t.detach().requires_grad_() for t in made]
        for i, t in zip(where, apart, strict=True):
            leaves[i] = t
        loss = self.objective.measured(pytree.tree_unflatten(leaves, shape), targets)
        _refuse_lost(loss)
        slopes = _grad([loss], apart, None, creates=True)
        weights = [torch.zeros_like(t, requires_grad=True) for t in made]
        back = _grad(made, self.parameters, weights, creates=True)
        self._refuse_cut(loss, [*slopes, *back])
        self.passes += 2

        def product(vector: list[torch.Tensor]) -> list[torch.Tensor]:
            forward = _pulled(back, weights, vector)
            curved = _pulled(slopes, apart, forward)
            return list(_grad(made, self.parameters, curved))

        return product


@dataclass(eq=False)
class Preconditioned:
    """root H root + added, on flat vectors: the curvature as an optimizer sees it.

    Attributes:
        products: of the plain curvature.
        law: of the optimizer.
        count: products made so far.
    """

    products: Products
    law: StepLaw
    count: int = 0

    def __post_init__(self) -> None:
        self.size = sum(p.numel() for p in self.law.parameters)

    def times(self, flat: torch.Tensor) -> torch.Tensor:
        """The operator times a vector, shape (size,)."""
        self.count += 1
        return self._wrapped(flat, self.products.times)

    def quotients(self, flat: torch.Tensor) -> list[float]:
        """v^T A_b v of a unit vector for each batch b."""
        found = []
        for which in range(len(self.products.batches)):
            made = self._wrapped(flat, partial(self.products.of_batch, which))
            found.append(float(flat @ made))
        return found

    def _wrapped(self, flat: torch.Tensor, product: _Product) -> torch.Tensor:
        law = self.law
        parts = torch.split(flat, [p.numel() for p in law.parameters])
        mine = [v.view_as(p).to(p) for v, p in zip(parts, law.parameters, strict=True)]
        inside = {id(p): r * v for p, r, v in zip(law.parameters, law.root, mine, strict=True)}
        everything = self.products.parameters
        given = [inside.get(id(p), torch.zeros_like(p)) for p in everything]
        made = dict(zip(map(id, everything), product(given), strict=True))
        out = [
            r * made[id(p)] + a * v
            for p, r, a, v in zip(law.parameters, law.root, law.added, mine, strict=True)
        ]  # fmt: skip
        return torch.cat([t.reshape(-1).to(flat) for t in out])


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Kernels with a second derivative: attention in plain operations, no cuDNN, no compilation.

    Raises:
        ArgumentError: in place of the error of an operation that has none.
    """
    try:
        with (
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    except RuntimeError as error:
        text = str(error).strip().partition("\n")[0]
        if any(words in text for words in _NO_SECOND):
            raise ArgumentError(
                f"model and loss must be differentiable twice, torch says: {text}. Write that "
                "operation in plain torch operations for this call, or ask find_learning_rate, "
                "which needs gradients alone."
            ) from error
        raise


def _nodes(tensors: Sequence[torch.Tensor]) -> set[Any]:
    """All nodes of the graphs of some tensors."""
    seen, waiting = set[Any](), [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return seen


def _refuse_lost(loss: torch.Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise ArgumentError(
            f"loss must be finite for a sharpness, got {float(loss.detach())}. Diagnose the model, "
            "or leave the batch out."
        )


def _grad(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | None,
    creates: bool = False,
    keeps: bool = True,
) -> tuple[torch.Tensor, ...]:
    """torch.autograd.grad, with 0 for what the outputs do not hang on."""
    return torch.autograd.grad(
        list(outputs), list(inputs), weights, retain_graph=keeps, create_graph=creates,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip


def _pulled(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """The same for outputs of which some, or all, are constants."""
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(i) for i in inputs]
    return list(_grad([o for o, _ in pairs], inputs, [w for _, w in pairs]))
