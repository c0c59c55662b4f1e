"""Whether the closed-form noise scale keeps the signs that it promises.

At alpha^2 = ln(.776 / rho) / (.4626 kappa^2 L) a stationary signal has E sgn x_0 sgn x_L = rho.
That is leading order in the noise and the limit of wide layers, where only the standard deviation
of the noise counts. Networks of a real width and noise of heavy tails show what is left of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from equipoise.lab.deep_stack import deep_stack
from equipoise.lab.models import activation_module
from equipoise.lab.odd_sigmoid_cases import LAWS
from equipoise.lab.replay_data import Arguments, Budget, Done, Estimate, ResultTable, Row
from equipoise.torch.filling import activation_from

LAYERS, MEMORY = 30, 0.5
# Relaxation takes exp(-.478 kappa^2 alpha^2) a layer, so about .64 of what is left in L layers.
_BEFORE = 8
_WIDTHS: Mapping[Budget, tuple[int, ...]] = {"quick": (16, 64), "paper": (8, 16, 64, 128)}
_ACTIVATIONS = ("tanh(4)", "arctan", "erf", "softsign")
_NETWORKS = 6


def units(budget: Budget, seeds: Sequence[int]) -> dict[str, Arguments]:
    """Networks of each law of the noise behind tanh, and of each activation with normal noise."""
    kinds = [("tanh", law) for law in LAWS]
    kinds += [(activation, next(iter(LAWS))) for activation in _ACTIVATIONS]
    return {
        f"signs, {activation}, width {width}, {law}": {
            "part": "signs", "mode": "corrected", "activation": activation, "width": width,
            "law": law, "scheme": LAWS[law], "layers": LAYERS, "networks": _NETWORKS,
            "seeds": list(seeds),
        }
        for width in _WIDTHS[budget]
        for activation, law in kinds
    }  # fmt: skip


def signs_kept(arguments: Arguments) -> list[float]:
    """Mean of sgn x_0 sgn x_L over the units of several networks, a number for each draw.

    Args:
        arguments: ``activation``, ``width``, ``scheme``, ``layers``, ``networks`` and ``seeds``.

    Returns:
        The means.
    """
    a = arguments
    f, layers, width = activation_from(activation_module(a["activation"])), a["layers"], a["width"]
    name, bracket, options = a["scheme"].partition("(")
    scheme = f"{name}(layer={layers}, memory={MEMORY:g}{', ' + options if bracket else ')'}"
    stack = deep_stack(f, (width,) * ((_BEFORE + 1) * layers + 1), scheme)
    kept = []
    for seed in a["seeds"]:
        each = []
        for network in range(a["networks"]):
            rng = np.random.default_rng([seed, network])
            # One input: behind many layers all of them are one, up to its sign.
            inputs = rng.standard_normal((1, width)) / 10
            first = np.zeros_like(inputs)
            for i, values in enumerate(stack.values(inputs, seed * a["networks"] + network), 1):
                if i == _BEFORE * layers:
                    first = np.sign(values)
            each.append(float((first * np.sign(values)).mean()))
        kept.append(float(np.mean(each)))
    return kept


def sign_table(done: Sequence[Done]) -> ResultTable:
    """Signs kept by activation, width and law, against what the closed form promises."""
    rows = [
        Row((a["activation"], str(a["width"]), a["law"]), (Estimate.of(result, MEMORY),))
        for a, result in done
    ]
    return ResultTable(
        f"E sgn x_0 sgn x_L of a stationary signal over L = {LAYERS} layers at birth", "corrected",
        ("activation", "width", "start"), ("signs kept",), "closed form, small noise, wide layers",
        tuple(rows),
    )  # fmt: skip
