"""Orthogonal weights: every singular value the same."""

from equipoise.schemes.laws import Orthogonal
from equipoise.schemes.variance import moment_gain
from equipoise.theory.activations import Activation
from equipoise.theory.oddpart import ActivationClass, classify


def orthogonal(activation: Activation, gain: float = 0.0) -> Orthogonal:
    """Haar semi-orthogonal weight with the gain that suits the activation that feeds it.

    For activations that are nearly affine around 0 the gain is 1 / slope, at which small signals
    see an isometry; for the others 1 / sqrt(E f(z)^2), z ~ N(0, 1) (sqrt(2) for ReLU). A gain that
    is given counts instead; frameworks have 1 where they are told of none.
    Source: Saxe et al. 2013, arXiv 1312.6120.

    >>> from equipoise.theory import activations
    >>> orthogonal(activations.sigmoid()).gain
    4.0
    >>> orthogonal(activations.sigmoid(), 1.0).gain
    1.0
    """
    if gain:
        return Orthogonal(gain)
    if classify(activation).kind in (ActivationClass.CENTRE, ActivationClass.LINEAR):
        return Orthogonal(1.0 / abs(activation.slope))
    return Orthogonal(moment_gain(activation))
