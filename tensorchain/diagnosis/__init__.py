"""Is a decomposition healthy, and if not, why."""

from tensorchain.diagnosis.cp import (
    FactorMatch,
    component_norms,
    congruences,
    core_consistency,
    factor_match_score,
)
from tensorchain.diagnosis.figures import CPFigures, Figures, cancellation, measure
from tensorchain.diagnosis.path import SensitivityPath, trace_path

__all__ = [
    "CPFigures",
    "FactorMatch",
    "Figures",
    "SensitivityPath",
    "cancellation",
    "component_norms",
    "congruences",
    "core_consistency",
    "factor_match_score",
    "measure",
    "trace_path",
]
