"""Draw a plan into a model: everything is drawn and checked before the first weight changes."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from equipoise.errors import ArgumentError, PlanError
from equipoise.plan.plan import Plan
from equipoise.schemes.draw import Streams, draw
from equipoise.schemes.laws import Array, Law
from equipoise.torch.parameters import parameters_of
from equipoise.torch.parametrized import (
    effective,
    originals,
    refresh_hooks,
    slots,
    through,
)
from equipoise.torch.refusals import (
    refuse_aliases,
    refuse_unwritable,
    usable,
    warn_of_training,
)

_LARGEST_SEED = 2**63 - 1
# Rounding that changes a weight by more than this share of its norm has lost it.
_MOST_LOST = 0.01


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
        PlanError: if the law cannot fill the tensor; if it is on the meta device, integer, complex,
            sparse or quantized, has entries that share memory, or is too narrow for the values.

    >>> from equipoise.schemes.laws import Orthogonal
    >>> w = draw_(torch.empty(3, 5), Orthogonal(2.0), torch.Generator().manual_seed(0))
    >>> torch.allclose(w @ w.T, 4 * torch.eye(3), atol=1e-5)
    True
    """
    refuse_unwritable(name, tensor)
    values = draw(law, name, tuple(tensor.shape), Streams(root_seed(generator)))
    with torch.no_grad():
        tensor.copy_(_rounded(name, values, tensor.dtype))
    return tensor


def draw_all(model: nn.Module, plan: Plan, seed: int) -> dict[str, torch.Tensor]:
    """Draw every assigned parameter, in its dtype and on its device; the model is not changed.

    Args:
        model: the model that the plan was made for.
        plan: the plan.
        seed: root seed.

    Returns:
        New tensors by parameter name; of a weight that a parametrization computes, what it becomes
        when the values drawn are written through that.

    Raises:
        PlanError: if the plan does not fit the model, a parameter cannot be written (on the meta
            device, integer, complex, sparse, sharing memory), or values do not fit its dtype.
    """
    drawn = {}
    with effective(model):
        plan.verify_complete(parameters_of(model))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for assignment in plan.assignments:
            refuse_unwritable(assignment.parameter, parameters[assignment.parameter])
        refuse_aliases(model, [a.parameter for a in plan.assignments])
        streams = plan.streams(seed)
        for assignment in plan.assignments:
            name = assignment.parameter
            values = draw(assignment.law, name, assignment.shape, streams)
            target = parameters[name]
            drawn[name] = _rounded(name, values, target.dtype).to(target.device)
    return through(model, drawn)


def apply(model: nn.Module, plan: Plan, generator: torch.Generator | None = None) -> int:
    """Draw a plan into a model, in place; all or nothing.

    Other generators give independent draws of the same plan, whatever the model has learnt since:
    for k folds apply it with ``torch.Generator().manual_seed(fold)`` before each. Every parameter
    that the plan draws is then as in a fresh model, bit for bit; buffers, such as running means of
    a norm, and an optimizer's state are not the plan's: make these anew.

    Args:
        model: with the parameters that the plan names.
        plan: made here, elsewhere, or loaded from a file.
        generator: as in ``torch.nn.init``.

    Returns:
        The root seed: the same plan and seed give the same weights in any process.

    Raises:
        ArgumentError: if the model is no eager module with parameters.
        PlanError: if the plan does not fit the model or a parameter cannot be written.

    >>> from equipoise.torch.initialize import plan
    >>> first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> made = plan(first, torch.eye(4))
    >>> seed = apply(first, made, torch.Generator().manual_seed(0))
    >>> apply(second, made, torch.Generator().manual_seed(0)) == seed
    True
    >>> torch.equal(first.weight, second.weight)
    True
    """
    with torch.inference_mode(False), unless_refused(generator):
        model = usable(model)
        seed = root_seed(generator)
        values = draw_all(model, plan, seed)
        warn_of_training(model, stacklevel=2)
        write(model, originals(model, values))
        return seed


@contextlib.contextmanager
def unless_refused(generator: torch.Generator | None) -> Iterator[None]:
    """Put the generator back to where it stood if what runs inside is refused."""
    used = generator if isinstance(generator, torch.Generator) else torch.default_generator
    state = used.get_state()
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            used.set_state(state)


def write(model: nn.Module, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy values into parameters and buffers by name and return copies of what stood there.

    Values are written in place, whatever the strides and the device: version counters advance, so
    that autograd refuses a backward pass through a graph that was made before. If one parameter
    refuses, those written before it are put back.

    Raises:
        PlanError: if a parameter refuses; all hold what they held.
    """
    parameters = slots(model)
    before = {name: parameters[name].detach().clone() for name in values}
    begun: list[str] = []
    done = False
    try:
        with torch.no_grad():
            for name, value in values.items():
                begun.append(name)
                parameters[name].copy_(value)
        done = True
    except RuntimeError as error:
        raise PlanError(
            f"parameter {begun[-1]!r} must take the values drawn for it, it raised: "
            f"{str(error).splitlines()[0]} Every parameter holds what it held before."
        ) from error
    finally:
        # Whatever stopped it, an interrupt too: half a network is no network.
        if not done:
            for name in begun:
                _put_back(parameters[name], before[name])
    refresh_hooks(model, values)
    return before


def _put_back(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Restore what can be restored; a parameter that refuses every write was never changed."""
    with torch.no_grad(), contextlib.suppress(RuntimeError):
        parameter.copy_(value)


def _rounded(name: str, values: Array, dtype: torch.dtype) -> torch.Tensor:
    """Values in a dtype; refused where they overflow, or vanish in its smallest numbers."""
    exact = torch.from_numpy(values)
    rounded = exact.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise PlanError(
            f"values of {name!r} must fit {dtype}, got up to {abs(values).max():.3g}. "
            "Use a wider dtype or scale the inputs."
        )
    size = float(exact.norm())
    if float((rounded.double() - exact).norm()) > _MOST_LOST * size:
        raise PlanError(
            f"values of {name!r} must fit {dtype}, got an RMS of {size / exact.numel() ** 0.5:.3g} "
            f"where the smallest number of full precision is {torch.finfo(dtype).tiny:.3g}. "
            "Use a wider dtype or scale the inputs."
        )
    return rounded
