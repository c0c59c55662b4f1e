"""Any callable of one argument as a function of float64 arrays: numpy, torch or plain numbers.

torch is never imported here: a callable that needs it has imported it already.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.theory.activation import Array

Kind = Literal["numpy", "torch", "scalar"]

# What a callable raises when it is given the wrong kind of argument.
REFUSALS = (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, LookupError)


@dataclass(frozen=True)
class ArrayFunction:
    """A callable made to take and give float64 arrays.

    Attributes:
        f: the function, on arrays of any shape; it neither changes its argument nor warns.
        kind: what the callable works on.
        raw: the callable itself.
        autograd: its derivative where torch can tell, else None.
    """

    f: Callable[[Array], Array]
    kind: Kind
    raw: Callable[[Any], Any]
    autograd: Callable[[Array], Array] | None = None


def array_function(f: Callable[[Any], Any], name: str, sample: Array) -> ArrayFunction:
    """The first of numpy arrays, torch tensors and plain floats that a callable accepts.

    A torch module is copied in double precision: neither its parameters nor its buffers change, and
    what it learns later does not change the copy.

    Args:
        f: callable of one argument.
        name: its name in messages.
        sample: 1-D array on which it is tried, of at least two entries.

    Returns:
        The function.

    Raises:
        ArgumentError: if it accepts none of them, changes the shape, or gives no real
            floating-point numbers.

    >>> import math
    >>> import numpy as np
    >>> array_function(lambda v: v * math.tanh(v), "mine", np.array([0.0, 1.0])).kind
    'scalar'
    """
    torch = sys.modules.get("torch")
    # numpy functions applied to a tensor may answer too: arrays are tried first.
    if torch is not None and isinstance(f, torch.nn.Module):
        routes = [_torch(copy.deepcopy(f).to(device="cpu", dtype=torch.float64), name, torch)]
    else:
        routes = [_numpy(f, name)]
        routes += [] if torch is None else [_torch(f, name, torch)]
        routes.append(_scalar(f, name))
    raised: list[Exception] = []
    for route in routes:
        try:
            route.f(sample)
        except ArgumentError:
            raise
        except REFUSALS as error:
            raised.append(error)
        else:
            return route
    # Where torch is in use, its message is the one that speaks of the caller's code.
    reason = raised[min(1, len(raised) - 1)] if torch is not None else raised[0]
    first_line = next(iter(str(reason).splitlines()), "")
    raise ArgumentError(
        f"{name} must accept one array of floats, it raised {type(reason).__name__}: {first_line}. "
        "Pass a function of one argument that works on a 1-D array, a tensor or a number."
    )


def _numpy(f: Callable[[Any], Any], name: str) -> ArrayFunction:
    def run(x: Array) -> Array:
        # exp may overflow inside a function that is right in the end, such as 1 / (1 + exp(-x)).
        flat = np.array(x, dtype=np.float64).ravel()
        with np.errstate(all="ignore"):
            return _checked(np.asarray(f(flat)), flat, name).reshape(np.shape(x))

    return ArrayFunction(run, "numpy", f)


def _torch(f: Callable[[Any], Any], name: str, torch: Any) -> ArrayFunction:
    def tensor(x: Array) -> Any:
        return torch.from_numpy(np.array(x, dtype=np.float64).ravel())

    def run(x: Array) -> Array:
        with torch.no_grad():
            out = f(tensor(x))
        if not isinstance(out, torch.Tensor):
            raise ArgumentError(_not_numbers(name, type(out).__name__))
        if not out.is_floating_point():
            raise ArgumentError(_not_numbers(name, str(out.dtype)))
        values = out.to(device="cpu", dtype=torch.float64).numpy()
        return _checked(values, np.ravel(x), name).reshape(np.shape(x))

    def autograd(x: Array) -> Array:
        with torch.enable_grad():
            leaf = tensor(x).requires_grad_()
            # A copy, since an operation in place must not write to a leaf.
            out = f(leaf.clone())
            if not out.requires_grad:
                return np.zeros_like(x)
            (slope,) = torch.autograd.grad(out.sum(), leaf, materialize_grads=True)
        return np.asarray(slope.numpy()).reshape(np.shape(x))

    return ArrayFunction(run, "torch", f, autograd)


def _scalar(f: Callable[[Any], Any], name: str) -> ArrayFunction:
    def one(v: float) -> float:
        try:
            out = f(v)
        except (ArithmeticError, ValueError):
            # math raises where numpy gives inf or nan.
            return np.nan
        if isinstance(out, bool) or not isinstance(out, int | float):
            raise ArgumentError(_not_numbers(name, type(out).__name__))
        return float(out)

    def run(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.array([one(v) for v in np.ravel(x).tolist()]).reshape(np.shape(x))

    return ArrayFunction(run, "scalar", f)


def _checked(values: Any, x: Array, name: str) -> Array:
    if values.dtype.kind != "f":
        raise ArgumentError(_not_numbers(name, str(values.dtype)))
    if values.shape != x.shape:
        raise ArgumentError(
            f"{name} must keep the shape of its input, got {values.shape} for {x.shape}. "
            "Only pointwise functions are activations."
        )
    return np.asarray(values, dtype=np.float64)


def _not_numbers(name: str, got: str) -> str:
    return (
        f"{name} must give real floating-point numbers, got {got}. "
        "Convert its result, or leave it out of the stack."
    )
