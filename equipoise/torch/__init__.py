"""equipoise for PyTorch: ``import equipoise.torch as eq``."""

from equipoise.diagnose import Finding
from equipoise.plan.plan import Assignment, Plan, Untouched
from equipoise.torch import init
from equipoise.torch.apply import apply, draw_
from equipoise.torch.diagnosis import Diagnosis, diagnose
from equipoise.torch.initialize import Initialization, initialize, plan
from equipoise.torch.transfer import Transfer, transfer
from equipoise.training import losses
from equipoise.training.nonfinite import Explaining, explain_nonfinite
from equipoise.training.nonfinite_result import NonFinite

__all__ = [
    "Assignment",
    "Diagnosis",
    "Explaining",
    "Finding",
    "Initialization",
    "NonFinite",
    "Plan",
    "Transfer",
    "Untouched",
    "apply",
    "diagnose",
    "draw_",
    "explain_nonfinite",
    "init",
    "initialize",
    "losses",
    "plan",
    "transfer",
]
