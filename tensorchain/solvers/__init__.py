"""How a model is fitted to a tensor."""

from tensorchain.solvers.als import ALS
from tensorchain.solvers.auto import Auto
from tensorchain.solvers.constraints import Constraint, ErrorBound, Free, NonNegative, Penalty, SensitivityBound
from tensorchain.solvers.lm import LM
from tensorchain.solvers.path import Path
from tensorchain.solvers.problem import Iterate, Problem, Solver

__all__ = [
    "ALS",
    "LM",
    "Auto",
    "Constraint",
    "ErrorBound",
    "Free",
    "Iterate",
    "NonNegative",
    "Path",
    "Penalty",
    "Problem",
    "SensitivityBound",
    "Solver",
]
