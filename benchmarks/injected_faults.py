# ruff: noqa: D102
"""Twelve kinds of faults, planted in small real trainings; what names them is elsewhere.

Each kind has several ways to happen. Network, optimizer, way, layer and step are drawn from the
seed. A ``Planted`` says what counts as right: the codes that name its kind, and the layers.

The cause of a fault is the step it is planted in; of one that creeps in (units that die or saturate
little by little, signals that grow until float16 ends), the first step that has it, by a
measurement of its own (``has_come``).
"""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from injected_networks import NETWORKS, Batch, Dense, Task, task
from torch import nn

KINDS = (
    "nan forward", "nan backward", "exploding rate", "gradient spike", "dying ReLU",
    "saturating sigmoid", "identical layers", "swallowed init", "frozen by mistake",
    "half overflow", "bad batch", "vanishing",
)  # fmt: skip
Change = Callable[[int, torch.Tensor, torch.Tensor], Batch | None]


@dataclass(eq=False)
class Planted:
    """One training with one fault.

    Attributes:
        model: what trains.
        optimizer: what moves it.
        task: its data.
        way: in words.
        right: codes of findings that name the kind, with the layers that may be named; none for
            any.
        at: step the fault is planted in; 0 for before the first.
        change: called in front of each step, with its number and batch.
        has_come: whether a creeping fault is there, asked behind each step.
        initialized: weights the training should have started from.
        is_half: whether forward runs under autocast to float16.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    way: str
    right: dict[str, frozenset[str]]
    at: int
    change: Change = lambda step, x, y: None
    has_come: Callable[[], bool] | None = None
    initialized: dict[str, torch.Tensor] = field(default_factory=dict)
    is_half: bool = False


@dataclass(eq=False)
class Setting:
    """What a seed draws."""

    dice: random.Random
    network: str
    model: nn.Module
    task: Task
    at: int

    def layers(self) -> list[str]:
        """Affine layers in the order of their making, without the head."""
        return [n for n, m in self.model.named_modules()
                if isinstance(m, nn.Linear | nn.Conv2d) and n != "head"]  # fmt: skip

    def module(self, layer: str) -> nn.Module:
        return self.model.get_submodule(layer)

    def planted(self, way: str, codes: str, layers: list[str], at: int, *parameters: nn.Parameter,
                change: Change = lambda step, x, y: None,
                optimizer: torch.optim.Optimizer | None = None) -> Planted:  # fmt: skip
        held = optimizer or mover(self.dice, list(parameters or self.model.parameters()))
        return Planted(self.model, held, self.task, f"{self.network}: {way}",
                       {code: frozenset(layers) for code in codes.split()}, at, change)  # fmt: skip


def mover(dice: random.Random, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    match dice.randrange(3):
        case 0:
            return torch.optim.Adam(parameters, 1e-3)
        case 1:
            return torch.optim.AdamW(parameters, 2e-3, weight_decay=0.05)
    return torch.optim.SGD(parameters, 0.02, momentum=0.9)


def plant(kind: str, seed: int) -> Planted:
    """The fault of a kind and a seed."""
    dice = random.Random(f"{kind} {seed}")
    torch.manual_seed(dice.randrange(2**31))
    names = {"dying ReLU": ("dense", "residual", "convolutions"),
             "saturating sigmoid": ("dense", "residual", "convolutions"),
             "vanishing": ("dense", "convolutions")}.get(kind, tuple(NETWORKS))  # fmt: skip
    network = names[seed % len(names)]
    act = dice.choice((torch.relu, F.gelu, torch.tanh))
    if kind == "dying ReLU":
        act = torch.relu
    if kind == "saturating sigmoid":
        act = dice.choice((torch.sigmoid, torch.sigmoid, torch.tanh))
    # Six layers of sigmoids are no healthy network to begin with.
    is_flat = kind == "saturating sigmoid" and network == "dense"
    model = Dense(act, 3) if is_flat else NETWORKS[network][0](act)
    data = task(network, dice.randrange(2**31), dice.random() < 0.5)
    setting = Setting(dice, network, model, data, dice.randrange(30, 46))
    return _PLANT[kind](setting)


def nan_forward(s: Setting) -> Planted:
    layer, way = s.dice.choice(s.layers()), s.dice.choice(("all", "one entry", "0 / 0", "log"))

    def spoil(m: nn.Module, a: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        if way == "all":
            return out * math.nan
        if way == "one entry":
            hole = torch.zeros_like(out)
            hole.view(-1)[s.at] = math.nan
            return out + hole
        if way == "0 / 0":
            return out * (out - out).sum() / (out - out).sum()
        return (out - out.max() - 1.0).log()

    return _in_one_step(s, way, "non-finite-forward", layer,
                        lambda: _in_front(s.module(layer), spoil))  # fmt: skip


def _in_front(
    module: nn.Module, spoil: Callable[..., torch.Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """A hook before those of tools, which see the module as if it did this itself."""
    return module.register_forward_hook(spoil, prepend=True)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 0.0


def nan_backward(s: Setting) -> Planted:
    layer, way = s.dice.choice(s.layers()), s.dice.choice(("own backward", "root at 0", "norm"))

    def spoil(m: nn.Module, a: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        if way == "own backward":
            return _Backward.apply(out)
        gap = out - out.detach()
        return out + (gap.abs().sqrt() if way == "root at 0" else gap.square().sum(1, True).sqrt())

    # Between two looks the gradients tell, under another code.
    return _in_one_step(s, way, "non-finite-backward non-finite-gradient", layer,
                        lambda: _in_front(s.module(layer), spoil))  # fmt: skip


def gradient_spike(s: Setting) -> Planted:
    layer, times = s.dice.choice(s.layers()), s.dice.choice((100.0, 300.0, 1000.0))
    weight = s.module(layer).weight
    return _in_one_step(s, f"{times:g} times", "gradient-spike", layer,
                        lambda: weight.register_hook(lambda g: times * g))  # fmt: skip


def _in_one_step(s: Setting, way: str, codes: str, layer: str,
                 hook: Callable[[], torch.utils.hooks.RemovableHandle]) -> Planted:  # fmt: skip
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        for handle in handles:
            handle.remove()
        handles.clear()
        if step == s.at:
            handles.append(hook())

    return s.planted(way, codes, [layer], s.at, change=change)


def exploding_rate(s: Setting) -> Planted:
    times, stays = s.dice.choice((30.0, 100.0, 300.0)), s.dice.random() < 0.7
    # No layer is at fault, so that any may be named.
    planted = s.planted(f"{times:g} times, {'stays' if stays else 'once'}",
                        "update-spike large-updates", [], s.at)  # fmt: skip

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        for group in planted.optimizer.param_groups:
            if step == s.at:
                group["lr"] *= times
            if step == s.at + 1 and not stays:
                group["lr"] /= times

    planted.change = change
    return planted


def _acts(s: Setting) -> list[str]:
    """Layers whose output goes straight into the activation."""
    return [n for n in s.layers() if n.startswith(("body", "up"))]


def _watched_output(s: Setting, layer: str) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []

    def keep(m: nn.Module, a: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen[:] = [out.detach().float()]

    s.module(layer).register_forward_hook(keep)
    return seen


def dying_relu(s: Setting) -> Planted:
    layer, way = s.dice.choice(_acts(s)), s.dice.choice(("all at once", "most", "one by one"))
    module, seen = s.module(layer), _watched_output(s, layer)
    count = len(module.bias)
    order, depth = torch.randperm(count), s.dice.choice((8.0, 30.0))

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        late = step - s.at
        with torch.no_grad():
            if late == 0 and way != "one by one":
                module.bias[order[: count if way == "all at once" else int(0.9 * count)]] -= depth
            if way == "one by one" and 0 <= late < 8:
                module.bias[order[count * late // 8 : count * (late + 1) // 8]] -= depth

    def has_come() -> bool:
        out = seen[0].transpose(0, 1).flatten(1)
        return bool((out.amax(1) <= 0).float().mean() >= 0.8)

    planted = s.planted(way, "dead-units dying-units", [layer], s.at, change=change)
    planted.has_come = has_come
    return planted


def saturating(s: Setting) -> Planted:
    layer, way = s.dice.choice(_acts(s)), s.dice.choice(("weights", "biases", "slowly"))
    module, seen = s.module(layer), _watched_output(s, layer)
    act = s.model.act

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        late = step - s.at
        with torch.no_grad():
            if way == "biases" and late == 0:
                module.bias += 20.0 * torch.randn(len(module.bias)).sign()
            if way == "weights" and late == 0:
                module.weight *= 200.0
            if way == "slowly" and 0 <= late < 12:
                module.weight *= 1.6

    def has_come() -> bool:
        z = seen[0].requires_grad_()
        (slope,) = torch.autograd.grad(act(z).sum(), z)
        steepest = 0.25 if act is torch.sigmoid else 1.0
        return bool((slope < 0.01 * steepest).float().mean() >= 0.5)

    planted = s.planted(way, "saturation", [layer], s.at, change=change)
    planted.has_come = has_come
    return planted


def identical(s: Setting) -> Planted:
    way = s.dice.choice(("deepcopy", "same seed", "loaded"))
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in s.layers():
        alike.setdefault(tuple(s.module(name).weight.shape), []).append(name)
    names = s.dice.choice([n for n in alike.values() if len(n) > 1])
    first, *others = s.dice.sample(names, s.dice.choice((2, len(names))))
    for other in others:
        source, target = s.module(first), s.module(other)
        if way == "deepcopy":
            owner, _, attribute = other.rpartition(".")
            setattr(s.module(owner), attribute, copy.deepcopy(source))
        elif way == "loaded":
            target.load_state_dict(source.state_dict())
        else:
            for module in (source, target):
                torch.manual_seed(1)
                module.reset_parameters()
    return s.planted(way, "identical-layers", [first, *others], 0)


def swallowed(s: Setting) -> Planted:
    way = s.dice.choice(("reset", "rescaled", "reloaded"))
    layer = s.dice.choice(s.layers())
    module = s.module(layer)
    for name in s.layers():
        nn.init.orthogonal_(s.module(name).weight)
    meant = {n: v.clone() for n, v in s.model.state_dict().items()}
    with torch.no_grad():
        if way == "reset":
            module.reset_parameters()
        elif way == "rescaled":
            module.weight *= 0.5
        else:
            module.load_state_dict(type(module)(*_sizes(module)).state_dict())
    planted = s.planted(way, "swallowed-init", [layer], 0)
    planted.initialized = meant
    return planted


def _sizes(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels, 3
    return module.in_features, module.out_features


def frozen(s: Setting) -> Planted:
    ways = ("asks for no gradient", "forgotten", "frozen later", "detach", "rate 0")
    way, layers = s.dice.choice(ways), s.layers()
    layer = s.dice.choice(layers[1:])
    module = s.module(layer)
    codes = "frozen-parameter not-in-optimizer"
    own = {id(p) for p in module.parameters()}
    others = [p for p in s.model.parameters() if id(p) not in own]
    if way == "asks for no gradient":
        module.requires_grad_(False)
        return s.planted(way, codes, [layer], 0, *others)
    if way == "forgotten":
        return s.planted(way, codes, [layer], 0, *others)
    if way == "rate 0":
        groups = [{"params": list(module.parameters()), "lr": 0.0}, {"params": others}]
        return s.planted(way, codes, [layer], 0, optimizer=torch.optim.SGD(groups, 0.02))
    if way == "frozen later":

        def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
            if step == s.at:
                module.requires_grad_(False)

        return s.planted(way, codes, [layer], s.at, change=change)
    module.register_forward_hook(lambda m, a, out: out.detach())
    # Whatever reaches the loss through this layer alone is cut off with it.
    model = s.model
    x, y = s.task.batch(8)
    s.task.loss(model(x), y).backward()
    cut = [n for n, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    return s.planted(way, codes, cut, 0)


def half_overflow(s: Setting) -> Planted:
    layer, way = s.dice.choice(s.layers()[1:]), s.dice.choice(("at once", "grows"))
    module, seen = s.module(layer), _watched_output(s, layer)

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            if way == "at once" and step == s.at:
                # In the range of float16 itself, which its products leave.
                module.weight *= 6e4 / module.weight.abs().max()
            if way == "grows" and s.at <= step < s.at + 12:
                module.weight *= 8.0

    planted = s.planted(way, "half-overflow", [layer], s.at, change=change)
    planted.is_half = True

    def has_come() -> bool:
        # The gradient of the head's weight is made of these numbers and may overflow before them.
        gradient = s.module("head").weight.grad
        is_lost_behind = gradient is not None and not bool(gradient.isfinite().all())
        is_lost = not bool(seen[0].isfinite().all())
        if is_lost_behind and not is_lost:
            planted.right = {"half-overflow": frozenset({layer, "head"})}
        return is_lost or is_lost_behind

    planted.has_come = has_come
    for group in planted.optimizer.param_groups:
        group["lr"] *= 0.1
    return planted


def bad_batch(s: Setting) -> Planted:
    ways = ["inputs", "rows", "shifted"] if s.task.is_class else ["inputs", "rows", "targets"]
    way, times = s.dice.choice(ways), s.dice.choice((10.0, 30.0))

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> Batch | None:
        if step != s.at:
            return None
        if way == "rows":
            x = torch.cat([x[:16] * times, x[16:]])
        elif way == "inputs":
            x = x * times
        elif way == "shifted":
            x = x + times
        return x, y * times if way == "targets" else y

    return s.planted(f"{way}, {times:g}", "bad-batch", ["inputs"], s.at, change=change)


def vanishing(s: Setting) -> Planted:
    layers = s.layers()
    if s.network == "dense" and s.dice.random() < 0.5:
        # Sigmoids lose a factor of about 4 a layer; the first layers hear least.
        depth = s.dice.choice((10, 12, 14))
        s.model = Dense(torch.sigmoid, depth)
        first = [f"body.{i}" for i in range(depth // 3)]
        return s.planted(f"{depth} sigmoids", "vanishing-gradient vanished-gradient", first, 0)
    k = s.dice.randrange(1, len(layers) - 1)
    module = s.module(layers[k])

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        if step == s.at:
            with torch.no_grad():
                module.weight *= 1e-5
                module.bias *= 1e-5

    optimizer = torch.optim.SGD(s.model.parameters(), 0.01)
    planted = s.planted("weights of a layer", "", [], s.at, optimizer=optimizer, change=change)
    # The signal is lost in this layer, and the gradient in front of it.
    planted.right = {"vanishing-signal": frozenset({layers[k]}),
                     "vanishing-gradient": frozenset(layers[:k])}  # fmt: skip
    return planted


_PLANT: dict[str, Callable[[Setting], Planted]] = dict(
    zip(
        KINDS,
        (nan_forward, nan_backward, exploding_rate, gradient_spike, dying_relu, saturating,
         identical, swallowed, frozen, half_overflow, bad_batch, vanishing),
        strict=True,
    )
)  # fmt: skip
