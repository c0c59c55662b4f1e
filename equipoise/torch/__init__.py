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
from equipoise.training.monitor import Monitor
from equipoise.training.nonfinite import Explaining, explain_nonfinite
from equipoise.training.nonfinite_result import NonFinite

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
    "Rollback",
    "Spikes",
    "Transfer",
    "Untouched",
    "Value",
    "ZScore",
    "apply",
    "clip_gradients",
    "clip_gradients_",
    "diagnose",
    "draw_",
    "explain_nonfinite",
    "find_producer",
    "init",
    "initialize",
    "loggers",
    "losses",
    "plan",
    "transfer",
]
