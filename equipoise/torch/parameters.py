"""The parameters of a model as data."""

from torch import nn

from equipoise.plan.trace import Parameter
from equipoise.torch.parametrized import Rule, effective, rule_of

_AS_IT_STANDS = Rule("")


def parameters_of(model: nn.Module) -> tuple[Parameter, ...]:
    """Every parameter of a model once, with all its names; a computed weight is one of them."""
    with effective(model):
        return _as_they_stand(model)


def _as_they_stand(model: nn.Module) -> tuple[Parameter, ...]:
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        tensors[id(parameter)] = parameter
    rules = {key: rule_of(tensor) or _AS_IT_STANDS for key, tensor in tensors.items()}
    return tuple(
        Parameter(
            found[0],
            tuple(tensors[key].shape),
            str(tensors[key].dtype).removeprefix("torch."),
            tensors[key].requires_grad,
            tuple(found[1:]),
            rules[key].form,
            rules[key].is_gain_fixed,
            rules[key].kept,
        )
        for key, found in names.items()
    )
