"""A price on the sensitivity: min ||T - X||^2 + nu SS."""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorchain.solvers.constraints.base import Constraint, Weighted, check_flag, check_number
from tensorchain.solvers.constraints.quantities import Sensitivity, SquaredError


@dataclass(frozen=True)
class Penalty(Constraint):
    """Minimise ||T - X||^2 + weight * SS, for T as given.

    Parameters
    ----------
    weight : float
        nu >= 0, in units of ||T||^(2/K) for a model of K blocks.
    relative : bool
        Whether `weight` is a share instead, so that one number serves data and models of all sizes:
        ||T - X||^2 / ||T||^2 + weight * SS / SS_0 is minimised for T / ||T||, where SS_0 = K m^(1/K) is the sensitivity
        of a random start of norm 1, m being the entries of T times the product of all bonds (summed over terms).

    Raises
    ------
    TypeError
        When `weight` is not a number, or `relative` not True or False.
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
    >>> one, two = (tc.decompose(c * T, "cp", 2, constraint=tc.Penalty(0.01, relative=True), rng=0) for c in (1, 1e6))
    >>> abs(one.error - two.error) < 1e-4
    True
    """

    weight: float
    relative: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_number("Penalty", "weight", self.weight, allow_zero=True)
        check_flag("Penalty", "relative", self.relative)

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return Weighted(SquaredError(), 1.0), Weighted(Sensitivity(), float(self.weight), self.relative)

    def __repr__(self) -> str:
        return f"Penalty(weight={self.weight!r}{', relative=True' if self.relative else ''})"
