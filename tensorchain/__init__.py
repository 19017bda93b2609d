"""Tensor decompositions whose sensitivity is measured and controlled.

A *model* is fitted to a *tensor* by a *solver*, giving a *Fit*; *stability* measures how far the model moves when its
blocks do.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from tensorchain import datasets, interop
from tensorchain._version import __version__
from tensorchain.api import decompose
from tensorchain.cross_validation import CrossValidation, cross_validate
from tensorchain.diagnosis import (
    DegeneracyProfile,
    Diagnosis,
    Verdict,
    component_norms,
    congruences,
    core_consistency,
    degeneracy_profile,
    diagnose,
    factor_match_score,
)
from tensorchain.fit import Fit, History, StopReason
from tensorchain.fit_files import load
from tensorchain.interop import Decomposition
from tensorchain.models import CP, BlockTerm, Model, TensorChain, Tucker
from tensorchain.progress import Progress
from tensorchain.selection import RankStudy, rank_study
from tensorchain.solvers import ALS, LM, Auto, ErrorBound, Iterate, NonNegative, Path, Penalty, SensitivityBound
from tensorchain.solvers.sampled import SampledALS, estimate_error
from tensorchain.stability import (
    BitAllocation,
    CramerRaoBounds,
    Direction,
    allocate_bits,
    block_response,
    condition_number,
    crib,
    expected_error,
    factor_match,
    first_order_error,
    jacobian_singular_values,
    optimal_gauge,
    quantization_error,
    round_blocks,
    sensitivity,
    sensitivity_gradient,
    worst_direction,
)
from tensorchain.tensors import Dense, Device, Lazy, Masked, Observed, Sparse, Tensor

if TYPE_CHECKING:
    from tensorchain import compression, plotting, torch

__all__ = [
    "ALS",
    "CP",
    "LM",
    "Auto",
    "BitAllocation",
    "BlockTerm",
    "CramerRaoBounds",
    "CrossValidation",
    "Decomposition",
    "DegeneracyProfile",
    "Dense",
    "Device",
    "Diagnosis",
    "Direction",
    "ErrorBound",
    "Fit",
    "History",
    "Iterate",
    "Lazy",
    "Masked",
    "Model",
    "NonNegative",
    "Observed",
    "Path",
    "Penalty",
    "Progress",
    "RankStudy",
    "SampledALS",
    "SensitivityBound",
    "Sparse",
    "StopReason",
    "Tensor",
    "TensorChain",
    "Tucker",
    "Verdict",
    "__version__",
    "allocate_bits",
    "block_response",
    "component_norms",
    "compression",
    "condition_number",
    "congruences",
    "core_consistency",
    "crib",
    "cross_validate",
    "datasets",
    "decompose",
    "degeneracy_profile",
    "diagnose",
    "estimate_error",
    "expected_error",
    "factor_match",
    "factor_match_score",
    "first_order_error",
    "interop",
    "jacobian_singular_values",
    "load",
    "optimal_gauge",
    "plotting",
    "quantization_error",
    "rank_study",
    "round_blocks",
    "sensitivity",
    "sensitivity_gradient",
    "torch",
    "worst_direction",
]


def __getattr__(name: str) -> ModuleType:
    """Parts that few programs need are imported at their first use."""
    if name in ("compression", "plotting", "torch"):
        return importlib.import_module(f"tensorchain.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names: `dir` and completion list no modules that lie inside."""
    return sorted(__all__)
