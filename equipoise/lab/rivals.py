"""Every way to start a network under one call, for comparisons."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from equipoise import _checks
from equipoise.errors import ArgumentError
from equipoise.lab.lsuv import lsuv_
from equipoise.schemes.catalogue import SCHEMES
from equipoise.torch.apply import apply
from equipoise.torch.initialize import plan

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


def starter(
    model: nn.Module, method: str, inputs: torch.Tensor
) -> Callable[[nn.Module, int], None]:
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
    match method:
        case "default":
            return _default_
        case "lsuv":
            return lambda net, seed: _nothing(
                lsuv_(net, inputs, torch.Generator().manual_seed(seed))
            )
        case "anyinit":
            if find_spec("anyinit") is None:
                raise ArgumentError(
                    "method must be one that is installed, got 'anyinit'. pip install anyinit"
                )
            # Imported here: no other method needs it.
            import anyinit

            return lambda net, seed: _nothing(anyinit.initialize(net, seed=seed))
        case _:
            _checks.one_of("method", method.partition("(")[0].strip(), (*SCHEMES, *OUTSIDE))
            made = plan(model, inputs, method)
            return lambda net, seed: _nothing(apply(net, made, torch.Generator().manual_seed(seed)))


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
