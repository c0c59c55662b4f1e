"""equipoise for PyTorch: ``import equipoise.torch as eq``."""

from equipoise.diagnose import Finding
from equipoise.plan.plan import Assignment, Plan, Untouched
from equipoise.torch import init
from equipoise.torch.apply import apply, draw_
from equipoise.torch.diagnosis import Diagnosis, diagnose
from equipoise.torch.initialize import Initialization, initialize, plan
from equipoise.torch.transfer import Transfer, transfer
from equipoise.training.rate_advice import RateAdvice, advise
from equipoise.training.rate_test import RateTest, find_learning_rate
from equipoise.training.sharpness import Sharpness, sharpness

__all__ = [
    "Assignment",
    "Diagnosis",
    "Finding",
    "Initialization",
    "Plan",
    "RateAdvice",
    "RateTest",
    "Sharpness",
    "Transfer",
    "Untouched",
    "advise",
    "apply",
    "diagnose",
    "draw_",
    "find_learning_rate",
    "init",
    "initialize",
    "plan",
    "sharpness",
    "transfer",
]
