"""A price on the sensitivity: min ||T - X||^2 + nu SS."""

from __future__ import annotations

from dataclasses import dataclass

from tensorchain.solvers.constraints.base import Constraint, Weighted, check_number
from tensorchain.solvers.constraints.quantities import Sensitivity, SquaredError


@dataclass(frozen=True)
class Penalty(Constraint):
    """Minimise ||T - X||^2 + weight * SS, for T as given.

    Parameters
    ----------
    weight : float
        nu >= 0, in units of ||T||^(2/K) for a model of K blocks.

    Raises
    ------
    TypeError
        When `weight` is not a number.
    ValueError
        When it is negative or not finite.

    See Also
    --------
    SensitivityBound : where the sensitivity that is allowed is known.
    ErrorBound : where the error that is allowed is known.

    Examples
    --------
    >>> import tensorchain as tc
    >>> T = tc.datasets.inverse_radius(order=3, size=6)
    >>> free = tc.decompose(T, "cp", rank=2, rng=0)
    >>> held = tc.decompose(T, "cp", rank=2, constraint=tc.Penalty(1e-3), rng=0)
    >>> held.sensitivity < free.sensitivity, held.error > free.error
    (True, True)
    """

    weight: float

    def __post_init__(self) -> None:
        check_number("Penalty", "weight", self.weight, allow_zero=True)

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return Weighted(SquaredError(), 1.0), Weighted(Sensitivity(), float(self.weight))
