"""Is a decomposition healthy, and if not, why."""

from tensorchain.diagnosis.cp import (
    FactorMatch,
    component_norms,
    congruences,
    core_consistency,
    factor_match_score,
)
from tensorchain.diagnosis.degeneracy import Diagnosis, diagnose
from tensorchain.diagnosis.figures import CPFigures, Figures, cancellation, measure
from tensorchain.diagnosis.path import SensitivityPath, trace_path
from tensorchain.diagnosis.profile import DegeneracyProfile, degeneracy_profile
from tensorchain.diagnosis.verdict import Thresholds, Verdict

__all__ = [
    "CPFigures",
    "DegeneracyProfile",
    "Diagnosis",
    "FactorMatch",
    "Figures",
    "SensitivityPath",
    "Thresholds",
    "Verdict",
    "cancellation",
    "component_norms",
    "congruences",
    "core_consistency",
    "degeneracy_profile",
    "diagnose",
    "factor_match_score",
    "measure",
    "trace_path",
]
