"""Forms in which a module holds a weight: the tensors that it is computed from, on copies.

``torch.nn.utils.parametrize`` keeps a list of modules; the older ``weight_norm`` and
``spectral_norm`` of ``torch.nn.utils`` keep a hook that runs before forward. Both are evaluated and
solved here on copies, so that the model sees nothing of it.
"""

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Hook = WeightNorm | SpectralNorm

# Power iterations of a weight that was just written; torch starts with as many.
_ITERATIONS = 15


class Form(Protocol):
    """A copy of what computes one weight; it may be written to."""

    @property
    def name(self) -> str:
        """What computes it, in the words of torch."""

    def value(self) -> torch.Tensor:
        """The weight as the next forward would compute it, detached."""

    def take(self, value: torch.Tensor) -> None:
        """Write the tensors that the weight is computed from, so that it becomes this value.

        Whether it did, ``value`` tells. What the user's own inverse raises is passed on.
        """

    def state(self) -> Mapping[str, torch.Tensor]:
        """Parameters and buffers that the weight is computed from, by name below the module."""


class ListForm:
    """The form of a tensor under ``torch.nn.utils.parametrize``.

    Args:
        module: the module.
        tensor: name of the parametrized tensor.
    """

    def __init__(self, module: nn.Module, tensor: str) -> None:
        lists = cast(nn.ModuleDict, module.parametrizations)
        self._list = copy.deepcopy(cast(parametrize.ParametrizationList, lists[tensor]))
        self._tensor = tensor

    @property
    def parts(self) -> list[nn.Module]:
        """The parametrizations in the order in which they are applied."""
        return [m for key, m in self._list._modules.items() if key.isdigit() and m is not None]

    @property
    def name(self) -> str:
        """Names of the parametrizations."""
        known = {"_WeightNorm": "weight_norm", "_SpectralNorm": "spectral_norm",
                 "_Orthogonal": "orthogonal"}  # fmt: skip
        names = [type(part).__name__ for part in self.parts]
        return " and ".join(known.get(n, n) for n in names)

    def only(self) -> nn.Module | None:
        """The parametrization, where there is but one."""
        parts = self.parts
        return parts[0] if len(parts) == 1 else None

    def value(self) -> torch.Tensor:
        """The weight, detached."""
        with torch.no_grad():
            return cast(torch.Tensor, self._list()).detach()

    def take(self, value: torch.Tensor) -> None:
        """Solve for the originals by the parametrizations' own inverses."""
        with torch.no_grad():
            self._list.right_inverse(value.clone())
            only = self.only()
            if isinstance(only, parametrizations._WeightNorm):
                _point_somewhere(cast(torch.Tensor, self._list.original1), only.dim)
            elif isinstance(only, parametrizations._SpectralNorm) and value.dim() > 1:
                matrix = only._reshape_weight_to_matrix(value)
                _iterate(matrix, only._u, only._v, only.eps)

    def state(self) -> Mapping[str, torch.Tensor]:
        """Originals, and what the parametrizations hold themselves."""
        tensors = [*self._list.named_parameters(), *self._list.named_buffers()]
        return {f"parametrizations.{self._tensor}.{name}": t.detach() for name, t in tensors}


class HookForm:
    """The form of a tensor under a hook of the older functions.

    Args:
        module: the module.
        hook: the hook.
    """

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        endings = ("_g", "_v") if isinstance(hook, WeightNorm) else ("_orig", "_u", "_v")
        self._names = [hook.name + ending for ending in endings]
        self._held = SimpleNamespace(
            **{name: getattr(module, name).detach().clone() for name in self._names}
        )
        self._hook, self._is_training = hook, module.training

    @property
    def name(self) -> str:
        """Name of the function that set the hook."""
        return "weight_norm" if isinstance(self._hook, WeightNorm) else "spectral_norm"

    def value(self) -> torch.Tensor:
        """The weight, detached."""
        held: Any = self._held
        with torch.no_grad():
            if isinstance(self._hook, WeightNorm):
                return cast(torch.Tensor, self._hook.compute_weight(held))
            return self._hook.compute_weight(held, do_power_iteration=self._is_training)

    def take(self, value: torch.Tensor) -> None:
        """Write scale and direction, or the weight and its first singular vectors."""
        held, name = vars(self._held), self._hook.name
        with torch.no_grad():
            if isinstance(self._hook, WeightNorm):
                held[f"{name}_g"].copy_(torch.norm_except_dim(value, 2, self._hook.dim))
                held[f"{name}_v"].copy_(value)
                _point_somewhere(held[f"{name}_v"], self._hook.dim)
            else:
                held[f"{name}_orig"].copy_(value)
                matrix = self._hook.reshape_weight_to_matrix(value)
                _iterate(matrix, held[f"{name}_u"], held[f"{name}_v"], self._hook.eps)

    def state(self) -> Mapping[str, torch.Tensor]:
        """What the hook reads."""
        return dict(vars(self._held))


def refresh(module: nn.Module, hook: Hook) -> None:
    """Let the attribute that a hook sets before forward show what is written by now."""
    with torch.no_grad():
        if isinstance(hook, WeightNorm):
            setattr(module, hook.name, hook.compute_weight(module))
        else:
            setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))


def hooks_of(module: nn.Module) -> list[Hook]:
    """Hooks of the older functions on a module."""
    return [
        h for h in module._forward_pre_hooks.values() if isinstance(h, WeightNorm | SpectralNorm)
    ]


def _point_somewhere(v: torch.Tensor, dim: int) -> None:
    """Give rows of length 0 a direction: 0 / 0 would be nan."""
    v.masked_fill_(torch.norm_except_dim(v, 2, dim) == 0, 1.0)


def _iterate(matrix: torch.Tensor, u: torch.Tensor, v: torch.Tensor, eps: float) -> None:
    """First singular vectors by power iteration, whatever stood there before.

    Of a weight whose singular values are all the same, one step gives them exactly.
    """
    # The same values must lead to the same buffers; no draw of the caller's generators is used.
    own = torch.Generator().manual_seed(0)
    v.copy_(torch.randn(len(v), generator=own, dtype=torch.float64))
    wide = matrix.double()
    left, right = u.double(), v.double()
    for _ in range(_ITERATIONS):
        left = nn.functional.normalize(wide @ right, dim=0, eps=eps)
        right = nn.functional.normalize(wide.T @ left, dim=0, eps=eps)
    u.copy_(left)
    v.copy_(right)
