"""Exact means of log norms where there is a theory of them, for ``plan.predict``."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import psi

from equipoise.plan.predict_entries import moments
from equipoise.plan.stacks import Stack
from equipoise.schemes.laws import Array, Law, Normal, Orthogonal, TruncatedNormal, Uniform
from equipoise.schemes.lyapunov import is_two_lines
from equipoise.theory.activations import identity
from equipoise.theory.lyapunov import WeightLaw, log_gain, log_gains

# Share of dead draws below which the exact law of survivors is that of all.
_NO_DEATHS = 1e-3


def exact_means(stack: Stack, weights: Sequence[Law]) -> tuple[Array, Array | None] | None:
    """Exact means of the log norm of one signal and of one cotangent, where there is a theory.

    There is none for maps, of which many sites meet one kernel. The signal's is relative to what
    enters. The cotangent's, for normal entries only, starts from a standard normal vector at the
    outputs, which each layer turns into |f(g)| of its own width.
    """
    if any(a.convolution.kernel for a in stack.affines):
        return None
    scales, laws = list[float](), set[str]()
    for law in weights:
        match law:
            case Normal(mean=0.0) | Uniform(mean=0.0) | TruncatedNormal(mean=0.0):
                scales.append(moments(law, 1)[1])
                laws.add("gaussian")
            case Orthogonal(gain=gain):
                scales.append(gain)
                laws.add("haar")
            case _:
                return None
    if len(laws) != 1 or any(h.active_dropout for h in stack.hidden):
        return None
    functions = [h.activation for h in stack.hidden]
    if not all(is_two_lines(f) and (f.slope_left or f.slope_right) for f in functions):
        return None
    kind: WeightLaw = "gaussian" if laws == {"gaussian"} else "haar"
    ins = np.array([a.in_size for a in stack.affines], dtype=np.float64)
    outs = np.array([a.out_size for a in stack.affines], dtype=np.float64)
    sizes = np.array(scales)
    if not (sizes > 0).all():
        return None
    plain = log_gains(identity(), outs, ins, sizes, kind).mean
    passed, kept, factors = [0.0], 1.0, list[float]()
    for i, h in enumerate(stack.hidden):
        step = log_gain(h.activation, outs[i], ins[i], sizes[i], kind)
        factors.append(log_gain(h.activation, outs[i]).mean)
        passed.append(passed[-1] + step.mean)
        kept *= step.survival
    if kept < 1 - _NO_DEATHS:
        return None
    forward = np.array(passed) + plain
    if kind == "haar":
        return forward, None
    last = 0.5 * (psi(outs[-1] / 2) + math.log(2.0))
    steps = [last]
    for i in range(len(stack.hidden) - 1, -1, -1):
        steps.append(steps[-1] + math.log(sizes[i + 1]) + factors[i])
    return forward, np.array(steps[::-1]) - last
