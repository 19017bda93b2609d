"""What is asked of a decomposition beside a small error."""

from tensorchain.solvers.constraints.base import Bounded, Constraint, Free, Weighted, Within
from tensorchain.solvers.constraints.bounds import ErrorBound, SensitivityBound
from tensorchain.solvers.constraints.combined import Combined, combine
from tensorchain.solvers.constraints.domain import Domain
from tensorchain.solvers.constraints.lagrangian import Lagrangian
from tensorchain.solvers.constraints.nonnegative import NonNegative
from tensorchain.solvers.constraints.penalty import Penalty
from tensorchain.solvers.constraints.quantities import Quantity, Sensitivity, SquaredError

__all__ = [
    "Bounded",
    "Combined",
    "Constraint",
    "Domain",
    "ErrorBound",
    "Free",
    "Lagrangian",
    "NonNegative",
    "Penalty",
    "Quantity",
    "Sensitivity",
    "SensitivityBound",
    "SquaredError",
    "Weighted",
    "Within",
    "combine",
]
