"""Why a run ended, from what is measured on the model that it returns.

A solver proposes a reason; it holds only if the model bears it out, whatever the solver:

    EXACT            the error is at rounding, the bounds are met, and the error is all that was asked for
    CONVERGED        the bounds are met, and no block alone can lower the Lagrangian by more than a millionth of it
    INFEASIBLE       a run that came to its end without meeting the bounds
    DIVERGING        no constraint, and SS still grows at the end: no best approximation in reach
    STALLED          a run that came to its end at none of these
"""

from __future__ import annotations

import itertools

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import History, StopReason
from tensorchain.solvers.constraints import Constraint, Lagrangian
from tensorchain.solvers.optimality import STATIONARY, attainable_decrease

EXACT = 1e-13
"""Relative error at rounding level, for data in double precision."""
_OPEN = (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED, StopReason.DIVERGING)
_GROWTH = 1.02
"""Growth of SS in each of the last two quarters of the steps without a penalty, from which a run diverges ..."""
_POWER = 0.2
"""... if it also is at least this power of the fall of the error."""
_LEAST = 16
"""Steps without a penalty from which growth is told."""


def judged(
    proposed: StopReason, at: Evaluator, constraint: Constraint, history: History, *, exact: float = EXACT
) -> StopReason:
    """The reason that the model bears out.

    Parameters
    ----------
    proposed : what the solver says.
    at : holds the model that is returned, of the tensor of norm 1.
    constraint : in that scale.
    history : of the run, in any scale.
    exact : relative error that counts as zero.
    """
    if proposed in (StopReason.INTERRUPTED, StopReason.TIME_LIMIT, StopReason.CALLBACK, StopReason.NON_FINITE):
        return proposed
    values = constraint.measured(at)
    met = constraint.gap(values) <= 0.0
    if constraint.error_alone and met and at.error() <= max(exact, at.rounding):
        return StopReason.EXACT
    if constraint.free and proposed in _OPEN and diverges(history):
        return StopReason.DIVERGING
    if proposed is StopReason.ITERATION_LIMIT:
        return proposed
    if not met:
        return StopReason.INFEASIBLE
    if proposed in (StopReason.EXACT, StopReason.CONVERGED) and not stationary(at, constraint):
        return StopReason.STALLED
    return StopReason.CONVERGED if proposed is StopReason.EXACT else proposed


def stationary(at: Evaluator, constraint: Constraint) -> bool:
    """Whether no block alone can lower the Lagrangian, at the best multipliers, by more than a millionth of it."""
    values = constraint.measured(at)
    lagrangian = Lagrangian.fitted(constraint, at, values)
    return attainable_decrease(at, lagrangian, lagrangian.values(at)) <= STATIONARY


def diverges(history: History) -> bool:
    """Whether SS grows without end in the steps that no penalty holds back.

    Towards a best approximation SS has a limit.  Where there is none SS grows as a power of 1 / error, or while the
    error stalls, as long as the run goes on: from quarter to quarter of its steps.
    """
    held = np.flatnonzero(history.penalty > 0.0)
    first = int(held[-1]) + 1 if held.size else 0
    sensitivity, error = history.sensitivity[first:], np.maximum(history.error[first:], np.finfo(float).tiny)
    count = len(sensitivity)
    if count < _LEAST:
        return False
    marks = (count // 2, count - count // 4, count - 1)
    for early, late in itertools.pairwise(marks):
        grown, fallen = sensitivity[late] / sensitivity[early], max(error[early] / error[late], 1.0)
        if not grown > max(_GROWTH, fallen**_POWER):
            return False
    return True
