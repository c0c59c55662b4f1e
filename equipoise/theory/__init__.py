"""Numbers: activations, Gaussian expectations and what they say of deep networks. No framework."""

from equipoise.theory.activations import Activation, known_activations
from equipoise.theory.gaussian import Expectation, expectation
from equipoise.theory.hermite import (
    GaussianStatistics,
    hermite_coefficients,
    mean_hermite_degree,
    statistics,
)
from equipoise.theory.oddpart import (
    ActivationClass,
    Classification,
    affine_departure,
    classify,
    mirrored_pair,
)
from equipoise.theory.probe import probe
from equipoise.theory.structured import BalancedStack, HiddenLayer, balance

__all__ = [
    "Activation",
    "ActivationClass",
    "BalancedStack",
    "Classification",
    "Expectation",
    "GaussianStatistics",
    "HiddenLayer",
    "affine_departure",
    "balance",
    "classify",
    "expectation",
    "hermite_coefficients",
    "known_activations",
    "mean_hermite_degree",
    "mirrored_pair",
    "probe",
    "statistics",
]
