"""The parameters of a model as data."""

from torch import nn

from equipoise.plan.trace import Parameter


def parameters_of(model: nn.Module) -> tuple[Parameter, ...]:
    """Every parameter of a model once, with all its names."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        tensors[id(parameter)] = parameter
    return tuple(
        Parameter(
            found[0],
            tuple(tensors[key].shape),
            str(tensors[key].dtype).removeprefix("torch."),
            tensors[key].requires_grad,
            tuple(found[1:]),
        )
        for key, found in names.items()
    )
