"""Sweeps on a device: the host sees a few figures every few sweeps, and blocks when someone looks at them.

A device runs ahead of the host until the host asks for a number, so that asking after each sweep costs more than most
sweeps.  Here `_EVERY` sweeps are put on the device at once, and error and sensitivity after each of them come back
together.  The rules by which a run ends are those of sweeps on the host, and are applied to each sweep: of sweeps that
were made beyond the end nothing is seen.

It serves what needs no decision on the host in between: the least error, and a penalty on the sensitivity.  Bounds have
multipliers that are found block by block, and non-negative blocks have a search of their own: these ask the device for
products, and work on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tensorchain.evaluation.device import DeviceEvaluator, Swept
from tensorchain.evaluation.evaluator import Evaluator
from tensorchain.fit import StopReason
from tensorchain.solvers.constraints import Constraint, Quantity, Sensitivity, SquaredError
from tensorchain.solvers.problem import Ended, Iterate, Memory, Problem, Steps

if TYPE_CHECKING:
    from tensorchain.solvers.als import ALS

_EVERY = 4
"""Sweeps between two checks of convergence."""


def penalty_of(constraint: Constraint) -> float | None:
    """nu, where all that is asked for is ||T - X||^2 + nu SS at its least; None for anything else."""
    if constraint.bounds or not constraint.domain.whole:
        return None
    weights: dict[Quantity, float] = {}
    for part in constraint.objective:
        weights[part.quantity] = weights.get(part.quantity, 0.0) + part.weight
    error = weights.pop(SquaredError(), 0.0)
    price = weights.pop(Sensitivity(), 0.0)
    if any(weights.values()) or not error > 0.0:
        return None
    return price / error


def stays_there(at: Evaluator, constraint: Constraint) -> bool:
    """Whether sweeps from this evaluator stay on a device."""
    penalty = penalty_of(constraint)
    return penalty is not None and isinstance(at, DeviceEvaluator) and at.resident(penalty)


def resident_steps(options: ALS, problem: Problem, at: DeviceEvaluator, memory: Memory | None) -> Steps:
    """Sweeps from the model that the evaluator holds."""
    constraint, penalty = problem.constraint, penalty_of(problem.constraint)
    assert penalty is not None
    exact = max(options.exact, at.rounding) if constraint.error_alone else -1.0
    used, previous = 0, None
    if memory is None:
        row = at.begin()
    else:
        figures = memory.figures
        used, previous = figures["used"], figures["previous"]
        row = Swept(at.model, figures["error"], figures["sensitivity"])
        at.restore(figures["evaluator"])
        at.measured = figures["measured"]
    rows: Iterator[Swept] = iter(())
    while True:
        upcoming = next(rows, None)
        remembered = None
        if upcoming is None and problem.resumable:
            figures = {"error": row.error, "sensitivity": row.sensitivity, "used": used, "previous": previous}
            figures |= {"evaluator": at.state(), "measured": at.measured}
            remembered = Memory(figures, {"point": row.model})
        yield _iterate(row, constraint, penalty, remembered)
        if row.error <= exact:
            return Ended(StopReason.EXACT)
        if previous is not None:
            ended = _ended(row, previous, penalty, options.tol)
            if ended is not None:
                return ended
        if used >= options.max_iter:
            return Ended(StopReason.ITERATION_LIMIT)
        if upcoming is None:
            count = min(_EVERY, options.max_iter - used)
            rows = iter(at.sweeps(count, penalty, until=lambda: problem.clock.expired))
            upcoming = next(rows)
        previous, used = _objective(row, penalty), used + 1
        if not penalty and upcoming.error > row.error:
            return Ended(StopReason.CONVERGED)
        row = upcoming


def _iterate(row: Swept, constraint: Constraint, penalty: float, memory: Memory | None) -> Iterate:
    values: dict[Quantity, float] = {SquaredError(): row.error**2, Sensitivity(): row.sensitivity}
    return Iterate(row.model, row.error, row.sensitivity, constraint.merit(values), penalty, memory=memory)


def _objective(row: Swept, penalty: float) -> float:
    """What a sweep lowers: the error, or with a penalty ||T - X||^2 + nu SS."""
    return row.error**2 + penalty * row.sensitivity if penalty else row.error


def _ended(row: Swept, previous: float, penalty: float, tol: float) -> Ended | None:
    """Whether the last sweep lowered the objective by too little."""
    now = _objective(row, penalty)
    if previous - now > tol * (now if penalty else previous):
        return None
    # What the last sweep took off is what another one would at most.
    return Ended(StopReason.CONVERGED, None if penalty else 2.0 * (previous - now) / previous)
