"""equipoise: neural networks that start in balance, with the reason and the proof.

This package imports no framework; for PyTorch use ``import equipoise.torch as eq``.
"""

from equipoise.diagnose import Finding
from equipoise.errors import (
    ArgumentError,
    EquipoiseError,
    EquipoiseWarning,
    PlanError,
    TraceError,
    UnhealthyError,
)
from equipoise.plan.plan import Assignment, Plan, Untouched

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Assignment",
    "EquipoiseError",
    "EquipoiseWarning",
    "Finding",
    "Plan",
    "PlanError",
    "TraceError",
    "UnhealthyError",
    "Untouched",
    "__version__",
]
