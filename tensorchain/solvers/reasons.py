"""Why a run ended, from what is measured on the model that it returns.

A solver proposes a reason; it holds only if the model bears it out, whatever the solver:

    EXACT            the error is at rounding, the bounds are met, and the error is all that was asked for
    CONVERGED        the bounds are met, and no block alone can lower the Lagrangian by more than a millionth of it
    INFEASIBLE       a run that came to its end without meeting the bounds
    DIVERGING        no constraint, and SS still grows at the end: no best approximation in reach
    STALLED          a run that came to its end at none of these
"""

from __future__ import annotations

import numpy as np

from tensorchain.evaluation import Evaluator
from tensorchain.fit import History, StopReason
from tensorchain.solvers.constraints import Constraint, Lagrangian
from tensorchain.solvers.optimality import STATIONARY, attainable_decrease

EXACT = 1e-13
"""Relative error at rounding level, for data in double precision."""
_OPEN = (StopReason.CONVERGED, StopReason.ITERATION_LIMIT, StopReason.STALLED, StopReason.DIVERGING)
_GROWTH = 10.0
"""Growth of SS over the second half of the steps without a penalty, from which a run diverges ..."""
_STEADY = 1.2
"""... or over their last quarter, where the error no longer falls by a tenth of it."""
_LEAST = 12
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

    Towards a best approximation SS has a limit.  Where there is none the error falls as a power of 1 / SS, so that SS
    grows as long as the run goes on.
    """
    free = np.flatnonzero(history.penalty > 0.0)
    first = int(free[-1]) + 1 if free.size else 0
    sensitivity, error = history.sensitivity[first:], history.error[first:]
    count = len(sensitivity)
    if count < _LEAST:
        return False
    middle, late = count // 2, count - max(count // 4, 5)
    if sensitivity[-1] > _GROWTH * sensitivity[middle]:
        return True
    grown = sensitivity[-1] / sensitivity[late]
    return bool(grown > _STEADY and error[-1] > 0.98 * error[late])
