"""Weights that are computed from other parameters: seen as plain ones, written through their form.

``torch.nn.utils.parametrize`` (weight_norm, spectral_norm, orthogonal and a user's own) and the
older hooks of ``torch.nn.utils`` compute a weight anew in each forward. A plan is about that
weight. ``effective`` puts it in its place as a plain parameter while a model is read or measured;
``originals`` solves for the tensors that give it drawn values.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from equipoise.errors import PlanError
from equipoise.torch.forms import Form, Hook, HookForm, ListForm, hooks_of, refresh
from equipoise.torch.refusals import refuse_aliases, refuse_unwritable
from equipoise.torch.stateless import own_randomness

_KEY = "_equipoise_rule"
# Relative difference of norms, in units of rounding, up to which two weights are the same.
_ROUNDINGS = 32.0


@dataclass(frozen=True)
class Rule:
    """How a weight that is computed may be written.

    Attributes:
        form: what computes it, such as ``weight_norm``.
        is_gain_fixed: whether all that can be chosen is its direction, its singular values being 1.
        kept: why it cannot be written, '' where it can.
    """

    form: str
    is_gain_fixed: bool = False
    kept: str = ""


@dataclass(frozen=True, eq=False)
class _Place:
    """One tensor that a module computes.

    Attributes:
        name: as which it stands in the model.
        prefix: of the module's tensors.
        module: the module.
        tensor: its name in the module.
        hook: the hook that computes it, None for ``torch.nn.utils.parametrize``.
    """

    name: str
    prefix: str
    module: nn.Module
    tensor: str
    hook: Hook | None

    def form(self) -> ListForm | HookForm:
        """A copy of what computes it."""
        if self.hook is not None:
            return HookForm(self.module, self.hook)
        return ListForm(self.module, self.tensor)

    def sources(self) -> dict[str, nn.Parameter]:
        """Parameters that it is computed from, by their names in the model."""
        tensors = dict(self.module.named_parameters())
        names = [name for name in self.form().state() if name in tensors]
        return {self.prefix + name: tensors[name] for name in names}


def rule_of(parameter: nn.Parameter) -> Rule | None:
    """The rule of a parameter that stands for a computed weight; None for any other."""
    found = vars(parameter).get(_KEY)
    return found if isinstance(found, Rule) else None


@contextmanager
def effective(model: nn.Module) -> Iterator[None]:
    """Let computed weights stand in a model as plain parameters under their own names.

    Inside, ``layer.weight`` is a parameter with the values that the next forward would compute, and
    what computes it is out of sight. All is as it was when this ends. Entered a second time it
    changes nothing.

    Args:
        model: the model.
    """
    places = _places(model)
    swaps: list[Callable[[], None]] = []
    made = _made(model, places)
    try:
        for module in dict.fromkeys(place.module for place in places):
            swaps.append(_putter_back(module))
            _swap(module, [(p, made[p.name]) for p in places if p.module is module])
        yield
    finally:
        for put_back in reversed(swaps):
            put_back()


def originals(model: nn.Module, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors to be written for values by name: computed weights become what gives them.

    Args:
        model: the model; it is not changed.
        values: by name; those of computed weights as ``through`` returned them.

    Returns:
        New tensors by name of a parameter or buffer of the model.

    Raises:
        PlanError: if one of them cannot be written, or shares memory.
    """
    places = {place.name: place for place in _places(model)}
    if not any(name in places for name in values):
        return dict(values)
    found: dict[str, torch.Tensor] = {}
    standing = slots(model)
    for name, value in values.items():
        place = places.get(name)
        if place is None:
            found[name] = value
            continue
        form = place.form()
        with own_randomness(model):
            form.take(value)
        for local, tensor in form.state().items():
            full = place.prefix + local
            refuse_unwritable(full, standing[full])
            found[full] = tensor.detach().clone()
    refuse_aliases(model, [name for name in found if name not in values])
    return found


