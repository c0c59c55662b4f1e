"""equipoise for PyTorch: ``import equipoise.torch as eq``."""

from equipoise.diagnose import Finding
from equipoise.plan.plan import Assignment, Plan, Untouched
from equipoise.torch import init
from equipoise.torch.apply import apply, draw_
from equipoise.torch.diagnosis import Diagnosis, diagnose
from equipoise.torch.initialize import Initialization, initialize, plan
from equipoise.torch.transfer import Transfer, transfer
from equipoise.training import loggers, losses
from equipoise.training.clip_gradients import ClipMemory, Clipping, clip_gradients, clip_gradients_
from equipoise.training.clipping import GlobalNorm, Percentile, PerLayer, PerUnit, Value, ZScore
from equipoise.training.guard import Guard
from equipoise.training.guard_producer import Incident, Producer, find_producer
from equipoise.training.guard_rollback import Rollback
from equipoise.training.guard_spikes import Spikes
from equipoise.training.lightning_callback import lightning_callback
from equipoise.training.monitor import Monitor
from equipoise.training.nonfinite import Explaining, explain_nonfinite
from equipoise.training.nonfinite_result import NonFinite
from equipoise.training.rate_advice import RateAdvice, advise
from equipoise.training.rate_test import RateTest, find_learning_rate
from equipoise.training.sharpness import Sharpness, sharpness
from equipoise.training.transformers_callback import transformers_callback

__all__ = [
    "Assignment",
    "ClipMemory",
    "Clipping",
    "Diagnosis",
    "Explaining",
    "Finding",
    "GlobalNorm",
    "Guard",
    "Incident",
    "Initialization",
    "Monitor",
    "NonFinite",
    "PerLayer",
    "PerUnit",
    "Percentile",
    "Plan",
    "Producer",
    "RateAdvice",
    "RateTest",
    "Rollback",
    "Sharpness",
    "Spikes",
    "Transfer",
    "Untouched",
    "Value",
    "ZScore",
    "advise",
    "apply",
    "clip_gradients",
    "clip_gradients_",
    "diagnose",
    "draw_",
    "explain_nonfinite",
    "find_learning_rate",
    "find_producer",
    "init",
    "initialize",
    "lightning_callback",
    "loggers",
    "losses",
    "plan",
    "sharpness",
    "transfer",
    "transformers_callback",
]
