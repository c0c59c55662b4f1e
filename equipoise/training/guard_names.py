"""Which parameters a guard watches, what they are called, and which rule each is clipped by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from equipoise.errors import ArgumentError
from equipoise.training.clipping import ClipRule

Selection = str | Callable[[str, torch.Tensor], bool]
Rules = ClipRule | Sequence[ClipRule]
ClipBy = Rules | Mapping[str, Rules]

# What wrappers put in front of a name.
_WRAPPED = ("_orig_mod.", "module.")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Watched:
    """One parameter.

    Attributes:
        name: as the model or the optimizer has it, or its place in the optimizer.
        layer: name of the module that owns it.
        parameter: itself.
        axis: where its units lie.
    """

    name: str
    layer: str
    parameter: torch.Tensor
    axis: int = 0


@dataclass(frozen=True)
class Portion:
    """Parameters that are clipped by the same rules, one rule after the other.

    Attributes:
        rules: at least one.
        members: places among the watched parameters.
    """

    rules: tuple[ClipRule, ...]
    members: tuple[int, ...]


def plain_name(name: str) -> str:
    """A name without what compiling and data parallelism put in front of it.

    >>> plain_name("module._orig_mod.head.weight")
    'head.weight'
    """
    for prefix in _WRAPPED * 2:
        name = name.removeprefix(prefix)
    return name.replace("._orig_mod.", ".")


def watched(groups: Sequence[Mapping[str, object]], model: nn.Module | None) -> tuple[Watched, ...]:
    """The parameters of an optimizer with their names.

    Args:
        groups: parameter groups.
        model: whose names are taken; without it those that the optimizer was given, if any.
    """
    names: dict[int, str] = {}
    axes: dict[int, int] = {}
    if model is not None:
        names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        # Ungrouped transposed convolutions have weights of shape (in, out, *kernel).
        axes = {
            id(m.weight): 1 for m in model.modules() if isinstance(m, _TRANSPOSED) and m.groups == 1
        }
    found = []
    for i, group in enumerate(groups):
        parameters = group["params"]
        assert isinstance(parameters, Sequence)
        given = group.get("param_names")
        for j, parameter in enumerate(parameters):
            own = given[j] if isinstance(given, Sequence) else f"group {i}, parameter {j}"
            name = names.get(id(parameter), plain_name(own))
            layer = name.rpartition(".")[0] or name
            found.append(Watched(name, layer, parameter, axes.get(id(parameter), 0)))
    return tuple(found)


def has_names(groups: Sequence[Mapping[str, object]], model: nn.Module | None) -> bool:
    """Whether parameters have names of their own."""
    return model is not None or all("param_names" in group for group in groups)


def is_selected(one: Watched, selection: Sequence[Selection]) -> bool:
    """Whether a pattern or a function of the selection takes a parameter."""
    return any(
        fnmatchcase(one.name, s) if isinstance(s, str) else s(one.name, one.parameter)
        for s in selection
    )


def portions(
    clip: ClipBy | None, exclude: Sequence[Selection], parameters: Sequence[Watched]
) -> tuple[Portion, ...]:
    """Which parameters are clipped by which rules.

    Args:
        clip: one rule, some in a row, or rules by pattern, of which the first that fits counts.
        exclude: parameters that are not clipped.
        parameters: all.

    Raises:
        ArgumentError: If a pattern fits no parameter.
    """
    by_pattern = clip if isinstance(clip, Mapping) else {"*": () if clip is None else clip}
    free = [i for i, one in enumerate(parameters) if not is_selected(one, exclude)]
    found = []
    for pattern, rules in by_pattern.items():
        members = [i for i in free if fnmatchcase(parameters[i].name, pattern)]
        if pattern != "*" and not any(fnmatchcase(one.name, pattern) for one in parameters):
            raise _fits_none("clip", pattern, parameters)
        free = [i for i in free if i not in set(members)]
        row = tuple(rules) if isinstance(rules, Sequence) else (rules,)
        if row and members:
            found.append(Portion(row, tuple(members)))
    for one in exclude:
        if isinstance(one, str) and not any(fnmatchcase(p.name, one) for p in parameters):
            raise _fits_none("exclude", one, parameters)
    return tuple(found)


def _fits_none(name: str, pattern: str, parameters: Sequence[Watched]) -> ArgumentError:
    some = ", ".join(repr(one.name) for one in parameters[:3])
    return ArgumentError(
        f"{name} must fit the name of a parameter, got {pattern!r}, which fits none of {some}. "
        f"Write it as in model.named_parameters(), with * for what varies, and pass model= or "
        f"make the optimizer from model.named_parameters()."
    )
