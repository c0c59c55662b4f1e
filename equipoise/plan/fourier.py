"""Fourier features: sines and cosines of one linear map, whose scale is a bandwidth."""

from dataclasses import dataclass

from equipoise.plan.nodes import Affine, Nonlinearity
from equipoise.plan.trace import Trace, readers
from equipoise.schemes.siren import cosine_frequency, sine_frequency

# cos^2 + sin^2 = 1, half of it for each.
SECOND_MOMENT = 0.5
_REASON = "its scale is the bandwidth of Fourier features, a matter of the task"


@dataclass(frozen=True)
class Features:
    """Sines and cosines of what one linear map makes.

    Attributes:
        affine: the map.
        outputs: value numbers of the sines and cosines.
    """

    affine: Affine
    outputs: tuple[int, ...]


def fourier_features(trace: Trace) -> dict[int, Features]:
    """Every linear map that only sines and cosines of one frequency read, by the value it makes.

    A sine alone is an activation like any other; beside the cosine of the same number it is half of
    a frequency. Together they have second moment 1/2 whatever the map is.

    Source: Tancik et al. 2020, arXiv 2006.10739.
    """
    reading = readers(trace.nodes)
    found: dict[int, Features] = {}
    for node in trace.nodes:
        if not isinstance(node, Affine):
            continue
        behind = reading.get(node.output, [])
        bends = [n for n in behind if isinstance(n, Nonlinearity)]
        sines = {round(sine_frequency(n.activation), 6) for n in bends}
        cosines = {round(cosine_frequency(n.activation), 6) for n in bends}
        both = (sines & cosines) - {0.0}
        if len(both) == 1 and len(bends) == len(behind) and (sines | cosines) == {0.0, *both}:
            found[node.output] = Features(node, tuple(n.output for n in bends))
    return found


def bandwidths(features: dict[int, Features]) -> dict[str, str]:
    """Parameters of Fourier features, which keep their values, with the reason."""
    names = [n for f in features.values() for n in (f.affine.weight, f.affine.bias) if n]
    return dict.fromkeys(names, _REASON)
