"""Weights whose gain a parametrization fixes: where that can be planned, and where not."""

from dataclasses import replace

from equipoise.plan.nodes import Affine, uses
from equipoise.plan.trace import Trace
from equipoise.schemes.laws import Orthogonal, Taps


def gain_is_known(affine: Affine) -> bool:
    """Whether a weight that is orthogonal on its taps is so as the matrix that spectral_norm sees.

    That matrix has one row for each output channel. Groups put several orthogonal matrices under
    each other, and a stride of a transposed convolution puts one beside the other.
    """
    convolution = affine.convolution
    return convolution.groups == 1 and not (convolution.is_transposed and convolution.steps > 1)


def at_gain_one(law: Orthogonal | Taps) -> Orthogonal | Taps:
    """An orthogonal law whose singular values are 1."""
    return replace(law, matrix=Orthogonal(1.0)) if isinstance(law, Taps) else Orthogonal(1.0)


def unfit_forms(trace: Trace) -> dict[str, str]:
    """Parameters of a fixed gain that are no weight of a linear layer, with the reason."""
    weights = {node.weight for node in trace.nodes if isinstance(node, Affine)}
    others = {
        name
        for node in trace.nodes
        for name in uses(node)
        if not (isinstance(node, Affine) and name == node.weight)
    }
    return {
        p.name: f"its {p.form} fixes its scale, and it is no weight of a linear layer alone"
        for p in trace.parameters
        if p.is_gain_fixed and p.is_trainable and not p.kept
        if p.name in others or p.name not in weights
    }
