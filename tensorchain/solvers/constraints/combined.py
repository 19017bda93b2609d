"""Two constraints at once: ``SensitivityBound(1e3) & Penalty(1e-4)``.

The bounds of both hold, and blocks lie in both domains.  Objectives add up where they ask for the same kind of thing:
a price on the sensitivity beside the error, or less sensitivity at a given error.  A price on the sensitivity says
nothing where the sensitivity itself is minimised, so that this combination is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorchain.solvers.constraints.base import Bounded, Constraint, Weighted
from tensorchain.solvers.constraints.domain import EVERYWHERE, Domain
from tensorchain.solvers.constraints.quantities import Quantity, SquaredError


@dataclass(frozen=True)
class Combined(Constraint):
    """All constraints of a list."""

    constraints: tuple[Constraint, ...]

    @property
    def objective(self) -> tuple[Weighted, ...]:
        return _merged_objective(self.constraints)

    @property
    def bounds(self) -> tuple[Bounded, ...]:
        tightest: dict[Quantity, Bounded] = {}
        for constraint in self.constraints:
            for bound in constraint.bounds:
                known = tightest.get(bound.quantity)
                if known is None or bound.limit < known.limit:
                    tightest[bound.quantity] = bound
        return tuple(tightest.values())

    @property
    def domain(self) -> Domain:
        domain = EVERYWHERE
        for constraint in self.constraints:
            domain = domain & constraint.domain
        return domain

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.constraints))


def combine(*constraints: Constraint) -> Constraint:
    """All of them at once.

    Raises
    ------
    ValueError
        When their objectives contradict each other.
    """
    parts: list[Constraint] = []
    for constraint in constraints:
        parts += constraint.constraints if isinstance(constraint, Combined) else [constraint]
    combined = Combined(tuple(parts))
    _merged_objective(combined.constraints)
    return combined


def _merged_objective(constraints: tuple[Constraint, ...]) -> tuple[Weighted, ...]:
    """The objective of all: that of the error bound where there is one, else the error and what is added to it."""
    bounded = [c for c in constraints if not any(p.quantity == SquaredError() for p in c.objective)]
    added: dict[Quantity, float] = {}
    for constraint in constraints:
        for part in constraint.objective:
            if part.quantity != SquaredError() and part.weight > 0.0:
                added[part.quantity] = added.get(part.quantity, 0.0) + part.weight
    if not bounded:
        return Weighted(SquaredError(), 1.0), *(Weighted(quantity, weight) for quantity, weight in added.items())
    for constraint in constraints:
        if constraint not in bounded and not constraint.error_alone:
            raise ValueError(
                f"{constraint!r} prices what is minimised beside the error, and {bounded[0]!r} minimises it at a given "
                "error: drop one of them"
            )
    return bounded[0].objective
