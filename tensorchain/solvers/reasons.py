"""Why a run ended, from what is measured on the model that it returns.

A solver proposes a reason; it holds only if the model bears it out, whatever the solver:

    EXACT            the error is at rounding, the bounds are met, and the error is all that was asked for
    CONVERGED        the bounds are met, and no block alone can lower the Lagrangian by more than a millionth of it
    INFEASIBLE       a run that came to its end without meeting the bounds
    DIVERGING        nothing that holds SS down, and SS still grows at the end: no best approximation in reach
    STALLED          a run that came to its end at none of these
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import History, StopReason
from tensorchain.solvers.constraints import Constraint, Lagrangian
from tensorchain.solvers.constraints.base import Values
from tensorchain.solvers.optimality import STATIONARY, attainable_decrease
from tensorchain.solvers.problem import Ended

EXACT = 1e-13
"""Relative error at rounding level, for data in double precision."""
_OPEN = (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED, StopReason.DIVERGING)
_GROWTH = 1.02
"""Growth of SS in each of the last two quarters of the steps without a penalty, from which a run diverges ..."""
_POWER = 0.2
"""... if it also is at least this power of the fall of the error."""
_RISEN = 1.001
"""Rise of the error from one step to the next that tells of another start."""
_WHOLE = 1.5
"""Growth of SS over all steps without a penalty, below which a run does not diverge: a flat valley has an end."""
_LEAST = 16
"""Steps without a penalty from which growth is told."""


@dataclass(frozen=True)
class Measured:
    """The model that is returned, with its figures.

    Attributes
    ----------
    at : Evaluator
        Holds it, scaled to ||T|| = 1.
    constraint : Constraint
        In that scale.
    values : Values
        The quantities of the constraint.
    error : float
        ||T - X||.
    """

    at: Evaluator
    constraint: Constraint
    values: Values
    error: float


def judged(proposed: Ended, of: Measured, history: History, *, exact: float = EXACT, tol: float = 0.0) -> StopReason:
    """The reason that the model bears out.

    Parameters
    ----------
    proposed : Ended
        What the solver says, and what it has measured.
    of : Measured
        The model.
    history : History
        Of the run, in any scale.
    exact : float, optional
        Relative error that counts as zero.
    tol : float, default 0.0
        Relative decrease of the error that counts as none.  Twice that of the objective, its square, does then, where
        it is above a millionth.
    """
    constraint = of.constraint
    reason = proposed.reason
    if reason in (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK, StopReason.NON_FINITE):
        return reason
    met = constraint.gap(of.values) <= 0.0
    if constraint.error_alone and met and of.error <= max(exact, of.at.rounding):
        return StopReason.EXACT
    unbounded = constraint.error_alone and not constraint.bounds and not constraint.domain.closed(of.at.network)
    if unbounded and reason in _OPEN and diverges(history):
        return StopReason.DIVERGING
    if reason is StopReason.ITERATION_LIMIT:
        return reason
    if not met:
        return StopReason.INFEASIBLE
    if reason not in (StopReason.EXACT, StopReason.CONVERGED):
        return reason
    measured = optimality(of) if proposed.optimality is None else proposed.optimality
    return StopReason.CONVERGED if measured <= max(STATIONARY, 2.0 * tol) else StopReason.STALLED


def optimality(of: Measured) -> float:
    """What single blocks can take off the Lagrangian at the best multipliers, relative to it."""
    lagrangian = Lagrangian.fitted(of.constraint, of.at, of.values)
    values = {q: of.values[q] for q in lagrangian.quantities}
    return attainable_decrease(of.at, lagrangian, values, of.constraint.domain)


def diverges(history: History) -> bool:
    """Whether SS grows without end in the steps that no penalty holds back.

    Towards a best approximation SS has a limit.  Where there is none SS grows as a power of 1 / error, or while the
    error stalls, as long as the run goes on: from quarter to quarter of its steps, and much in all.
    """
    held = np.flatnonzero(history.penalty > 0.0)
    # The error rises only where another start begins.
    risen = np.flatnonzero(history.error[1:] > _RISEN * history.error[:-1])
    first = 1 + max((int(indices[-1]) for indices in (held, risen) if indices.size), default=-1)
    sensitivity, error = history.sensitivity[first:], np.maximum(history.error[first:], np.finfo(float).tiny)
    count = len(sensitivity)
    if count < _LEAST or not sensitivity[-1] >= _WHOLE * sensitivity.min():
        return False
    marks = (count // 2, count - count // 4, count - 1)
    for early, late in itertools.pairwise(marks):
        grown, fallen = sensitivity[late] / sensitivity[early], max(error[early] / error[late], 1.0)
        if not grown > max(_GROWTH, fallen**_POWER):
            return False
    return True
