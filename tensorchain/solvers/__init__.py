"""How a model is fitted to a tensor."""

from tensorchain.solvers.als import ALS
from tensorchain.solvers.constraints import Constraint, ErrorBound, Penalty, SensitivityBound
from tensorchain.solvers.continuation import Continuation
from tensorchain.solvers.lm import LM
from tensorchain.solvers.loop import Iterate, Problem, Solver

__all__ = [
    "ALS",
    "LM",
    "Constraint",
    "Continuation",
    "ErrorBound",
    "Iterate",
    "Penalty",
    "Problem",
    "SensitivityBound",
    "Solver",
]