def through(model: nn.Module, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What weights become if they are given values: computed ones go through what computes them.

    Args:
        model: the model, outside ``effective``; it is not changed.
        values: drawn for it, by name of a parameter or of a computed weight.

    Returns:
        The values; of a weight under spectral_norm the direction, with the norm that is left to it.

    Raises:
        PlanError: if a weight cannot take its value.
    """
    places = {place.name: place for place in _places(model) if place.name in values}
    return {
        name: _through(model, places[name], value) if name in places else value
        for name, value in values.items()
    }


def _through(model: nn.Module, place: _Place, value: torch.Tensor) -> torch.Tensor:
    name, form, rule = place.name, place.form(), _rule(place)
    if rule.kept:
        raise PlanError(
            f"parameter {name!r} must be one that can be written, got one that cannot: "
            f"{rule.kept}. Make the plan anew for this model."
        )
    with own_randomness(model):
        made, why = _given(form, value)
    is_held = _is_along if rule.is_gain_fixed else _is_same
    if made is None or not is_held(made, value):
        raise PlanError(
            f"parameter {name!r} must be able to hold what is drawn for it, got a value that its "
            f"{form.name} {why or 'turns into another'}. Make the plan anew for this model."
        )
    return made


def slots(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a model under all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def refresh_hooks(model: nn.Module, written: Mapping[str, object]) -> None:
    """Let attributes that hooks set before forward show what is written by now.

    Args:
        model: the model.
        written: names of the tensors that were written.
    """
    for prefix, module in model.named_modules():
        for hook in hooks_of(module):
            start = f"{prefix}.{hook.name}_" if prefix else f"{hook.name}_"
            if any(name.startswith(start) for name in written):
                refresh(module, hook)


def _places(model: nn.Module) -> list[_Place]:
    """Every computed tensor of a model that can stand as a plain one."""
    used = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    found: list[_Place] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        mine = [
            _Place(prefix + tensor, prefix, module, tensor, None)
            for tensor in (module.parametrizations if parametrize.is_parametrized(module) else ())
        ]
        mine += [_Place(prefix + h.name, prefix, module, h.name, h) for h in hooks_of(module)]
        # Recurrent modules keep lists of their weights beside the weights.
        if not mine or isinstance(module, nn.RNNBase):
            continue
        names = [place.tensor for place in mine]
        if len(set(names)) == len(names) and all(_stands_alone(place, used) for place in mine):
            found += mine
    return found


def _stands_alone(place: _Place, used: Counter[int]) -> bool:
    """Whether a tensor can be computed apart from the model, of parameters that serve it alone."""
    try:
        place.form().value()
    # A user's own parametrization may raise anything; forward will say so in the model's own words.
    except Exception:
        return False
    return all(used[id(p)] == 1 for p in place.sources().values())


def _made(model: nn.Module, places: list[_Place]) -> dict[str, tuple[torch.Tensor, bool]]:
    """The computed tensors by name, and whether they are parameters."""
    made: dict[str, tuple[torch.Tensor, bool]] = {}
    if not places:
        return made
    with own_randomness(model), torch.inference_mode(False):
        for place in places:
            sources = place.sources()
            value = place.form().value().clone()
            if sources and value.is_floating_point():
                is_trainable = any(p.requires_grad for p in sources.values())
                value = nn.Parameter(value, requires_grad=is_trainable)
                vars(value)[_KEY] = _rule(place)
            made[place.name] = value, bool(sources)
    return made


def _putter_back(module: nn.Module) -> Callable[[], None]:
    """What brings a module back to where it stands now."""
    kind, before = type(module), dict(vars(module))

    def put_back() -> None:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(before)

    return put_back


def _swap(module: nn.Module, made: list[tuple[_Place, tuple[torch.Tensor, bool]]]) -> None:
    """Give a module plain tensors, in containers of its own: those that were there stay as is."""
    held = vars(module)
    hooks = [place.hook for place, _ in made]
    held["_modules"] = {k: m for k, m in module._modules.items() if k != "parametrizations"}
    held["_forward_pre_hooks"] = type(module._forward_pre_hooks)(
        (k, h) for k, h in module._forward_pre_hooks.items() if h not in hooks
    )
    gone = {name for place, _ in made if place.hook is not None for name in place.form().state()}
    parameters = {p.tensor: value for p, (value, is_parameter) in made if is_parameter}
    buffers = {p.tensor: value for p, (value, is_parameter) in made if not is_parameter}
    kept = {k: p for k, p in module._parameters.items() if k not in gone}
    held["_parameters"] = {**parameters, **kept}
    held["_buffers"] = {**buffers, **{k: b for k, b in module._buffers.items() if k not in gone}}
    for place, _ in made:
        held.pop(place.tensor, None)
    if any(place.hook is None for place, _ in made):
        module.__class__ = type(module).__bases__[0]


def _rule(place: _Place) -> Rule:
    """How a computed tensor may be written, found by giving it a value."""
    form, sources = place.form(), place.sources()
    frozen = [name for name, p in sources.items() if not p.requires_grad]
    if frozen and len(frozen) < len(sources):
        return Rule(form.name, kept=f"{frozen[0]!r}, a part of it, is frozen")
    if form.name in ("weight_norm", "spectral_norm"):
        return Rule(form.name, is_gain_fixed=form.name == "spectral_norm")
    current = form.value()
    if not current.is_floating_point():
        return Rule(form.name, kept=f"its {form.name} makes no real numbers")
    only = form.only() if isinstance(form, ListForm) else None
    is_orthogonal = isinstance(only, parametrizations._Orthogonal) and current.dim() == 2
    if current.is_meta:
        # Householder reflections and trivializations can be solved for, whatever their values.
        is_solvable = is_orthogonal and hasattr(only, "base")
        kept = f"what its {form.name} can hold is not known on the meta device"
        return Rule(form.name, is_orthogonal, "" if is_solvable else kept)
    probe = _probe(current, is_orthogonal)
    made, why = _given(form, probe)
    if made is None:
        return Rule(form.name, is_orthogonal, f"its {form.name} {why}")
    if _is_same(made, probe):
        return Rule(form.name, is_orthogonal)
    return Rule(form.name, is_orthogonal, f"its {form.name} cannot hold any value given to it")


def _probe(like: torch.Tensor, is_orthogonal: bool) -> torch.Tensor:
    """A value of the kind that would be drawn."""
    own = torch.Generator().manual_seed(0)
    value = torch.randn(like.shape, generator=own, dtype=torch.float64)
    if is_orthogonal:
        tall = value if value.shape[0] >= value.shape[1] else value.T
        q = torch.linalg.qr(tall)[0]
        value = q if value.shape[0] >= value.shape[1] else q.T
    return value.to(like)


def _given(form: Form, value: torch.Tensor) -> tuple[torch.Tensor | None, str]:
    """What a form makes of a value, or None and why it refuses it."""
    try:
        form.take(value)
        return form.value(), ""
    # A user's own inverse may raise anything; all of it means that the value cannot be written.
    except Exception as error:
        lines = str(error).strip().splitlines()
        return None, f"cannot be solved for it ({lines[0] if lines else type(error).__name__})"


def _is_same(made: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two tensors differ by rounding alone."""
    if made.shape != wanted.shape:
        return False
    limit = _ROUNDINGS * torch.finfo(made.dtype).eps
    difference = float((made.double() - wanted.double()).norm())
    return difference <= limit * float(wanted.double().norm())


def _is_along(made: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two tensors differ by rounding and a positive factor alone."""
    size = float(made.double().norm())
    return size > 0 and _is_same(made, wanted * (size / max(float(wanted.double().norm()), 1e-300)))
