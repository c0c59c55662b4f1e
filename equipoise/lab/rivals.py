"""Every way to start a network under one call, for comparisons."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.lab.lsuv import lsuv_
from equipoise.plan.plan import Plan
from equipoise.schemes.catalogue import SCHEMES
from equipoise.torch.apply import apply
from equipoise.torch.initialize import plans

OUTSIDE = ("default", "lsuv", "anyinit")


def methods() -> tuple[str, ...]:
    """Names of all methods that are installed: schemes of this library, then others.

    ``default`` is what the layers' own ``reset_parameters`` does, ``lsuv`` the data-driven rule of
    arXiv 1511.06422, ``anyinit`` the analytic mode of the package of that name.

    >>> {"auto", "he", "default", "lsuv"} <= set(methods())
    True
    """
    found = [m for m in OUTSIDE if m != "anyinit" or find_spec("anyinit") is not None]
    return (*SCHEMES, *found)


Start = Callable[[nn.Module, int], None]


def starter(model: nn.Module, method: str, inputs: torch.Tensor) -> Start:
    """What starts a model by one method, in place, from a seed.

    A plan of this library is made once and drawn from at each call.

    Args:
        model: what models that are to be started look like; it is left as it is.
        method: one of ``methods()``; schemes of this library may have options in brackets.
        inputs: a batch as forward takes it; read by this library's schemes and by LSUV.

    Returns:
        A function of a model and a seed, at least 0: the same seed gives the same weights, and
        torch's global state is left alone.

    Raises:
        ArgumentError: for an unknown method, or one that is not installed.
        PlanError: if a scheme of this library cannot serve the model.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> starter(net, "lsuv", torch.randn(64, 4))(net, 1)
    >>> bool((net[0].bias == 0).all())
    True
    """
    found = starters(model, (method,), inputs)[method]
    if isinstance(found, EquipoiseError):
        raise found
    return found


def starters(
    model: nn.Module, wanted: Sequence[str], inputs: torch.Tensor
) -> dict[str, Start | EquipoiseError]:
    """What ``starter`` gives for each of several methods; the model is read once.

    Args:
        model: as for ``starter``.
        wanted: methods.
        inputs: as for ``starter``.

    Returns:
        By method, a function of a model and a seed, or the reason why it cannot serve the model.

    Raises:
        ArgumentError: for an unknown method, or one that is not installed.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = starters(net, ("odd_sigmoid", "default"), torch.randn(64, 4))
    >>> [isinstance(start, EquipoiseError) for start in found.values()]
    [True, False]
    """
    for method in wanted:
        _checks.one_of("method", method.partition("(")[0].strip(), (*SCHEMES, *OUTSIDE))
    ours = [m for m in wanted if m not in OUTSIDE]
    made = plans(model, inputs, ours) if ours else {}
    found: dict[str, Start | EquipoiseError] = {}
    for method in wanted:
        planned = made.get(method)
        match planned:
            case None:
                found[method] = _outside(method, inputs)
            case Plan():
                found[method] = partial(_drawn_, planned)
            case error:
                found[method] = error
    return found


def _outside(method: str, inputs: torch.Tensor) -> Start:
    """A method that is not of this library."""
    match method:
        case "default":
            return _default_
        case "lsuv":
            return lambda net, seed: _nothing(
                lsuv_(net, inputs, torch.Generator().manual_seed(seed))
            )
        case _:
            if find_spec("anyinit") is None:
                raise ArgumentError(
                    "method must be one that is installed, got 'anyinit'. pip install anyinit"
                )
            # Imported here: no other method needs it.
            import anyinit

            return lambda net, seed: _nothing(anyinit.initialize(net, seed=seed))


def _drawn_(made: Plan, model: nn.Module, seed: int) -> None:
    apply(model, made, torch.Generator().manual_seed(seed))


def _default_(model: nn.Module, seed: int) -> None:
    """What the layers' constructors do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()


def _nothing(result: object) -> None:
    """Drop a result: every starter returns nothing."""
