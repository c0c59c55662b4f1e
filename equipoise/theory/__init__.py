"""The theory of deep networks at birth, as numbers: no model, no framework.

Every function takes plain numbers and activations and says how good its answer is. Where to look:

- activations and what is unknown: ``activations``, ``Activation``, ``probe``, ``examine``
- Gaussian expectations: ``expectation``, ``expectation2``, ``statistics``, ``mean_hermite_degree``
- the wide limit: ``mean_field``, ``critical_line``, ``phase_diagram``
- exact at any width: ``log_gain``, ``critical_scale``, ``fractional_moment``, ``usable_odds``
- finite width to first order: ``signal_fluctuation``, ``gradient_fluctuation``
- structured networks: ``classify``, ``balance``, ``stack_correlation``, ``mirroring_pays``,
  ``shifted``, ``departure``
- diagonal + noise: ``fixed_points``, ``odd_sigmoid``, ``gain_sweep``, ``small_noise``,
  ``noise_chain``, ``noise_density``
- derivatives with respect to inputs: ``derivative_level``, ``jet_through``
- residual and normalised: ``residual_stack``, ``branch_scaling``
"""

from equipoise.theory import activations, noiselaw
from equipoise.theory.activation import Activation
from equipoise.theory.activations import known_activations
from equipoise.theory.angles import StackCorrelation, residual_covariance, stack_correlation
from equipoise.theory.bivariate import correlated_second_moment, expectation2, product_expectation
from equipoise.theory.branch import Branch, BranchScaling, branch_scaling
from equipoise.theory.cell_fluctuation import CellFluctuation, cell_fluctuation
from equipoise.theory.convolution import ConvolutionDrift, circular_drift, independent_positions
from equipoise.theory.critical import critical_line, critical_weight_var
from equipoise.theory.derivative_level import (
    DerivativeLevel,
    derivative_level,
    with_biases,
)
from equipoise.theory.diagonal_noise import (
    SmallNoise,
    Well,
    noise_scale_for_negative_share,
    noise_scale_for_rms,
    noise_scale_for_sign_memory,
    small_noise,
    well,
)
from equipoise.theory.evidence import Evidence, Probe
from equipoise.theory.fixedpoint import (
    FixedPoint,
    FixedPoints,
    TwoCycle,
    fixed_points,
    near_zero_fixed_point,
)
from equipoise.theory.fluctuation import LogNormLaw, gradient_fluctuation, signal_fluctuation
from equipoise.theory.gain import (
    GainDistribution,
    GainShares,
    UnitGains,
    gain_band,
    gain_sweep,
    gaussian_signal_gains,
    given_signal_gains,
    stationary_gains,
    unit_gains,
)
from equipoise.theory.gaussian import Expectation, expectation
from equipoise.theory.hermite import (
    GaussianStatistics,
    hermite_coefficients,
    mean_hermite_degree,
    statistics,
)
from equipoise.theory.jet_moments import JetMoments, entry_moments, jet_through
from equipoise.theory.layermaps import (
    chi_1,
    correlation_map,
    correlation_map_slope,
    length_map,
    length_map_slope,
)
from equipoise.theory.lengthpoints import LengthFixedPoint, length_fixed_points
from equipoise.theory.lyapunov import (
    LogGain,
    LogGains,
    log_gain,
    log_gains,
    stack_log_gain,
    wide_log_gain,
)
from equipoise.theory.meanfield import MeanField, correlation_fixed_point, depth_scale, mean_field
from equipoise.theory.moments import critical_scale, fractional_moment, log_moment
from equipoise.theory.noise_chain import NoiseChain, Sampled, noise_chain
from equipoise.theory.noise_density import NoiseDensity, noise_density
from equipoise.theory.noiselaw import NoiseLaw
from equipoise.theory.normalised import ResidualStack, post_norm_growth, residual_stack
from equipoise.theory.oddpart import (
    ActivationClass,
    Classification,
    affine_departure,
    classify,
    mirrored_pair,
)
from equipoise.theory.odds import (
    largest_depth,
    mean_death_layer,
    survival_probability,
    usable_odds,
    usable_odds_normal,
)
from equipoise.theory.oddsigmoid import Expansion, OddSigmoid, expansion_at_zero, odd_sigmoid
from equipoise.theory.pairing import MirroringVerdict, PlainCost, mirroring_pays, plain_cost
from equipoise.theory.phase import PhaseDiagram, phase_diagram
from equipoise.theory.probe import examine, probe
from equipoise.theory.residual import WideTrunk, branch_scale, wide_trunk
from equipoise.theory.shift import Departure, departure, shift_for_departure, shifted
from equipoise.theory.structured import BalancedStack, HiddenLayer, balance

__all__ = [
    "Activation",
    "ActivationClass",
    "BalancedStack",
    "Branch",
    "BranchScaling",
    "CellFluctuation",
    "Classification",
    "ConvolutionDrift",
    "Departure",
    "DerivativeLevel",
    "Evidence",
    "Expansion",
    "Expectation",
    "FixedPoint",
    "FixedPoints",
    "GainDistribution",
    "GainShares",
    "GaussianStatistics",
    "HiddenLayer",
    "JetMoments",
    "LengthFixedPoint",
    "LogGain",
    "LogGains",
    "LogNormLaw",
    "MeanField",
    "MirroringVerdict",
    "NoiseChain",
    "NoiseDensity",
    "NoiseLaw",
    "OddSigmoid",
    "PhaseDiagram",
    "PlainCost",
    "Probe",
    "ResidualStack",
    "Sampled",
    "SmallNoise",
    "StackCorrelation",
    "TwoCycle",
    "UnitGains",
    "Well",
    "WideTrunk",
    "activations",
    "affine_departure",
    "balance",
    "branch_scale",
    "branch_scaling",
    "cell_fluctuation",
    "chi_1",
    "circular_drift",
    "classify",
    "correlated_second_moment",
    "correlation_fixed_point",
    "correlation_map",
    "correlation_map_slope",
    "critical_line",
    "critical_scale",
    "critical_weight_var",
    "departure",
    "depth_scale",
    "derivative_level",
    "entry_moments",
    "examine",
    "expansion_at_zero",
    "expectation",
    "expectation2",
    "fixed_points",
    "fractional_moment",
    "gain_band",
    "gain_sweep",
    "gaussian_signal_gains",
    "given_signal_gains",
    "gradient_fluctuation",
    "hermite_coefficients",
    "independent_positions",
    "jet_through",
    "known_activations",
    "largest_depth",
    "length_fixed_points",
    "length_map",
    "length_map_slope",
    "log_gain",
    "log_gains",
    "log_moment",
    "mean_death_layer",
    "mean_field",
    "mean_hermite_degree",
    "mirrored_pair",
    "mirroring_pays",
    "near_zero_fixed_point",
    "noise_chain",
    "noise_density",
    "noise_scale_for_negative_share",
    "noise_scale_for_rms",
    "noise_scale_for_sign_memory",
    "noiselaw",
    "odd_sigmoid",
    "phase_diagram",
    "plain_cost",
    "post_norm_growth",
    "probe",
    "product_expectation",
    "residual_covariance",
    "residual_stack",
    "shift_for_departure",
    "shifted",
    "signal_fluctuation",
    "small_noise",
    "stack_correlation",
    "stack_log_gain",
    "stationary_gains",
    "statistics",
    "survival_probability",
    "unit_gains",
    "usable_odds",
    "usable_odds_normal",
    "well",
    "wide_log_gain",
    "wide_trunk",
    "with_biases",
]
