"""A problem on a core in place of the tensor: the same constraint, and iterates that are those of the tensor.

With the bases of :mod:`tensorchain.solvers.reduction`, ||T - X||^2 = remainder + ||G - X~||^2 and SS is the same, so
that a bound e on the error of T is the bound e^2 - remainder on the squared error of G, and all else is unchanged.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tensorchain.fit import StopReason
from tensorchain.models import Model
from tensorchain.solvers.constraints import Constraint, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.constraints.base import Normalised
from tensorchain.solvers.ledger import Ledger
from tensorchain.solvers.problem import Iterate, Problem, Solver, Stage
from tensorchain.solvers.reduction import Reduction, widened


class Reduced:
    """A problem, seen through a reduction; or as it is, without one.

    Parameters
    ----------
    problem : Problem
        Of the tensor of norm 1.
    reduction : Reduction or None
        Of that tensor, or None.
    ledger : Ledger, optional
        Where the runs that are driven are entered, to go on from after an interruption; None for none.
    """

    def __init__(self, problem: Problem, reduction: Reduction | None, ledger: Ledger | None = None) -> None:
        self.whole, self.reduction, self.ledger = problem, reduction, ledger
        self.problem = problem
        if reduction is not None:
            constraint = shifted(problem.constraint, reduction.remainder)
            assert constraint is not None
            self.problem = replace(problem, tensor=reduction.tensor, constraint=constraint)

    @property
    def remainder(self) -> float:
        """||T - X||^2 - ||G - X~||^2."""
        return 0.0 if self.reduction is None else self.reduction.remainder

    def lower(self, model: Model) -> Model:
        """A model of T as one of the core."""
        return model if self.reduction is None else self.reduction.lower(model)

    def lift(self, model: Model) -> Model:
        """A model of the core as one of T."""
        return model if self.reduction is None else self.reduction.lift(model)

    def error(self, core_error: float) -> float:
        """||T - X|| from ||G - X~||."""
        return math.sqrt(self.remainder + core_error**2)

    def widened(self, model: Model) -> Reduced:
        """The same problem on a core in whose span a model of T lies."""
        if self.reduction is None:
            return self
        return Reduced(self.whole, widened(self.reduction, self.whole.tensor, model))

    def lifted(self, iterate: Iterate) -> Iterate:
        """An iterate of the core as one of T."""
        if self.reduction is None:
            return iterate
        error = self.error(iterate.error)
        values: dict[Quantity, float] = {SquaredError(): error**2, Sensitivity(): iterate.sensitivity}
        merit = self.whole.constraint.merit(values)
        return replace(iterate, model=self.lift(iterate.model), error=error, merit=merit, memory=None)

    def drive(
        self,
        solver: Solver,
        start: Model,
        *,
        stages: list[Iterate] | None = None,
    ) -> Stage[tuple[Iterate, StopReason]]:
        """Run a solver on the core; iterates of T come out, and in the end the best iterate of the core.

        Parameters
        ----------
        solver, start : Solver or Model
            What runs, and from where.
        stages : list of Iterate, optional
            Minimisers of a sensitivity path are added to it.
        """
        opened = None if self.ledger is None else self.ledger.opened(start)
        best, memory = (None, None) if opened is None else opened
        if isinstance(memory, StopReason):
            assert best is not None
            return best, memory
        steps = solver.steps(self.problem, start, *([] if memory is None else [memory]))
        while True:
            try:
                iterate = next(steps)
            except StopIteration as stop:
                assert best is not None
                return self._closed(best, stop.value.reason)
            if not (math.isfinite(iterate.error) and math.isfinite(iterate.sensitivity)):
                return self._closed(best or replace(iterate, merit=(math.inf, math.inf)), StopReason.NON_FINITE)
            if best is None or order_of(iterate) <= order_of(best):
                best = iterate
            if stages is not None and iterate.stage_of is not None:
                stages.append(iterate)
            lifted = self.lifted(iterate)
            if self.ledger is not None and iterate.memory is not None:
                lifted = replace(lifted, memory=self.ledger.memory(iterate.memory, best))
            yield lifted

    def _closed(self, best: Iterate, reason: StopReason) -> tuple[Iterate, StopReason]:
        if self.ledger is not None:
            self.ledger.close(best, reason)
        return best, reason

    def aside(self, solver: Solver, start: Model, constraint: Constraint) -> Iterate:
        """The best iterate of a run on the core with another constraint, of which no iterate comes out."""
        problem = replace(self.problem, constraint=constraint, warm=True)
        best: Iterate | None = None
        for iterate in solver.steps(problem, start):
            if not (math.isfinite(iterate.error) and math.isfinite(iterate.sensitivity)):
                break
            if best is None or order_of(iterate) <= order_of(best):
                best = iterate
            if problem.clock.expired:
                break
        assert best is not None
        return best


def shifted(constraint: Constraint, remainder: float) -> Constraint | None:
    """The constraint for the core; None where it is about other quantities or restricts blocks, or cannot be met."""
    if not constraint.domain.whole:
        # Bases mix rows: signs of entries are lost.
        return None
    known: set[Quantity] = {SquaredError(), Sensitivity()}
    named = {part.quantity for part in constraint.objective} | {bound.quantity for bound in constraint.bounds}
    if not named <= known:
        return None
    bounds = []
    for bound in constraint.bounds:
        if bound.quantity == SquaredError():
            bound = replace(bound, limit=bound.limit - remainder)
            if not bound.limit > 0.0:
                return None
        bounds.append(bound)
    return Normalised(constraint.objective, tuple(bounds), constraint, constraint.domain)


def order_of(iterate: Iterate) -> tuple[float, float]:
    """By which iterates of one problem are compared."""
    return (0.0, iterate.error**2) if iterate.merit is None else iterate.merit
